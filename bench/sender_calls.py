"""Calls made on the fly: so many at a time, beginning and ending all the time, SIP and two streams of G.711 each."""

from __future__ import annotations

import hashlib
import random
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sender_ring import SKIP, Ring, raw_socket, udp_head

TICK_S = 0.002
CYCLE = 10
"""Ticks of a packet time of 20 ms: each sends a tenth of the rows."""
PAYLOAD, SIZE = 160, 214
SEQUENCE, TIMESTAMP, SSRC, MARK = 44, 46, 50, 54
"""Where in a frame they are. MARK: the first 8 bytes of payload, number of the stream and of the packet, big-endian."""
CODECS = ((0, "PCMU"), (8, "PCMA"))
CALLERS, CALLEES = 10 << 24 | 16 << 16, 10 << 24 | 48 << 16
"""10.16.0.0 and 10.48.0.0: a phone each line."""
TRYING, RINGING, ANSWER, ACK, TALK = 2, 40, 150, 152, 156
"""Ticks after the INVITE."""


def dotted(address: int) -> str:
    return ".".join(str(byte) for byte in address.to_bytes(4, "big"))


@dataclass
class Call:
    """What the manifest tells of a call, and what its messages need."""

    number: int
    line: int
    call_id: str
    addresses: tuple[int, int]
    ports: tuple[int, int]
    packets: int
    """To send each way; after its end those that were sent."""
    by_caller: bool
    times: dict[str, int] = field(default_factory=dict)
    over: bool = False

    @property
    def codec(self) -> tuple[int, str]:
        return CODECS[self.number % len(CODECS)]

    @property
    def parties(self) -> tuple[str, str]:
        return f"0312{self.number % 1_000_000:06d}", f"{200 + self.number % 700}"

    def stream(self, side: int) -> int:
        """The number of a stream, not 0."""
        return 2 * self.number + side + 1


def ssrc(stream: int) -> int:
    """Another one for each stream (an odd factor makes no two alike modulo 2 ** 32)."""
    return stream * 0x9E3779B1 & 0xFFFFFFFF


def message(call: Call, kind: str, method: str = "INVITE", cseq: int = 1, by: int = 0) -> bytes:
    """A SIP message that `by` (0: the caller) sends: `kind` is a status line's rest, or the method again."""
    request = kind == method
    asker = by if request else 1 - by
    hosts = [dotted(a) for a in call.addresses]
    users = call.parties
    tagged = "" if kind in ("INVITE", "100 Trying") else f";tag=b{call.number}"
    ends = [f"<sip:{users[0]}@pbx.example>;tag=a{call.number}", f"<sip:{users[1]}@pbx.example>{tagged}"]
    sdp = ""
    if kind == "INVITE" or (kind == "200 OK" and method == "INVITE"):
        payload_type, name = call.codec
        sdp = (f"v=0\r\no=- {call.number + 1} 1 IN IP4 {hosts[by]}\r\ns=-\r\nc=IN IP4 {hosts[by]}\r\nt=0 0\r\n"
               f"m=audio {call.ports[by]} RTP/AVP {payload_type} 101\r\na=rtpmap:{payload_type} {name}/8000\r\n"
               "a=rtpmap:101 telephone-event/8000\r\na=ptime:20\r\na=sendrecv\r\n")
    first = f"{method} sip:{users[1 - by]}@{hosts[1 - by]} SIP/2.0" if request else f"SIP/2.0 {kind}"
    text = (f"{first}\r\nVia: SIP/2.0/UDP {hosts[asker]}:5060;branch=z9hG4bK{call.number}{method}\r\n"
            f"From: {ends[asker]}\r\nTo: {ends[1 - asker]}\r\nCall-ID: {call.call_id}\r\nCSeq: {cseq} {method}\r\n"
            f"Contact: <sip:{users[by]}@{hosts[by]}>\r\nMax-Forwards: 70\r\n"
            + ("Content-Type: application/sdp\r\n" if sdp else "") + f"Content-Length: {len(sdp)}\r\n\r\n{sdp}").encode()
    return udp_head((call.addresses[by], 5060), (call.addresses[1 - by], 5060), len(text)) + text


class Calls:
    """`at_a_time` calls of `talk_s` seconds. They begin within `ramp_s`, go on for `seconds`, and end within `ramp_s`.

    A line is two phones that call one another again and again; the two rows of the ring that are its own carry the headers of
    the call it is in, and only sequence number, timestamp and the first bytes of the payload are written for each packet.
    """

    def __init__(self, interface: str, at_a_time: int, talk_s: float, seconds: float, ramp_s: float, seed: int = 1,
                 ring: Callable[[str, int], Any] = Ring) -> None:
        self._random = random.Random(seed)
        self._talk = max(1, round(talk_s * 50))
        pause = TALK * TICK_S + 0.55  # from one call's last packet to the next one's first, in the mean
        self.lines = round(at_a_time * (talk_s + pause) / talk_s)
        self._sip = raw_socket(interface)
        self._ring = ring(interface, 2 * self.lines)
        self._bounds = [2 * (self.lines * i // CYCLE) for i in range(CYCLE)] + [self._ring.rows]
        rows = self._ring.rows
        self._left = np.zeros(rows, np.int32)
        self._sequence, self._timestamp = np.zeros(rows, np.uint16), np.zeros(rows, np.uint32)
        self._mark = np.zeros(rows, np.uint64)
        data = self._ring.data
        self._columns = [(data[:, at:at + kind.itemsize].view(kind)[:, 0], values) for at, kind, values in
                         ((SEQUENCE, np.dtype(">u2"), self._sequence), (TIMESTAMP, np.dtype(">u4"), self._timestamp),
                          (MARK, np.dtype(">u8"), self._mark))]
        self._noise = np.random.default_rng(seed).integers(0, 256, 1 << 20, np.uint8)
        self._starting: dict[int, None] = {}  # lines whose first packets are to be sent: they carry the marker bit
        self._events: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self._tick = 0
        self._stop = round((ramp_s + seconds) / TICK_S)
        self._ramp = ramp_s
        self._on: list[Call | None] = [None] * self.lines
        self.calls: list[Call] = []
        self.rtp = self.messages = 0
        self.busiest = self.in_progress = 0
        for line in range(self.lines):
            at = round(ramp_s / TICK_S * self._random.random())
            length = self._random.randint(max(1, self._talk // 20), self._talk)
            self._events[at].append(lambda line=line, length=length: self._invite(line, length))

    @property
    def over(self) -> bool:
        """Whether the last call has ended."""
        return self._tick > self._stop and not self.in_progress and not self._events

    def stop_now(self) -> None:
        """As if `seconds` were over."""
        self._stop = min(self._stop, self._tick)

    def tick(self) -> None:
        """What is due in the next 2 ms."""
        now = self._tick
        for event in self._events.pop(now, ()):
            event()
        if now == self._stop:
            self._wind_down()
        part = now % CYCLE
        self._pay_out(self._bounds[part], self._bounds[part + 1])
        self._tick += 1

    def _after(self, ticks: int, event: Callable[[], None]) -> None:
        self._events[self._tick + max(1, ticks)].append(event)

    def _say(self, call: Call, moment: str, kind: str, method: str = "INVITE", cseq: int = 1, by: int = 0) -> None:
        self._sip.send(message(call, kind, method, cseq, by))
        call.times.setdefault(moment, time.time_ns() // 1000)
        self.messages += 1

    # -- the life of a call --------------------------------------------------
    def _invite(self, line: int, length: int) -> None:
        if self._tick >= self._stop:
            return
        number = len(self.calls)
        ports = [base + 2 * ((number * 7 + line) % 8000) for base in (16384, 32768)]
        call = Call(number, line, f"{number:07d}-{self._random.getrandbits(48):012x}@phones.example",
                    (CALLERS + line + 1, CALLEES + line + 1), (ports[0], ports[1]), length, self._random.random() < 0.5)
        self.calls.append(call)
        self._on[line] = call
        self.in_progress += 1
        self.busiest = max(self.busiest, self.in_progress)
        self._say(call, "invite_us", "INVITE")
        self._after(TRYING, lambda: self._say(call, "trying_us", "100 Trying", by=1))
        self._after(RINGING, lambda: self._say(call, "ringing_us", "180 Ringing", by=1))
        self._after(ANSWER, lambda: self._say(call, "answer_us", "200 OK", by=1))
        self._after(ACK, lambda: self._say(call, "ack_us", "ACK", "ACK"))
        self._after(TALK, lambda: self._talk_on(call))

    def _talk_on(self, call: Call) -> None:
        ring, noise = self._ring, self._noise
        if self._tick >= self._stop:
            call.packets = min(call.packets, self._last_words())
        ring.reserve(2 * call.line, 2 * call.line + 2)
        for side in (0, 1):
            row, stream = 2 * call.line + side, call.stream(side)
            src, dst = ((call.addresses[each], call.ports[each]) for each in (side, 1 - side))
            head = udp_head(src, dst, PAYLOAD + 12)
            head += struct.pack(">BBHII", 0x80, 0x80 | call.codec[0], 0, 0, ssrc(stream))
            ring.data[row, :MARK] = np.frombuffer(head, np.uint8)
            ring.data[row, MARK + 8:MARK + PAYLOAD] = noise[self._noise_at(stream):][:PAYLOAD - 8]
            ring.length[row] = SIZE
            self._sequence[row], self._timestamp[row] = ssrc(stream) & 0xFFFF, ssrc(stream + 1)
            self._mark[row] = stream << 32
            self._left[row] = call.packets
        self._starting[call.line] = None

    def _last_words(self) -> int:
        return self._random.randint(1, max(1, round(self._ramp * 50)))

    def _wind_down(self) -> None:
        """Whoever still talks hangs up soon."""
        for line in np.flatnonzero(self._left[0:2 * self.lines:2]).tolist():
            self._left[2 * line:2 * line + 2] = np.minimum(self._left[2 * line], self._last_words())

    def _ended(self, line: int) -> None:
        call = self._on[line]
        assert call is not None
        self._ring.length[2 * line:2 * line + 2] = SKIP
        call.packets = int(self._mark[2 * line]) & 0xFFFFFFFF
        call.times["last_us"] = time.time_ns() // 1000
        by = 0 if call.by_caller else 1
        self._after(4, lambda: self._say(call, "end_us", "BYE", "BYE", 2, by))
        self._after(6, lambda: self._bye_answered(call, 1 - by))

    def _bye_answered(self, call: Call, by: int) -> None:
        self._say(call, "ended_us", "200 OK", "BYE", 2, by)
        call.over = True
        self.in_progress -= 1
        self._on[call.line] = None
        self._after(self._random.randint(50, 500), lambda: self._invite(call.line, self._talk))

    # -- media ---------------------------------------------------------------
    def _pay_out(self, begin: int, end: int) -> None:
        """The next packets of these rows' streams."""
        rows = slice(begin, end)
        left = self._left[rows]
        talking = int(np.count_nonzero(left))
        self._ring.reserve(begin, end)
        for column, values in self._columns:
            column[rows] = values[rows]
        first = [line for line in self._starting if begin <= 2 * line < end]
        self._ring.send(begin, end)
        self.rtp += talking
        self._sequence[rows] += 1
        self._timestamp[rows] += np.uint32(PAYLOAD)
        self._mark[rows] += np.uint64(1)
        over = np.flatnonzero(left == 1)
        np.maximum(left - 1, 0, out=left)
        for line in first:
            del self._starting[line]
            call = self._on[line]
            assert call is not None
            call.times["first_us"] = time.time_ns() // 1000
            self._ring.reserve(2 * line, 2 * line + 2)
            self._ring.data[2 * line:2 * line + 2, SEQUENCE - 1] &= 0x7F
        for row in over[::2].tolist():
            self._ended((begin + row) // 2)

    def _noise_at(self, stream: int) -> int:
        return ssrc(stream) % (len(self._noise) - PAYLOAD)

    # -- the truth -----------------------------------------------------------
    def payload_sha256(self, stream: int, packets: int) -> str:
        """Of all that a stream carried."""
        rows = np.empty((packets, PAYLOAD), np.uint8)
        rows[:, :8].view(">u8")[:, 0] = (stream << 32) + np.arange(packets, dtype=np.uint64)
        rows[:, 8:] = self._noise[self._noise_at(stream):][:PAYLOAD - 8]
        return hashlib.sha256(rows).hexdigest()

    def manifest(self) -> dict[str, Any]:
        """The calls that were sent whole, in the shape of the load generator's manifest."""
        whole = [call for call in self.calls if call.over]
        return {"options": {"ptime": 20, "codec": "g711", "calls": len(whole)}, "packets": self.rtp + self.messages,
                "rtp_packets": self.rtp, "calls": [self._told(call) for call in whole]}

    def _told(self, call: Call) -> dict[str, Any]:
        return {"call_id": call.call_id, "conversation": call.number, "leg": 0, "caller": call.parties[0],
                "callee": call.parties[1], "caller_name": None, "state": "answered", "status": 200, "vlan": [],
                **{name: call.times[name] for name in ("invite_us", "ringing_us", "answer_us", "end_us", "ended_us")},
                "early_media_us": None, "hangup_by": "caller" if call.by_caller else "callee", "holds": [], "late_sip_ms": 0,
                "after": None, "continues": None, "twin": None, "streams": [self._stream(call, side) for side in (0, 1)]}

    def _stream(self, call: Call, side: int) -> dict[str, Any]:
        ends = [[dotted(call.addresses[each]), call.ports[each]] for each in (side, 1 - side)]
        return {"direction": ("caller", "callee")[side], "part": 0, "src": ends[0], "dst": ends[1], "vlan": [],
                "ssrc": ssrc(call.stream(side)), "payload_type": call.codec[0], "codec": call.codec[1], "sent": call.packets,
                "unique": call.packets, "lost": 0, "unseen": 0, "duplicates": 0, "delayed": 0, "audio_packets": call.packets,
                "sha256": self.payload_sha256(call.stream(side), call.packets), "first_us": call.times["first_us"],
                "last_us": call.times["last_us"], "dtmf": "", "held_ms": 0, "trailing_ms": 0}

    def close(self) -> None:
        self._columns.clear()
        self._ring.close()
        self._sip.close()
