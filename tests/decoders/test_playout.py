from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.decoders.packets import MS, T0, Rtp, talk

from rokuon.decoders.playout import SECOND, Playout, Runs, to_ns


def place(packets: list[Rtp], playout: Playout | None = None, ticks: int = 160) -> tuple[Runs, list[int]]:
    """Runs, and where each packet's first sample lies, UTC ns."""
    playout = playout or Playout(8000)
    stamps = np.array([p.timestamp & 0xFFFFFFFF for p in packets], np.uint32)
    times = np.array([p.time_ns for p in packets], np.int64)
    runs = playout.place(stamps, times, np.full(len(packets), ticks, np.int32))
    places = []
    bounds = [*runs.first.tolist(), len(packets)]
    for k, (base, tick) in enumerate(zip(runs.base_ns.tolist(), runs.tick.tolist(), strict=True)):
        places += [base + (tick + 160 * i) * 125_000 for i in range(bounds[k + 1] - bounds[k])]
    return runs, places


def jittered(packets: list[Rtp], ms: float, seed: int = 1) -> list[Rtp]:
    rng = random.Random(seed)
    return [p.at(p.time_ns + rng.randrange(round(ms * MS) + 1)) for p in packets]


def test_jitter_moves_nothing() -> None:
    sent = talk(500)
    runs, places = place(jittered(sent, 60))
    assert len(runs.first) == 1
    assert max(abs(a - p.time_ns) for a, p in zip(places, sent, strict=True)) < 2 * MS


def test_losses_leave_gaps_of_their_length() -> None:
    sent = talk(500)
    kept = sent[:100] + sent[103:200] + sent[201:]
    runs, places = place(jittered(kept, 5))
    assert runs.first.tolist() == [0, 100, 197]
    assert runs.gap.tolist() == [0, 480, 160]
    steps = {b - a for a, b in pairwise(places)}
    assert steps == {20 * MS, 40 * MS, 80 * MS}


def test_a_pause_the_timestamp_counted_and_one_it_did_not() -> None:
    first = talk(200)
    counted = talk(200, begin_ns=T0 + 14_000 * MS, timestamp=first[0].timestamp + 14 * 8000)
    _, places = place(jittered(first + counted, 8))
    assert abs(places[200] - counted[0].time_ns) < MS
    assert (places[200] - places[0]) % 125_000 == 0  # to the sample
    stood_still = talk(200, begin_ns=T0 + 14_000 * MS, timestamp=first[0].timestamp + 200 * 160)
    _, places = place(jittered(first + stood_still, 8))
    assert max(abs(a - p.time_ns) for a, p in zip(places, first + stood_still, strict=True)) < 2 * MS


def test_a_stall_that_is_caught_up_with_moves_nothing() -> None:
    sent = talk(500)
    stalled = [p.at(max(p.time_ns, sent[300].time_ns)) if k >= 200 else p for k, p in enumerate(sent)]
    for lost in ((), (210,), (200,)):
        packets = [p for k, p in enumerate(stalled) if k not in lost]
        _, places = place(packets)
        true = [p.time_ns for k, p in enumerate(sent) if k not in lost]
        assert places == true


@pytest.mark.parametrize("jump", [(1 << 31) - 5000, 12_345_678, -40_000, (1 << 32) - 1])
def test_timestamps_that_jump(jump: int) -> None:
    first, then = talk(200), talk(200, begin_ns=T0 + 4_000 * MS, timestamp=0xFFFFF000 + 200 * 160 + jump)
    _, places = place(jittered(first + then, 8))
    assert max(abs(a - p.time_ns) for a, p in zip(places, first + then, strict=True)) < 2 * MS


def test_one_forged_timestamp() -> None:
    sent = talk(400)
    packets = [p if k != 200 else Rtp(p.time_ns, p.sequence, p.timestamp + (1 << 30), p.payload) for k, p in enumerate(sent)]
    _, places = place(jittered(packets, 8))
    assert max(abs(a - p.time_ns) for a, p in zip(places, sent, strict=True)) < 9 * MS


def test_sent_faster_than_it_sounds() -> None:
    runs, places = place(talk(500, ms=1))
    assert len(runs.first) == 1
    assert T0 - SECOND <= places[0] <= T0


def test_a_codec_that_does_not_tell_how_long_it_lasts() -> None:
    sent = talk(300)
    runs, _ = place(sent[:100] + sent[101:], ticks=0)
    assert runs.first.tolist() == [0, 100]
    assert runs.gap.tolist() == [0, 160]


@pytest.mark.parametrize("ppm", [-100, 100])
def test_drift_over_an_hour(ppm: int) -> None:
    """Any sample within 20 ms of its true place, and every correction listed."""
    playout, worst = Playout(8000), 0.0
    sent = talk(180_000, ms=20 * (1 + ppm / 1e6), size=1)
    came = jittered(sent, 60)
    for block in range(30):
        some = slice(block * 6_000, (block + 1) * 6_000)
        _, places = place(came[some], playout)
        worst = max(worst, *(abs(a - p.time_ns) for a, p in zip(places, sent[some], strict=True)))
    assert worst < 20 * MS
    assert abs(sum(c.by_ns for c in playout.corrections) - 3600 * ppm * 1000) < 15 * MS


def test_without_drift_blocks_are_sample_exact() -> None:
    playout, places = Playout(8000), list[int]()
    sent = talk(3_000)
    came = jittered(sent, 30)
    for begin in range(0, 3_000, 500):
        places += place(came[begin:begin + 500], playout)[1]
    assert {b - a for a, b in pairwise(places)} == {20 * MS}
    assert not playout.corrections


STEPS = st.sampled_from([0, 1, 160, 320, 800, 8_000, 19_446, 40_000, -160, -8_000, 1 << 31]) | st.integers(0, (1 << 32) - 1)
"""Of a timestamp."""
PAUSES = st.sampled_from([0, 1, 20, 40, 900, 1_100, 2_500]) | st.integers(0, 10_000)
"""Milliseconds."""


@settings(deadline=None)
@given(st.lists(st.tuples(STEPS, PAUSES), min_size=1, max_size=50), st.integers(1, 50),
       st.sampled_from([8000, 16_000, 44_100, 48_000]))
@example([(0, 0), (19_446, 0), (-19_446, 0), (124_407, 1_533)], 4, 44_100)
@example([(0, 1_200), (160, 0), (160, 0), (320, 0), (9_600, 0), (160, 20), (320, 40)], 7, 8000)
def test_no_gap_is_longer_than_the_time_that_passed(rows: list[tuple[int, int]], cut: int, clock: int) -> None:
    """Whatever the timestamps say: nothing begins after its packet came, and nothing long before, unless it was late by then
    what follows shows.
    """
    times = T0 + np.cumsum(np.array([ms * MS for _, ms in rows], np.int64))
    stamps = np.cumsum(np.array([step for step, _ in rows], np.int64)).astype(np.uint32)
    playout = Playout(clock)
    for some in (slice(0, cut), slice(cut, None)):
        if not len(times[some]):
            continue
        runs = playout.place(stamps[some], times[some], np.full(len(times[some]), 160, np.int32))
        begins = runs.base_ns + to_ns(runs.tick, clock)
        first = runs.first
        assert first[0] == 0
        assert (np.diff(first) > 0).all()
        # a line drawn in the first block goes on in the second, unless they are a second apart
        assert (begins <= times[some][first] + (SECOND if some.start else 0)).all()
        assert (begins >= times[some][first] - late(stamps[some], times[some], clock)[first] - 2 * SECOND).all()


def late(stamps: NDArray[np.uint32], times: NDArray[np.int64], clock: int) -> NDArray[np.int64]:
    """How long each packet was delayed, ns, as the least-delayed says of those that catch up after it: each comes earlier for
    its timestamp than the one before or up to a second later.
    """
    delays = []
    for k in range(len(stamps)):
        now = least = 0
        for j in range(k + 1, len(stamps)):
            counted = ((int(stamps[j]) - int(stamps[j - 1]) + (1 << 31)) % (1 << 32) - (1 << 31)) * SECOND // clock
            change = int(times[j] - times[j - 1]) - counted
            if abs(change) > SECOND:
                break
            now += change
            least = min(least, now)
        delays.append(-least)
    return np.array(delays, np.int64)
