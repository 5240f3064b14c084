"""Whatever a capture file holds, the reader finds what a plain walk from record to record finds."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.sniffer.captures import (
    Packet,
    Reference,
    block,
    enhanced,
    interface,
    mixed,
    old,
    pcap,
    read_pcap,
    read_pcapng,
    section,
    simple,
)

from rokuon.sniffer.packet import SLACK
from rokuon.sniffer.pcap_file import CaptureError, CaptureFile
from rokuon.sniffer.pcap_merge import open_captures
from rokuon.sniffer.pcap_times import Times
from rokuon.sniffer.pcap_walk import Chain, RecordShape

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
orders = st.sampled_from("<>")
chunks = st.sampled_from([1024, 1500, 4096, 65536, 1 << 20])
lanes = st.sampled_from([None, 1, 2, 3, 7, 40, 200])
sizes = st.lists(st.one_of(st.integers(0, 90), st.sampled_from([0, 60, 214, 214, 214, 1514]), st.integers(0, 3000)), max_size=300)


@pytest.fixture(autouse=True, scope="module")
def times_as_they_are() -> Iterator[None]:
    """What becomes of times that cannot be is the business of tests/sniffer/test_pcap_times.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Times, "mend", lambda self, time_ns, more=False: True)
        yield


def rows(path: Path, chunk: int, lane_count: int | None) -> tuple[list[Packet], list[str]]:
    """All packets of a file, and its warnings."""
    found = []
    with CaptureFile(path, chunk=chunk, lanes=lane_count) as file:
        for batch in file:
            assert len(batch)
            assert len({len(a) for a in (batch.offset, batch.captured_length, batch.wire_length, batch.time_ns, batch.link_type,
                                         batch.capture_point)}) == 1
            ends = batch.offset + batch.captured_length
            assert batch.offset.min() >= 0
            assert ends.max() + SLACK <= len(batch.data)
            data = batch.data.tobytes()
            found += [Packet(time, data[at:at + size], wire, link, point) for time, at, size, wire, link, point in zip(
                batch.time_ns.tolist(), batch.offset.tolist(), batch.captured_length.tolist(), batch.wire_length.tolist(),
                batch.link_type.tolist(), batch.capture_point.tolist(), strict=True)]
        assert file.packets == len(found)
    return found, file.warnings


def check(path: Path, data: bytes, expected: Reference, chunk: int, lane_count: int | None) -> None:
    path.write_bytes(data)
    found, warnings = rows(path, chunk, lane_count)
    assert found == expected.packets
    if not expected.whole:
        assert len([w for w in warnings if f"read up to packet {len(found):,}" in w]) == 1
    assert all("\n" not in w and str(path) in w for w in warnings)


@quick
@given(sizes=sizes, order=orders, nano=st.booleans(), chunk=chunks, lane_count=lanes, cut=st.integers(0, 4000))
@example(sizes=[262144, 0, 0, 70000], order="<", nano=False, chunk=1024, lane_count=None, cut=0)
@example(sizes=[214] * 3000, order=">", nano=True, chunk=1 << 20, lane_count=None, cut=1)
def test_pcap_of_any_sizes_cut_anywhere(tmp_path: Path, sizes: list[int], order: str, nano: bool, chunk: int,
                                        lane_count: int | None, cut: int) -> None:
    """Any mixture of sizes, any chunk, any number of lanes, any point of truncation."""
    data = pcap(mixed(sizes), order=order, nano=nano)
    data = data[:max(24, len(data) - cut)]
    check(tmp_path / "a.pcap", data, read_pcap(data), chunk, lane_count)


@quick
@given(sizes=sizes, chunk=chunks, lane_count=lanes,
       where=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=8))
def test_pcap_with_changed_bytes(tmp_path: Path, sizes: list[int], chunk: int, lane_count: int | None,
                                 where: list[tuple[int, int]]) -> None:
    """Damage ends the reading or garbles packets, just as it does for the plain walk."""
    data = bytearray(pcap(mixed(sizes)))
    for place, value in where:
        data[16 + place % (len(data) - 16)] = value
    data[16:20] = struct.pack("<I", 65535)
    check(tmp_path / "a.pcap", bytes(data), read_pcap(bytes(data)), chunk, lane_count)


@quick
@given(inner=sizes, chunk=chunks, lane_count=lanes, shift=st.integers(0, 40))
def test_pcap_that_holds_pcaps(tmp_path: Path, inner: list[int], chunk: int, lane_count: int | None, shift: int) -> None:
    """Packets whose payload is itself a chain of records that looks right lead no lane astray."""
    bait = bytes(shift) + pcap(mixed(inner))[24:40_000]
    packets = [Packet(p.time_ns, bait, len(bait)) if i % 3 else p for i, p in enumerate(mixed([100] * 40))]
    data = pcap(packets)
    check(tmp_path / "a.pcap", data, read_pcap(data), chunk, lane_count)


ticks = st.one_of(st.integers(0, (1 << 64) - 1), st.integers(1_700_000_000_000_000, 1_700_000_000_100_000))
payloads = st.integers(0, 400).map(lambda size: bytes(i * 7 & 255 for i in range(size)))


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """A pcapng file of blocks of all kinds, in sections of either byte order."""
    order = draw(orders)
    out = [section(order)]
    for _ in range(draw(st.integers(0, 40))):
        match draw(st.sampled_from([*["packet"] * 8, "old", "simple", "interface", "interface", "section", "other", "bad",
                                    "same"])):
            case "packet":
                number = draw(st.sampled_from([0, 0, 0, 1, 2, 300]))
                options = draw(st.sampled_from([b"", struct.pack(order + "HHI", 2, 4, 1) + bytes(4)]))
                wire = draw(st.sampled_from([None, 0, 9000, 1 << 31]))
                out.append(enhanced(draw(ticks), draw(payloads), number=number, wire=wire, order=order, options=options))
            case "old":
                number, drops = draw(st.integers(0, 2)), draw(st.integers(0, 9))
                out.append(old(draw(ticks), draw(payloads), number=number, drops=drops, order=order))
            case "simple":
                out.append(simple(draw(payloads), wire=draw(st.sampled_from([None, 10, 9000])), order=order))
            case "interface":
                resolution = draw(st.one_of(st.none(), st.integers(0, 255), st.sampled_from([3, 6, 9, 12, 0x80 | 20])))
                offset = draw(st.one_of(st.none(), st.sampled_from([0, 3600, -3600, (1 << 63) - 1, -(1 << 63)])))
                out.append(interface(order, link_type=draw(st.sampled_from([0, 1, 101, 113, 228, 276, 65535])),
                                     snaplen=draw(st.sampled_from([0, 96, 65535])), resolution=resolution, offset=offset))
            case "section":
                order = draw(orders)
                out.append(section(order))
            case "other":
                out.append(block(draw(st.sampled_from([4, 5, 10, 0x0BAD, 0x80000001])), bytes(draw(st.integers(0, 3000))), order))
            case "bad":
                out.append(draw(st.binary(max_size=40)))
            case "same":
                out.append(enhanced(draw(ticks), b"x" * 172, order=order) * draw(st.integers(1, 200)))
    return b"".join(out)


@quick
@given(data=blocks(), chunk=chunks, lane_count=lanes, cut=st.integers(0, 600))
@example(data=section() + interface() + b"".join(enhanced(1 << 50 | i, bytes(172)) for i in range(3000)), chunk=1 << 20,
         lane_count=None, cut=3)
@example(data=section() + block(10, bytes(500_000)) + interface() + enhanced(1, b"x"), chunk=4096, lane_count=None, cut=0)
@example(data=section() + interface() + enhanced(1, bytes(262144)) + enhanced(1, b"x"), chunk=4096, lane_count=None, cut=0)
@example(data=section() + interface(">") + section(">") + interface(">"), chunk=4096, lane_count=None, cut=0)
def test_pcapng_of_any_blocks_cut_anywhere(tmp_path: Path, data: bytes, chunk: int, lane_count: int | None, cut: int) -> None:
    """Sections, interfaces with their own clocks, packets of all three kinds, others, and damage."""
    data = data[:max(28, len(data) - cut)]
    check(tmp_path / "a.pcapng", data, read_pcapng(data), chunk, lane_count)


@quick
@given(data=st.one_of(st.binary(max_size=300), st.sampled_from([pcap([])[:24], section(), section(">"), b"\x1f\x8b\x08"]).flatmap(
    lambda head: st.binary(max_size=400).map(lambda tail: head + tail))), zipped=st.booleans())
def test_any_bytes(tmp_path: Path, data: bytes, zipped: bool) -> None:
    """Bytes of any kind are refused as no capture, or read."""
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(data) if zipped else data)
    said: list[str] = []
    try:
        found, said = rows(path, 1024, None)
    except CaptureError as error:
        said, found = [str(error)], []
    assert len(found) <= len(data)
    assert all("\n" not in line and str(path) in line for line in said)


@quick
@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=400), lane_count=lanes, begin=st.integers(0, 50),
       wild=st.lists(st.tuples(st.integers(0, 399), st.integers(0, (1 << 32) - 1)), max_size=3), cut=st.integers(0, 60))
def test_chain_is_the_plain_walk(lengths: list[int], lane_count: int | None, begin: int, wild: list[tuple[int, int]],
                                 cut: int) -> None:
    """Lanes find the records that a walk one by one finds, and arrive where it does, whatever the lengths say."""
    stated = list(lengths)
    for which, value in wild:
        stated[which % len(stated)] = value
    data = bytes(begin) + b"".join(struct.pack("<IIII", 0x65000000, 0, said, said & 0xFFFF) + bytes(there)
                                   for said, there in zip(stated, lengths, strict=True))
    buffer = np.frombuffer(data + bytes(SLACK), np.uint8)
    end = max(begin, len(data) - cut)
    expected, at = [], begin
    while at + 16 <= end:
        expected.append(at)
        at += 16 + struct.unpack_from("<I", data, at + 8)[0]
    found, arrived = Chain(RecordShape("<", 16, 8, 16, 16), lane_count).walk(buffer, begin, end, {2: 0, 3: 0x65, 10: 0, 11: 0})
    assert found.tolist() == expected
    assert arrived == at


@quick
@given(files=st.lists(st.lists(st.integers(0, 60), max_size=40), min_size=1, max_size=6),
       chunk=st.sampled_from([1024, 4096, 65536]))
def test_merge_is_a_stable_merge(tmp_path: Path, files: list[list[int]], chunk: int) -> None:
    """Files that overlap in any way, their times going backwards or not, are merged as packets would be one by one."""
    start = 1_700_000_000
    paths, named = [], []
    for number, seconds in enumerate(files):
        packets = [Packet((start + second) * 1_000_000_000, bytes([number, i]) + bytes(150), 152)
                   for i, second in enumerate(seconds)]
        path = tmp_path / f"{number}.pcap"
        path.write_bytes(pcap(packets))
        paths.append(path)
        if packets:
            named.append((packets[0].time_ns, number, packets))
    keyed = []
    for rank, (_, _, packets) in enumerate(sorted(named, key=lambda each: each[:2])):
        keyed += [(max(p.time_ns for p in packets[:i + 1]), rank, i, p) for i, p in enumerate(packets)]
    expected = [(p.time_ns, p.data[:2]) for _, _, _, p in sorted(keyed, key=lambda each: each[:3])]
    found = []
    with open_captures(paths, chunk=chunk) as source:
        for batch in source:
            assert (batch.offset + batch.captured_length).max() + SLACK <= len(batch.data)
            found += [(time, batch.data[at:at + 2].tobytes())
                      for time, at in zip(batch.time_ns.tolist(), batch.offset.tolist(), strict=True)]
        assert source.bytes_read == source.size
        assert not source.warnings
    assert found == expected


