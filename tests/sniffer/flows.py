"""SIP flows as tables: time in seconds, who sends to whom, method or status, CSeq number, options.

Hosts are letters; the messages are real text, read by the real parser. Options: `sdp=HOST:PORT[/direction or image]` (`0:` for
c=0.0.0.0,
several sections parted by commas), `fmt=8,97:iLBC/8000` (the formats of all sections), `by=callee` (the callee sent the request),
`tag=T` (the callee's; `-`: none), `of=METHOD` (of a response), `from=T`, `id=CALL-ID`, `vlan=N`, `like=METHOD` (has that
request's branch), `hdr=NAME:_VALUE|NAME:_VALUE`, `to=USER`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from rokuon.sniffer.call import CallClosed, CallTracker, Event
from rokuon.sniffer.model import Call, SipMessage
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.sip import parse

S = 1_000_000_000
T0 = 1_800_000_000 * S
DEFAULTS = {"id": "c1", "from": "a", "tag": "b", "by": "caller", "of": "INVITE", "vlan": "0", "hdr": "", "to": "200"}


class Row(NamedTuple):
    time_ns: int
    src: Endpoint
    dst: Endpoint
    vlan: int
    message: SipMessage


def host(letter: str, port: int = 5060) -> Endpoint:
    return Endpoint(f"10.0.0.{ord(letter) - 64}", port)


def sdp_text(value: str, version: str, formats: str = "8,101:telephone-event/8000") -> str:
    numbers = [f.partition(":")[0] for f in formats.split(",")]
    maps = "".join(f"a=rtpmap:{f.replace(':', ' ')}\r\n" for f in formats.split(",") if ":" in f)
    text = f"v=0\r\no=- 1 {version} IN IP4 10.0.0.1\r\ns=-\r\nt=0 0\r\n"
    for section in value.split(","):
        where, _, direction = section.partition("/")
        letter, _, port = where.partition(":")
        address = "0.0.0.0" if letter == "0" else letter if len(letter) > 1 else host(letter).address  # noqa: S104
        if direction == "image":
            text += f"m=image {port} udptl t38\r\nc=IN IP4 {address}\r\n"
            continue
        text += f"m=audio {port} RTP/AVP {' '.join(numbers)}\r\nc=IN IP4 {address}\r\n{maps}a={direction or 'sendrecv'}\r\n"
    return text


def row(line: str, as_sent: Callable[[bytes], bytes] = lambda text: text) -> Row:
    """The message of a line. `as_sent`: what a phone with manners of its own makes of its text."""
    at, ends, what, cseq, *rest = line.split()
    given = dict(option.split("=", 1) for option in rest)
    o = {**DEFAULTS, **given}
    sender, receiver = ends.split(">")
    src, dst = (host(end[0], int(end[1:] or 5060)) for end in (sender, receiver))
    status = int(what) if what.isdigit() else 0
    method = o["of"] if status else what
    untagged = o["tag"] == "-" or ("tag" not in given and o["by"] == "caller" and what in ("INVITE", "CANCEL", "100"))
    caller = f'"Alice" <sip:100@pbx>;tag={o["from"]}'
    callee = f"<sip:{o['to']}@pbx>" + ("" if untagged else f";tag={o['tag']}")
    parties = (caller, callee) if o["by"] == "caller" else (callee, caller)
    asker = receiver + sender if status else sender + receiver
    branch = f"z9hG4bK{o['id']}{o['from']}{cseq}{o.get('like', method)}{asker}"
    first = f"SIP/2.0 {status} X" if status else f"{method} sip:200@pbx SIP/2.0"
    body = sdp_text(o["sdp"], cseq, *([o["fmt"]] if "fmt" in o else [])) if "sdp" in o else ""
    more = [line for line in o["hdr"].replace("_", " ").split("|") if line] + ["Content-Type: application/sdp"] * bool(body)
    lines = [first, f"Via: SIP/2.0/UDP {src.address};branch={branch}", f"From: {parties[0]}", f"To: {parties[1]}",
             f"Call-ID: {o['id']}", f"CSeq: {cseq} {method}", *more, f"Content-Length: {len(body)}", "", body]
    return Row(T0 + round(float(at) * 1e9), src, dst, int(o["vlan"]), parse(as_sent("\r\n".join(lines).encode())))


def rows(table: str) -> list[Row]:
    return [row(line) for line in table.strip().splitlines() if line.strip()]


def send(tracker: CallTracker, flow: Sequence[Row]) -> list[Event]:
    events: list[Event] = []
    for r in flow:
        events += tracker.receive(r.time_ns, r.src, r.dst, r.vlan, "udp", r.message)
    return events


def closed(events: Sequence[Event]) -> list[Call]:
    return [e.call for e in events if isinstance(e, CallClosed)]


def calls_of(table: str, *, capture_goes_on: bool = True) -> list[Call]:
    """All calls of a flow, after which nothing comes for hours or the capture ends."""
    tracker, flow = CallTracker(), rows(table)
    events = send(tracker, flow)
    if capture_goes_on:
        events += tracker.expire(T0 + 10_000 * S)
        assert not tracker.live
        assert tracker.next_timer_ns() is None
    return closed(events + tracker.close_all(flow[-1].time_ns, "capture-stopped"))


def one(table: str, *, capture_goes_on: bool = True) -> Call:
    (call,) = calls_of(table, capture_goes_on=capture_goes_on)
    return call


def seconds(time_ns: int | None) -> float | None:
    return None if time_ns is None else (time_ns - T0) / 1e9


ANSWERED = """
0    A>B INVITE 1 sdp=A:1000
0.1  B>A 180    1
2    B>A 200    1 sdp=B:2000
2.1  A>B ACK    1
"""
RINGING = """
0    A>B INVITE 1 sdp=A:1000
0.1  B>A 180    1
"""

OUTCOMES: dict[str, tuple[str, str]] = {  # flow; state, SIP status, reason, who hung up, start, answer, end
    "BYE of the caller": (ANSWERED + "9 A>B BYE 2\n9.1 B>A 200 2 of=BYE", "answered 200 bye caller 0 2 9"),
    "BYE of the callee": (ANSWERED + "9 B>A BYE 1 by=callee", "answered 200 bye callee 0 2 9"),
    "BYE of both: the first": (ANSWERED + "9 B>A BYE 1 by=callee\n9.01 A>B BYE 2", "answered 200 bye callee 0 2 9"),
    "retransmitted 200 and BYE": (ANSWERED + "2.5 B>A 200 1 sdp=B:2000\n9 A>B BYE 2\n9.5 A>B BYE 2",
                                  "answered 200 bye caller 0 2 9"),
    "busy": (RINGING + "3 B>A 486 1\n3.1 A>B ACK 1 like=INVITE", "busy 486 reject - 0 - 3"),
    "busy everywhere": (RINGING + "3 B>A 600 1", "busy 600 reject - 0 - 3"),
    "declined": (RINGING + "3 B>A 603 1", "failed 603 reject - 0 - 3"),
    "not found": (RINGING + "3 B>A 404 1", "failed 404 reject - 0 - 3"),
    "unavailable": (RINGING + "3 B>A 480 1", "no-answer 480 reject - 0 - 3"),
    "timed out": (RINGING + "3 B>A 408 1", "no-answer 408 timeout - 0 - 3"),
    "cancelled": (RINGING + "5 A>B CANCEL 1\n5.01 B>A 200 1 of=CANCEL\n5.02 B>A 487 1\n5.03 A>B ACK 1 like=INVITE",
                  "cancelled 487 cancel - 0 - 5.02"),
    "487 alone": (RINGING + "5 B>A 487 1", "cancelled 487 cancel - 0 - 5"),
    "CANCEL, then 408": (RINGING + "5 A>B CANCEL 1\n9 B>A 408 1", "cancelled 408 cancel - 0 - 9"),
    "CANCEL alone": (RINGING + "5 A>B CANCEL 1\n6 A>B CANCEL 1", "cancelled - cancel - 0 - 5"),
    "CANCEL loses the race": (RINGING + "5 A>B CANCEL 1\n5.01 B>A 200 1\n5.1 A>B ACK 1\n5.2 A>B BYE 2",
                              "answered 200 bye caller 0 5.01 5.2"),
    "BYE before the answer": (RINGING + "5 A>B BYE 2\n5.1 B>A 200 2 of=BYE\n5.2 B>A 487 1", "cancelled 487 cancel - 0 - 5.2"),
    "BYE before the answer, alone": (RINGING + "5 A>B BYE 2\n5.1 B>A 200 2 of=BYE", "cancelled - bye - 0 - 5"),
    "silence": ("0 A>B INVITE 1\n0.5 A>B INVITE 1", "no-answer - timeout - 0 - 0.5"),
    "ringing on": (RINGING, "no-answer - timeout - 0 - 0.1"),
    "no BYE": (ANSWERED, "answered 200 timeout - 0 2 2.1"),
    "401 followed up": ("0 A>B INVITE 1\n0.1 B>A 401 1\n0.11 A>B ACK 1 like=INVITE\n0.2 A>B INVITE 2\n2 B>A 200 2\n9 A>B BYE 3",
                        "answered 200 bye caller 0 2 9"),
    "401 followed up with its tag": ("0 A>B INVITE 1\n0.1 B>A 401 1 tag=x\n0.2 A>B INVITE 2 tag=x\n2 B>A 200 2\n9 A>B BYE 3",
                                     "answered 200 bye caller 0 2 9"),
    "407 followed up after 51 s": ("0 A>B INVITE 1\n1 B>A 407 1\n52 A>B INVITE 2\n52.1 B>A 403 2",
                                   "failed 403 reject - 0 - 52.1"),
    "407 not followed up": ("0 A>B INVITE 1\n1 B>A 407 1\n1.5 B>A 407 1", "failed 407 reject - 0 - 1"),
    "302 followed up": ("0 A>B INVITE 1\n1 B>A 302 1\n1.1 A>C INVITE 2\n2 C>A 486 2", "busy 486 reject - 0 - 2"),
    "488 and another try": ("0 A>B INVITE 1\n1 B>A 488 1\n1.1 A>B INVITE 2\n2 B>A 200 2\n9 A>B BYE 3",
                            "answered 200 bye caller 0 2 9"),
    "a late 401 of the first try": ("0 A>B INVITE 1\n0.1 B>A 401 1\n0.2 A>B INVITE 2\n0.3 B>A 401 1\n2 B>A 200 2\n9 A>B BYE 3",
                                    "answered 200 bye caller 0 2 9"),
    "the first 401 was lost": ("0 A>B INVITE 1\n0.2 A>B INVITE 2\n2 B>A 200 2\n9 A>B BYE 3", "answered 200 bye caller 0 2 9"),
    "the second INVITE was lost": ("0 A>B INVITE 1\n0.1 B>A 401 1\n2 B>A 200 2\n9 A>B BYE 3", "answered 200 bye caller 0 2 9"),
    "BYE challenged, sent again": (ANSWERED + "9 A>B BYE 2\n9.1 B>A 407 2 of=BYE\n9.3 A>B BYE 3\n9.35 A>B BYE 2\n"
                                   "9.4 B>A 407 2 of=BYE", "answered 200 bye caller 0 2 9.3"),
    "BYE challenged, given up": (ANSWERED + "9 A>B BYE 2\n9.1 B>A 407 2 of=BYE", "answered 200 bye caller 0 2 9"),
    "BYE answered by 481": (ANSWERED + "9 A>B BYE 2\n9.1 B>A 481 2 of=BYE", "answered 200 bye caller 0 2 9"),
    "refused re-INVITE": (ANSWERED + "5 A>B INVITE 2 tag=b\n5.1 B>A 488 2\n9 A>B BYE 3", "answered 200 bye caller 0 2 9"),
    "200 before INVITE": ("0 B>A 200 1 sdp=B:2000\n0.01 A>B INVITE 1\n9 A>B BYE 2", "answered 200 bye caller 0.01 0 9"),
    "the 200 was lost": (RINGING + "3 A>B ACK 1\n9 A>B BYE 2", "answered - bye caller 0 3 9"),
    "ACK before 200": (RINGING + "2.9 A>B ACK 1\n3 B>A 200 1\n9 A>B BYE 2", "answered 200 bye caller 0 3 9"),
    "refused below a proxy that tries another": (
        "0 A>P INVITE 1\n0.1 P>B INVITE 1\n0.2 P>C INVITE 1\n1 B>P 486 1 tag=b\n1.1 P>B ACK 1 like=INVITE tag=b\n"
        "2 C>P 180 1 tag=c\n60 C>P 200 1 tag=c\n60.1 P>A 200 1 tag=c\n70 A>P BYE 2 tag=c\n70.1 P>C BYE 2 tag=c",
        "answered 200 bye caller 0 60 70"),
    "busy below a proxy, then above": ("0 A>P INVITE 1\n0.1 P>B INVITE 1\n1 B>P 486 1\n1.1 P>A 486 1", "busy 486 reject - 0 - 1"),
    "one branch busy, in the end all": ("0 A>P INVITE 1\n0.1 P>B INVITE 1\n0.2 P>C INVITE 1\n1 B>P 486 1\n9 C>P 486 1\n"
                                        "9.1 P>A 486 1", "busy 486 reject - 0 - 9"),
    "one branch cancelled": (
        "0 A>P INVITE 1\n0.1 P>B INVITE 1\n9 P>B CANCEL 1\n9.1 B>P 487 1\n9.2 P>C INVITE 1\n12 C>P 200 1 tag=c\n"
        "12.1 P>A 200 1 tag=c\n20 C>P BYE 1 by=callee tag=c", "answered 200 bye callee 0 12 20"),
    "refusal not seen above": ("0 A>P INVITE 1\n0.1 P>B INVITE 1\n0.2 B>P 180 1\n1 B>P 480 1", "no-answer 480 reject - 0 - 1"),
    "mid-call": ("0 A>B INVITE 5 tag=b sdp=A:1000\n0.1 B>A 200 5 sdp=B:2000\n9 B>A BYE 1 by=callee",
                 "answered 200 bye callee 0 0.1 9"),
    "mid-call, re-INVITE refused": ("0 A>B INVITE 5 tag=b\n0.1 B>A 488 5\n9 A>B BYE 6", "answered - bye caller 0 0 9"),
    "mid-call, nothing but BYE after it": ("0 A>B INVITE 5 tag=b\n9 A>B BYE 6", "answered - bye caller 0 0 9"),
    "mid-call, dialog unknown there too": ("0 A>B INVITE 5 tag=b\n0.1 B>A 481 5", "failed 481 reject - 0 - 0.1"),
    "mid-call, from its 200 on": ("0 B>A 200 1 sdp=B:2000\n0.1 A>B ACK 1\n9 A>B BYE 2", "answered 200 bye caller 0 0 9"),
}
