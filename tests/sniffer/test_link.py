"""Link layers of batches, against scapy and against frames written by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from tests.sniffer.batches import T0, batch, udp
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import dissect, pool

from rokuon.sniffer.link import locate, tags_of

IPV4 = bytes([0x45]) + bytes(39)
IPV6 = bytes([0x60]) + bytes(59)


def test_against_scapy() -> None:
    frames = pool()
    taken = batch([Packet(T0, f.data, len(f.data), f.link_type) for f in frames])
    layer = locate(taken)
    for i, f in enumerate(frames):
        seen = dissect(f.data, f.link_type)
        if seen.version:
            assert int(layer.ethertype[i]) == {4: 0x0800, 6: 0x86DD}[seen.version], f
            assert int(layer.start[i] - taken.offset[i]) == seen.network, f
            assert tags_of(int(layer.path[i])) == seen.tags, f
        else:
            assert int(layer.ethertype[i]) not in (0x0800, 0x86DD), f


def ethernet(tags: list[int], *, kind: int = 0x8100, body: bytes = IPV4, ethertype: int = 0x0800) -> bytes:
    return bytes(12) + b"".join(struct.pack(">HH", kind, tag) for tag in tags) + struct.pack(">H", ethertype) + body


@pytest.mark.parametrize(("control", "tags"), [
    ([], ()), ([5], (5,)), ([0], ()), ([4095], (4095,)), ([5, 6], (5, 6)), ([6, 5], (6, 5)), ([0, 5], (5,)), ([5, 0], (5,)),
    ([1, 2, 3, 4], (1, 2, 3, 4)), ([0xE005], (5,)), ([0xF000 | 5, 0x1000 | 6], (5, 6)), ([0, 0, 0, 0], ())])
@pytest.mark.parametrize("kind", [0x8100, 0x88A8, 0x9100])
def test_tags(control: list[int], tags: tuple[int, ...], kind: int) -> None:
    """Outermost first; priority bits are no part of it; VLAN 0 names no VLAN (IEEE 802.1Q)."""
    layer = locate(batch([Packet(T0, ethernet(control, kind=kind), 60)]))
    assert tags_of(int(layer.path[0])) == tags
    assert int(layer.ethertype[0]) == 0x0800


def test_paths_differ_where_tags_do() -> None:
    tags = [[], [1], [1, 1], [1, 1, 1], [1, 2], [2, 1], [4095], [4095, 4095, 4095, 4095], [1, 4095], [4094, 1]]
    layer = locate(batch([Packet(T0, ethernet(t), 60) for t in tags]))
    assert len(set(layer.path.tolist())) == len(tags)


def test_too_many_tags_are_not_understood() -> None:
    layer = locate(batch([Packet(T0, ethernet([1, 2, 3, 4, 5]), 60), Packet(T0, ethernet([1]), 60)]))
    assert layer.ethertype.tolist() == [0, 0x0800]


@pytest.mark.parametrize(("link_type", "before"), [(0, 4), (1, 14), (101, 0), (108, 4), (113, 16), (228, 0), (229, 0), (276, 20)])
@pytest.mark.parametrize("noise", [0x00, 0x45, 0x60, 0x81, 0x88, 0xFF])
def test_nothing_is_read_of_the_next_packet(link_type: int, before: int, noise: int) -> None:
    """A packet that ends before its IP header has none, whatever lies behind it in the buffer."""
    tagged = {1: ethernet([7])[:18], 113: bytes(14) + b"\x81\x00\x00\x07\x08\x00",
              276: b"\x81\x00" + bytes(18) + b"\x00\x07\x08\x00"}
    cut = [Packet(T0, bytes(size), 60, link_type) for size in range(before + 1)]
    cut += [Packet(T0, tagged[link_type][:size], 60, link_type) for size in range(len(tagged.get(link_type, b"")) + 1)
            if link_type in tagged]
    layer = locate(batch(cut, noise=noise))
    assert not np.isin(layer.ethertype, [0x0800, 0x86DD]).any()


def test_unknown_link_types() -> None:
    layer = locate(batch([Packet(T0, udp(b"x" * 40), 82, kind) for kind in (105, 127, 65535)]))
    assert not layer.ethertype.any()


def test_no_packets() -> None:
    layer = locate(batch([]))
    assert len(layer.start) == len(layer.ethertype) == len(layer.path) == 0


def test_does_not_write_into_the_batch() -> None:
    taken = batch([Packet(T0, ethernet([7, 8]), 60)] * 3)
    before = taken.data.copy(), taken.offset.copy()
    locate(taken)
    assert (taken.data == before[0]).all()
    assert (taken.offset == before[1]).all()
