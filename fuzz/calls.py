"""Fuzzes all between packets and calls: capture and correlation of any packets, however they are cut into batches."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import harness, seeds
from fuzz.harness import Input, split
from fuzz.seeds import LINKS
from fuzz.sip import WORDS as SIP_WORDS
from tests.sniffer.batches import batch
from tests.sniffer.captures import Packet

with harness.instrumented():
    from rokuon.store.capture import Capture
    from rokuon.store.correlate import Correlator
    from rokuon.store.ended import Ended, Piece

WORDS = (*SIP_WORDS, b"INVITE", b"ACK", b"BYE", b"CANCEL", b"PRACK", b"UPDATE", b"REFER", b"200 OK", b"183", b"486", b"491",
         b"302", b"Replaces: ", b"a=sendonly", b"a=inactive", b"m=audio 0", b"m=image 4000 udptl t38", b"c=IN IP4 0.0.0.0")
SECOND = 1_000_000_000
START = 1_780_000_000 * SECOND


def correlated(packets: list[Packet], lot: int) -> list[Ended | Piece]:
    """What comes of the packets in batches of so many."""
    capture, correlator = Capture(), Correlator()
    out: list[Ended | Piece] = []
    for begin in range(0, len(packets), lot):
        out += correlator.process(capture.process(batch(packets[begin:begin + lot])))
    out += correlator.finish()
    assert correlator.open == 0, "calls in progress when all is over"
    return out


def summed_up(out: list[Ended | Piece]) -> list[object]:
    """What must not depend on how packets came in batches."""
    ended = [each for each in out if isinstance(each, Ended)]
    calls = [each.call for each in ended]
    return sorted((str(call.legs[0].call_id if call.legs else ""), call.start_ns, str(call.answer_ns), str(call.end_ns),
                   str(call.state), len(call.messages)) for call in calls)


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    kind, lot, step = LINKS[given.number(len(LINKS) - 1)], 1 + given.number(30), given.number(255)
    now, packets = START, []
    for part in split(given.rest):
        now += step * SECOND // 100 + (given.number(255) - 50) * SECOND // 50 * (not given.over)
        packets.append(Packet(now, part, len(part), kind))
    out = correlated(packets, lot)
    assert len(out) <= 2 * len(packets) + 1, "more calls than packets"
    if all(a.time_ns <= b.time_ns for a, b in pairwise(packets)):
        assert summed_up(out) == summed_up(correlated(packets, len(packets) or 1)), "it matters how packets come in batches"
    for each in out:
        for span in each.spans:
            assert span.since_ns <= span.until_ns


if __name__ == "__main__":
    harness.fuzz(check, seeds.calls, WORDS)
