"""`rokuon record -i` on a wire of the test's own: calls are found while it runs, and a signal finishes those that are open."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.sniffer.wires import missing, own_network, send, wire

from rokuon.sniffer.pcap_file import open_capture

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
FIXTURES = Path(__file__).parents[2] / "fixtures" / "pcaps"
ROKUON = Path(sys.executable).with_name("rokuon")


def frames(capture: Path) -> list[tuple[int, bytes]]:
    with open_capture(capture) as batches:
        return [(int(b.time_ns[i]), b.data[b.offset[i]:b.offset[i] + b.captured_length[i]].tobytes())
                for b in batches for i in range(len(b))]


def play(interface: str, packets: list[tuple[int, bytes]]) -> None:
    """Sends the packets at the pace in which they were captured."""
    begun, first = time.monotonic_ns(), packets[0][0]
    for time_ns, data in packets:
        time.sleep(max(0, time_ns - first - (time.monotonic_ns() - begun)) / 1e9)
        send(interface, [data])


def calls(data: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(subprocess.run([ROKUON, "--data", data, "calls", "--json"], check=True,
                                                             capture_output=True).stdout)
    return listed


def wait_for(process: subprocess.Popen[str], data: Path) -> None:
    """Returns when the interface is captured from: its lock is taken just before."""
    while not (data / "spool" / "near.lock").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.05)
    time.sleep(1)


def test_calls_on_a_wire(tmp_path: Path) -> None:
    packets = frames(FIXTURES / "vlan.pcap")
    with own_network():
        wire("near", "far")
        with subprocess.Popen([ROKUON, "--data", tmp_path / "data", "record", "-i", "near"], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                wait_for(process, tmp_path / "data")
                play("far", packets)
                for _ in range(100):
                    if found := calls(tmp_path / "data"):
                        break
                    time.sleep(0.1)
                second = subprocess.run([ROKUON, "--data", tmp_path / "data", "record", "-i", "near"], check=False, text=True,
                                        capture_output=True)
                assert second.returncode == 4
                assert second.stderr.count("\n") == 1
                play("far", packets[:len(packets) // 2])
                process.send_signal(signal.SIGTERM)
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, err) == (0, "")
    assert "calls recorded" in out or "call recorded" in out
    expected = json.loads((FIXTURES / "vlan.expected.json").read_text())["calls"]
    assert [c["state"] for c in found] == [c["state"] for c in expected]
    whole = {(s["direction"], s["codec"]): (s["packets"], s["lost"]) for c in found for s in c["streams"]}
    assert whole == {(s["direction"], s["codec"]): (s["packets"], s["lost"]) for c in expected for s in c["streams"]}
    assert found[0]["audio"]["sha256"]
