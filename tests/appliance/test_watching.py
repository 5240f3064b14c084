"""Calls in progress as `rokuon live` is told of them: through a real spool, with losses that the test made."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.wire import SECOND, Phone, merged, rtp, udp
from tests.sniffer.batches import batch
from tests.sniffer.captures import Packet

from rokuon.appliance.in_progress import calls_in_progress
from rokuon.appliance.intake import Intake
from rokuon.appliance.watching import Watching, clock_rates
from rokuon.sniffer.model import PayloadFormat
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator
from rokuon.store.layout import Layout
from rokuon.store.segments import SpoolWriter
from rokuon.store.spool import Spool

MS = SECOND // 1000


class Watched:
    """A spool that is written and read, and whoever watches."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.prepare()
        self.layout.make_directory(self.layout.state)
        (self.layout.spool / "capture-eth1").mkdir(parents=True)
        self.capture = Capture()
        self.writer = SpoolWriter(self.layout.spool / "capture-eth1", segment_bytes=1 << 20, epoch=5)
        self.spool = Spool(self.layout.spool, lasting=True)
        self.intake = Intake(self.layout, self.spool, self.layout.spool)
        self.correlator = Correlator(recover_ns=3600 * SECOND)
        self.watching = Watching(self.layout)

    def watch(self, age_s: float = 0, behind_s: float = 0) -> list[dict[str, Any]]:
        """Somebody watches, and what they see."""
        file = self.layout.state / "watched"
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
        return self.look(behind_s)

    def look(self, behind_s: float = 0) -> list[dict[str, Any]]:
        self.watching.look(behind_s)
        calls, more = calls_in_progress(self.correlator, self.watching)
        assert more == self.correlator.open - len(calls)
        return sorted(calls, key=lambda call: (call["start"], call["caller"] or ""))

    def play(self, packets: Sequence[Packet], size: int = 100) -> None:
        for begin in range(0, len(packets), size):
            self.writer.append(self.capture.process(batch(packets[begin:begin + size])))
        self.writer.drain()
        self.read()

    def read(self) -> None:
        worked = True
        while worked:
            worked = False
            for run in self.intake.read(self.correlator, lambda: None):
                assert run.records is None
                self.watching.see(run)
                self.correlator.process(run)
                worked = True

    def close(self) -> None:
        self.writer.close()
        self.intake.close()
        self.spool.close()


@pytest.fixture
def watched(tmp_path: Path) -> Any:
    it = Watched(tmp_path / "data")
    yield it
    it.close()


def without(packets: Sequence[Packet], phone: Phone, up: bool, numbers: range) -> list[Packet]:
    """Without some packets of one side."""
    lost = {rtp(n, 2 * phone.number + up + 1, phone.voice_of(up, n), int(phone.codec)) for n in numbers}
    kept = [p for p in packets if p.data[42:] not in lost]
    assert len(kept) == len(packets) - len(numbers)
    return kept


def test_losses_of_calls_in_progress(watched: Watched) -> None:
    phones = [Phone(n, seconds=6, ends=False) for n in range(1, 41)]
    packets = merged(*phones)
    half = len(packets) // 2
    packets = without(packets, phones[6], True, range(200, 230))
    packets = without(packets, phones[6], False, range(250, 251))
    packets = without(packets, phones[7], True, range(20, 60))  # before anybody watches
    watched.play(packets[:half])
    before = watched.watch()
    assert len(before) == 40
    assert all(call["lost"] == call["jitter_ms"] == call["watched"] == [None, None] for call in before)
    watched.play(packets[half:], size=777)
    after = watched.watch()
    for phone, call in zip(phones, after, strict=True):
        assert (call["caller_address"], call["callee_address"], call["state"]) == (phone.caller, phone.callee, "answered")
        assert call["lost"] == ([30, 1] if phone is phones[6] else [0, 0])
        assert call["packets"] == [300 - (30 if phone is phones[6] else 40 if phone is phones[7] else 0),
                                   299 if phone is phones[6] else 300]
        assert all(140 < side + lost < 160 for side, lost in zip(call["watched"], call["lost"], strict=True))
        assert call["jitter_ms"] == [0, 0]


def test_nobody_watches(watched: Watched) -> None:
    """Then nothing is read; nor while recording lags behind."""
    phone = Phone(1, seconds=4, ends=False)
    watched.play(phone.packets[:100])
    for calls in (watched.look(), watched.watch(age_s=60), watched.watch(age_s=-60), watched.watch(behind_s=60)):
        assert not watched.watching.on
        assert [call["lost"] for call in calls] == [[None, None]]
    watched.watch()
    watched.play(phone.packets[100:200])
    assert watched.look()[0]["lost"] == [0, 0]
    assert watched.look(behind_s=60)[0]["lost"] == [None, None]
    watched.play(phone.packets[200:300])
    assert watched.watch()[0]["lost"] == [None, None]  # begins anew
    watched.play(phone.packets[300:])
    assert watched.watch()[0]["lost"] == [0, 0]


def test_clocks_are_those_of_the_description(watched: Watched) -> None:
    """A codec of 16 kHz, 10 ms late every other packet; keys are pressed in between, whose timestamps stand still."""
    maps = b"a=rtpmap:97 AMR-WB/16000\r\na=rtpmap:101 telephone-event/16000\r\n"
    phone = Phone(3, codec=b"97 101", maps=maps, voice=False, ends=False)
    watched.play(phone.packets)
    watched.watch()
    packets = []
    for n in range(400):
        key = 100 <= n < 110
        data = rtp(n, 99, bytes(33), 101 if key else 97, stamp=320 * (100 if key else n))
        frame = udp((phone.callee, phone.ports[1]), (phone.caller, phone.ports[0]), data)
        packets.append(Packet(phone.start_ns + SECOND + 20 * MS * n + 10 * MS * (n % 2), frame, len(frame)))
    watched.play(packets[:50])
    watched.watch()
    watched.play(packets[50:])
    (call,) = watched.watch()
    assert call["jitter_ms"] == [None, pytest.approx(10, abs=0.001)]
    assert call["lost"] == [None, 0]
    assert call["codec"] == "AMR-WB"


def test_conversations_without_signalling(watched: Watched) -> None:
    """Listed once nothing has claimed them for as long as signalling may be late."""
    ends = (("10.3.0.1", 7000), ("10.3.0.2", 8000))
    packets = []
    for n in range(40 * 50):
        for up in (True, False):
            frame = udp(*(ends if up else ends[::-1]), rtp(n, 5 + up, bytes(160)))
            packets.append(Packet(Phone(1).start_ns + 20 * MS * n + (not up), frame, len(frame)))
    watched.play(packets[:-200])
    (call,) = watched.watch()
    watched.play(packets[-200:-60] + packets[-40:])
    (call,) = watched.watch()
    assert call["state"] == "rtp-only"
    assert (call["caller_address"], call["callee_address"]) == ("10.3.0.1", "10.3.0.2")
    assert call["packets"] == [1990, 1990]
    assert call["lost"] == [10, 10]
    assert call["jitter_ms"] == [0, 0]


def test_the_call_before_on_the_same_ports(watched: Watched) -> None:
    """Its streams are over, and are not this call's."""
    one = Phone(1, seconds=2)
    two = Phone(1, start_ns=one.packets[-1].time_ns + 2 * SECOND, seconds=3, ends=False, call_id=b"another")
    for packet in two.packets[4:]:  # other streams
        at = two.packets.index(packet)
        data = packet.data[:50] + bytes([9]) + packet.data[51:]
        two.packets[at] = Packet(packet.time_ns, data, packet.wire)
    watched.play(one.packets + two.packets)
    (call,) = watched.look()
    assert call["packets"] == [150, 150]


def test_what_is_gone_or_damaged_holds_nothing_up(watched: Watched) -> None:
    phone = Phone(1, seconds=6, ends=False)
    watched.play(phone.packets[:100])
    watched.watch()
    directory = watched.layout.spool / "capture-eth1"
    for n, harm in enumerate(("gone", "short", "zeroed")):
        watched.play(phone.packets[100 + 100 * n:150 + 100 * n])
        assert watched.watch()[0]["lost"] == [0, 0]
        watched.writer.append(watched.capture.process(batch(phone.packets[150 + 100 * n:200 + 100 * n])))
        watched.writer.drain()
        for run in watched.intake.read(watched.correlator, lambda: None):
            path, whole = watched.layout.spool / run.segment, (watched.layout.spool / run.segment).read_bytes()
            if harm == "gone":
                path.rename(directory / "elsewhere")
            elif harm == "short":
                os.truncate(path, run.payload_at + 100)
            else:
                path.write_bytes(whole[:run.records_at] + os.urandom(len(whole) - run.records_at))
            watched.watching.see(run)
            watched.correlator.process(run)
            if harm == "gone":
                (directory / "elsewhere").rename(path)
            else:
                path.write_bytes(whole)
        watched.watch()
    watched.play(phone.packets[400:])
    assert watched.watch()[0]["packets"] == [300, 300]


def test_clock_rates_of_any_description() -> None:
    clocks = clock_rates({0: PayloadFormat("opus", 48000), 300: PayloadFormat("x", 1), -1: PayloadFormat("x", 1),
                      96: PayloadFormat("y", 10**30), 97: PayloadFormat("z", -5), 98: PayloadFormat("CN", 8000)})
    assert clocks.dtype == np.int32
    assert (clocks[0], clocks[8], clocks[13], clocks[97], clocks[98], clocks[120]) == (48000, 8000, 0, 0, 0, 8000)
