"""IP and UDP headers of batches, against scapy and against headers written by hand."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import numpy as np
import pytest
from tests.sniffer.batches import GUARD, T0, batch, udp
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import dissect, pool

from rokuon.sniffer.ip import IPv6Addresses, UdpDatagrams, udp_datagrams
from rokuon.sniffer.link import locate
from rokuon.sniffer.packet import PacketBatch


def read(packets: list[Packet], noise: int = 0x5A) -> tuple[PacketBatch, list[UdpDatagrams], list[int]]:
    taken = batch(packets, noise=noise)
    groups, others = udp_datagrams(taken, locate(taken), IPv6Addresses())
    assert len(groups) <= 2
    return taken, groups, sorted(others.tolist())


def ethernet(frame: bytes, time_ns: int = T0) -> Packet:
    return Packet(time_ns, frame, len(frame))


def test_against_scapy() -> None:
    frames = pool()
    taken, groups, others = read([Packet(T0, f.data, len(f.data), f.link_type) for f in frames])
    numbers: dict[str, int] = {}
    whole = set()
    for d in groups:
        for k, row in enumerate(d.row.tolist()):
            f, seen = frames[row], dissect(frames[row].data, frames[row].link_type)
            whole.add(row)
            assert seen.protocol == 17, f
            assert seen.fragment is None, f
            source, destination, length, _ = struct.unpack_from(">HHHH", f.data, seen.upper)
            start = int(d.payload[k] - taken.offset[row])
            assert start == seen.upper + 8, f
            assert int(d.length[k]) == int(d.captured[k]) == length - 8, f
            assert d.ports[k:k + 1].view(">u2").tolist() == [source, destination]
            assert bool(d.v6[k]) == (seen.version == 6)
            assert (int(d.ttl[k]), int(d.tos[k]), int(d.ip_id[k])) == (seen.ttl, seen.tos, seen.ident), f
            head = f.data[start:start + 12]
            assert d.head[k].astype("<u4").tobytes()[:len(head)] == head
            low, high = int(d.ends[k]) & 0xFFFFFFFF, int(d.ends[k]) >> 32
            if seen.version == 4:
                assert [str(ip_address(struct.pack("<I", end))) for end in (high, low)] == [seen.src, seen.dst]
            else:
                assert numbers.setdefault(seen.src, high) == high
                assert numbers.setdefault(seen.dst, low) == low
    assert len(set(numbers.values())) == len(numbers)
    for row, f in enumerate(frames):
        seen = dissect(f.data, f.link_type)
        datagram = bool(seen.version) and seen.protocol == 17 and seen.fragment is None
        assert (row in whole) == datagram, f
        assert (row in others) == (bool(seen.version) and not datagram), f


def extended(chain: list[tuple[int, bytes]], payload: bytes = b"p" * 20, *, last: int = 17) -> bytes:
    """IPv6 with extension headers: (number, its bytes from the third on)."""
    body = struct.pack(">HHHH", 4000, 5000, 8 + len(payload), 0) + payload
    following, first = last, last
    for kind, rest in reversed(chain):
        body = (struct.pack(">BB", following, 0 if kind == 44 else max(0, (len(rest) + 2) // 8 - 1)) + rest) + body
        following = first = kind
    addresses = ip_address("fd00::1").packed + ip_address("fd00::2").packed
    return bytes(12) + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(body), first, 64) + addresses + body


@pytest.mark.parametrize("count", range(10))
def test_extension_headers(count: int) -> None:
    frame = extended([(60, bytes(6 + 8 * (i % 3))) for i in range(count)])
    _, groups, others = read([ethernet(frame)])
    if count <= 8:
        (d,) = groups
        assert int(d.length[0]) == 20
        assert others == []
    else:
        assert others == [0]


@pytest.mark.parametrize(("where", "datagram"), [(0, True), (0x0006, True), (1, False), (8, False), (0xFFF8, False)])
def test_fragment_header(where: int, datagram: bool) -> None:
    """An atomic fragment is a whole datagram (RFC 6946); reserved bits are ignored (RFC 8200 section 4.5)."""
    _, groups, others = read([ethernet(extended([(0, bytes(6)), (44, struct.pack(">HI", where, 77))]))])
    assert sum(map(len, groups)) == datagram
    assert others == ([] if datagram else [0])


@pytest.mark.parametrize("chain", [[(60, b"")], [(44, b"")], [(0, bytes(6)), (60, bytes(2046))]])
def test_extension_headers_that_lead_beyond_the_packet(chain: list[tuple[int, bytes]]) -> None:
    frame = extended(chain, b"")
    for size in range(54, len(frame)):
        _, groups, others = read([ethernet(frame[:size])], noise=17)
        assert sum(map(len, groups)) == 0
        assert others == [0]


@pytest.mark.parametrize("words", range(5, 16))
def test_ipv4_options(words: int) -> None:
    plain = udp(b"v" * 30, ttl=7, tos=3, ident=999)
    frame = plain[:14] + bytes([0x40 | words]) + plain[15:34] + b"\x11" * (words * 4 - 20) + plain[34:]
    taken, (d,), others = read([ethernet(frame), ethernet(plain)])
    assert others == []
    assert (d.payload - taken.offset).tolist() == [14 + words * 4 + 8, 42]
    assert d.ports[0] == d.ports[1]
    assert (d.head[0] == d.head[1]).all()


@pytest.mark.parametrize("first", [0x40, 0x44, 0x55, 0x65, 0x05])
def test_no_ipv4_header(first: int) -> None:
    plain = udp(b"v" * 30)
    _, groups, others = read([ethernet(plain[:14] + bytes([first]) + plain[15:])])
    assert sum(map(len, groups)) == 0
    assert others == [0]


@pytest.mark.parametrize("said", [0, 7, 8, 19, 28, 29, 500, 65535])
def test_length_field(said: int) -> None:
    """What the UDP length says counts, as far as it was captured: neither Ethernet's padding nor the next packet."""
    for src, dst, at in ((("10.0.0.1", 1), ("10.0.0.2", 2), 38), (("fd00::1", 1), ("fd00::2", 2), 58)):
        frame = bytearray(udp(b"v" * 20, src, dst))
        struct.pack_into(">H", frame, at, said)
        _, (d,), _ = read([ethernet(bytes(frame))])
        assert int(d.length[0]) == said - 8
        assert int(d.captured[0]) == min(said - 8, 20)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("noise", [0x00, 0x11, 0x45, 0xFF])
def test_cut_anywhere(v6: bool, noise: int) -> None:
    frame = udp(b"v" * 40, *((("fd00::1", 1), ("fd00::2", 2)) if v6 else (("10.0.0.1", 1), ("10.0.0.2", 2))))
    head = len(frame) - 40
    taken, groups, others = read([Packet(T0, frame[:size], len(frame)) for size in range(len(frame) + 1)], noise)
    (d,) = groups
    assert d.row.tolist() == list(range(head, len(frame) + 1))
    assert d.captured.tolist() == list(range(41))
    assert (d.length == 40).all()
    assert others == list(range(15, head))
    assert (d.payload + d.captured <= taken.offset[d.row] + taken.captured_length[d.row]).all()


def test_address_numbers_stay_apart() -> None:
    addresses = IPv6Addresses(limit=100)
    seen: dict[tuple[int, int], int] = {}
    for n in range(40):
        rows = np.array([[i // 7, i] for i in range(n * 5, n * 5 + 10)], np.uint64)
        found = addresses.numbers(rows).tolist()
        assert len(set(found)) == 10
        assert max(found) < 1 << 32
        for row, number in zip(rows.tolist(), found, strict=True):
            assert seen.get((row[0], row[1]), number) == number or n > 15  # beyond the limit an address may get a new number
            seen[row[0], row[1]] = number


def test_only_what_is_asked_for() -> None:
    assert GUARD < 256
    _, groups, others = read([Packet(T0, bytes(60), 60)])
    assert groups == []
    assert others == []
