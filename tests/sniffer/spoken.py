"""SIP as it is spoken: cases of RFC 3261 and its extensions, each with what must come of it.

The cases are in `spoken_cases/*.txt`: a line `== name [sections of RFCs]`, one that says what rokuon does, the messages
(`tests.sniffer.flows`; `@ring`, `@talk`, `@bye` stand for those that most calls begin and end with), then

    call: state, SIP status, end reason, who hung up, start, answer, end; a line for each call
    legs: of the first call: the callee's tag, answer-end, status
    claims: side, port, since-until, ! where answered
    events: type, side, time
    odd: NAME=COUNT, of all calls and of messages without one: these and no others

`as: NAME` before a flow changes the text of each message as some phones write it (`MANNERS`).
`python -m tests.sniffer.spoken > docs/signalling.md` writes the document anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.sniffer.flows import T0, Row, S, closed, row, seconds, send

from rokuon.sniffer.call import CallTracker
from rokuon.sniffer.model import Call

__all__ = ["BLOCKS", "FACTS", "HERE", "MANNERS", "Case", "calls_of", "counted", "document", "outcome", "read"]

HERE = Path(__file__).parent / "spoken_cases"
INTRODUCTION = """\
# SIP as it is spoken

What decides what a call is: when it begins, who answers, where its media goes, who holds, when it ends. Each case here is
a flow of messages in `tests/sniffer/spoken_cases/`, with the call that must come of it. `tests/sniffer/test_spoken.py` holds
rokuon to it, as `test_case[the case's name]`. Change them there, and write this page anew by
`python -m tests.sniffer.spoken > docs/signalling.md`.

- *RFC*: number and sections; T.38 is ITU-T T.38.
- *Counted as*: what real phones do wrong is taken for what they mean, and counted under a name: in the call's `anomalies`,
  or among those of no call (`rokuon stats`). `–`: it is as it should be, and nothing is counted.
- Which calls are legs of one conversation (Replaces, RFC 3891; REFER, RFC 3515; Session-ID, RFC 7989; back-to-back user
  agents) is the business of `rokuon.sniffer.linking`, tried in `tests/sniffer/test_linking.py`. How hard a message may be to
  read: [torture.md](torture.md).
- A payload type that changes its codec: `tests/sniffer/test_spoken_sound.py` hears it.
"""
COUNTED = """\
## What is counted

Names in `anomalies` that signalling brings about; those with `tcp-` and `websocket-` are told of connections, not of calls.
"""
BLOCKS = {
    "@ring": ["0 A>B INVITE 1 sdp=A:1000", "0.1 B>A 180 1"],
    "@talk": ["0 A>B INVITE 1 sdp=A:1000", "0.1 B>A 180 1", "2 B>A 200 1 sdp=B:2000", "2.1 A>B ACK 1"],
    "@bye": ["9 A>B BYE 8", "9.1 B>A 200 8 of=BYE"],
}
_COMPACT = {b"Via": b"v", b"From": b"f", b"To": b"t", b"Call-ID": b"i", b"Content-Type": b"c", b"Content-Length": b"l"}
MANNERS: Mapping[str, Callable[[bytes], bytes]] = {
    "": lambda text: text,
    "quoted tags": lambda text: re.sub(rb";tag=(\w+)", rb';tag="\1"', text),
    "no tags": lambda text: re.sub(rb";tag=\w+", b"", text),
    "small version": lambda text: text.replace(b"SIP/2.0", b"sip/2.0"),
    "spaces before colons": lambda text: re.sub(rb"(?m)^([A-Z][\w-]+):", rb"\1 \t:", text),
    "capitals": lambda text: re.sub(rb"(?m)^[A-Z][\w-]+:", lambda name: name[0].swapcase(), text),
    "compact": lambda text: re.sub(rb"(?m)^(Via|From|To|Call-ID|Content-(?:Type|Length))(?=:)", lambda n: _COMPACT[n[0]], text),
    "folded": lambda text: text.replace(b": ", b":\r\n \t").replace(b";", b"\r\n ;"),
    "line feeds": lambda text: re.sub(rb"\A.*?\r\n\r\n", lambda head: head[0].replace(b"\r\n", b"\n"), text, flags=re.DOTALL),
    "no reasons": lambda text: re.sub(rb"\A(SIP/2.0 \d+) X", rb"\1 ", text),
    "no branches": lambda text: re.sub(rb";branch=[^\r]+", b"", text),
}


@dataclass
class Case:
    """A flow and what must come of it."""

    name: str
    rfc: str
    does: str = ""
    flow: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    facts: dict[str, list[str]] = field(default_factory=dict)
    odd: dict[str, int] = field(default_factory=dict)
    manner: str = ""


def read() -> dict[str, list[Case]]:
    """All cases by the title of their section."""
    sections: dict[str, list[Case]] = {}
    for path in sorted(HERE.glob("*.txt")):
        title, *blocks = re.split(r"^== ", path.read_text("utf-8"), flags=re.MULTILINE)
        sections[title.strip("# \n")] = [_case(block) for block in blocks]
    return sections


def _case(block: str) -> Case:
    head, does, *lines = [line for line in block.splitlines() if line.strip()]
    name, _, rfc = head.removesuffix("]").rpartition(" [")
    case = Case(name, rfc, does)
    for line in lines:
        key, _, value = map(str.strip, line.partition(": " if ": " in line else ":"))
        if key == "call":
            case.calls.append(value)
        elif key in FACTS:
            case.facts[key] = value.split(", ") if value else []
        elif key == "odd":
            case.odd = {name: int(count) for name, _, count in (part.partition("=") for part in value.split(", "))}
        elif key == "as":
            case.manner = value
        else:
            case.flow += BLOCKS.get(line, [line])
    return case


def calls_of(case: Case, copies: int = 1) -> tuple[list[Call], CallTracker]:
    """All calls of a case by their start, each message sent so often; nothing comes after it for a day."""
    tracker = CallTracker()
    once: list[Row] = [row(line, MANNERS[case.manner]) for line in case.flow]
    flow = [r._replace(time_ns=r.time_ns + i) for r in once for i in range(copies)]
    events = send(tracker, flow) + tracker.expire(T0 + 100_000 * S)
    assert not tracker.live
    assert tracker.next_timer_ns() is None
    return sorted(closed(events), key=lambda call: (call.start_ns, call.number)), tracker


def _word(value: object) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def outcome(call: Call) -> str:
    """The facts of a call in one line."""
    return " ".join(map(_word, (call.state, call.sip_status, call.end_reason, call.hangup_by, seconds(call.start_ns),
                                seconds(call.answer_ns), seconds(call.end_ns))))


def _claims(call: Call) -> list[str]:
    until = ["" if c.until_ns is None else _word(seconds(c.until_ns)) for c in call.claims]
    return [f"{c.side} {c.port} {_word(seconds(c.since_ns))}-{u}{'!' * c.answered}"
            for c, u in zip(call.claims, until, strict=True)]


FACTS: Mapping[str, Callable[[Call], list[str]]] = {
    "claims": _claims,
    "legs": lambda call: [f"{leg.to_tag} {_word(seconds(leg.answer_ns))}-{_word(seconds(leg.end_ns))} {_word(leg.sip_status)}"
                          for leg in call.legs],
    "events": lambda call: [f"{e.type} {e.side} {_word(seconds(e.time_ns))}" for e in call.events],
    "callee": lambda call: [call.callee.number],
    "former": lambda call: [f"{c.side} {f.number}={f.meaning.encoding} until {_word(seconds(f.until_ns))}"
                            for c in call.claims for f in c.former],
}
"""What a case may say of its first call."""


def counted() -> dict[str, str]:
    """The anomalies that are counted of signalling, and what each is; from `anomalies.tsv`."""
    lines = (HERE / "anomalies.tsv").read_text("utf-8").splitlines()
    return dict(line.split("\t", 1) for line in lines if line)


def document() -> str:
    """docs/signalling.md"""
    parts = [INTRODUCTION]
    for title, cases in read().items():
        parts += [f"## {title}", "", "| case | RFC | what rokuon does | counted as |", "|---|---|---|---|"]
        for case in cases:
            parts.append(f"| {case.name} | {case.rfc} | {case.does} | {', '.join(f'`{name}`' for name in case.odd) or '–'} |")
        parts.append("")
    parts += [COUNTED, "| name | what it is |", "|---|---|"]
    parts += [f"| `{name}` | {what} |" for name, what in sorted(counted().items())]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(document(), end="")
