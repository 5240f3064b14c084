"""Commands that hooks run, and calls that are finished, for tests of hooks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rokuon.store.layout import identity, make_id


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, event: str, message: str, **fields: Any) -> None:
        self.lines.append((event, message))

    warning = error = info


def script(folder: Path, body: str, name: str = "hook") -> tuple[str, ...]:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return (str(path),)


def until(done: Callable[[], bool], step: Callable[[], object] = lambda: None) -> None:
    """Goes on until something is so; a minute is more than it takes on any machine."""
    over = time.monotonic() + 60
    while not done():
        step()
        assert time.monotonic() < over
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def call_id(n: int) -> str:
    return make_id(1_795_000_000_000_000_000 + n * 1_000_000_000, identity("call", n))


def line(n: int) -> bytes:
    return json.dumps({"time": f"2026-11-24T00:00:00.{n:06}Z", "id": call_id(n)}).encode() + b"\n"


def append(folder: Path, content: bytes) -> None:
    with open(folder / "finished.jsonl", "ab") as file:
        file.write(content)


def rotate(folder: Path) -> None:
    if (folder / "finished.jsonl").exists():
        (folder / "finished.jsonl").rename(folder / "finished.jsonl.1")
