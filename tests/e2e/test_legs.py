"""Several SIP dialogs that are one conversation become one call; others that only look like it do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.recorded import Json, loud, only, record, sent, stream
from tests.e2e.scenarios import A_RTP, B_RTP, C_RTP, PBX, A, Address, B, C, Dialog, S, Talk, Wire, both, sdp

IN, OUT, OUT2 = (("10.0.0.9", port) for port in (9000, 9100, 9200))
"""Where the PBX has media: for the leg to it, and those that it begins."""


@dataclass
class Leg(Dialog):
    """A dialog of numbers and header fields of its own."""

    numbers: tuple[str, str] = ("0312345678", "201")
    extra: Sequence[str] = ()
    uri: str = ""

    def _head(self, first: str, by_caller: bool, method: str, to_tag: str | None, branch: str, cseq: int) -> bytes:
        head = super()._head(first, by_caller, method, to_tag, branch, cseq)
        for plain, number in ((b"sip:100@", self.numbers[0]), (b"sip:200@", self.numbers[1])):
            head = head.replace(plain, f"sip:{number}@".encode())
        if first.startswith(("INVITE", "REFER")):
            head += "".join(f"\r\n{line}" for line in self.extra).encode()
        return head


def leg(wire: Wire, name: str, hop: tuple[Address, Address], numbers: tuple[str, str] = ("0312345678", "201"),
        extra: Sequence[str] = ()) -> Leg:
    return Leg(wire, f"{name}@x", (hop,), f"f-{name}", f"t-{name}", b"", numbers=numbers, extra=extra)


def relayed(wire: Wire, at_us: int, count: int) -> tuple[Talk, Talk, Talk, Talk]:
    """Both voices on both sides of a PBX that passes payloads on 3 ms later: caller's and callee's before it, then behind it."""
    talks = []
    for n, (src, dst) in enumerate(((A_RTP, IN), (IN, A_RTP), (OUT, B_RTP), (B_RTP, OUT))):
        voice = 1 if n in (0, 2) else 2  # the stream's SSRC decides what is said
        late = 3_000 if n in (1, 2) else 0
        talks.append(wire.rtp(at_us + late, src, dst, voice, count))
    return talks[0], talks[1], talks[2], talks[3]


def evidence(call: Json) -> list[str | None]:
    return [entry["linked_by"] for entry in call["legs"]]


def ids(call: Json) -> list[str]:
    return [entry["call_id"] for entry in call["legs"]]


def test_a_pbx_rings_two_phones_under_another_number(tmp_path: Path) -> None:
    wire = Wire()
    a, b, c = (leg(wire, "a", (A, PBX), ("0312345678", "0398765432")), leg(wire, "b", (PBX, B), ("0570000100", "201")),
               leg(wire, "c", (PBX, C), ("0570000100", "202")))
    a.request(0, "INVITE", sdp(A_RTP))
    b.request(30_000, "INVITE", sdp(OUT))
    c.request(31_000, "INVITE", sdp(OUT2))
    for d in (b, c, a):
        d.response(200_000, 180)
    b.response(S, 200, sdp(B_RTP))
    a.response(S + 10_000, 200, sdp(IN))
    c.request(S + 12_000, "CANCEL")
    c.response(S + 20_000, 487)
    c.request(S + 25_000, "ACK", fresh=False)
    for d in (a, b):
        d.request(S + 50_000, "ACK")
    talks = relayed(wire, S + 60_000, 250)
    b.bye(7 * S, by_caller=False)
    a.bye(7 * S + 8_000, by_caller=False)
    cancelled, call = sorted(record(wire, tmp_path), key=lambda found: len(found["legs"]))
    assert (cancelled["state"], ids(cancelled)) == ("cancelled", ["c@x"])
    assert (ids(call), evidence(call)) == (["a@x", "b@x"], [None, "relayed-payload"])
    assert (call["state"], call["hangup_by"], call["end_reason"]) == ("answered", "callee", "bye")
    assert (call["caller"]["number"], call["callee"]["number"]) == ("0312345678", "0398765432")
    assert [party["number"] for party in call["parties"]] == ["0570000100", "201"]
    for (src, dst), talk, side in zip(((A_RTP, IN), (IN, A_RTP), (OUT, B_RTP), (B_RTP, OUT)), talks,
                                      ("caller", "callee", "caller", "callee"), strict=True):
        sent(stream(call, src, dst), talk, side)
    assert call["parts"] == []
    assert call["audio"]["duration_s"] == pytest.approx(5.0, abs=0.05)


def test_a_pbx_that_transcodes_is_told_by_its_signalling(tmp_path: Path) -> None:
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX)), leg(wire, "b", (PBX, B), ("+81312345678", "201"))
    a.request(0, "INVITE", sdp(A_RTP))
    b.request(300_000, "INVITE", sdp(OUT))
    b.response(S, 200, sdp(B_RTP))
    a.response(S + 40_000, 200, sdp(IN))
    mine = both(wire, S + 60_000, 150, A_RTP, IN, (1, 2))
    theirs = both(wire, S + 63_000, 150, OUT, B_RTP, (3, 4), payload_type=8)
    a.bye(5 * S)
    b.bye(5 * S + 30_000)
    call = only(record(wire, tmp_path))
    assert evidence(call) == [None, "twin-signalling"]
    sent(stream(call, A_RTP, IN), mine[0], "caller")
    sent(stream(call, B_RTP, OUT), theirs[1], "callee")
    assert (call["hangup_by"], call["parties"], call["parts"]) == ("caller", [], [])


def alike(wire: Wire) -> list[Leg]:
    """Somebody calls the same number on two lines in one moment: two legs to the PBX, two from it, answered in one moment."""
    dialogs = [leg(wire, name, hop) for name, hop in (("a1", (A, PBX)), ("a2", (A, PBX)), ("b1", (PBX, B)), ("b2", (PBX, B)))]
    for n, d in enumerate(dialogs):
        d.request(n * 10_000, "INVITE", sdp((A_RTP[0], 4000 + 2 * n)))
    for n, d in enumerate(reversed(dialogs)):
        d.response(S + n * 10_000, 200, sdp((B_RTP[0], 6000 + 2 * n)))
    return dialogs


def test_two_alike_at_once_are_told_apart_by_their_ends(tmp_path: Path) -> None:
    """Nothing but the hanging up tells which leg is whose."""
    wire = Wire()
    a1, a2, b1, b2 = alike(wire)
    for at_us, d in ((3 * S, a1), (3 * S + 20_000, b2), (4 * S, b1), (4 * S + 20_000, a2)):
        d.bye(at_us)
    wire.rtp(6 * S, ("10.9.9.9", 4000), ("10.9.9.8", 4000), 77, 300)  # time goes on
    calls = [call for call in record(wire, tmp_path) if call["legs"]]
    assert sorted(ids(call) for call in calls) == [["a1@x", "b2@x"], ["a2@x", "b1@x"]]


def test_twins_of_which_nothing_tells_whose_they_are_stay_apart(tmp_path: Path) -> None:
    wire = Wire()
    for n, d in enumerate(alike(wire)):
        d.bye(3 * S + n * 10_000)
    assert [len(call["legs"]) for call in record(wire, tmp_path)] == [1, 1, 1, 1]


def test_music_on_hold_joins_nobody(tmp_path: Path) -> None:
    """Two callers wait at one PBX and hear the same."""
    wire = Wire()
    for n, name in enumerate(("a", "b")):
        phone = (f"10.0.1.{n}", 4000)
        d = leg(wire, name, ((phone[0], 5060), PBX), (f"031234567{n}", "0398765432"))
        d.answered(n * 200_000, (sdp(phone),), (sdp((IN[0], 9000 + 2 * n)),))
        wire.rtp(2 * S + n * 4_000, (IN[0], 9000 + 2 * n), phone, 5, 250)
        wire.rtp(2 * S, phone, (IN[0], 9000 + 2 * n), 6 + n, 250)
        d.bye(8 * S + n * S)
    assert [len(call["legs"]) for call in record(wire, tmp_path)] == [1, 1]


def test_two_that_say_the_same_to_an_echo_are_two(tmp_path: Path) -> None:
    wire = Wire()
    for n, name in enumerate(("a", "b")):
        phone, there = (f"10.0.1.{n}", 4000), (IN[0], 9000 + 2 * n)
        d = leg(wire, name, ((phone[0], 5060), PBX), (f"031234567{n}", "0398765432"))
        d.answered(n * 8_000, (sdp(phone),), (sdp(there),))
        wire.rtp(2 * S + n * 8_000, phone, there, 5, 250)
        wire.rtp(2 * S + n * 8_000 + 300, there, phone, 5, 250)
        d.bye(8 * S + n * 8_000)
    assert [len(call["legs"]) for call in record(wire, tmp_path)] == [1, 1]


@pytest.mark.parametrize("header", ["Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000",
                                    "X-Call-ID: a@x"])
def test_an_identifier_that_a_pbx_passes_on(header: str, tmp_path: Path) -> None:
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), extra=(header,)), leg(wire, "b", (PBX, B), ("0570000100", "777"), (header,))
    a.request(0, "INVITE", sdp(A_RTP))
    b.request(3 * S, "INVITE", sdp(OUT))  # a queue, long after the time of a twin
    b.response(4 * S, 200, sdp(B_RTP))
    a.response(4 * S + 10_000, 200, sdp(IN))
    mine = relayed(wire, 4 * S + 60_000, 20)
    a.bye(5 * S)
    b.bye(5 * S + 30_000)
    call = only(record(wire, tmp_path))
    assert evidence(call) == [None, header.partition(":")[0].lower().removeprefix("x-")]
    sent(stream(call, OUT, B_RTP), mine[2], "caller")


def test_a_blind_transfer_goes_on_in_the_same_call(tmp_path: Path) -> None:
    """B asks A to call C, and hangs up."""
    wire = Wire()
    ab = leg(wire, "ab", (A, B), ("201", "202"))
    ab.answered(0)
    first = both(wire, S + 60_000, 200)
    ab.extra = ("Refer-To: <sip:203@pbx.example>", "Referred-By: <sip:202@b.example>")
    ab.request(5 * S + 100_000, "REFER", by_caller=False)
    ab.response(5 * S + 120_000, 202, method="REFER", to_caller=False)
    ac = leg(wire, "ac", (A, C), ("201", "203"), ("Referred-By: <sip:202@b.example>",))
    ac.answered(5 * S + 200_000, (sdp((A_RTP[0], 4010)),), (sdp(C_RTP),))
    ab.bye(8 * S + 300_000, by_caller=False)  # a second before the end: it is not what ended the call
    then = both(wire, 6 * S + 400_000, 150, (A_RTP[0], 4010), C_RTP, (3, 4))
    ac.bye(9 * S + 500_000)
    call = only(record(wire, tmp_path))
    assert (ids(call), evidence(call)) == (["ab@x", "ac@x"], [None, "refer"])
    assert (call["state"], call["hangup_by"]) == ("answered", "caller")
    assert call["duration_s"] == pytest.approx(8.5, abs=0.001)
    assert [party["number"] for party in call["parties"]] == ["203"]
    assert [(e["side"], e["detail"]) for e in call["events"] if e["type"] == "transfer"] == [("callee", "203")]
    sent(stream(call, A_RTP, B_RTP), first[0], "caller")
    sent(stream(call, C_RTP, (A_RTP[0], 4010)), then[1], "callee")
    assert call["parts"] == []
    assert call["audio"]["duration_s"] == pytest.approx(8.35, abs=0.1)
    caller, callee = loud(tmp_path / "data", call)
    assert caller
    assert callee


def test_an_attended_transfer_keeps_the_consultation_in_a_file_of_its_own(tmp_path: Path) -> None:
    """B holds A, asks C, and joins the two: A takes B's place at C (RFC 3891)."""
    wire = Wire()
    ab = leg(wire, "ab", (A, B), ("201", "202"))
    ab.answered(0)
    held = both(wire, S + 60_000, 400)
    bc = leg(wire, "bc", (B, C), ("202", "203"))
    bc.answered(3 * S, (sdp((B_RTP[0], 6010)),), (sdp(C_RTP),))
    asked = both(wire, 4 * S + 60_000, 150, (B_RTP[0], 6010), C_RTP, (3, 4))
    replaces = "bc%40x%3Bto-tag%3Dt-bc%3Bfrom-tag%3Df-bc"
    ab.extra = (f"Refer-To: <sip:203@c.example?Replaces={replaces}>",)
    ab.request(8 * S, "REFER", by_caller=False)
    ac = leg(wire, "ac", (A, C), ("201", "203"), ("Replaces: bc@x;to-tag=t-bc;from-tag=f-bc",))
    ac.answered(8 * S + 100_000, (sdp((A_RTP[0], 4010)),), (sdp((C_RTP[0], 7010)),), after_us=100_000)
    bc.bye(8 * S + 400_000, by_caller=False)
    ab.bye(9 * S + 300_000, by_caller=False)
    then = both(wire, 9 * S + 400_000, 100, (A_RTP[0], 4010), (C_RTP[0], 7010), (5, 6))
    ac.bye(12 * S)
    call = only(record(wire, tmp_path))
    assert ids(call) == ["ab@x", "bc@x", "ac@x"]
    assert evidence(call)[1:] in (["refer", "replaces"], ["refer", "refer"])
    for (src, dst), talk in (((A_RTP, B_RTP), held[0]), ((C_RTP, (B_RTP[0], 6010)), asked[1]),
                             (((C_RTP[0], 7010), (A_RTP[0], 4010)), then[1])):
        assert stream(call, src, dst)["payload_sha256"] == talk.sha256
    assert [(part["left"], part["right"]) for part in call["parts"]] == [("203", "202")]
    assert call["parts"][0]["duration_s"] == pytest.approx(3.0, abs=0.05)
    assert call["audio"]["duration_s"] == pytest.approx(10.35, abs=0.1)


def test_a_long_call_through_a_pbx_is_given_out_in_pieces(tmp_path: Path) -> None:
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX)), leg(wire, "b", (PBX, B))
    a.request(0, "INVITE", sdp(A_RTP))
    b.request(100_000, "INVITE", sdp(OUT))
    b.response(S, 200, sdp(B_RTP))
    a.response(S + 40_000, 200, sdp(IN))
    mine = both(wire, S + 60_000, 900, A_RTP, IN, step_us=2 * S, ticks=16_000)
    theirs = both(wire, S + 63_000, 900, OUT, B_RTP, step_us=2 * S, ticks=16_000)
    a.bye(1805 * S)
    b.bye(1805 * S + 30_000)
    call = only(record(wire, tmp_path))
    assert ids(call) == ["a@x", "b@x"]
    for (src, dst), talk, side in (((A_RTP, IN), mine[0], "caller"), ((IN, A_RTP), mine[1], "callee"),
                                   ((OUT, B_RTP), theirs[0], "caller"), ((B_RTP, OUT), theirs[1], "callee")):
        sent(stream(call, src, dst), talk, side)
