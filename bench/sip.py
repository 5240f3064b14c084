"""What a SIP message costs: parsed; parsed and taken into its call; and with packets around it, its media bound.

    python bench/sip.py [--messages N] [--repeat N] [--capture FILE] [--rokuon COMMAND] [--profile] [--write]

The messages are those of calls as phones behind a proxy make them: challenged or not, ringing, answered, now and then held and
refreshed, cancelled or busy, 900 bytes on average, calls at 100 a second. CPU time of this process, the best of some runs. The
capture, if it is there, is recorded whole by the command, beside tshark reading it: CPU seconds, user and system.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import random
import shlex
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import measure
from calls import START, frame

from rokuon.sniffer.call import CallTracker
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.pcap_file import open_capture
from rokuon.sniffer.sip import parse
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator
from rokuon.store.memory import keep_pages

CAPTURE = measure.ROOT.parent / "shared" / "captures" / "real" / "sipp-branch-scenario-1334calls.pcapng"
AIM_US, AIM_S = 100, 2


class Sent(NamedTuple):
    """A message on the wire."""

    time_ns: int
    up: bool
    number: int
    text: bytes


def address(side: int, number: int) -> str:
    """Of one of 1,000 phones on either side."""
    return f"10.{side}.{number // 250 % 4}.{number % 250 + 1}"


class Maker:
    """Makes the messages of calls."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.sent: list[Sent] = []

    def call(self, number: int, begin_ns: int) -> None:
        """All messages of one call."""
        kind = self._random.choices(("plain", "challenged", "held", "busy", "cancelled"), (50, 25, 10, 10, 5))[0]
        at, cseq = begin_ns, 1
        if kind == "challenged":
            self._say(at, number, True, "INVITE", cseq, sdp="sendrecv", tagged=False)
            self._say(at + 5e6, number, False, "407 Proxy Authentication Required", cseq)
            self._say(at + 8e6, number, True, "ACK", cseq)
            at, cseq = at + 12e6, 2
        self._say(at, number, True, "INVITE", cseq, sdp="sendrecv", tagged=False)
        self._say(at + 2e6, number, False, "100 Trying", cseq, tagged=False)
        self._say(at + 90e6, number, False, "180 Ringing", cseq)
        at += self._random.uniform(1, 6) * 1e9
        if kind == "busy":
            self._say(at, number, False, "486 Busy Here", cseq)
            self._say(at + 3e6, number, True, "ACK", cseq)
            return
        if kind == "cancelled":
            self._say(at, number, True, "CANCEL", cseq, tagged=False)
            self._say(at + 2e6, number, False, "200 OK", cseq, of="CANCEL")
            self._say(at + 4e6, number, False, "487 Request Terminated", cseq)
            self._say(at + 6e6, number, True, "ACK", cseq)
            return
        self._say(at, number, False, "200 OK", cseq, sdp="sendrecv")
        self._say(at + 20e6, number, True, "ACK", cseq)
        for direction, answer in (("sendonly", "recvonly"), ("sendrecv", "sendrecv")) * (kind == "held"):
            at, cseq = at + 3e9, cseq + 1
            self._say(at, number, True, "INVITE", cseq, sdp=direction)
            self._say(at + 30e6, number, False, "200 OK", cseq, sdp=answer)
            self._say(at + 40e6, number, True, "ACK", cseq)
        at += self._random.uniform(2, 8) * 1e9
        self._say(at, number, True, "BYE", cseq + 1)
        self._say(at + 5e6, number, False, "200 OK", cseq + 1, of="BYE")

    def _say(self, at: float, number: int, up: bool, what: str, cseq: int, sdp: str = "", of: str = "INVITE",
             tagged: bool = True) -> None:
        request = what.isupper() and not what[0].isdigit()
        here, there = address(1, number), address(2, number)
        first = f"{what} sip:0312{number:06}@{there}:5060;user=phone SIP/2.0" if request else f"SIP/2.0 {what}"
        lines = [
            first,
            f"Via: SIP/2.0/UDP {here}:5060;branch=z9hG4bK-{number}-{cseq}-{what if request else of};rport"
            + ("" if request else f"=5060;received={here}"),
            f'From: "Extension {number % 1000}" <sip:{100 + number % 1000}@pbx.example.com>;tag=as{number:08x}',
            f"To: <sip:0312{number:06}@pbx.example.com;user=phone>" + (f";tag=gw{number:08x}-7f" if tagged else ""),
            f"Call-ID: {number:08x}5d3c1b2a@{here}",
            f"CSeq: {cseq} {what if request else of}",
            f"Contact: <sip:{100 + number % 1000}@{here if up else there}:5060;transport=udp>",
            "Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, SUBSCRIBE, NOTIFY, INFO, PUBLISH, MESSAGE, UPDATE",
            "Supported: replaces, timer, 100rel, path",
            "User-Agent: Example Phone 5.2.1.8430 (0004f2abcdef)" if up else "Server: Example Gateway/12.4.3",
        ]
        if request:
            lines.insert(2, "Max-Forwards: 70")
        if what == "INVITE":
            lines += ["Session-Expires: 1800;refresher=uac", "Min-SE: 90", "Privacy: none", "Date: Thu, 01 Jan 2026 00:00:00 GMT",
                      f"P-Asserted-Identity: <tel:+8131234{number % 10000:04}>"]
        body = ""
        if sdp:
            where, port = (here, 10_000 + 2 * (number % 20_000)) if up else (there, 30_000 + 2 * (number % 15_000))
            body = "\r\n".join(["v=0", f"o=- {number} {cseq} IN IP4 {where}", "s=session", f"c=IN IP4 {where}", "t=0 0",
                                f"m=audio {port} RTP/AVP 0 8 9 18 101", "a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000",
                                "a=rtpmap:9 G722/8000", "a=rtpmap:18 G729/8000", "a=fmtp:18 annexb=no",
                                "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-16", "a=ptime:20", f"a={sdp}", ""])
            lines.append("Content-Type: application/sdp")
        text = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body])
        self.sent.append(Sent(round(at), up, number, text.encode()))


def messages(count: int) -> list[Sent]:
    """So many messages of calls that begin 100 a second, in order of time."""
    maker, number = Maker(), 0
    while len(maker.sent) < count:
        maker.call(number, START * 10**9 + number * 10_000_000)
        number += 1
    return sorted(maker.sent, key=lambda each: each.time_ns)[:count]


def capture_of(sent: list[Sent], path: Path) -> None:
    """The messages as packets, with two packets of voice from each side of every call that is answered."""
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
        for each in sent:
            ends = [(bytes(map(int, address(side, each.number).split("."))), 5060) for side in (1, 2)]
            packets = [frame(*(ends if each.up else ends[::-1]), each.text)]
            if each.text.startswith(b"ACK"):
                ports = 10_000 + 2 * (each.number % 20_000), 30_000 + 2 * (each.number % 15_000)
                pair = [(host, port) for (host, _), port in zip(ends, ports, strict=True)]
                rtp = struct.pack(">BBHII", 0x80, 0, 1, 0, each.number) + bytes(160)
                packets += [frame(*pair, rtp), frame(*pair[::-1], rtp)] * 2
            for data in packets:
                out.write(struct.pack("<IIII", *divmod(each.time_ns, 10**9), len(data), len(data)) + data)


def parse_all(sent: list[Sent]) -> None:
    """Parse alone."""
    for each in sent:
        parse(each.text)


def track_all(sent: list[Sent]) -> int:
    """Parse and dialog: how many calls come of it."""
    tracker, now = CallTracker(), 0
    for each in sent:
        now = each.time_ns
        ends = Endpoint(address(1, each.number), 5060), Endpoint(address(2, each.number), 5060)
        tracker.receive(now, *(ends if each.up else ends[::-1]), 0, "udp", parse(each.text))
    tracker.close_all(now, "capture-stopped")
    return tracker.begun


def correlate_all(path: Path) -> tuple[float, int]:
    """From packets to calls with their spans of streams: CPU seconds, and how many spans."""
    capture, correlator = Capture(), Correlator()
    with open_capture(path) as file:
        runs = [capture.process(batch) for batch in file]
    gc.collect()
    begun, spans = time.process_time(), 0
    for run in runs:
        spans += sum(len(ended.spans) for ended in correlator.process(run))
    spans += sum(len(ended.spans) for ended in correlator.finish())
    return time.process_time() - begun, spans


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    gc.collect()
    begun = time.process_time()
    work()
    return time.process_time() - begun


def whole(path: Path, command: list[str], repeat: int) -> list[list[str]]:
    """The capture recorded by the command, and read by tshark."""
    peers = {"rokuon record -r": command, "tshark -r": ["tshark", "-n", "-q", "-r", str(path), "-z", "sip,stat"]}
    rows = []
    for name, line in peers.items():
        if not shutil.which(line[0]):
            rows.append([name, "not installed", "", ""])
            continue
        costs = []
        for _ in range(repeat):
            with tempfile.TemporaryDirectory(prefix="rokuon-bench-") as data:
                costs.append(measure.run([*line, "--data", data, "record", "-r", path] if line is command else line))
        cost = measure.middle(costs)
        rows.append([name, measure.spread([each.cpu for each in costs]) if not cost.status else f"failed: {cost.said[:60]}",
                     f"{cost.wall:.2f}", f"{cost.peak_mib:,.0f}"])
    return rows


def main() -> int:
    """Measure and print; 1 where it is over what is promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--capture", type=Path, default=CAPTURE)
    parser.add_argument("--rokuon", default=str(Path(sys.executable).parent / "rokuon"), help="the command to measure")
    parser.add_argument("--profile", action="store_true", help="say where the time goes instead")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    args = parser.parse_args()
    sent = messages(args.messages)
    keep_pages()  # as `rokuon record` does
    with tempfile.TemporaryDirectory(prefix="rokuon-bench-") as where:
        path = Path(where) / "sip.pcap"
        capture_of(sent, path)
        if args.profile:
            with cProfile.Profile() as profile:
                correlate_all(path)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
            return 0
        spans = correlate_all(path)[1]
        turns = [(timed(lambda: parse_all(sent)), timed(lambda: track_all(sent)), correlate_all(path)[0])
                 for _ in range(args.repeat)]
    best = [min(costs) * 1e6 / len(sent) for costs in zip(*turns, strict=True)]
    size = sum(len(each.text) for each in sent) // len(sent)
    rows = [[name, f"{us:.1f}", f"{1e6 / us:,.0f}"] for name, us in zip(
        ("parse", "parse, dialog", "packet, parse, dialog, binding"), best, strict=True)]
    head = (f"{measure.machine()}. {len(sent):,} messages of {size} bytes in {track_all(sent):,} calls, "
            f"{spans:,} spans of streams bound; best of {args.repeat}")
    text = [head, "", measure.table(["", "µs of CPU a message", "messages a CPU s"], rows)]
    if args.capture.exists():
        found = whole(args.capture, shlex.split(args.rokuon), args.repeat)
        text += ["", f"`{args.capture.name}`, whole:", "", measure.table(["", "CPU s", "wall s", "peak MiB"], found)]
    else:
        text += ["", f"{args.capture.name} is not here: not measured."]
    print("\n".join(text))
    if args.write:
        measure.write_section("sip", "\n".join(text))
    return int(best[-1] > AIM_US)


if __name__ == "__main__":
    sys.exit(main())
