from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.decoders.packets import MS, T0, Rtp, records, talk

from rokuon.decoders.order import Order, Sequencer
from rokuon.decoders.rtp import parse


def arrange(packets: list[Rtp], sequencer: Sequencer | None = None, until_ns: int | None = None) -> tuple[Order, list[bytes]]:
    parsed = parse(records(packets))
    order = (sequencer or Sequencer()).arrange(parsed, 8000, until_ns)
    rows = range(len(packets)) if order.rows is None else order.rows.tolist()
    return order, [packets[r].payload for r in rows]


def test_in_order_across_the_wrap() -> None:
    sent = talk(100)
    order, got = arrange(sent)
    assert got == [p.payload for p in sent]
    assert order == Order(None, None, 0, 0, 0, 0, 0, 0, None)


@given(st.integers(0, 1 << 32), st.integers(1, 90))
def test_any_order_within_a_window(seed: int, window: int) -> None:
    rng = random.Random(seed)
    sent = talk(200)
    shuffled = sorted(sent, key=lambda p: p.sequence + rng.randrange(window))
    kept = [p.at(sent[k].time_ns) for k, p in enumerate(shuffled) if rng.random() > 0.05]
    again = [p for p in kept if rng.random() < 0.1]
    given_packets = kept[:]
    for p in again:
        given_packets.insert(given_packets.index(p) + 1, p.at(p.time_ns + 40_000))
    order, got = arrange(given_packets)
    wanted = sorted(kept, key=lambda p: p.sequence)
    assert got == [p.payload for p in wanted]
    assert order.duplicates == len(again)
    assert order.lost == wanted[-1].sequence - wanted[0].sequence + 1 - len(wanted)
    assert order.strays == order.late == order.restarts == 0
    highest, overtaken = -1, 0
    for p in kept:
        overtaken += p.sequence < highest
        highest = max(highest, p.sequence)
    assert order.reordered == overtaken


@pytest.mark.parametrize("again", [65_500, 200, 65_520, 30_000])
def test_a_restart_begins_another_epoch(again: int) -> None:
    """A device that starts anew with its old SSRC, also where the new numbers fall into the old ones."""
    old, new = talk(60), talk(60, begin_ns=T0 + 3_000 * MS, sequence=again, timestamp=77, seed=2)
    order, got = arrange(old + new)
    assert got == [p.payload for p in old + new]
    assert (order.lost, order.duplicates, order.strays) == (0, 0, 0)
    assert order.restarts == 1


def test_a_single_stray_packet_is_left_out() -> None:
    sent = talk(60)
    stray = Rtp(sent[30].time_ns + 1, sent[30].sequence + 20_000, 99, b"stray")
    order, got = arrange([*sent[:31], stray, *sent[31:]])
    assert got == [p.payload for p in sent]
    assert (order.strays, order.lost, order.restarts) == (1, 0, 0)


def test_a_damaged_copy_is_left_out() -> None:
    sent = talk(60)
    damaged = Rtp(sent[30].time_ns + 1, sent[30].sequence, sent[30].timestamp, b"x" * 160)
    order, got = arrange([*sent[:31], damaged, *sent[31:]])
    assert got == [p.payload for p in sent]
    assert (order.strays, order.duplicates, order.restarts) == (1, 0, 0)


def test_a_long_loss_is_a_loss() -> None:
    sent = talk(10_000)
    order, got = arrange(sent[:100] + sent[9_000:])
    assert len(got) == 1_100
    assert (order.lost, order.restarts) == (8_900, 0)


@given(st.integers(1, 4), st.integers(0, 200))
def test_blocks_make_no_difference(parts: int, late_ms: int) -> None:
    rng = random.Random(late_ms)
    sent = sorted((p.at(p.time_ns + rng.randrange(late_ms * MS + 1)) for p in talk(300) if rng.random() > 0.02),
                  key=lambda p: p.time_ns)
    whole, wanted = arrange(sent)
    sequencer, held, got, lost = Sequencer(), list[Rtp](), list[bytes](), 0
    for k in range(1, parts + 1):
        until = T0 + 6_500 * MS * k // parts if k < parts else None
        seen = [p for p in sent if until is None or p.time_ns < until + 2_000 * MS]
        sent = sent[len(seen):]
        packets = held + seen
        order, payloads = arrange(packets, sequencer, until)
        got += payloads
        lost += order.lost
        held = [packets[r] for r in order.later.tolist()] if order.later is not None else []
        assert order.late == 0
    assert got == wanted
    assert lost == whole.lost


def test_what_comes_long_after_its_block_is_counted() -> None:
    sequencer = Sequencer()
    sent = talk(300)
    arrange(sent[:100] + sent[101:200], sequencer)
    order, got = arrange([sent[100].at(sent[200].time_ns), *sent[200:]], sequencer)
    assert got == [p.payload for p in sent[200:]]
    assert (order.late, order.lost) == (1, 0)


def test_a_restart_between_blocks() -> None:
    sequencer = Sequencer()
    arrange(talk(300, sequence=0, timestamp=0), sequencer)
    new = talk(300, begin_ns=T0 + 7_000 * MS, sequence=40, timestamp=1 << 30, seed=3)
    order, got = arrange(new, sequencer)
    assert got == [p.payload for p in new]
    assert order.restarts == 1


@given(st.lists(st.tuples(st.integers(0, 65_535), st.integers(0, (1 << 32) - 1), st.integers(0, 3)), max_size=60))
def test_any_numbers(numbers: list[tuple[int, int, int]]) -> None:
    packets = [Rtp(T0 + k * MS, seq, ts, bytes([content])) for k, (seq, ts, content) in enumerate(numbers)]
    order, got = arrange(packets)
    rows = np.arange(len(packets)) if order.rows is None else order.rows
    assert len(set(rows.tolist())) == len(rows)
    assert len(got) + order.duplicates + order.strays == len(packets)
    assert order.lost >= 0
