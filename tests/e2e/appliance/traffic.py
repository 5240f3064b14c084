"""What is sent to the appliance: captures at their pace, through one wire, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.e2e.appliance.machine import INTERFACE, Broken, Machine
from tests.e2e.wire import SECOND, Phone, merged
from tests.sniffer.captures import Packet

Json = dict[str, Any]
TICK_S = 0.002


def read(capture: Path) -> list[Packet]:
    """All packets of a classic pcap of microseconds (what the fixtures and the load generator write)."""
    data = capture.read_bytes()
    if data[:4] != b"\xd4\xc3\xb2\xa1":
        raise Broken(f"{capture.name} is not a pcap of microseconds, little-endian")
    packets, at = [], 24
    while at + 16 <= len(data):
        seconds, micros, size, wire = struct.unpack_from("<IIII", data, at)
        packets.append(Packet(seconds * SECOND + micros * 1000, data[at + 16:at + 16 + size], wire))
        at += 16 + size
    return packets


def replay(machine: Machine, capture: Path, timeout: float = 300) -> float:
    """Sends a capture by tcpreplay, at its pace; seconds it took. Raises Broken if a packet could not be sent."""
    begun = time.monotonic()
    done = subprocess.run(["tcpreplay", "-i", machine.outside, "--preload-pcap", str(capture)], capture_output=True, text=True,
                          check=False, timeout=timeout)
    told = dict(line.strip().split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    if done.returncode or int(told.get("Failed packets", "0")):
        raise Broken(f"tcpreplay: exit {done.returncode}: {done.stderr.strip()[-200:]}")
    return time.monotonic() - begun


class Sender(threading.Thread):
    """Sends packets at their pace, whatever becomes of the machine: while the wire is away, what would be sent is lost."""

    def __init__(self, interface: str, packets: Sequence[Packet]) -> None:
        super().__init__(daemon=True)
        self.interface, self.packets = interface, packets
        self.sent = self.lost = 0
        self.first_lost = self.last_lost = 0.0  # seconds since the first packet, as sent
        self._halt = threading.Event()

    def run(self) -> None:
        begun, first = time.monotonic_ns(), self.packets[0].time_ns
        out: socket.socket | None = None
        for packet in self.packets:
            while (wait := packet.time_ns - first - (time.monotonic_ns() - begun)) > 0:
                if self._halt.wait(max(wait / 1e9, TICK_S)):
                    return
            out = out or self._open()
            try:
                if out is None:
                    raise OSError(errno.ENODEV, "no wire")
                out.send(packet.data)
                self.sent += 1
            except OSError as e:
                at = (packet.time_ns - first) / 1e9
                self.first_lost, self.last_lost = self.first_lost or at, at
                self.lost += 1
                if out is not None and e.errno in (errno.ENXIO, errno.ENODEV):  # the machine has made another one
                    out.close()
                    out = None
        if out is not None:
            out.close()

    def _open(self) -> socket.socket | None:
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        try:
            out.bind((self.interface, 0))
        except OSError:
            out.close()
            return None
        return out

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._halt.set()
        self.join()


@dataclass
class Load:
    """Calls of G.711 between made-up phones, every payload its own; what a recorder that misses nothing gets out of them."""

    calls: list[Phone] = field(default_factory=list)
    first: int = 0

    def add(self, count: int, at: float, seconds: float) -> Load:
        """`count` calls that begin at that second, a few ms apart, and talk so long."""
        for n in range(count):
            start = round((1000 + at + n * 0.013) * SECOND)
            self.calls.append(Phone(self.first + len(self.calls), start_ns=start, seconds=seconds,
                                    call_id=b"appliance-%d@example" % (self.first + len(self.calls))))
        return self

    def packets(self) -> list[Packet]:
        return merged(*self.calls)

    def seconds(self) -> float:
        packets = self.packets()
        return (packets[-1].time_ns - packets[0].time_ns) / 1e9

    @staticmethod
    def truth(call: Phone) -> Json:
        """What `calls --json` should say."""
        count = round(call.seconds * 50)
        streams = []
        for up in (True, False):
            ends = [f"{call.caller}:{call.ports[0]}", f"{call.callee}:{call.ports[1]}"]
            voice = b"".join(call.voice_of(up, n) for n in range(count))
            streams.append({"direction": "caller" if up else "callee", "src": ends[not up], "dst": ends[up], "packets": count,
                            "payload_sha256": hashlib.sha256(voice).hexdigest()})
        return {"call_id": call.call_id.decode(), "state": "answered", "hangup_by": "caller", "streams": streams}


@dataclass
class Judged:
    """Of a load: what is wrong, and what is missing but may be."""

    wrong: list[str] = field(default_factory=list)
    calls: int = 0
    whole: int = 0
    missing: int = 0
    longest_missing_s: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} ended by {reason}" for reason, count in sorted(self.reasons.items()))
        cut = f"; at most {self.longest_missing_s:.2f} s missing in a direction" if self.missing else ""
        return f"{self.calls} calls ({ends}), {self.whole} with every packet{cut}"


def judge(load: Load, calls: Sequence[Json], *, may_miss_s: float = 0.0, may_lack: Sequence[Phone] = (),
          may_end: bool = True) -> Judged:
    """Every call once, each stream once in it, nothing twice; packets missing for at most `may_miss_s` a direction.

    `may_lack`: calls that may be unknown, since their signalling fell into the time without capture. `may_end`: every call has to
    have ended by its BYE.
    """
    said = Judged()
    holders: dict[str, list[Json]] = {}
    for call in calls:
        for leg in call["legs"]:
            holders.setdefault(leg["call_id"], []).append(call)
    streams = {(s["src"], s["dst"], s["ssrc"], call["id"]) for call in calls for s in call["streams"]}
    for phone in load.calls:
        want = load.truth(phone)
        found = holders.get(want["call_id"], [])
        said.calls += len(found)
        if len(found) != 1:
            if found or phone not in may_lack:
                said.wrong.append(f"{want['call_id']} is in {len(found)} calls")
            continue
        call = found[0]
        said.reasons[str(call["end_reason"])] = said.reasons.get(str(call["end_reason"]), 0) + 1
        if call["state"] != want["state"]:
            said.wrong.append(f"{want['call_id']} is {call['state']}")
        if may_end and (call["end_reason"], call["hangup_by"]) != ("bye", want["hangup_by"]):
            said.wrong.append(f"{want['call_id']} ended by {call['end_reason']}, {call['hangup_by']}")
        if len(call["legs"]) != 1:
            said.wrong.append(f"{want['call_id']} has {len(call['legs'])} legs")
        if not call["audio"] or call["audio"].get("pending"):
            said.wrong.append(f"{want['call_id']} has no audio: {call.get('audio_reason')}")
        whole = True
        for stream in want["streams"]:
            holding = {key[3] for key in streams if key[:2] == (stream["src"], stream["dst"])}
            if holding - {call["id"]}:
                said.wrong.append(f"{stream['src']} is in other calls too: {sorted(holding)}")
            mine = [s for s in call["streams"] if (s["src"], s["dst"]) == (stream["src"], stream["dst"])]
            if len(mine) != 1:
                said.wrong.append(f"{want['call_id']} {stream['direction']}: {len(mine)} streams")
                continue
            lacking = stream["packets"] - mine[0]["packets"]
            said.missing += max(lacking, 0)
            said.longest_missing_s = max(said.longest_missing_s, lacking / 50)
            if lacking < 0 or lacking / 50 > may_miss_s:
                said.wrong.append(f"{want['call_id']} {stream['direction']}: {mine[0]['packets']} packets of {stream['packets']}")
            if mine[0]["direction"] != stream["direction"]:
                said.wrong.append(f"{stream['src']} is the {mine[0]['direction']}'s")
            if not lacking and mine[0]["payload_sha256"] != stream["payload_sha256"]:
                said.wrong.append(f"{want['call_id']} {stream['direction']}: payload differs")
            whole &= not lacking
        said.whole += whole
    return said


def make_load(path: Path, *options: object) -> Json:
    """A load by the shared generator, which needs numpy; its manifest. Raises Broken if it is not there or fails."""
    program = Path(__file__).parents[3].parent / "shared" / "load" / "make_load.py"
    if not program.exists():
        raise Broken("../shared/load/make_load.py is not here")
    done = subprocess.run([sys.executable, program, path, *map(str, options)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"make_load.py: {done.stderr.strip()[-200:]}")
    manifest: Json = json.loads(path.with_suffix(".json").read_text())
    return manifest


@contextlib.contextmanager
def dumping(machine: Machine, path: str) -> Iterator[None]:
    """With tcpdump beside the appliance, inside, into a file there."""
    command = machine.command("tcpdump", "-i", INTERFACE, "-U", "-w", path)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        time.sleep(1)
        try:
            yield
        finally:
            time.sleep(0.5)
            machine.run("pkill", "-INT", "-x", "tcpdump", check=False)
