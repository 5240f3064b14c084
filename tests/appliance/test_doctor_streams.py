"""What the doctor counts of streams, against counting them one by one; however they are cut into batches."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.batches import T0, S, batch, cut, rtp, udp, voice
from tests.sniffer.captures import Packet

from rokuon.appliance.doctor.rtcp import Block, Reports, blocks
from rokuon.appliance.doctor.streams import Streams, together
from rokuon.store.capture import Capture

MS = 1_000_000


def looked_at(packets: Sequence[Packet], cuts: Sequence[int] = ()) -> Streams:
    streams, capture = Streams(), Capture()
    for some in cut(packets, cuts):
        streams.add(capture.process(batch(some)))
    return streams


@st.composite
def mangled(draw: st.DrawFn) -> tuple[list[Packet], dict[int, list[int]]]:
    """Packets of three streams, some lost, some twice, some late; and the numbers of each stream in order of arrival."""
    packets, numbers = [], {}
    for ssrc in (7, 8, 9):
        first = draw(st.sampled_from([0, 1000, 65_500, 65_535]))
        order = [first + n for n in range(draw(st.integers(1, 60)))]
        rng = random.Random(draw(st.integers(0, 1 << 20)))
        kept = [n for n in order if n == first or rng.random() > 0.1]
        kept += [n for n in kept[1:] if rng.random() < 0.2]
        kept = [kept[0], *sorted(kept[1:], key=lambda n: n + rng.random() * 8)]
        numbers[ssrc] = kept
        packets += [voice(T0 + (i * 20 + ssrc) * MS, ssrc, n) for i, n in enumerate(kept)]
    return sorted(packets, key=lambda p: p.time_ns), numbers


@settings(max_examples=60, deadline=None)
@given(mangled(), st.lists(st.integers(0, 200), max_size=6))
def test_loss_and_copies(made: tuple[list[Packet], dict[int, list[int]]], cuts: list[int]) -> None:
    packets, numbers = made
    streams = looked_at(packets, cuts)
    found = {s.ssrc: s for s in streams.all()}
    assert set(found) == set(numbers)
    for ssrc, seen in numbers.items():
        s = found[ssrc]
        assert (s.packets, s.distinct, s.copies) == (len(seen), len(set(seen)), len(seen) - len(set(seen)))
        assert s.lost == max(seen) - min(seen) + 1 - len(set(seen))
        assert (str(s.src), str(s.dst), s.types) == ("10.0.0.1:4000", "10.0.0.2:5000", [0])
    assert streams.packets == len(packets)


@pytest.mark.parametrize("cuts", [[], [1], [100, 250], list(range(0, 400, 7))])
@pytest.mark.parametrize(("clock", "ppm"), [(8000, 0), (8000, 900), (8000, -900), (48_000, 400), (16_000, -400)])
def test_clocks(clock: int, ppm: int, cuts: list[int]) -> None:
    """A sender whose clock is wrong by so much, seen with a millisecond of jitter."""
    rng, packets = random.Random(clock + ppm), []
    for n in range(400):
        payload = struct.pack(">BBHII", 0x80, 96, n, n * clock // 50, 5) + bytes(20)
        at = T0 + round(n * 20 * MS / (1 + ppm / 1e6)) + rng.randrange(MS)
        packets.append(Packet(at, frame := udp(payload), len(frame)))
    (found,) = looked_at(packets, cuts).clocks()
    assert found.rate == clock
    assert found.ppm == pytest.approx(ppm, abs=5 * found.error_ppm)
    assert found.error_ppm < 20


def test_a_clock_is_not_read_from_what_has_none() -> None:
    rng = random.Random(1)
    packets = [Packet(T0 + n * 20 * MS, f := udp(struct.pack(">BBHII", 0x80, 0, n, rng.getrandbits(32), 5) + bytes(20)), len(f))
               for n in range(200)]
    assert [c for c in looked_at(packets).clocks() if c.error_ppm < 1000] == []


@pytest.mark.parametrize("gap_s", [3, 40])
@pytest.mark.parametrize("cuts", [[], [50], [10, 50, 51]])
def test_jumps_of_the_clock(gap_s: int, cuts: list[int]) -> None:
    """Also by so much that what follows has another stream number; a pause is none, for timestamps go on meanwhile."""
    jumped = [voice(T0 + n * 20 * MS + (n >= 50) * gap_s * S, 5, n) for n in range(100)]
    ((at, _, size),) = looked_at(jumped, cuts).jumps().tolist()
    assert (at, size) == (jumped[50].time_ns, gap_s * S + 20 * MS)
    stamps = [n * 160 + (n >= 50) * gap_s * 8000 for n in range(100)]
    paused = [Packet(p.time_ns, f := udp(struct.pack(">BBHII", 0x80, 0, n, stamps[n], 5) + bytes(20)), len(f))
              for n, p in enumerate(jumped)]
    assert not len(looked_at(paused, cuts).jumps())


def test_a_sender_that_starts_anew_has_lost_nothing() -> None:
    numbers = [*range(100, 150), *range(30_000, 30_050)]
    (found,) = looked_at([voice(T0 + i * 20 * MS, 5, n) for i, n in enumerate(numbers)]).all()
    assert (found.lost, found.copies, found.voice_like) == (0, 0, True)


def test_what_is_no_stream_is_no_voice() -> None:
    """Every packet its own SSRC: DNS and the like."""
    rng = random.Random(2)
    packets = [Packet(T0 + i * MS, f := udp(rtp(rng.getrandbits(32), rng.getrandbits(16))), len(f)) for i in range(300)]
    streams = looked_at(packets)
    assert not any(s.voice_like for s in streams.all())


def test_gaps_at_the_same_time() -> None:
    def counted(*gaps: tuple[int, int]) -> tuple[int, float]:
        rows = np.array([(at * MS, 0, 1) for at, _ in gaps], np.int64).reshape(-1, 3)
        return together(rows, np.array([whose for _, whose in gaps], np.int64))

    assert counted() == (0, 0.0)
    assert counted((0, 1), (1000, 1), (2000, 2)) == (0, pytest.approx(3 / 41))
    assert counted((0, 1), (10, 1), (20, 1)) == (0, 0.0)  # one conversation
    assert counted((0, 1), (20, 2), (30, 3), (5010, 4), (5020, 3), (5021, 3)) == (4, pytest.approx(10 / 101))


# -- RTCP --------------------------------------------------------------------
def report(ssrc: int, lost: int, highest: int) -> bytes:
    """RFC 3550 section 6.4.1."""
    return struct.pack(">IIIIII", ssrc, lost & 0xFFFFFF | 0x19 << 24, highest, 0, 0, 0)


def test_report_blocks() -> None:
    sender = struct.pack(">BBHI20x", 0x82, 200, 18, 1) + report(2, 5, 1000) + report(3, -4, 2000)
    receiver = struct.pack(">BBHI", 0x81, 201, 7, 1) + report(4, 0x7FFFFF, 3)
    bye = struct.pack(">BBHI", 0x81, 203, 1, 1)
    assert list(blocks(sender + receiver + bye)) == [Block(2, 5, 1000), Block(3, -4, 2000), Block(4, 0x7FFFFF, 3)]
    for size in range(len(sender)):
        assert list(blocks(sender[:size])) == []


@given(st.binary(max_size=80))
def test_blocks_of_anything(data: bytes) -> None:
    list(blocks(data))
    list(blocks(b"\x9f\xc9" + data))


def test_first_and_newest_report_are_kept() -> None:
    head = struct.pack(">BBHI", 0x81, 201, 7, 1)
    packets = [Packet(T0 + n * S, f := udp(head + report(9, lost, 100 * n), ("10.0.0.1", 4001), ("10.0.0.2", 5001)), len(f))
               for n, lost in enumerate([2, 3, 7])]
    reports, capture = Reports(), Capture()
    for some in cut(packets, [1]):
        reports.add(capture.process(batch(some)))
    assert (reports.packets, reports.found) == (3, {9: (Block(9, 2, 0), Block(9, 7, 200))})
