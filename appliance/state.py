"""What the running processes say of themselves: one small JSON file each in DATA/state, renewed every second.

`capture-NAME.json` is a capture process's, `correlate.json` the correlating one's. Readers (`rokuon live`, metrics, alarms) must
take a file that is older than `STALE_S` as left by a process that is gone or hangs, and must ignore keys they do not know.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rokuon.store.layout import Layout
from rokuon.store.sidecar import dump, iso, write_file

__all__ = ["STALE_S", "SUPERVISED", "age_s", "captures", "correlation", "publish", "read"]

STALE_S = 10.0
SUPERVISED = "ROKUON_SUPERVISED"
"""Environment variable that `rokuon record -i` sets for its processes."""
_LARGEST = 16 << 20


def publish(path: Path, state: Mapping[str, Any]) -> None:
    """Puts the state in the place of what is there, with `schema`, `time` and `supervised` added. Raises OSError."""
    written = iso(time.time_ns())
    write_file(path, dump({"schema": 1, "time": written, "supervised": SUPERVISED in os.environ, **state}), sync=False)


def read(path: Path) -> dict[str, Any] | None:
    """What a state file holds; None where there is none, or no such thing."""
    try:
        with open(path, "rb") as file:
            state = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) else None


def captures(layout: Layout) -> dict[str, dict[str, Any]]:
    """The state of each capture process that ever ran, by its name."""
    found = {path.stem.removeprefix("capture-"): read(path) for path in sorted(layout.state.glob("capture-*.json"))}
    return {name: state for name, state in found.items() if state is not None}


def correlation(layout: Layout) -> dict[str, Any] | None:
    """The state of the correlating process; None: it never ran here."""
    return read(layout.state / "correlate.json")


def age_s(state: Mapping[str, Any]) -> float:
    """How old it is; infinite where it does not say."""
    try:
        return max(0.0, time.time() - datetime.fromisoformat(state["time"]).timestamp())
    except (KeyError, TypeError, ValueError):
        return float("inf")
