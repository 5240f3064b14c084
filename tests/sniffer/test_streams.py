"""Numbering streams, against a plain table that takes one packet after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.batches import T0, S, batch, cut, voice
from tests.sniffer.captures import Packet

from rokuon.sniffer.ip import IPv6Addresses, udp_datagrams
from rokuon.sniffer.link import locate
from rokuon.sniffer.streams import StreamTable


class Flow(NamedTuple):
    src: tuple[str, int] = ("10.0.0.1", 4000)
    dst: tuple[str, int] = ("10.0.0.2", 5000)
    vlans: tuple[int, ...] = ()
    point: int = 0


FLOWS = [Flow(), Flow(dst=("10.0.0.2", 5002)), Flow(src=("10.0.0.2", 5000), dst=("10.0.0.1", 4000)), Flow(vlans=(7,)),
         Flow(vlans=(7, 7)), Flow(point=1), Flow(src=("10.0.0.3", 4000)), Flow(("fd00::1", 4000), ("fd00::2", 5000)),
         Flow(("fd00::1", 4000), ("fd00::3", 5000)), Flow(("fd00::1", 4000), ("fd00::2", 5000), (7,))]


def packets(steps: Sequence[tuple[float, int, int]]) -> list[Packet]:
    """From (seconds since the packet before, which flow, SSRC)."""
    at, found = T0, []
    for n, (step, flow, ssrc) in enumerate(steps):
        at += round(step * S)
        f = FLOWS[flow]
        found.append(voice(at, ssrc, n, src=f.src, dst=f.dst, vlans=f.vlans, point=f.point))
    return found


class Numbered:
    """A stream table with what lies before it."""

    def __init__(self, **options: int) -> None:
        self.table = StreamTable(**options)
        self.addresses = IPv6Addresses()

    def add(self, lot: Sequence[Packet]) -> tuple[list[int], list[int]]:
        """The number of each packet, and which packets begin a stream."""
        taken = batch(lot)
        layer = locate(taken)
        groups, others = udp_datagrams(taken, layer, self.addresses)
        assert not len(others)
        numbers, begin = [0] * len(lot), []
        for d in groups:
            found, fresh = self.table.assign(d, slice(None), layer.path[d.row], taken.capture_point[d.row], taken.time_ns[d.row])
            for row, number in zip(d.row.tolist(), found.tolist(), strict=True):
                numbers[row] = number
            begin += d.row[fresh].tolist()
        return numbers, sorted(begin)


class Plain:
    """What `StreamTable` promises, one packet at a time; streams are named by their first packet."""

    def __init__(self, max_ssrcs: int = 16, idle_s: float = 15) -> None:
        self.max, self.idle = max_ssrcs, idle_s * S
        self.windows: dict[Flow, tuple[int, int]] = {}
        self.streams: dict[tuple[Flow, int | None], tuple[int, int]] = {}  # last time, name

    def name(self, number: int, time_ns: int, flow: Flow, ssrc: int) -> int:
        key: tuple[Flow, int | None] = (flow, ssrc)
        if key not in self.streams:
            since, count = self.windows.get(flow, (time_ns, 0))
            if time_ns - since > 10 * S and count <= self.max:
                since, count = time_ns, 0
            count += 1
            self.windows[flow] = since, count
            if count > self.max:
                key = flow, None
        last, name = self.streams.get(key, (time_ns, number))
        if time_ns - last > self.idle:
            name = number
        self.streams[key] = time_ns, name
        return name


def named(numbers: Sequence[int]) -> list[int]:
    """Every number by the place where it first stands: equal for equal partitions."""
    first: dict[int, int] = {}
    return [first.setdefault(number, i) for i, number in enumerate(numbers)]


flows = st.integers(0, len(FLOWS) - 1)
steps = st.sampled_from([0, 0, 0.02, 0.02, 0.02, 1, 4, 9.99, 10, 10.01, 14.99, 15, 15.01, 40])
traffic = st.one_of(
    st.lists(st.tuples(steps, flows, st.integers(0, 3)), max_size=60),
    st.lists(st.tuples(st.sampled_from([0, 0.1, 1, 11, 16]), st.integers(0, 1), st.integers(0, 9)), max_size=80))


@settings(max_examples=150, deadline=None)
@given(traffic, st.lists(st.integers(0, 80), max_size=8), st.sampled_from([2, 3, 16]))
def test_like_a_plain_table_however_cut(steps: list[tuple[float, int, int]], cuts: list[int], most: int) -> None:
    lot = packets(steps)
    plain = Plain(most)
    expected = [plain.name(n, p.time_ns, FLOWS[steps[n][1]], steps[n][2]) for n, p in enumerate(lot)]
    for places in (cuts, [], range(len(lot))):
        numbered = Numbered(max_ssrcs=most)
        numbers: list[int] = []
        begins: list[int] = []
        for part in cut(lot, places):
            found, fresh = numbered.add(part)
            begins += [len(numbers) + row for row in fresh]
            numbers += found
        assert named(numbers) == expected
        assert begins == sorted(set(expected))
        assert len({numbers[row] for row in begins}) == len(begins)


def test_the_17th_ssrc_makes_one_stream_of_the_rest() -> None:
    numbered = Numbered()
    numbers, fresh = numbered.add(packets([(0.1, 0, ssrc) for ssrc in range(40)]))
    assert len(set(numbers)) == 17
    assert len(set(numbers[16:])) == 1
    assert fresh == list(range(17))
    assert numbered.table.counts["streams_of_many_ssrcs"] == 24
    again, fresh = numbered.add(packets([(0.1, 0, ssrc) for ssrc in (3, 15, 16, 39, 1000)]))
    assert again == [numbers[3], numbers[15], *numbers[16:17] * 3]  # those that were streams remain so
    assert fresh == []


def test_other_flows_do_not_suffer() -> None:
    numbered = Numbered()
    numbers, _ = numbered.add(packets([(0, n % 2, n) for n in range(60)] + [(0, 2, n) for n in range(16)]))
    assert len(set(numbers[::2][:30])) == 17
    assert len(set(numbers[60:])) == 16


def test_one_call_after_another_on_the_same_ports() -> None:
    """A gateway's port sees a new SSRC with each call: never 17 within 10 s, however many in a batch."""
    lot = packets([(3, 0, ssrc) for ssrc in range(100)])
    numbers, _ = Numbered().add(lot)
    assert len(set(numbers)) == 100


def test_a_flow_found_out_stays_so() -> None:
    numbered = Numbered()
    numbered.add(packets([(0, 0, ssrc) for ssrc in range(30)]))
    late, _ = numbered.add([p._replace(time_ns=p.time_ns + 14 * S) for p in packets([(0, 0, ssrc) for ssrc in range(100, 120)])])
    assert len(set(late)) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_a_pause_begins_a_new_number(whole: bool) -> None:
    lot = packets([(0, 0, 1), (0, 1, 2), (15, 0, 1), (0.5, 0, 1), (0, 1, 2), (15.001, 0, 1), (0, 1, 2), (1, 0, 1)])
    numbered = Numbered()
    numbers, fresh = [], []
    for part in cut(lot, [] if whole else range(8)):
        found, new = numbered.add(part)
        fresh += [len(numbers) + row for row in new]
        numbers += found
    assert named(numbers) == [0, 1, 0, 0, 4, 5, 6, 5]
    assert fresh == [0, 1, 4, 5, 6]


def test_bounded() -> None:
    numbered = Numbered(limit=100, idle_ns=1000 * S)
    busy = [(0.001, 1, 1), (0.001, 7, 1)]
    seen: set[int] = set()
    before: list[int] = []
    for n in range(50):
        steps = [(0.001, 0, ssrc) for ssrc in range(10 * n, 10 * n + 10)]
        spread = [p._replace(data=p.data[:34] + (1024 + 10 * n + i).to_bytes(2, "big") + p.data[36:])
                  for i, p in enumerate(packets(steps))]
        lot = [p._replace(time_ns=p.time_ns + n * S) for p in spread + packets(busy)]
        numbers, _ = numbered.add(lot)
        assert not seen & set(numbers[:10])  # a number never comes back
        seen |= set(numbers[:10])
        assert len(numbered.table) <= 100 + 12
        assert numbers[10:] == (before or numbers[10:])  # streams that go on are not forgotten
        before = numbers[10:]
    assert numbered.table.counts["streams_evicted"] > 300


def test_who_is_forgotten_comes_back_as_a_new_stream() -> None:
    numbered = Numbered(limit=10)
    first, _ = numbered.add(packets([(0, 0, 1)]))
    lot = [voice(T0 + S + n, n, src=("10.9.0.1", 1000 + n)) for n in range(11)]
    numbered.add(lot)
    again, fresh = numbered.add([p._replace(time_ns=p.time_ns + 2 * S) for p in packets([(0, 0, 1)])])
    assert again[0] > max(first)
    assert fresh == [0]


def test_numbers_do_not_depend_on_the_seed() -> None:
    steps = [(0.1, n % 10, n % 7) for n in range(300)]
    assert Numbered(seed=1).add(packets(steps)) == Numbered(seed=1 << 60).add(packets(steps))


def test_nothing() -> None:
    numbered = Numbered()
    taken = batch([voice(T0, 1)])
    layer = locate(taken)
    (d,), _ = udp_datagrams(taken, layer, numbered.addresses)
    none = np.zeros(0, np.int64)
    numbers, fresh = numbered.table.assign(d, none, layer.path[none], taken.capture_point[none], taken.time_ns[none])
    assert len(numbers) == len(fresh) == len(numbered.table) == 0
