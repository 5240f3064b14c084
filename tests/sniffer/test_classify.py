"""What is RTP, what may be signalling, and what is neither."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.batches import T0, S, batch, cut, rtp, udp
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import pool

from rokuon.sniffer.classify import Kind, KindLimiter, SipConnections, is_rtp, udp_kinds
from rokuon.sniffer.ip import IPv6Addresses, UdpDatagrams, udp_datagrams
from rokuon.sniffer.link import locate

SIP_PORTS = np.array([5060], np.uint16)


def datagrams(payloads: Sequence[bytes], ports: tuple[int, int] = (4000, 5000), captured: int | None = None) -> UdpDatagrams:
    frames = [udp(p, ("10.0.0.1", ports[0]), ("10.0.0.2", ports[1])) for p in payloads]
    taken = batch([Packet(T0, f if captured is None else f[:42 + captured], len(f)) for f in frames])
    (d,), _ = udp_datagrams(taken, locate(taken), IPv6Addresses())
    return d


def kind_of(payload: bytes, ports: tuple[int, int] = (4000, 5000)) -> Kind | str:
    d = datagrams([payload], ports)
    if is_rtp(d)[0]:
        return "rtp"
    return Kind(int(udp_kinds(d, np.array([0]), SIP_PORTS)[0]))


def test_generated_kinds() -> None:
    frames = [f for f in pool() if f.content in ("rtp", "rtcp", "sip", "stun", "dtls", "junk")]
    taken = batch([Packet(T0, f.data, len(f.data), f.link_type) for f in frames])
    groups, _ = udp_datagrams(taken, locate(taken), IPv6Addresses())
    seen = 0
    for d in groups:
        voice = is_rtp(d)
        kinds = udp_kinds(d, np.arange(len(d)), SIP_PORTS)
        for row, is_voice, kind in zip(d.row.tolist(), voice.tolist(), kinds.tolist(), strict=True):
            seen += 1
            name = frames[row].content
            assert is_voice == (name == "rtp"), frames[row]
            if not is_voice:
                assert Kind(kind).name.lower() == ("other" if name == "junk" else name), frames[row]
    assert seen == len(frames)


@pytest.mark.parametrize("second", range(256))
def test_rtp_and_rtcp_share_a_port(second: int) -> None:
    """RFC 5761 section 4: packet types 192 to 223 are RTCP's."""
    found = kind_of(bytes([0x80, second]) + bytes(30))
    assert found == (Kind.RTCP if 192 <= second <= 223 else "rtp")


@pytest.mark.parametrize("first", [0x00, 0x40, 0x7F, 0xC0, 0xFF])
def test_other_versions_are_no_rtp(first: int) -> None:
    assert kind_of(bytes([first]) + bytes(40)) == Kind.OTHER


@pytest.mark.parametrize(("first", "size", "voice"), [
    (0x80, 11, False), (0x80, 12, True), (0x81, 15, False), (0x81, 16, True), (0x8F, 71, False), (0x8F, 72, True),
    (0x90, 15, False), (0x90, 16, True), (0x92, 23, False), (0x92, 24, True), (0xA0, 12, True)])
def test_room_for_what_the_header_announces(first: int, size: int, voice: bool) -> None:
    assert (kind_of(bytes([first]) + bytes(size - 1)) == "rtp") == voice
    mixed = datagrams([rtp(1), bytes([first]) + bytes(size - 1), rtp(2)])  # whatever its neighbours are
    assert is_rtp(mixed).tolist() == [True, voice, True]


@pytest.mark.parametrize("captured", range(20))
def test_cut_rtp(captured: int) -> None:
    """The fixed header must be there; what was cut behind it is missed later, not here."""
    d = datagrams([rtp(1, payload=b"v" * 160)], captured=captured)
    assert bool(is_rtp(d)[0]) == (captured >= 12)


@pytest.mark.parametrize("text", [b"INVITE sip:", b"ACK sip:a", b"BYE sip:a", b"CANCEL sip:", b"REGISTER si", b"OPTIONS sip",
                                  b"PRACK sip:a", b"SUBSCRIBE s", b"NOTIFY sip:", b"PUBLISH sip", b"INFO sip:a", b"REFER sip:a",
                                  b"MESSAGE sip", b"UPDATE sip:", b"SIP/2.0 200"])
def test_sip_on_any_port(text: bytes) -> None:
    assert kind_of(text) == Kind.SIP
    assert kind_of(text.lower()) == Kind.OTHER  # methods are case-sensitive: RFC 3261 section 7.1


@pytest.mark.parametrize(("payload", "kind"), [
    (b"\r\n\r\n", Kind.OTHER), (b"\0\0\0\0", Kind.OTHER), (b"\0" * 20, Kind.OTHER), (b"jaK", Kind.OTHER), (b"", Kind.OTHER),
    (b"NEWMETHOD sip:", Kind.SIP), (b"\r\n\r\nINVITE", Kind.SIP), (b"\xff\xff\xff\xff\xff\xff", Kind.OTHER)])
@pytest.mark.parametrize("ports", [(5060, 9), (9, 5060), (5060, 5060)])
def test_on_the_configured_port(payload: bytes, kind: Kind, ports: tuple[int, int]) -> None:
    assert kind_of(payload, ports) == kind


def test_media_on_the_sip_port() -> None:
    assert kind_of(rtp(1), (5060, 5060)) == "rtp"
    assert kind_of(b"\x80\xc8" + bytes(30), (5060, 5060)) == Kind.RTCP
    assert kind_of(bytes([0, 1, 0, 0]) + b"\x21\x12\xa4\x42" + bytes(12), (5060, 5060)) == Kind.STUN
    assert kind_of(b"\x16\xfe\xfd" + bytes(20), (5060, 5060)) == Kind.DTLS


def test_stun_needs_its_cookie_and_its_header() -> None:
    binding = bytes([0, 1, 0, 0]) + b"\x21\x12\xa4\x42" + bytes(12)
    assert kind_of(binding) == Kind.STUN
    assert kind_of(binding[:19]) == Kind.OTHER
    assert kind_of(binding[:4] + b"\x21\x12\xa4\x43" + binding[8:]) == Kind.OTHER
    assert kind_of(b"\x40" + binding[1:]) == Kind.OTHER


# -- TCP ------------------------------------------------------------------------
def tcp(payload: bytes, ports: tuple[int, int] = (40000, 8080), *, v6: bool = False, options: int = 0,
        addresses: tuple[int, int] = (1, 2)) -> Packet:
    a, b = (bytes([10, 0, 0, n]) for n in addresses)
    body = struct.pack(">HHIIBBHHH", *ports, 1, 1, (5 + options) << 4, 0x18, 1000, 0, 0) + bytes(4 * options) + payload
    if v6:
        ip = struct.pack(">IHBB", 6 << 28, len(body), 6, 64) + bytes(12) + a + bytes(12) + b
        frame = bytes(12) + b"\x86\xdd" + ip + body
    else:
        frame = bytes(12) + b"\x08\x00" + struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 6, 0) + a + b + body
    return Packet(T0, frame, len(frame))


def select(connections: SipConnections, packets: Sequence[Packet], noise: int = 0x5A) -> list[bool]:
    taken = batch(packets, noise=noise)
    return connections.select(taken, locate(taken), np.arange(len(packets))).tolist()


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("options", [0, 3, 10])
def test_tcp_segments(v6: bool, options: int) -> None:
    def segment(payload: bytes, ports: tuple[int, int]) -> Packet:
        return tcp(payload, ports, v6=v6, options=options)

    connections = SipConnections([5060, 5080])
    assert select(connections, [segment(b"", (5060, 9)), segment(b"x", (9, 5080)), segment(b"x", (9, 10))]) == [True, True, False]
    lot = [segment(b"GET / HTTP/1.1", (7, 8)), segment(b"INVITE sip:a", (7, 8)), segment(b"more of it", (7, 8)),
           segment(b"more of it", (7, 9)), segment(b"SIP/2.0 200 OK", (8, 7)), segment(b"", (8, 7))]
    assert select(connections, lot) == [False, True, True, False, True, True]
    assert select(connections, lot) == [True, True, True, False, True, True]  # now it is known


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([b"", b"more", b"INVITE sip:a", b"INV", b"SIP/2.0 200"]), st.integers(1, 3),
                          st.integers(1, 3), st.booleans()), max_size=25), st.lists(st.integers(0, 25), max_size=6))
def test_tcp_does_not_depend_on_batches(lot: list[tuple[bytes, int, int, bool]], cuts: list[int]) -> None:
    packets = [tcp(payload, (a, b), v6=v6) for payload, a, b, v6 in lot]
    known: set[tuple[int, int, bool]] = set()
    expected = []
    for payload, a, b, v6 in lot:
        if payload[:4] in (b"INVI", b"SIP/"):
            known.add((a, b, v6))
        expected.append((a, b, v6) in known)
    for places in (cuts, []):
        connections = SipConnections([5060])
        assert [kept for part in cut(packets, places) for kept in select(connections, part)] == expected


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("noise", [0, 0x55, 0xFF])
def test_cut_tcp(v6: bool, noise: int) -> None:
    packet = tcp(b"INVITE sip:a", (7, 8), v6=v6, options=2)
    head = len(packet.data) - 12
    cuts = [packet._replace(data=packet.data[:size]) for size in range(15, len(packet.data) + 1)]
    assert select(SipConnections([5060]), cuts, noise) == [size >= head + 4 for size in range(15, len(packet.data) + 1)]


def test_connections_are_bounded() -> None:
    connections = SipConnections([5060], limit=50)
    for n in range(40):
        lot = [tcp(b"INVITE sip:a", (1000 + n, port)) for port in range(10)]
        assert all(select(connections, lot))
        assert connections._known.count <= 60
    assert select(connections, [tcp(b"more", (1039, 3))]) == [True]


# -- limits ----------------------------------------------------------------------
@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.9, 1.0, 5.0, -0.2]), max_size=60), st.lists(st.integers(0, 60), max_size=6),
       st.integers(0, 5))
def test_limiter_does_not_depend_on_batches(steps: list[float], cuts: list[int], limit: int) -> None:
    times = T0 + np.cumsum([round(step * S) for step in steps], dtype=np.int64) if steps else np.zeros(0, np.int64)
    whole, parts = KindLimiter(limit), KindLimiter(limit)
    kept = whole.admit(Kind.RTCP, times).tolist()
    places = sorted({0, len(times), *(min(c, len(times)) for c in cuts)})
    pieces = [k for a, b in pairwise(places) for k in parts.admit(Kind.RTCP, times[a:b]).tolist()]
    assert kept == pieces
    assert whole.dropped == parts.dropped
    assert whole.dropped["rtcp"] == kept.count(False)


def test_limiter_lets_so_many_through_each_second() -> None:
    limiter = KindLimiter(3)
    times = T0 + np.arange(100, dtype=np.int64) * (S // 10)
    kept = limiter.admit(Kind.STUN, times)
    assert kept.reshape(10, 10).sum(axis=1).tolist() == [3] * 10
    assert kept.reshape(10, 10)[:, :3].all()
    assert limiter.admit(Kind.DTLS, times[-1:]).tolist() == [True]  # kinds do not share


