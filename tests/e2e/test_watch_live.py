"""`rokuon metrics` beside the recorder itself, on a wire of the test's own: real figures, alarms and finished calls."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.e2e.test_record_live import FIXTURES, frames, play
from tests.sniffer.wires import ip, missing, own_network, wire

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


def until(done: Callable[[], bool]) -> None:
    over = time.monotonic() + 60
    while not done():
        assert time.monotonic() < over
        time.sleep(0.05)


@contextmanager
def running(data: Path, *args: str, config: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    given = ["--config", str(config)] if config is not None else []
    command = [sys.executable, "-m", "rokuon", *given, "--data", str(data), *args]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            yield process
            process.terminate()
            process.communicate(timeout=30)
        finally:
            process.kill()


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(data: Path) -> dict[tuple[str, str], float]:
    """Figures by name and state or interface."""
    text = subprocess.run([sys.executable, "-m", "rokuon", "--data", str(data), "metrics", "--once"], check=True,
                          capture_output=True, text=True).stdout
    return {(s.name.removeprefix("rokuon_"), s.labels.get("state", s.labels.get("interface", ""))): s.value
            for family in text_string_to_metric_families(text) for s in family.samples}


def test_figures_alarms_and_calls(tmp_path: Path) -> None:
    data, hook, config = tmp_path / "data", tmp_path / "hook", tmp_path / "rokuon.toml"
    # $0 is the hook; a sidecar has several lines
    hook.write_text(f"#!/bin/sh\n(tr -d '\\n'; echo) >> {tmp_path}/$ROKUON_HOOK\n")
    hook.chmod(0o755)
    config.write_text(f'[hooks]\nalarm = ["{hook}"]\ncall = ["{hook}"]\n')
    packets = frames(FIXTURES / "vlan.pcap")
    expected = json.loads((FIXTURES / "vlan.expected.json").read_text())["calls"]
    with own_network():
        wire("near", "far")
        with running(data, "correlate"), running(data, "metrics", config=config), \
                running(data, "capture", "-i", "near") as capture:
            until(lambda: (data / "state" / "capture-near.json").exists() and (data / "state" / "hooks.json").exists())
            time.sleep(1)
            play("far", packets)
            until(lambda: len(objects(tmp_path / "call")) == len(expected))
            assert [call["state"] for call in objects(tmp_path / "call")] == [call["state"] for call in expected]

            def counted() -> bool:  # what processes say is a second old
                found = metrics(data)
                return found.get(("packets_total", "near")) == len(packets) \
                    and sum(n for (name, _), n in found.items() if name == "calls_total") == len(expected) \
                    and found["end_to_queryable_seconds_count", ""] == len(expected) and found["interface_up", "near"] == 1

            until(counted)
            assert objects(tmp_path / "alarm") == []
            ip("link set far down")
            until(lambda: [(a["id"], a["status"]) for a in objects(tmp_path / "alarm")] == [("link-down/near", "raised")])
            ip("link set far up")
            until(lambda: objects(tmp_path / "alarm")[-1]["status"] == "cleared")
            capture.kill()
            until(lambda: objects(tmp_path / "alarm")[-1]["id"] == "process-gone/capture-near")
