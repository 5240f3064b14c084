"""A capture as a process of its own, on a wire, beside tcpdump; ended by a signal as an init system does."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.wire import udp
from tests.sniffer.wires import missing, own_network, send, wire

from rokuon.sniffer.pcap_file import open_capture

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

CAPTURE = """
import hashlib, signal, sys
from rokuon.sniffer.pcap_live import open_live

seen, count = hashlib.sha256(), 0
with open_live(sys.argv[1:], run_seconds=30) as live:
    signal.signal(signal.SIGTERM, lambda *_: live.stop())
    print("ready", flush=True)
    for batch in live:
        count += len(batch)
        for at, length in zip(batch.offset.tolist(), batch.captured_length.tolist()):
            seen.update(batch.data[at:at + length].tobytes())
print(count, seen.hexdigest(), live.stats()["dropped"], *live.warnings)
"""


def frames(count: int) -> list[bytes]:
    return [udp(("10.0.0.1", 5000), ("10.0.0.2", 6000), number.to_bytes(4, "big") + bytes(160)) for number in range(count)]


def told(packets: Sequence[bytes]) -> str:
    return f"{len(packets)} {hashlib.sha256(b''.join(packets)).hexdigest()} 0\n"


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@contextmanager
def capture(*interfaces: str) -> Iterator[subprocess.Popen[str]]:
    """A process that captures until SIGTERM; it is ready."""
    with subprocess.Popen([sys.executable, "-c", CAPTURE, *interfaces], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert err == ""
    assert process.returncode == 0
    return out


@pytest.mark.usefixtures("network")
def test_sigterm_ends_a_capture_that_is_waiting() -> None:
    wire("near", "far")
    with capture("far") as process:
        assert end(process) == told([])


@pytest.mark.usefixtures("network")
def test_what_came_before_sigterm_is_there() -> None:
    wire("near", "far")
    sent = frames(3000)
    with capture("far") as process:
        send("near", sent)
        assert end(process) == told(sent)


@pytest.mark.usefixtures("network")
@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no tcpdump here")
def test_it_sees_what_tcpdump_sees(tmp_path: Path) -> None:
    wire("near", "far")
    saved = tmp_path / "beside.pcap"
    command = ["tcpdump", "-i", "far", "-n", "-U", "-Z", "root", "-w", str(saved)]
    other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert other.stderr
        assert any("listening" in line for line in iter(other.stderr.readline, ""))
        with capture("far") as process:
            sent = [frame[:12] + tags + frame[12:] for frame in frames(500) for tags in (b"", b"\x81\x00\x00\x64")]
            send("near", sent)
            out = end(process)
        for _ in range(500):
            if saved.stat().st_size >= 24 + sum(16 + len(frame) for frame in sent):
                break
            time.sleep(0.01)
    finally:
        other.terminate()
        other.communicate()
    with open_capture(saved) as file:
        theirs = [batch.data[at:at + length].tobytes() for batch in file
                  for at, length in zip(batch.offset.tolist(), batch.captured_length.tolist(), strict=True)]
    assert theirs == sent
    assert out == told(theirs)


@pytest.mark.usefixtures("network")
def test_an_idle_capture_hardly_runs() -> None:
    """It waits in the kernel: nothing that spins gets by with so few switches."""
    wire("near", "far")
    with capture("far") as process:
        status = Path(f"/proc/{process.pid}/status")
        before = switches(status)
        time.sleep(2)
        assert switches(status) - before < 100
        assert end(process) == told([])


def switches(status: Path) -> int:
    lines = status.read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_a_namespace_is_left_again() -> None:
    here = os.readlink("/proc/thread-self/ns/net")
    with own_network():
        assert os.readlink("/proc/thread-self/ns/net") != here
    assert os.readlink("/proc/thread-self/ns/net") == here
