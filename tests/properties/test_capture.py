"""No result of capture depends on how packets were cut into batches, and no bytes make it stumble."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.batches import T0, S, batch, cut, voice
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import LINKS, pool
from tests.store.runs_read import Read, captured

from rokuon.store.capture import Capture

STEPS = [0, 0, 1000, 20_000_000, 20_000_000, 500_000_000, 9 * S, 16 * S]


def traffic(rng: random.Random, count: int) -> list[Packet]:
    """Packets of all kinds, some cut, some damaged, among streams that go on."""
    at, packets = T0, []
    for n in range(count):
        at += rng.choice(STEPS) if rng.random() < 0.5 else 0
        if rng.random() < 0.4:
            packets.append(voice(at, rng.choice([1, 2, rng.getrandbits(32)]), n, src=("10.0.0.1", 4000 + 2 * rng.randrange(3)),
                                 payload=bytes(rng.choice([160, 160, 3, 33]))))
            continue
        f = rng.choice(pool())
        data = f.data
        if rng.random() < 0.2:
            data = data[:rng.randint(0, len(data))]
        elif rng.random() < 0.1 and data:
            at_byte = rng.randrange(len(data))
            data = data[:at_byte] + bytes([rng.getrandbits(8)]) + data[at_byte + 1:]
        packets.append(Packet(at, data, len(f.data), f.link_type, rng.randrange(2)))
    return packets


def result(read: Read, capture: Capture) -> tuple[object, ...]:
    """Everything but the numbers of streams, which v4 and v6 share out a batch at a time."""
    streams = sorted((read.names[n], read.first[n], read.headers[n], records) for n, records in read.voice.items())
    return streams, read.kept, +Counter(capture.counts)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 120), st.lists(st.integers(0, 120), max_size=12), st.sampled_from([5, 2000]))
def test_batches_make_no_difference(seed: int, count: int, cuts: list[int], limit: int) -> None:
    packets = traffic(random.Random(seed), count)
    whole, parts, singly = (Capture(side_packets_per_second=limit) for _ in range(3))
    expected = result(captured([packets], whole), whole)
    assert result(captured(list(cut(packets, cuts)), parts, noise=0xFF), parts) == expected
    assert result(captured([[p] for p in packets], singly, noise=0x45), singly) == expected


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=150), st.sampled_from([*LINKS, 105, 65535]), st.integers(0, 3000)), max_size=20))
def test_any_bytes(packets: list[tuple[bytes, int, int]]) -> None:
    lot = [Packet(T0 + n, data, wire, kind) for n, (data, kind, wire) in enumerate(packets)]
    read = captured([lot])
    for k in read.kept:
        assert k.data == packets[k.time_ns - T0][0]
    for records in read.voice.values():
        for record in records:
            assert record.payload in packets[record.time_ns - T0][0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 499), min_size=1, max_size=20), st.integers(0, 1 << 32))
def test_any_damage(which: list[int], seed: int) -> None:
    """Headers that are nearly right reach deeper than noise does."""
    rng = random.Random(seed)
    lot = []
    for n, number in enumerate(which):
        f = pool()[number]
        data = bytearray(f.data)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(min(len(data), 90))] = rng.choice([0, 1, 0xFF, 0x45, 0x60, 17, rng.getrandbits(8)])
        lot.append(Packet(T0 + n, bytes(data[:rng.choice([len(data), rng.randint(0, len(data))])]), len(data), f.link_type))
    read = captured([lot])
    for records in read.voice.values():
        for record in records:
            assert record.payload in lot[record.time_ns - T0].data
    assert all(k.data == lot[k.time_ns - T0].data for k in read.kept)


@pytest.mark.parametrize("size", [0, 1, 13, 14, 20, 41, 42, 53, 54, 100])
def test_nothing_is_read_behind_the_buffer(size: int) -> None:
    """The last packet of a batch may be as short as it likes: the slack is enough for all headers."""
    for kind in set(LINKS):
        for fill in (0x00, 0x45, 0x4F, 0x60, 0x81, 0xFF):
            taken = batch([Packet(T0, bytes([fill]) * size, size, kind)], noise=fill)
            Capture().process(taken)
            tagged = bytes(12) + b"\x81\x00\x00\x01" * 4 + b"\x08\x00\x4f"
            taken = batch([Packet(T0, tagged[:size], size, kind)], noise=0x4F)
            Capture().process(taken)
