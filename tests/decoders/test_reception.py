"""Many streams at once against RFC 3550's appendices, packet by packet."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.decoders.reception import TYPES, Received, Reception

MS = 1_000_000


class Packet(NamedTuple):
    time_ns: int
    sequence: int
    """Extended: what is sent are its lowest 16 bits."""
    timestamp: int
    type: int = 0


@dataclass
class Book:
    """One stream by the book: a set of numbers, and appendix A.8."""

    clock: dict[int, int]
    numbers: set[int] = field(default_factory=set)
    last: Packet | None = None
    value: float | None = None
    first: int | None = None

    def take(self, packet: Packet) -> None:
        self.first = packet.sequence if self.first is None else self.first
        if packet.sequence in self.numbers or packet.sequence < self.first:
            return
        self.numbers.add(packet.sequence)
        if packet.type not in self.clock:
            return
        before, self.last = self.last, packet
        if before is None or self.clock[before.type] != self.clock[packet.type]:
            return
        stamps = ((packet.timestamp - before.timestamp + (1 << 31)) % (1 << 32)) - (1 << 31)
        difference = abs((packet.time_ns - before.time_ns) - stamps * 1e9 / self.clock[packet.type])
        if difference <= 1e9:
            value = self.value or 0.0
            self.value = value + (difference - value) / 16

    def result(self) -> tuple[int, int] | None:
        return (len(self.numbers), max(self.numbers) - min(self.numbers) + 1 - len(self.numbers)) if self.numbers else None


def table(clock: dict[int, int]) -> np.ndarray:
    row = np.zeros(TYPES, np.int32)
    for kind, rate in clock.items():
        row[kind] = rate
    return row


def feed(reception: Reception, packets: dict[int, list[Packet]]) -> None:
    """A run: packets of streams by number, each in order of arrival."""
    rows = [(int(np.searchsorted(reception.numbers, number)), p) for number in sorted(packets) for p in packets[number]]
    reception.add(np.array([who for who, _ in rows], np.intp), np.array([p.time_ns for _, p in rows], np.int64),
                  np.array([p.sequence & 0xFFFF for _, p in rows], np.uint16),
                  np.array([p.timestamp & 0xFFFFFFFF for _, p in rows], np.uint32), np.array([p.type for _, p in rows], np.uint8))


def check(found: Received | None, book: Book) -> None:
    assert (None if found is None else (found.packets, found.lost)) == book.result()
    if found is not None:
        assert found.jitter_ms == (None if book.value is None else pytest.approx(book.value / 1e6, rel=1e-9, abs=1e-9))


def stream(rng: random.Random) -> tuple[dict[int, int], list[Packet]]:
    """A stream that loses, doubles, delays and reorders packets, wraps around, changes its payload type and presses keys."""
    clock = {0: 8000, 96: rng.choice((8000, 16000, 48000))}
    sequence, stamp, at = 65_000 + rng.randrange(600), rng.randrange(1 << 32), 10**18 + rng.randrange(10**9)
    packets = []
    for _ in range(rng.choice((1, 2, 30, 700))):
        gap = rng.choice((1, 1, 1, 1, 2, 30)) if rng.random() < 0.1 else 1
        sequence, stamp, at = sequence + gap, stamp + 160 * gap, at + 20 * MS * gap
        packet = Packet(at + rng.randrange(30 * MS), sequence, stamp, rng.choice((0, 0, 0, 96, 101)))
        packets += [packet] * rng.choice((1, 1, 1, 2))
    spread = rng.choice((0, 2, 50))  # numbers: not further than the window
    return clock, sorted(packets, key=lambda p: p.sequence + rng.random() * spread)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 32))
def test_as_the_rfc_counts_and_measures(seed: int) -> None:
    """However packets are cut into runs, and whatever other streams come and go meanwhile."""
    rng = random.Random(seed)
    made = {number: stream(rng) for number in rng.sample(range(1 << 30), rng.randint(1, 5))}
    reception, books = Reception(), {number: Book(clock) for number, (clock, _) in made.items()}
    left = {number: list(packets) for number, (_, packets) in made.items()}
    while any(left.values()):
        also = set(rng.sample(range(1 << 31, (1 << 31) + 5), 3))
        numbers = sorted({*made, *also})
        reception.follow(np.array(numbers), np.stack([table(made[n][0] if n in made else {0: 8000}) for n in numbers]))
        run = {}
        for number, packets in left.items():
            some = rng.choice((0, 1, 1, 5, 60, 400))
            run[number], left[number] = packets[:some], packets[some:]
            for packet in run[number]:
                books[number].take(packet)
        feed(reception, run)
        for number, book in books.items():
            check(reception.of(number), book)
    assert reception.of(1 << 31) is None


ANY = st.tuples(st.integers(0, 65535), st.integers(0, (1 << 32) - 1), st.integers(0, 127))


@settings(deadline=None)
@given(st.lists(st.lists(ANY, max_size=50), max_size=8))
def test_whatever_comes(runs: list[list[tuple[int, int, int]]]) -> None:
    reception = Reception()
    reception.follow(np.array([3, 9]), np.stack([table({0: 8000}), np.full(TYPES, 90_000, np.int32)]))
    sent = 0
    for n, run in enumerate(runs):
        feed(reception, {number: [Packet(n * MS, *packet) for packet in run] for number in (3, 9)})
        sent += len(run)
    found = reception.of(9)
    assert (found is None) == (sent == 0)
    if found is not None:
        assert 0 < found.packets <= sent
        assert found.lost >= 0
        assert found == reception.of(9)


def test_strays_and_restarts_are_no_loss() -> None:
    """A number far away says nothing of what is missing: RFC 3550 appendix A.1."""
    reception = Reception()
    reception.follow(np.array([1]), np.stack([table({0: 8000})]))
    numbers = [*range(100), 40_000, *range(101, 200), *range(20_000, 20_100)]
    feed(reception, {1: [Packet(20 * MS * n, number, 160 * n) for n, number in enumerate(numbers)]})
    found = reception.of(1)
    assert found is not None
    assert (found.packets, found.lost, found.jitter_ms) == (len(numbers), 0, 0)


def test_what_is_followed_no_more_begins_anew() -> None:
    reception = Reception()
    clocks = np.stack([table({0: 8000})])
    reception.follow(np.array([1]), clocks)
    feed(reception, {1: [Packet(0, 1, 0), Packet(1, 5, 0)]})
    reception.follow(np.array([2]), clocks)
    assert reception.of(1) is None
    reception.follow(np.array([1]), clocks)
    assert reception.of(1) is None
    feed(reception, {1: [Packet(2, 90, 0)]})
    assert reception.of(1) == (1, 0, 2, None)
