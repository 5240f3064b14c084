"""TCP reassembly against streams put together by hand and, for real captures, tshark."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from rokuon.sniffer import sip
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.sip_framing import find_start
from rokuon.sniffer.tcp import FIN, RST, SYN, StreamMessage, TcpReassembler

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "captures" / "real"
A, B = Endpoint("192.0.2.1", 40000), Endpoint("192.0.2.2", 5060)
SECOND = 1_000_000_000


def message(number: int, body: bytes = b"", first: str = "INVITE sip:b@h SIP/2.0", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"{first}\r\nVia: SIP/2.0/TCP h\r\nCall-ID: {number}\r\nCSeq: {number} INVITE\r\nl: {length}\r\n\r\n".encode() + body


class Talk:
    """One direction; segments are named by their place in the stream."""

    def __init__(self, start: int = 1000, **limits: int) -> None:
        self.tcp = TcpReassembler(**limits)
        self.start = start
        self.time = 0
        self.out: list[StreamMessage] = []

    def send(self, at: int, data: bytes = b"", flags: int = 0, time: int | None = None) -> list[bytes]:
        self.time = self.time + 1 if time is None else time
        got = self.tcp.receive(self.time, A, B, 0, (self.start + at) & 0xFFFFFFFF, flags, data)
        self.out += got
        return [m[4] for m in got]

    def syn(self, at: int = -1) -> list[bytes]:
        return self.send(at, flags=SYN)

    def messages(self) -> list[bytes]:
        return [m[4] for m in self.out]


def test_one_message_one_segment() -> None:
    tcp = TcpReassembler()
    assert tcp.receive(5, A, B, 3, 77, 0x18, message(1, b"abc")) == [(5, A, B, 3, message(1, b"abc"))]
    assert not tcp.anomalies


def test_time_is_that_of_the_segment_that_completed_it() -> None:
    talk, data = Talk(), message(1, b"x" * 100)
    talk.syn()
    talk.send(50, data[50:], time=100)
    talk.send(0, data[:50], time=200)
    talk.send(len(data), message(2), time=150)
    assert [m[0] for m in talk.out] == [200, 150]


def test_several_messages_and_keep_alives_in_a_segment() -> None:
    talk = Talk()
    data = b"\r\n\r\n" + message(1) + b"\r\n\r\n" + message(2, b"body") + b"\r\n"
    assert talk.send(0, data) == [message(1), message(2, b"body")]
    assert talk.send(len(data), b"\r\n") == []
    assert talk.send(len(data) + 2, message(3)) == [message(3)]
    assert not talk.tcp.anomalies


@pytest.mark.parametrize("size", [1, 7, 100])
def test_chunks(size: int) -> None:
    talk, data = Talk(), b"".join(message(i, b"\r\n\r\nINVITE sip:x SIP/2.0\r\nVia: y\r\n" * 5) for i in range(3))
    for i in range(0, len(data), size):
        talk.send(i, data[i:i + size])
    assert b"".join(talk.messages()) == data
    assert len(talk.out) == 3


def test_sequence_numbers_wrap() -> None:
    data = message(1, b"a" * 300) + message(2)
    for first in (0, 1, 50, 299):
        talk = Talk(start=(1 << 32) - first)
        for i in (100, 0, 200, 300, 400):
            talk.send(i, data[i:i + 100])
        assert talk.messages() == [message(1, b"a" * 300), message(2)]


def test_retransmissions_and_overlaps_first_bytes_win() -> None:
    talk, data = Talk(), message(1, b"abcdefghij") + message(2)
    talk.syn()
    talk.send(0, data[:60])
    talk.send(0, data[:60])
    talk.send(40, b"#" * 20 + data[60:80])
    talk.send(100, data[100:])
    talk.send(60, b"#" * 20 + data[80:110])
    talk.send(0, data)
    assert talk.messages() == [message(1, b"abcdefghij"), message(2)]


def test_begun_in_mid_connection() -> None:
    talk, data = Talk(), b"media\r\nv=0\r\n\r\n" + message(1) + message(2)
    assert talk.send(0, data) == [message(1), message(2)]


def test_begun_in_mid_connection_with_the_first_segments_swapped() -> None:
    first = message(1, b"x" * 498 + b"\r\n")
    talk, data = Talk(), first + message(2) + message(3)
    cut = len(first) - 100
    talk.send(cut, data[cut:])
    assert talk.messages() == [message(2), message(3)]
    talk.send(0, data[:cut])
    assert talk.messages() == [message(2), message(3), first]


def test_a_fragment_of_a_message_in_a_body_is_no_message() -> None:
    # RFC 3420, as REFER's NOTIFY carries it (RFC 3515): the capture begins with the body.
    talk = Talk()
    assert talk.send(0, b"SIP/2.0 200 OK\r\n" + message(2)) == [message(2)]


def test_syn_that_comes_late() -> None:
    talk = Talk()
    data = message(1, b"x" * 100)
    talk.send(80, data[80:])
    talk.send(-1, flags=SYN)
    assert talk.send(0, data[:80]) == [data]


def test_port_reuse() -> None:
    talk = Talk()
    talk.syn()
    talk.send(0, message(1)[:-30])
    assert talk.syn(500_000) == []
    assert talk.send(500_001, message(2)) == [message(2)]
    talk.syn(-3000)
    assert talk.send(-2999, message(3)) == [message(3)]
    assert talk.send(800_000, message(4)) == [message(4)]  # its SYN was missed
    assert talk.send(400_000, b"rubbish") == []
    assert talk.tcp.anomalies["tcp-out-of-window"] == 1


def test_gap_that_never_fills() -> None:
    talk = Talk()
    talk.syn()
    first = message(1, b"x" * 300)
    talk.send(0, first[:100], time=0)
    talk.send(200, first[200:] + message(2), time=SECOND)
    assert talk.send(200 + len(first[200:] + message(2)), message(3), time=3 * SECOND) == []
    end = 200 + len(first[200:] + message(2) + message(3))
    assert talk.send(end, message(4), time=7 * SECOND) == [first[:100], message(2), message(3), message(4)]
    assert talk.tcp.anomalies == {"tcp-gap": 1, "tcp-incomplete-message": 1}
    assert talk.send(100, first[100:200], time=8 * SECOND) == []


def test_gap_is_skipped_by_expire_too_and_gives_the_head_that_is_there() -> None:
    talk = Talk()
    talk.syn()
    talk.send(0, message(1, b"v=0\r\n", length=500), time=0)
    talk.send(700, message(2), time=1)
    assert talk.tcp.expire(4 * SECOND) == []
    assert [m[4] for m in talk.tcp.expire(6 * SECOND)] == [message(1, b"v=0\r\n", length=500), message(2)]
    assert talk.tcp.anomalies == {"tcp-gap": 1, "tcp-incomplete-message": 1}


def test_gap_is_skipped_when_too_much_waits() -> None:
    talk = Talk(size_limit=4096)
    talk.syn()
    at, sent = 10, []
    while not talk.out:
        sent.append(message(len(sent)))
        talk.send(at, sent[-1])
        at += len(sent[-1])
        assert at < 6000
    assert talk.messages() == sent


def test_many_holes_are_bounded() -> None:
    talk = Talk()
    talk.syn()
    for i in range(5000):
        talk.send(i * 3 + 1, b"x")
    half = next(iter(talk.tcp._halves.values()))
    assert len(half.runs) <= 65
    talk = Talk()
    for i in range(5000):
        talk.send(250_000 - i * 300, message(i))
    assert talk.tcp.anomalies["tcp-too-many-pieces"]
    assert all(len(half.done) <= 65 for half in talk.tcp._halves.values())


@pytest.mark.parametrize("flag", [FIN, RST])
def test_end_of_connection_gives_what_there_is(flag: int) -> None:
    talk = Talk()
    data = message(1, b"v=0\r\n", length=5000)
    assert talk.send(0, data) == []
    assert talk.send(len(data), flags=flag) == [data]
    assert talk.send(0, data) == []


def test_fin_does_not_wait_where_bytes_are_missing() -> None:
    talk = Talk()
    data = message(1, b"x" * 100)
    talk.syn()
    assert talk.send(50, data[50:], flags=FIN) == []
    assert talk.send(0, data[:50]) == [data]


def test_flush() -> None:
    talk = Talk()
    talk.syn()
    talk.send(0, message(1, b"v=0\r\n", length=90), time=0)
    talk.send(1000, b"xx\r\n" + message(2), time=1)
    assert [m[4] for m in talk.tcp.flush()] == [message(1, b"v=0\r\n", length=90), message(2)]
    assert len(talk.tcp) == 0
    assert talk.tcp.flush() == []


def test_garbage_between_messages() -> None:
    talk = Talk()
    assert talk.send(0, message(1) + b"garbage\r\n\x80\xff\r\nSIP/2.0 nonsense\r\n" + message(2)) == [message(1), message(2)]
    assert talk.tcp.anomalies["tcp-resync"] == 1


def test_without_content_length() -> None:
    talk = Talk()
    bare = message(1).replace(b"l: 0\r\n", b"")
    assert talk.send(0, bare + message(2)) == [bare, message(2)]
    assert talk.tcp.anomalies == {"tcp-no-content-length": 1}


@pytest.mark.parametrize("header", [b"Content-Length : 4", b"CONTENT-LENGTH:4", b"L:\t4 ", b"content-length:\r\n 4"])
def test_spellings_of_content_length(header: bytes) -> None:
    data = message(1).replace(b"l: 0", header) + b"body"
    assert Talk().send(0, data + message(2)) == [data, message(2)]


def test_a_message_beyond_the_limit_is_passed_over() -> None:
    talk = Talk(message_limit=1000)
    assert talk.send(0, message(1, length=999_999_999) + message(2)) == [message(2)]
    huge = b"INVITE sip:b@h SIP/2.0\r\n" + b"Subject: x\r\n" * 100
    assert talk.send(len(message(1, length=999_999_999) + message(2)), huge + b"\r\n" + message(3)) == [message(3)]
    assert talk.tcp.anomalies["tcp-long-message"] == 2


def test_tables_are_bounded() -> None:
    tcp = TcpReassembler(connection_limit=10, total_limit=20_000)
    for i in range(1000):
        tcp.receive(i, Endpoint("192.0.2.1", i), B, 0, 0, 0, message(i, length=5000))
    assert len(tcp) <= 10
    assert tcp.anomalies["tcp-evicted"] == 990
    for i in range(1000, 1005):
        tcp.receive(i, Endpoint("192.0.2.1", i), B, 0, 0, 0, message(i, b"x" * 6000, length=7000))
    assert len(tcp) <= 3
    assert tcp._total == sum(half.size for half in tcp._halves.values()) <= 20_000


def test_directions_and_encapsulations_are_apart() -> None:
    tcp = TcpReassembler()
    data = message(1, b"x" * 50)
    for src, dst, encap in ((A, B, 0), (B, A, 0), (A, B, 1)):
        assert tcp.receive(1, src, dst, encap, 9, 0, data[:60]) == []
    for src, dst, encap in ((A, B, 0), (B, A, 0), (A, B, 1)):
        assert tcp.receive(2, src, dst, encap, 69, 0, data[60:]) == [(2, src, dst, encap, data)]


def test_find_start_wants_a_header_field_behind_the_start_line() -> None:
    assert find_start(bytearray(b"x\r\nSIP/2.0 200 OK\r\n\r\n"), 0) == -1
    assert find_start(bytearray(b"x\r\nSIP/2.0 200 OK\r\nVia: y"), 0) == 3
    assert find_start(bytearray(b"INVITE sip:x SIP/2.0\nv : y"), 0) == 0
    assert find_start(bytearray(b"INVITE sip:x SIP/2.0\nv : y"), 1) == -1
    assert find_start(bytearray(b"Duration=160INVITE sip:x SIP/2.0\nv : y"), 0) == 12
    assert find_start(bytearray(b"</xml>SIP/2.0 200 OK\nv : y"), 0) == 6
    assert find_start(bytearray(b"a: INVITE x SIP/2.0\nVia: SIP/2.0/UDP x\nv : y"), 0) == -1


def frame(payload: bytes, opcode: int = 1, mask: bytes = b"", final: bool = True) -> bytes:
    """RFC 6455 section 5.2."""
    length, masked = len(payload), 0x80 if mask else 0
    head = bytes([opcode | (0x80 if final else 0)])
    if length < 126:
        head += bytes([length | masked])
    else:
        size = 2 if length < 65_536 else 8
        head += bytes([(126 if size == 2 else 127) | masked]) + length.to_bytes(size, "big")
    return head + mask + (bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if mask else payload)


CLIENT = b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nSec-WebSocket-Protocol: sip\r\n\r\n"  # RFC 7118 section 4.1
SERVER = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\n"


@pytest.mark.parametrize("size", [1, 33, 100_000])
@pytest.mark.parametrize("begun", [True, False])
def test_websocket(size: int, begun: bool) -> None:
    long = message(2, b"x" * 65_600)
    for head, mask in ((CLIENT, b"\x01\xfe\x80\x55"), (SERVER, b"")):
        parts = [(message(1), 1, True), (b"ping", 9, True), (b"not SIP", 1, True), (message(1, b"y" * 200), 2, True),
                 (message(3)[:20], 1, False), (b"", 10, True), (message(3)[20:], 0, True), (long, 1, True)]
        stream = head + b"".join(frame(payload, opcode, mask, final) for payload, opcode, final in parts)
        talk = Talk()
        if begun:
            talk.syn()
        for i in range(0, len(stream), size):
            talk.send(i, stream[i:i + size])
        assert talk.messages() == [message(1), message(1, b"y" * 200), message(3), long]
        assert not talk.tcp.anomalies


def test_websocket_with_a_hole() -> None:
    talk = Talk()
    talk.syn()
    stream = CLIENT + frame(message(1))
    talk.send(0, stream, time=0)
    talk.send(len(stream) + 100, frame(message(2)), time=1)
    assert [m[4] for m in talk.tcp.expire(6 * SECOND)] == [message(2)]


def test_websocket_that_is_none() -> None:
    talk = Talk()
    talk.syn()
    assert talk.send(0, CLIENT + b"\x7f\xff\xff" + bytes(50)) == []
    assert talk.tcp.anomalies == {"tcp-resync": 1}
    assert Talk().send(0, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + message(1)) == [message(1)]


def segments(path: Path) -> Iterable[tuple[int, Endpoint, Endpoint, int, int, bytes]]:
    from scapy.layers.inet import IP, TCP  # noqa: PLC0415 -- slow to import, for this test alone
    from scapy.utils import PcapReader  # noqa: PLC0415

    with PcapReader(str(path)) as reader:
        for packet in reader:
            if TCP in packet and IP in packet:
                ip = packet[TCP].underlayer
                if not isinstance(ip, IP):
                    continue
                tcp = packet[TCP]
                data = bytes(tcp.payload)[:ip.len - ip.ihl * 4 - tcp.dataofs * 4]
                yield (int(packet.time * SECOND), Endpoint(ip.src, tcp.sport), Endpoint(ip.dst, tcp.dport), tcp.seq,
                       int(tcp.flags) & 0xFF, data)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", ["sip-over-tcp.pcap", "suricata-sip-body-large-tcp.pcap", "suricata-tcp-pattern.pcap"])
def test_against_tshark(name: str) -> None:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    out = subprocess.run(["tshark", "-r", path, "-Y", "sip && tcp", "-T", "fields", "-e", "sip.Call-ID", "-e", "sip.CSeq", "-e",
                          "sip.Status-Code"], capture_output=True, text=True, check=True).stdout
    tcp = TcpReassembler()
    found = []
    for time_ns, src, dst, sequence, flags, data in segments(path):
        for *_, raw in tcp.receive(time_ns, src, dst, 0, sequence, flags, data):
            m = sip.parse(raw, strict_length=True)
            found.append(f"{m.call_id}\t{m.cseq} {m.method}\t{m.status or ''}")
    assert found == out.splitlines()
    assert found
