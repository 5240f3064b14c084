import struct

import pcapy
import pytest

from rokuon.sniffer.bpf import capture_filter

MACS = bytes.fromhex("020000000002020000000001")
TAG = b"\x81\x00\x00\x64"
OUTER = b"\x88\xa8\x00\x05"
V4, V6 = b"\x08\x00", b"\x86\xdd"


def v4(source: str = "10.0.0.1", protocol: int = 17, fragment: int = 0, ports: tuple[int, int] = (5060, 5060)) -> bytes:
    addresses = b"".join(bytes(map(int, host.split("."))) for host in (source, "10.0.0.2"))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 60, 7, fragment, 64, protocol, 0)
    return head + addresses + struct.pack(">HHHH", *ports, 40, 0) + bytes(32)


def v6(following: int = 17, ports: tuple[int, int] = (5060, 5060)) -> bytes:
    body = struct.pack(">HHHH", *ports, 40, 0) + bytes(32)
    if following == 44:
        body = struct.pack(">BBHI", 17, 0, 8, 1) + body
    return struct.pack(">IHBB", 0x60000000, len(body), following, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + body


def passes(text: str, frame: bytes, link_type: int = 1) -> bool:
    return bool(pcapy.compile(link_type, 65535, text, 1, 0).filter(frame))


@pytest.mark.parametrize(("name", "frame", "kept"), [
    ("IPv4", V4 + v4(), True),
    ("later fragment", V4 + v4(fragment=0x20B9), True),
    ("GRE", V4 + v4(protocol=47), True),
    ("TCP", V4 + v4(protocol=6), True),
    ("IPv6", V6 + v6(), True),
    ("IPv6 fragment", V6 + v6(44), True),
    ("tagged", TAG + V4 + v4(), True),
    ("QinQ", OUTER + TAG + V4 + v4(), True),
    ("old QinQ", b"\x91\x00\x00\x05" + TAG + V4 + v4(), True),
    ("MPLS", b"\x88\x47" + bytes.fromhex("00010140") + v4(), True),
    ("MPLS under a tag", TAG + b"\x88\x47" + bytes.fromhex("00010140") + v4(), True),
    ("PPPoE", b"\x88\x64" + bytes.fromhex("1100000100400021") + v4(), True),
    ("ARP", b"\x08\x06" + bytes(46), False),
    ("LLDP", b"\x88\xcc" + bytes(46), False),
    ("spanning tree", b"\x00\x26" + bytes.fromhex("424203") + bytes(43), False),
])
def test_by_default_all_that_may_carry_calls_is_kept(name: str, frame: bytes, kept: bool) -> None:
    assert passes(capture_filter(), MACS + frame) is kept


UNDER = {"plain": b"", "tagged": TAG, "twice tagged": OUTER + TAG}


@pytest.mark.parametrize("tags", UNDER.values(), ids=UNDER)
@pytest.mark.parametrize(("asked", "wanted", "unwanted"), [
    ("host 10.0.0.1", V4 + v4(), V4 + v4("10.0.0.9")),
    ("not host 10.0.0.9", V4 + v4(), V4 + v4("10.0.0.9")),
    ("udp", V6 + v6(), V4 + v4(protocol=6)),
    ("host 10.0.0.1 or host 10.0.0.3", V4 + v4("10.0.0.3"), V4 + v4("10.0.0.9")),
    ("port 5060", V4 + v4(), V4 + v4(ports=(80, 8080))),
    ("not port 443", V4 + v4(), V4 + v4(ports=(443, 443))),
    ("portrange 5000-6000", V4 + v4(fragment=0x20B9, ports=(0, 0)), V4 + v4(ports=(80, 80))),
    ("udp portrange 5000-6000", V6 + v6(44), V6 + v6(ports=(80, 80))),
    ("udp", V4 + v4(), b"\x08\x06" + bytes(46)),
], ids=str)
def test_what_is_asked_for_holds_under_tags_too(tags: bytes, asked: str, wanted: bytes, unwanted: bytes) -> None:
    assert passes(capture_filter(asked), MACS + tags + wanted)
    assert not passes(capture_filter(asked), MACS + tags + unwanted)


def test_a_filter_that_knows_its_layers_is_taken_as_it_is() -> None:
    assert capture_filter(" vlan 100 and udp ") == "vlan 100 and udp"
    assert passes(capture_filter("vlan 100 and udp"), MACS + TAG + V4 + v4())
    assert not passes(capture_filter("vlan 101 and udp"), MACS + TAG + V4 + v4())
    assert passes(capture_filter("mpls and udp"), MACS + b"\x88\x47" + bytes.fromhex("00010140") + v4())


@pytest.mark.parametrize(("link_type", "ours", "head"), [(12, 101, b""), (0, 0, b"\2\0\0\0"), (108, 108, b"\0\0\0\2"),
                                                         (113, 113, bytes(14) + V4)])
def test_other_links(link_type: int, ours: int, head: bytes) -> None:
    assert passes(capture_filter("", ours), head + v4(), link_type)
    assert passes(capture_filter("port 5060", ours), head + v4(), link_type)
    assert not passes(capture_filter("port 5061", ours), head + v4(), link_type)
