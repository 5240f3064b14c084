"""The recorder on a wire, its data on a disk of 200 MB that fills up or freezes: it stays up, says what is lost, and goes on."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.small_disk import MIB, empty, fill, free, missing, small_disk
from tests.e2e.test_full_disk import archive, consistent
from tests.e2e.wire import ROKUON, SECOND, Phone, calls, run
from tests.sniffer import wires

from rokuon.appliance.state import correlation
from rokuon.store.layout import Layout

REASON = missing() or wires.missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


class Box:
    """A recorder that runs."""

    def __init__(self, disk: Path, process: subprocess.Popen[str]) -> None:
        self.disk, self.process = disk, process
        self.data = disk / "data"
        self.layout = Layout(self.data)

    def play(self, *phones: Phone) -> None:
        """Their packets, at the pace in which they are spoken."""
        packets = sorted((p for phone in phones for p in phone.packets), key=lambda p: p.time_ns)
        begun, first = time.monotonic_ns(), packets[0].time_ns
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind(("far", 0))
            for packet in packets:
                time.sleep(max(0, packet.time_ns - first - (time.monotonic_ns() - begun)) / 1e9)
                out.send(packet.data)

    def state(self) -> dict[str, Any]:
        return correlation(self.layout) or {}

    def level(self) -> str:
        return str(self.state().get("disk", {}).get("level"))

    def recorded(self) -> set[str]:
        """Call-IDs of the calls that are in the index with all that was said."""
        return {call["legs"][0]["call_id"] for call in calls(self.data)}

    def balance(self) -> dict[str, Any]:
        """What became of the calls that were seen, as `rokuon stats` has it; what was deleted."""
        told = json.loads(run(self.data, "stats", "--json").stdout)
        return {**told["calls"], "also": told["not_recorded"]}

    def runs(self) -> bool:
        return self.process.poll() is None


@contextmanager
def recorder(disk: Path, config: str = "") -> Iterator[Box]:
    path = disk.with_name("rokuon.toml")
    path.write_text(config)
    with ExitStack() as stack:
        stack.enter_context(wires.own_network())
        wires.wire("near", "far")
        said = stack.enter_context(open(disk.with_name("said"), "w"))
        command = [ROKUON, "--config", path, "--data", disk / "data", "record", "-i", "near"]
        process = stack.enter_context(subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=said))
        box = Box(disk, process)
        try:
            until(lambda: (disk / "data" / "spool" / "near.lock").exists() and box.level() in ("ok", "low", "full"))
            time.sleep(1)
            yield box
            assert box.runs()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            assert process.returncode == 0, disk.with_name("said").read_text()
            assert "Traceback" not in disk.with_name("said").read_text()
        finally:
            process.kill()
            print(disk.with_name("said").read_text())


def whole(data: Path, *phones: Phone) -> None:
    """Of each of these calls every packet is recorded, and nothing else is."""
    found = {call["legs"][0]["call_id"]: call for call in calls(data)}
    assert set(found) == {phone.call_id.decode() for phone in phones}
    for phone in phones:
        said = {(s["packets"], s["lost"]) for s in found[phone.call_id.decode()]["streams"]}
        assert said == {(round(phone.seconds * 50), 0)}
        assert found[phone.call_id.decode()]["audio"]["sha256"]


@pytest.mark.parametrize("left", [0, 15 * MIB])
def test_full_during_calls(tmp_path: Path, left: int) -> None:
    """keep-oldest: what is recorded stays, new calls are counted and not recorded, until there is room."""
    with small_disk(tmp_path) as disk:
        with recorder(disk) as box:
            first, second, third, fourth = (Phone(n, seconds=1) for n in range(4))
            box.play(first)
            until(lambda: box.recorded() == {"call-0@example"})
            fill(disk, left)
            until(lambda: box.level() == "full") if left else time.sleep(3)  # without a block free, the state stays as it was
            box.play(second, third)
            time.sleep(3)
            assert box.runs()
            assert box.recorded() == {"call-0@example"}
            empty(disk)
            until(lambda: box.level() == "ok")
            box.play(fourth)
            until(lambda: "call-3@example" in box.recorded())
        balance = box.balance()
        assert (balance["seen"], balance["unaccounted"], balance["in_progress"], balance["also"]) == (4, 0, 0, {})
        assert balance["not_recorded"] == {"disk-full": 2}
        whole(box.data, first, fourth)
        assert run(box.data, "reindex").returncode == 0


def test_in_progress_when_it_fills_up(tmp_path: Path) -> None:
    """Calls that have begun by then are finished, in the reserve."""
    with small_disk(tmp_path) as disk:
        with recorder(disk) as box:
            phone = Phone(1, seconds=4)
            begun = [p for p in phone.packets if p.time_ns < phone.start_ns + 2 * SECOND]
            rest = phone.packets[len(begun):]
            phone.packets = begun
            box.play(phone)
            fill(disk, 16 * MIB)
            phone.packets = rest
            box.play(phone)
            until(lambda: box.recorded() == {"call-1@example"})
            assert box.level() == "full"
        balance = box.balance()
        assert (balance["not_recorded"], balance["unaccounted"], balance["also"]) == ({}, 0, {})


def test_keep_newest(tmp_path: Path) -> None:
    """The oldest calls make room for new ones."""
    with small_disk(tmp_path) as disk:
        layout, index, ids = archive(disk / "data", 300, 100_000)
        with recorder(disk, '[disk]\npolicy = "keep-newest"\n') as box:
            fill(disk, 21 * MIB)
            phone = Phone(1, seconds=1)
            box.play(phone)
            until(lambda: box.level() == "low")
            until(lambda: any(call["legs"] and call["legs"][0]["call_id"] == "call-1@example" for call in calls(box.data)))
            gone = box.state()["disk"]["deleted"]
            assert 0 < gone < 300
        assert free(disk) > 20 * MIB
        new, = set(layout.ids()) - set(ids)
        assert sorted(set(layout.ids()) & set(ids)) == ids[gone:]
        assert box.balance()["also"] == {"deleted: disk-full": gone}
        consistent(layout, index, [*ids, new])
