"""Fuzzes TCP reassembly: any segments stay within bounds; a stream gives the same messages in whatever order it comes."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import harness, seeds
from fuzz.harness import Input

with harness.instrumented():
    from rokuon.sniffer.packet import Endpoint
    from rokuon.sniffer.sip import looks_like_sip
    from rokuon.sniffer.tcp import FIN, RST, SYN, TcpReassembler
    from rokuon.sniffer.websocket import next_websocket_frame

WORDS = (b"\r\n", b"\n", b"\r\n\r\n", b"Content-Length: 5\r\n", b"l: 0\r\n", b"l: 99999\r\n", b"SIP/2.0 200 OK\r\n",
         b"INVITE sip:a SIP/2.0\r\n", b"GET / HTTP/1.1\r\n", b"HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n",
         b"\x81\x7e\0\x30", b"\x81\x85abcd", b"\0" * 4)
A, B = Endpoint("192.0.2.1", 40_000), Endpoint("2001:db8::1", 5060)
SECOND = 1_000_000_000
SIZE, TOTAL, CONNECTIONS = 32_768, 65_536, 3


def hostile(given: Input) -> None:
    """Segments of any numbers, flags and times, on a few connections."""
    tcp = TcpReassembler(connection_limit=CONNECTIONS, size_limit=SIZE, total_limit=TOTAL)
    data, into, out, now = given.rest, 0, 0, 0
    while not given.over:
        size, flags, at = given.number(2_000), given.number(31), given.number(65_535)
        where, step = given.number(len(data)), given.number(255)
        now += (step - 20) * SECOND // 20
        segment = data[where:where + size]
        ends = (A, B) if step % 2 else (B, A._replace(port=step))
        sequence = (at << 16 if step % 7 == 6 else at - 1000) & 0xFFFFFFFF
        tcp.hurried = step % 5 == 4
        got = tcp.receive(now, *ends, 0, sequence, flags & (FIN | SYN | RST), segment)
        got += tcp.expire(now) if step % 3 == 0 else []
        into += len(segment)
        out += sum(len(message) for *_, message in got)
        assert out <= into, "more bytes out than in"
        assert all(looks_like_sip(message) for *_, message in got if b"SIP/2.0" in message[:40])
        assert len(tcp) <= CONNECTIONS
        held = sum(half.size + len(half.fragments) for half in tcp._halves.values())
        assert tcp._total == held <= TOTAL, "bytes held are miscounted"
        for half in tcp._halves.values():
            assert half.size == sum(len(run.data) for run in half.runs)
            assert len(half.done) <= 66
            assert [run.start for run in half.runs] == sorted(run.start for run in half.runs)
    out += sum(len(message) for *_, message in tcp.flush())
    assert out <= into
    assert len(tcp) == tcp._total == 0


def shuffled(given: Input) -> None:
    """One stream, seen from its SYN on: in order, and in segments that overlap, come twice and in any order."""
    start = given.number(0xFFFFFFFF)
    data = given.rest[:SIZE // 2]
    cuts = sorted({given.number(len(data)) for _ in range(1 + given.number(30))} | {0, len(data)})
    segments = list(pairwise(cuts))
    in_order = messages(data, start, [(0, len(data))])
    assert messages(data, start, segments) == in_order, "cut"
    order = sorted(range(len(segments)), key=lambda n: (given.number(255), n))
    mixed = [segments[n] for n in order]
    for a, b in list(mixed):
        more = given.number(60)
        if more > 40:
            mixed.append((max(0, a - more), min(len(data), b + more)))
    assert messages(data, start, mixed) == in_order, "order"


def messages(data: bytes, start: int, segments: list[tuple[int, int]]) -> list[bytes]:
    """What a stream gives whose segments come in that order, at once."""
    tcp = TcpReassembler()
    tcp.receive(0, A, B, 0, start, SYN, b"")
    got = [m for a, b in segments for m in tcp.receive(1, A, B, 0, (start + 1 + a) & 0xFFFFFFFF, 0, data[a:b])]
    return [message for *_, message in got + tcp.flush()]


def framed(data: bytes) -> None:
    """WebSocket frames: one that is whole is the same however many bytes are behind it; never longer than its buffer."""
    frame = next_websocket_frame(bytearray(data), 10_000)
    assert frame.end <= len(data)
    assert len(frame.payload) <= len(data)
    if frame.end > 0:
        assert next_websocket_frame(bytearray(data[:frame.end]), 10_000) == frame
        assert all(next_websocket_frame(bytearray(data[:n]), 10_000).end <= 0 for n in range(min(frame.end, 20)))


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    how = given.number(2)
    if how == 0:
        hostile(given)
    elif how == 1:
        shuffled(given)
    else:
        framed(given.rest)
        shuffled(given)


if __name__ == "__main__":
    harness.fuzz(check, seeds.tcp, WORDS)
