"""What does not belong to calls: bursts of SIP, and of packets that look like RTP, each with an SSRC of its own."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sender_ring import Ring, udp_head

TICK_S = 0.002
FLOOD_HOST = "flood.example"
"""Part of each Call-ID of a flood."""
FLOOD_NET = 10 << 24 | 250 << 16
"""10.250.0.0: where a flood's datagrams come from; nothing else does."""
DIGITS = 8
_POWERS = 10 ** np.arange(DIGITS - 1, -1, -1, dtype=np.int64)


class Flood:
    """`rate` frames a second from `start` to `start` + `seconds`, both from the beginning of sending."""

    def __init__(self, ring: Any, rate: float, start: float, seconds: float) -> None:
        self._ring, self._rate = ring, rate
        self._from, self._to = round(start / TICK_S), round((start + seconds) / TICK_S)
        self._tick = self._next = self.sent = 0

    @property
    def over(self) -> bool:
        return self._tick > self._to

    def tick(self) -> None:
        if self._from < self._tick <= self._to:
            due = int(self._rate * TICK_S * (self._tick - self._from)) - self.sent
            while due > 0:
                begin, end = self._next, min(self._next + due, self._ring.rows)
                self._ring.reserve(begin, end)
                self.prepare(begin, end)
                self._ring.send(begin, end)
                self._next = end % self._ring.rows
                self.sent += end - begin
                due -= end - begin
        self._tick += 1

    def prepare(self, begin: int, end: int) -> None:
        """Makes frames out of the rows."""
        raise NotImplementedError

    def close(self) -> None:
        self._ring.close()


def _messages() -> Iterator[tuple[str, int]]:
    """Texts, `########` where a number goes in, and how many of a hundred messages they are."""
    def text(method: str, to: str, body: str = "", more: str = "") -> str:
        return (f"{method} sip:{to}@{FLOOD_HOST} SIP/2.0\r\nVia: SIP/2.0/UDP 10.250.0.1:5060;branch=z9hG4bKf########\r\n"
                f"From: <sip:########@{FLOOD_HOST}>;tag=f########\r\nTo: <sip:{to}@{FLOOD_HOST}>\r\n"
                f"Call-ID: ########@{FLOOD_HOST}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n{more}"
                f"Content-Length: {len(body)}\r\n\r\n{body}")

    sdp = "v=0\r\no=- 1 1 IN IP4 10.250.0.1\r\ns=-\r\nc=IN IP4 10.250.0.1\r\nt=0 0\r\nm=audio 20000 RTP/AVP 0\r\n"
    yield text("OPTIONS", "100"), 40
    yield text("REGISTER", "########", more="Contact: <sip:########@10.250.0.1>\r\nExpires: 60\r\n"), 40
    yield text("INVITE", "########", sdp, "Content-Type: application/sdp\r\n"), 10
    yield text("SIP/2.0 200 OK\r\nX-Was: ", "100"), 4
    yield "INVITE sip:########@\x00\x1b[2J\xff SIP/9.9\r\nCall-ID: \r\nFrom: ;;;\r\nCSeq: many\r\n\r\n" + "A" * 200, 3
    yield text("BYE", "########")[:120], 3


class SipFlood(Flood):
    """Messages of scanners, of phones that all register at once, and garbage."""

    ROWS, WIDTH = 2000, 1024

    def __init__(self, interface: str, rate: float, start: float, seconds: float, ring: Any = None) -> None:
        super().__init__(Ring(interface, self.ROWS, self.WIDTH), rate, start, seconds)
        kinds = [text for text, share in _messages() for _ in range(share)]
        np.random.default_rng(1).shuffle(kinds)
        places: list[list[int]] = []
        for row in range(self._ring.rows):
            text = kinds[row % len(kinds)].encode("latin-1")
            frame = udp_head((FLOOD_NET + 1, 5060), (FLOOD_NET + 2, 5060), len(text)) + text
            self._ring.data[row, :len(frame)] = np.frombuffer(frame, np.uint8)
            self._ring.length[row] = len(frame)
            places.append([at for at in range(len(frame)) if frame.startswith(b"########", at)])
        most = max(map(len, places))
        # A row with fewer numbers has its first one written several times over.
        self._places = np.array([[*own, *own[:1] * (most - len(own))] for own in places])[:, :, None] + np.arange(DIGITS)

    def prepare(self, begin: int, end: int) -> None:
        number = self.sent + np.arange(end - begin, dtype=np.int64)
        digits = (number[:, None] // _POWERS % 10 + ord("0")).astype(np.uint8)
        rows = np.arange(begin, end)[:, None, None]
        self._ring.data[rows, self._places[begin:end]] = digits[:, None, :]


class SsrcFlood(Flood):
    """Packets like RTP, a new SSRC each: all of one flow, or each of a flow of its own."""

    ROWS = 4096
    SIZE = 160

    def __init__(self, interface: str, rate: float, start: float, seconds: float, ring: Any = Ring, flows: bool = False) -> None:
        super().__init__(ring(interface, self.ROWS), rate, start, seconds)
        self._flows = flows
        head = udp_head((FLOOD_NET + 1, 20000), (FLOOD_NET + 2, 20002), self.SIZE + 12) + struct.pack(">BBHII", 0x80, 0, 0, 0, 0)
        data = self._ring.data
        data[:, :len(head)] = np.frombuffer(head, np.uint8)
        data[:, len(head):len(head) + self.SIZE] = np.random.default_rng(2).integers(0, 256, self.SIZE, np.uint8)
        self._ring.length[:] = len(head) + self.SIZE
        self._sequence, self._ssrc = data[:, 44:46].view(">u2")[:, 0], data[:, 50:54].view(">u4")[:, 0]
        self._low, self._port = data[:, 28:30].view(">u2")[:, 0], data[:, 34:36].view(">u2")[:, 0]
        self._checksum = data[:, 24:26].view(">u2")[:, 0]
        self._sum = 0xFFFF - int(self._checksum[0]) - 1  # without the source's last two bytes, which were 1

    def prepare(self, begin: int, end: int) -> None:
        number = self.sent + np.arange(end - begin, dtype=np.uint32)
        mixed = number * np.uint32(0x85EBCA6B)
        self._ssrc[begin:end] = mixed
        self._sequence[begin:end] = mixed >> np.uint32(7) & np.uint32(0xFFFF)
        if self._flows:
            low = number & np.uint32(0xFFFF)
            self._low[begin:end] = low
            self._port[begin:end] = 20000 + 2 * (number >> np.uint32(16) & np.uint32(0x3FFF))
            total = (self._sum + low.astype(np.int64)) % 0xFFFF
            self._checksum[begin:end] = np.where(total == 0, 0, 0xFFFF - total)

    def close(self) -> None:
        del self._sequence, self._ssrc, self._low, self._port, self._checksum
        super().close()


FLOODS: dict[str, Callable[[str, float, float, float, Any], Flood]] = {
    "sip": SipFlood, "ssrc": SsrcFlood, "ssrc-flows": lambda *given: SsrcFlood(*given, flows=True)}
"""By name: of interface, rate, start, seconds, and what makes rows for frames that look like RTP."""
