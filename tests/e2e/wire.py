"""Captures of calls for tests that break them: whole packets from struct alone, so that every byte can be forged."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sniffer.captures import Packet, pcap

ROKUON = Path(sys.executable).with_name("rokuon")
SECOND = 1_000_000_000
START = 1_780_000_000 * SECOND
PCMU = b"v=0\r\no=- 1 1 IN IP4 %b\r\ns=-\r\nc=IN IP4 %b\r\nt=0 0\r\nm=audio %d RTP/AVP %b\r\n%b"


def udp(source: tuple[str, int], destination: tuple[str, int], payload: bytes) -> bytes:
    """An Ethernet frame with an IPv4 datagram."""
    addresses = b"".join(bytes(map(int, host.split("."))) for host, _ in (source, destination))
    head = struct.pack(">BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0x4000, 64, 17, 0)
    ports = struct.pack(">HHHH", source[1], destination[1], 8 + len(payload), 0)
    return bytes.fromhex("020000000002020000000001") + b"\x08\x00" + head + addresses + ports + payload


def rtp(number: int, ssrc: int, payload: bytes, kind: int = 0, stamp: int | None = None) -> bytes:
    stamp = 160 * number if stamp is None else stamp
    return struct.pack(">BBHII", 0x80, kind, number & 0xFFFF, stamp & 0xFFFFFFFF, ssrc) + payload


@dataclass
class Phone:
    """One call of a caller at 10.1.x.y with somebody at 10.2.x.y; all its packets, in order of time."""

    number: int
    start_ns: int = START
    seconds: float = 1.0
    from_: bytes = b'"Alice" <sip:alice@example.com>'
    to: bytes = b"<sip:bob@example.com>"
    call_id: bytes = b""
    tag: bytes = b"a"
    headers: Sequence[bytes] = ()
    codec: bytes = b"0"
    maps: bytes = b""
    packet_ns: int = SECOND // 50
    ends: bool = True
    voice: bool = True
    packets: list[Packet] = field(default_factory=list)

    def __post_init__(self) -> None:
        net = f"{self.number // 250 % 250}.{self.number % 250 + 1}"
        self.caller, self.callee = f"10.1.{net}", f"10.2.{net}"
        self.call_id = self.call_id or b"call-%d@example" % self.number
        self.ports = (20000 + self.number % 10000 * 2, 40000 + self.number % 10000 * 2)
        self._make()

    def message(self, first: bytes, cseq: bytes, body: bytes = b"", tagged: bool = True) -> bytes:
        lines = [first, b"Via: SIP/2.0/UDP %b:5060;branch=z9hG4bK-%d" % (self.caller.encode(), self.number),
                 b"From: " + self.from_ + b";tag=" + self.tag, b"To: " + self.to + (b";tag=b" if tagged else b""),
                 b"Call-ID: " + self.call_id, b"CSeq: " + cseq, *self.headers]
        if body:
            lines.append(b"Content-Type: application/sdp")
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body

    def sip(self, at_ns: int, up: bool, message: bytes) -> None:
        ends = ((self.caller, 5060), (self.callee, 5060))
        data = udp(*(ends if up else ends[::-1]), message)
        self.packets.append(Packet(at_ns, data, len(data)))

    def sdp(self, up: bool) -> bytes:
        host = (self.caller if up else self.callee).encode()
        return PCMU % (host, host, self.ports[0 if up else 1], self.codec, self.maps)

    def _make(self) -> None:
        ms = SECOND // 1000
        self.sip(self.start_ns, True, self.message(b"INVITE sip:bob@example.com SIP/2.0", b"1 INVITE", self.sdp(True), False))
        self.sip(self.start_ns + 10 * ms, False, self.message(b"SIP/2.0 180 Ringing", b"1 INVITE"))
        self.sip(self.start_ns + 20 * ms, False, self.message(b"SIP/2.0 200 OK", b"1 INVITE", self.sdp(False)))
        self.sip(self.start_ns + 30 * ms, True, self.message(b"ACK sip:bob@example.com SIP/2.0", b"1 ACK"))
        count = round(self.seconds * 50) if self.voice else 0
        for n in range(count):
            for up in (True, False):
                at = self.start_ns + 40 * ms + n * self.packet_ns + (0 if up else 1_000_000)
                self.media(at, up, n)
        end = self.start_ns + 60 * ms + count * self.packet_ns
        if self.ends:
            self.sip(end, True, self.message(b"BYE sip:bob@example.com SIP/2.0", b"2 BYE"))
            self.sip(end + 5 * ms, False, self.message(b"SIP/2.0 200 OK", b"2 BYE"))

    def media(self, at_ns: int, up: bool, n: int) -> None:
        ends = ((self.caller, self.ports[0]), (self.callee, self.ports[1]))
        kind = int(self.codec.split()[0])
        data = udp(*(ends if up else ends[::-1]), rtp(n, 2 * self.number + up + 1, self.voice_of(up, n), kind))
        self.packets.append(Packet(at_ns, data, len(data)))

    def voice_of(self, up: bool, n: int) -> bytes:
        """The payload of a packet, which no other packet has."""
        return struct.pack(">IBH", self.number, up, n & 0xFFFF).ljust(160, b"\x55")


def merged(*calls: Phone) -> list[Packet]:
    return sorted((p for call in calls for p in call.packets), key=lambda p: p.time_ns)


def write(path: Path, packets: Iterable[Packet], **how: Any) -> Path:
    path.write_bytes(pcap(packets, **how))
    return path


def run(data: Path, *arguments: object, timeout: float = 60, env: dict[str, str] | None = None,
        memory: int | None = None) -> subprocess.CompletedProcess[str]:
    """A command as a user gives it; neither a traceback nor a hang is ever right. `memory`: bytes of address space."""
    command = [str(ROKUON), "--data", str(data), *map(str, arguments)]
    if memory:
        command = ["prlimit", f"--as={memory}", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, errors="surrogateescape",
                          env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr, done.stderr
    assert "fault of rokuon" not in done.stderr, done.stderr
    return done


def record(data: Path, *captures: object, jobs: int = 2, env: dict[str, str] | None = None,
           memory: int | None = None) -> subprocess.CompletedProcess[str]:
    return run(data, "record", "--jobs", jobs, "-r", *captures, env=env, memory=memory)


def calls(data: Path) -> list[dict[str, Any]]:
    done = run(data, "calls", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def identities(data: Path) -> dict[str, tuple[Any, ...]]:
    """What must not differ between two recordings of one capture: by call its streams and its sound."""
    return {call["id"]: (call["state"], call["end"], (call["audio"] or {}).get("sha256"),
                         tuple((s["src"], s["ssrc"], s["packets"], s["payload_sha256"]) for s in call["streams"]),
                         tuple(part["sha256"] for part in call["parts"])) for call in calls(data)}


def leftovers(data: Path) -> list[str]:
    """What an interrupted run left that nobody wants: unfinished files and spools."""
    endings = (".part", ".tmp", ".new", ".wal", ".seg")
    stray = [p for p in data.rglob("*") if p.name.endswith(endings)]
    stray += [p for p in (data / "spool").glob("*") if p.is_dir()]
    return sorted(str(p.relative_to(data)) for p in stray)


def audio_seconds(data: Path) -> float:
    return sum(float(f["duration_s"]) for call in calls(data) for f in [call["audio"], *call["parts"]] if f)


def disk_use(data: Path) -> int:
    return sum(p.stat().st_blocks * 512 for p in data.rglob("*") if p.is_file())


