"""`rokuon doctor -i` on wires of the test's own; and what it says of a machine that is too slow or too full."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_record_live import frames, play
from tests.sniffer.batches import udp
from tests.sniffer.wires import ip, missing, own_network, send, wire

from rokuon.appliance.doctor.disk import examine_disk
from rokuon.appliance.doctor.evidence import Disk, Examiner, Wire
from rokuon.appliance.doctor.examine import judge
from rokuon.appliance.doctor.finding import Finding
from rokuon.sniffer.pcap_file import open_capture
from rokuon.store.settings import Settings

REASON = missing()
wired = pytest.mark.skipif(bool(REASON), reason=REASON)
PCAPS = Path(__file__).parents[2] / "fixtures" / "pcaps"
ROKUON = Path(sys.executable).with_name("rokuon")
DISK = Disk("/data", True, "", 10**12, 2 * 10**12, 2e8)


@pytest.fixture
def near() -> Iterator[str]:
    with own_network():
        wire("near", "far")
        yield "near"


def start(data: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [ROKUON, "--data", data, "doctor", "-i", *arguments, "--json"]
    return subprocess.Popen(list(map(str, command)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until_captured(process: subprocess.Popen[str]) -> None:
    """Returns when it has its packet socket and looks at it."""
    for _ in range(200):
        assert process.poll() is None, process.stderr and process.stderr.read()
        descriptors = Path(f"/proc/{process.pid}/fd")
        if any(os.readlink(fd).startswith("socket:") for fd in list(descriptors.iterdir()) if fd.is_symlink()):
            break
        time.sleep(0.05)
    time.sleep(0.5)


def told(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit status, the whole, and the findings by id."""
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert err == ""
    made = json.loads(out)
    return process.returncode, made, {f["id"]: f for f in made["findings"]}


@wired
def test_a_good_mirror(near: str, tmp_path: Path) -> None:
    """Until Ctrl-C, which ends it early; what was seen is judged all the same."""
    (tmp_path / "spool").mkdir()
    process = start(tmp_path, near, "--duration", 600)
    wait_until_captured(process)
    play("far", frames(PCAPS / "doctor-clean.pcap"))
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    status, made, found = told(process)
    assert (status, made["verdict"], made["packets"], made["calls"]) == (0, "complete", 503, 2)
    bad = [id_ for id_, f in found.items() if f["level"] in ("problem", "warning")]
    assert [id_ for id_ in bad if not id_.startswith("disk")] == []
    assert found["drops"]["facts"]["received"] == 503
    assert found["both-directions"]["facts"]["both"] == 2
    assert found["interface"]["facts"]["for_others"] == 503
    assert found["disk-speed"]["facts"]["write_bytes_s"] > 0
    assert found["disk-space"]["facts"]["bytes_a_day"] > 0
    assert list((tmp_path / "spool").iterdir()) == []


@wired
def test_nothing_on_the_wire_and_no_archive(near: str, tmp_path: Path) -> None:
    status, made, found = told(start(tmp_path / "none", near, "--duration", 1))
    assert (status, made["verdict"], made["packets"], found["interface"]["level"]) == (1, "incomplete", 0, "problem")
    assert "Nothing came in on near" in found["interface"]["text"]
    assert found["disk-speed"]["level"] == "note"
    assert not (tmp_path / "none").exists()


@wired
def test_a_link_that_is_down(near: str, tmp_path: Path) -> None:
    ip("link set near down")
    status, _, found = told(start(tmp_path, near, "--duration", 1))
    assert (status, found["interface"]["level"], found["interface"]["facts"]["up"]) == (1, "problem", False)
    assert "is down" in found["interface"]["text"]


@wired
def test_a_port_that_is_not_mirrored(near: str, tmp_path: Path) -> None:
    """Broadcasts, and what is sent to this machine."""
    process = start(tmp_path, near, "--duration", 2)
    wait_until_captured(process)
    own = mac_of(near)
    rest = b"\x02\x00\x00\x00\x00\x09" + udp(b"x")[12:]
    send("far", [own + rest] * 5 + [b"\xff" * 6 + rest] * 3)
    status, _, found = told(process)
    facts = found["interface"]["facts"]
    assert (status, facts["for_us"], facts["for_everybody"], facts["for_others"]) == (1, 5, 3, 0)
    assert "no mirror" in found["interface"]["text"]


def mac_of(interface: str) -> bytes:
    shown = subprocess.run(["ip", "-j", "link", "show", interface], check=True, capture_output=True).stdout
    return bytes.fromhex(json.loads(shown)[0]["address"].replace(":", ""))


@wired
def test_who_may_not_capture(near: str, tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("setpriv (util-linux), which takes the capability away, is not installed")
    without = [setpriv, "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    command = [*without, str(ROKUON), "--data", str(tmp_path), "doctor", "-i", near]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1)
    assert "CAP_NET_RAW" in done.stderr


def test_progress_on_a_terminal() -> None:
    reader, writer = pty.openpty()
    command = [ROKUON, "doctor", "-r", PCAPS / "doctor-clean.pcap"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=writer) as process:
        os.close(writer)
        shown = b""
        try:
            while some := os.read(reader, 4096):
                shown += some
        except OSError:  # the other end is closed
            pass
    os.close(reader)
    assert process.returncode == 0
    assert b"503 packets, 2 calls" in shown


# -- the machine -------------------------------------------------------------
def machine(*, wire: Wire | None = None, disk: Disk | None = None, seconds: float = 3.5) -> dict[str, Finding]:
    """Findings on a good capture, on such a machine."""
    examiner = Examiner(Settings())
    with open_capture(PCAPS / "doctor-clean.pcap") as batches:
        for batch in batches:
            examiner.look(batch)
    made = judge(examiner.finish(wire=wire, disk=disk, seconds=seconds), "near")
    return {f.id: f for f in made.findings}


def interface(**changes: Any) -> Wire:
    return Wire(**{"names": ["near"], "up": True, "received": 1000, "dropped_by_kernel": 0, "dropped_by_interface": 0,
                   "most_packets_s": 200.0, "warnings": [], "cpu_s": 0.1, **changes})


def test_a_machine_that_keeps_up() -> None:
    found = machine(wire=interface(), disk=DISK)
    assert {f.level for f in found.values()} == {"ok"}
    # four streams of PCMU, 486 packets of 20 ms: 8,000 bytes a second each, but for the last packet
    assert found["disk-space"].facts["bytes_a_day"] == pytest.approx((486 - 4) * 160 / 3.5 * 86_400, rel=0.01)
    assert found["disk-speed"].facts["needed_bytes_s"] == pytest.approx(((486 - 4) * 160 + 486 * 172) / 3.5, rel=0.01)


@pytest.mark.parametrize(("changes", "id_", "level", "words"), [
    ({"dropped_by_kernel": 10}, "drops", "problem", "kernel dropped 10 packets (1.0 %)"),
    ({"dropped_by_interface": 1}, "drops", "problem", "card missed 1 packet (less than 0.1 %)"),
    ({"up": False}, "interface", "problem", "is down"),
    ({"warnings": ["near: refuses promiscuous mode: frames for others are not seen"]}, "interface", "problem", "promiscuous"),
    ({"warnings": ["near: link is down", "near: link is up"]}, "interface", "warning", "not there all the time"),
    ({"warnings": ["near: packets are cut to the snaplen of 100 bytes"]}, "snaplen", "warning", "cut to the snaplen"),
    ({"warnings": ["near: frames of 9,000 bytes: packets are joined before they are seen"]}, "offload", "note", "joined"),
    ({"clock_step_ns": -7_200_000_000_000}, "clock", "warning", "by -7200.0 s"),
])
def test_what_is_wrong_with_the_interface(changes: dict[str, Any], id_: str, level: str, words: str) -> None:
    finding = machine(wire=interface(**changes))[id_]
    assert finding.level == level
    assert words in finding.text


@pytest.mark.parametrize(("disk", "id_", "level", "words"), [
    (Disk("/data", True, "", 10**12, 10**12, 50_000.0), "disk-speed", "problem", "writes 50.0 kB/s"),
    (Disk("/data", False, "it may not be written to"), "disk-speed", "note", "may not be written to"),
    (Disk("/data", True, "", 10**9, 10**12, 2e8), "disk-space", "problem", "enough for 13 hours"),
    (Disk("/data", True, "", 10**10, 10**12, 2e8), "disk-space", "warning", "enough for 5 days"),
])
def test_what_is_wrong_with_the_disk(disk: Disk, id_: str, level: str, words: str) -> None:
    finding = machine(disk=disk)[id_]
    assert finding.level == level
    assert words in finding.text


def test_the_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    missing_ = examine_disk(tmp_path / "none")
    assert (missing_.writable, missing_.write_bytes_s) == (False, None)
    assert missing_.total > 0
    (tmp_path / "spool").mkdir()
    tried = examine_disk(tmp_path)
    assert tried.writable
    assert tried.write_bytes_s is None or tried.write_bytes_s > 0
    assert list((tmp_path / "spool").iterdir()) == []
