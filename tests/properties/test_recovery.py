"""Whatever dies when: each call is recorded, once, as if nothing had been."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.scenarios import S as US
from tests.properties.in_steps import RUN_NS, Clock, Crashes, Json, Making, S, Source, archive, offline, small_world
from tests.properties.kinds_of_calls import KINDS, packets_of, silence
from tests.sniffer.captures import Packet, pcap

from rokuon.store.layout import Layout
from rokuon.store.sidecar import nanoseconds

DEATHS = st.lists(st.integers(1, 120), max_size=12)
LAGS = st.sampled_from([1, 1, 7, 60])
EXAMPLES = int(os.environ.get("ROKUON_EXAMPLES", "8"))
CALLS = st.lists(st.tuples(st.integers(0, len(KINDS) - 1), st.integers(0, 40)), min_size=2, max_size=8)
"""Kinds of calls, and at which second each begins."""
END_S = 1000
Lot = list[Packet]


def traffic(calls: Sequence[tuple[int, int]]) -> Lot:
    """Packets of these calls, and time that goes on until everything has ended by itself."""
    packets = [p for n, (kind, at) in enumerate(calls) for p in packets_of(kind, n, (1 + at) * US)]
    packets += [silence(0), silence(END_S * US)]
    return sorted(packets, key=lambda p: p.time_ns)


SPLITS = {"calls": lambda p: p.data[28], "directions": lambda p: p.data[27], "kinds": lambda p: p.data[42] >> 6 == 2}
"""By what two captures part the packets: something that they hold, of which the lowest bit counts."""


def parted(packets: Lot, split: str) -> list[Lot]:
    lots: list[Lot] = [[], []]
    for p in packets:
        if p.data[12:14] == b"\x08\x00":
            lots[SPLITS[split](p) & 1].append(p)
        else:
            lots[0].append(p)
            lots[1].append(p)
    return lots


def undisturbed_and_not(lots: Sequence[Lot], gaps: Sequence[int], lag: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with small_world(Clock()):
            wanted = quietly(root, lots)
        played = play(root, lots, Crashes(), gaps, lag)
        assert differences(wanted, played.calls) == [], played.deaths


def runs(packets: Lot) -> list[tuple[int, Lot]]:
    """Packets by the time of the run that they are in, and until when that lasts."""
    found: list[tuple[int, Lot]] = []
    for p in packets:
        if not found or p.time_ns >= found[-1][0]:
            found.append(((p.time_ns // RUN_NS + 1) * RUN_NS, []))
        found[-1][1].append(p)
    return found


def fed(lot: Lot, clock: Clock, source: Source, making: Making) -> Iterator[int]:
    """The times of the runs of a lot, each when it is captured and all is made of it that comes of it."""
    for at, some in runs(lot):
        clock.now_ns = at
        source.take(some)
        source.beat(at)
        making.until_quiet()
        yield at


def quietly(root: Path, lots: Sequence[Lot]) -> dict[str, Json]:
    paths = []
    for n, lot in enumerate(lots):
        paths.append(root / f"{n}.pcap")
        paths[-1].write_bytes(pcap(lot, nano=True))
    return offline(root / "offline", paths)


class Cut(NamedTuple):
    """A capture is killed when it is at its so manieth run, and is away for some."""

    at: int
    away: int
    source: int
    share: float
    """So much of the run that it is writing is written."""


class Played(NamedTuple):
    calls: dict[str, Json]
    deaths: list[str]
    lost: list[Lot]
    """Packets that came while no capture was there, of each source."""


def play(root: Path, lots: Sequence[Lot], crashes: Crashes, gaps: Sequence[int], lag: int, cuts: Sequence[Cut] = ()) -> Played:
    """Each lot through a capture of its own; correlation dies at places that are so many apart, and looks at the spool once in
    `lag` runs.
    """
    clock = Clock()
    layout = Layout(root / "live")
    layout.prepare()
    left = list(gaps)
    away = [0] * len(lots)
    counts: Counter[int] = Counter()
    with small_world(clock, crashes) as patch:
        sources = [Source(layout, f"eth{n}", clock) for n in range(len(lots))]
        making = Making(layout, clock, patch)
        try:
            crashes.left = left.pop(0) if left else -1
            steps = sorted(((at, n, lot) for n, lot in enumerate(map(runs, lots)) for at, lot in lot), key=lambda s: s[:2])
            for k, (at, n, lot) in enumerate(steps):
                clock.now_ns = at
                counts[n] += 1
                cut = next((c for c in cuts if c.source % len(lots) == n and c.at == counts[n]), None)
                if away[n]:
                    away[n] -= 1
                    sources[n].lost += lot
                    if not away[n]:
                        sources[n].again()
                elif cut is not None and k + 1 < len(steps):
                    sources[n].die(lot, cut.share)
                    away[n] = cut.away
                    if not cut.away:
                        sources[n].again()
                else:
                    sources[n].take(lot)
                if k + 1 < len(steps) and steps[k + 1][0] == at:
                    continue
                after = steps[k + 1][0] if k + 1 < len(steps) else at + 20 * S
                while clock.now_ns < after:
                    for source, gone in zip(sources, away, strict=True):
                        if not gone:
                            source.beat(clock.now_ns)
                    if k % lag == 0 or after > at + RUN_NS:
                        making.until_quiet(crashes)
                    if crashes.left < 0 and left:
                        crashes.left = left.pop(0)
                    clock.now_ns += RUN_NS if clock.now_ns < at + 2 * S else 5 * S
            crashes.left = -1
            for source, gone in zip(sources, away, strict=True):
                if gone:
                    source.again()
            for _ in range(20):
                clock.now_ns += 2 * S
                for source in sources:
                    source.beat(clock.now_ns)
                making.until_quiet()
            found = archive(layout.root)
            check_little_is_left(making, layout)
        finally:
            making.close()
            for source in sources:
                source.close()
    return Played(found, making.deaths, [source.lost for source in sources])


def check_little_is_left(making: Making, layout: Layout) -> None:
    """Of calls that are over nothing stays in memory, and next to nothing in the spool."""
    recorder, spool = making.recorder, making.process._spool
    correlator = recorder.correlator
    assert not correlator.tracker.live
    assert correlator.stream_count == 0
    assert not correlator._loose
    assert not correlator._over
    assert not correlator.legs.groups._groups
    assert not correlator.legs._linker._calls
    assert not correlator.legs.relays._of
    assert not spool.streams
    assert not recorder._owed._calls
    assert not recorder._owed._over
    assert not recorder._owed._forgotten
    assert all(len(numbers) == 0 for source in spool._sources.values() for numbers in (source.numbers or {}).values())
    for directory in layout.spool.glob("capture-*"):
        names = [p.name for p in directory.glob("*.seg") if not p.name.startswith("free-")]
        assert len(names) <= 4, names


def differences(wanted: dict[str, Json], found: dict[str, Json]) -> list[str]:
    lines = [f"missing: {i} {wanted[i]['state']}" for i in sorted(wanted.keys() - found.keys())]
    lines += [f"too much: {i} {found[i]['state']} {found[i]['start']}" for i in sorted(found.keys() - wanted.keys())]
    for i in sorted(wanted.keys() & found.keys()):
        for key, value in wanted[i].items():
            if found[i][key] != value:
                lines += [f"{i} {wanted[i]['state']} {key}: {more} became {less}" for more, less in unequal(value, found[i][key])]
    return lines


def unequal(wanted: Any, found: Any) -> list[tuple[Any, Any]]:
    if not isinstance(wanted, list):
        return [(wanted, found)]
    return [([x for x in wanted if x not in found], [x for x in found if x not in wanted])]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(CALLS, DEATHS, LAGS)
def test_correlation_dies(calls: list[tuple[int, int]], gaps: list[int], lag: int) -> None:
    undisturbed_and_not([traffic(calls)], gaps, lag)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(CALLS, DEATHS, LAGS, st.sampled_from(list(SPLITS)))
def test_correlation_of_two_captures_dies(calls: list[tuple[int, int]], gaps: list[int], lag: int, split: str) -> None:
    """They see calls of their own, or one direction each, or one the signalling and the other one the media."""
    undisturbed_and_not(parted(traffic(calls), split), gaps, lag)


# not before a capture has written anything: recording then only begins later
CUTS = st.lists(st.builds(Cut, st.integers(2, 200), st.sampled_from([0, 0, 2, 5, 10]), st.integers(0, 1),
                          st.sampled_from([0, 0.5, 0.99]) | st.floats(0, 0.999)), min_size=1, max_size=3)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(CALLS, st.lists(st.integers(1, 120), max_size=6), LAGS, st.sampled_from([None, *SPLITS]), CUTS)
def test_captures_die_as_well(calls: list[tuple[int, int]], gaps: list[int], lag: int, split: str | None,
                              cuts: list[Cut]) -> None:
    """Only the packets are missing that came meanwhile, and calls say when that was."""
    lots = parted(traffic(calls), split) if split else [traffic(calls)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        played = play(root, lots, Crashes(), gaps, lag, cuts)
        gone = {id(p) for lot in played.lost for p in lot}
        rest = [[p for p in lot if id(p) not in gone] for lot in lots]
        with small_world(Clock()):
            wanted = quietly(root, rest)
    assert not {i for i, call in wanted.items() if call["state"] != "rtp-only"} - played.calls.keys()
    untold = phones(p for lot in played.lost for p in lot if not is_voice(p))
    sent = Counter(p.data[50:54] for lot in rest for p in lot if is_voice(p))
    least, found = packets_by_ssrc(wanted), packets_by_ssrc(played.calls)
    for ssrc, count in found.items():
        assert count <= sent[ssrc.to_bytes(4, "big")]
    for ssrc, count in least.items():
        assert found[ssrc] >= count or ssrc // 1000 - 1 in untold
    times = [p.time_ns for lot in played.lost for p in lot if p.data[12:14] == b"\x08\x00"]
    for call in played.calls.values():
        begin, end = nanoseconds(call["start"]), nanoseconds(call["end"])
        spans = [(nanoseconds(gap["start"]), nanoseconds(gap["end"])) for gap in call["not_captured"]]
        assert all(any(since < at <= until for since, until in spans) for at in times if begin < at < end)


def is_voice(p: Packet) -> bool:
    return p.data[12:14] == b"\x08\x00" and p.data[23] == 17 and p.data[42] >> 6 == 2


def phones(packets: Iterable[Packet]) -> set[int]:
    return {p.data[28] for p in packets if p.data[12:14] == b"\x08\x00"}


def packets_by_ssrc(calls: dict[str, Json]) -> Counter[int]:
    found: Counter[int] = Counter()
    for call in calls.values():
        for stream in call["streams"]:
            found[stream[3]] += stream[5]
    return found
