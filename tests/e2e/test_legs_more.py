"""Dialogs that only look like one conversation stay apart; those that are one, though it is not easy to see, become one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.recorded import Json, loud, only, record, sent, stream
from tests.e2e.scenarios import A_RTP, B_RTP, C_RTP, PBX, A, Address, B, C, S, Wire, both, sdp
from tests.e2e.test_legs import IN, OUT, OUT2, Leg, evidence, ids, leg, relayed

SESSION = "Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000"


def groups(calls: list[Json]) -> list[list[str]]:
    return sorted(sorted(ids(call)) for call in calls if call["legs"])


def answered_twins(a: Leg, b: Leg, at_us: int, media: tuple[Address, Address, Address, Address], after_us: int = S) -> None:
    """Two legs at one PBX; `media`: the caller's, the PBX's to it, the PBX's to the callee, the callee's."""
    a.request(at_us, "INVITE", sdp(media[0]))
    b.request(at_us + 50_000, "INVITE", sdp(media[2]))
    b.response(at_us + after_us, 200, sdp(media[3]))
    a.response(at_us + after_us + 10_000, 200, sdp(media[1]))
    for d in (a, b):
        d.request(at_us + after_us + 50_000, "ACK")


def passed_on(wire: Wire, at_us: int, count: int, hops: tuple[Address, Address, Address, Address], voice: int) -> None:
    """One voice that comes to a relay and leaves it 3 ms later."""
    wire.rtp(at_us, hops[0], hops[1], voice, count)
    wire.rtp(at_us + 3_000, hops[2], hops[3], voice, count)


# -- apart -------------------------------------------------------------------------
def test_a_stranger_calls_the_number_that_a_transfer_names(tmp_path: Path) -> None:
    """B asks the PBX to call 203 for A; in the same moment the PBX puts somebody else through to 203."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "202")), leg(wire, "b", (PBX, B), ("0312345678", "202"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    b.extra = ("Refer-To: <sip:203@pbx.example>",)
    b.request(4 * S, "REFER", by_caller=False)
    other = ("10.0.0.77", 5060)
    x, y = leg(wire, "x", (other, PBX), ("0677776666", "0398765432")), leg(wire, "y", (PBX, C), ("0677776666", "203"))
    answered_twins(x, y, 4 * S + 100_000, ((other[0], 4000), (IN[0], 9300), (IN[0], 9302), (C[0], 7100)))
    c = leg(wire, "c", (PBX, C), ("0312345678", "203"))
    c.answered(4 * S + 600_000, (sdp(OUT2),), (sdp(C_RTP),))
    b.bye(6 * S, by_caller=False)
    for d in (c, a):
        d.bye(9 * S)
    for d in (x, y):
        d.bye(12 * S)
    found = groups(record(wire, tmp_path))
    assert ["a@x", "b@x", "c@x"] in found
    assert not any({"c@x", "y@x"} <= set(one) or {"a@x", "y@x"} <= set(one) for one in found), found


@pytest.mark.parametrize("second", [(A, C), (("10.0.0.44", 5060), PBX)])
def test_a_session_id_that_never_changes(second: tuple[Address, Address], tmp_path: Path) -> None:
    """A phone, or all of a make, sends the same Session-ID in every call."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("201", "202"), (SESSION,)), leg(wire, "b", second, ("201", "0655554444"), (SESSION,))
    a.answered(0, (sdp(A_RTP),), (sdp(IN),))
    b.answered(3 * S, (sdp((second[0][0], 4400)),), (sdp((second[1][0], 7400)),))
    a.bye(8 * S)
    b.bye(12 * S)
    assert groups(record(wire, tmp_path)) == [["a@x"], ["b@x"]]


def test_withheld_callers_of_one_number(tmp_path: Path) -> None:
    """Nothing tells whose leg is whose but how long they talk, and some talk for long."""
    wire = Wire()
    hops = [("a1", A), ("a2", A), ("a3", A), ("b1", B), ("b2", B), ("b3", B)]
    dialogs = {name: leg(wire, name, (at, PBX) if at is A else (PBX, at), ("anonymous", "0120444444")) for name, at in hops}
    for n, (name, at) in enumerate(hops):
        dialogs[name].request(n * 10_000, "INVITE", sdp((at[0], 4000 + 2 * n)))
    for n, name in enumerate(("b1", "b3", "b2", "a3", "a2", "a1")):
        dialogs[name].response(S + n * 10_000, 200, sdp((PBX[0], 9000 + 2 * n)))
    for at_us, pair in ((3 * S, ("a1", "b2")), (30 * S, ("b3", "a3")), (60 * S, ("a2", "b1"))):
        for n, name in enumerate(pair):
            dialogs[name].bye(at_us + n * 20_000)
    assert groups(record(wire, tmp_path)) == [["a1@x", "b2@x"], ["a2@x", "b1@x"], ["a3@x", "b3@x"]]


def test_a_page_and_a_conference_join_nobody(tmp_path: Path) -> None:
    """What one says leaves the PBX to three others."""
    wire = Wire()
    voice = leg(wire, "a", (A, PBX), ("201", "700"))
    voice.answered(0, (sdp(A_RTP),), (sdp(IN),))
    wire.rtp(S + 60_000, A_RTP, IN, 1, 300)
    for n in range(3):
        phone = (f"10.0.3.{n}", 4000)
        d = leg(wire, f"p{n}", (PBX, (phone[0], 5060)), ("700", f"30{n}"))
        d.answered(20_000 * n, (sdp((OUT[0], 9100 + 2 * n)),), (sdp(phone),))
        wire.rtp(S + 63_000 + n * 100, (OUT[0], 9100 + 2 * n), phone, 1, 300)
        d.bye(8 * S + n * 10_000)
    voice.bye(8 * S)
    assert all(len(one) == 1 for one in groups(record(wire, tmp_path)))


# -- together ------------------------------------------------------------------------
def test_a_transfer_asked_for_through_a_proxy(tmp_path: Path) -> None:
    """The REFER is seen before and behind it; A calls C itself, who hears nothing of Referred-By."""
    wire = Wire()
    ab = leg(wire, "ab", (A, B), ("201", "202"))
    ab.hops = ((A, PBX), (PBX, B))
    ab.answered(0)
    both(wire, S + 60_000, 200)
    ab.extra = ("Refer-To: <sip:203@pbx.example>",)
    ab.request(5 * S, "REFER", by_caller=False)
    ac = leg(wire, "ac", (A, C), ("201", "203"))
    ac.answered(5 * S + 200_000, (sdp((A_RTP[0], 4010)),), (sdp(C_RTP),))
    ab.bye(6 * S + 300_000, by_caller=False)
    both(wire, 6 * S + 400_000, 150, (A_RTP[0], 4010), C_RTP, (3, 4))
    ac.bye(10 * S)
    call = only(record(wire, tmp_path))
    assert (ids(call), evidence(call)) == (["ab@x", "ac@x"], [None, "refer"])
    assert len([e for e in call["events"] if e["type"] == "transfer"]) == 1


def test_a_mirror_that_doubles_every_packet(tmp_path: Path) -> None:
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "0398765432")), leg(wire, "b", (PBX, B), ("0570000100", "201"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    relayed(wire, S + 60_000, 250)
    for d in (a, b):
        d.bye(7 * S)
    wire.frames += [frame._replace(at_us=frame.at_us + 30) for frame in wire.frames]
    call = only(record(wire, tmp_path))
    assert evidence(call) == [None, "relayed-payload"]


def test_a_transfer_that_a_pbx_carries_out_is_heard_once(tmp_path: Path) -> None:
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "202")), leg(wire, "b", (PBX, B), ("0312345678", "202"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    relayed(wire, S + 60_000, 400)
    b.extra = ("Refer-To: <sip:203@pbx.example>",)
    b.request(9 * S, "REFER", by_caller=False)
    c = leg(wire, "c", (PBX, C), ("0312345678", "203"))
    c.answered(9 * S + 100_000, (sdp(OUT2),), (sdp(C_RTP),))
    b.bye(9 * S + 500_000)
    passed_on(wire, 11 * S, 400, (A_RTP, IN, OUT2, C_RTP), 11)
    passed_on(wire, 11 * S, 400, (C_RTP, OUT2, IN, A_RTP), 12)
    for d in (a, c):
        d.bye(20 * S)
    call = only(record(wire, tmp_path))
    assert (ids(call), evidence(call)) == (["a@x", "b@x", "c@x"], [None, "twin-signalling", "refer"])
    assert call["parts"] == []
    assert stream(call, C_RTP, OUT2)["direction"] == "callee"
    assert call["audio"]["duration_s"] == pytest.approx(18, abs=0.2)


def test_an_agent_whose_phone_rings_while_a_piece_is_given_out(tmp_path: Path) -> None:
    """A waits for ten minutes in a queue; the agent's phone rings before what is old is given out, and is answered behind."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "0120444444")), leg(wire, "b", (PBX, B), ("700", "201"))
    a.answered(0, (sdp(A_RTP),), (sdp(IN),))
    b.request(590 * S, "INVITE", sdp(OUT))
    b.response(590 * S + 100_000, 180)
    b.response(602 * S, 200, sdp(B_RTP))
    music = wire.rtp(S + 63_000, IN, A_RTP, 5, 600, step_us=S, ticks=8_000)
    passed_on(wire, 603 * S, 500, (A_RTP, IN, OUT, B_RTP), 11)
    passed_on(wire, 603 * S, 500, (B_RTP, OUT, IN, A_RTP), 12)
    for d in (a, b):
        d.bye(614 * S)
    call = only(record(wire, tmp_path))
    assert (ids(call), evidence(call)) == (["a@x", "b@x"], [None, "relayed-payload"])
    sent(stream(call, IN, A_RTP, 5), music, "callee")


def test_media_that_begins_long_after_the_answer(tmp_path: Path) -> None:
    """Nobody says anything for two minutes."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "0398765432")), leg(wire, "b", (PBX, B), ("0570000100", "201"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    relayed(wire, 120 * S, 4500)
    for d in (a, b):
        d.bye(211 * S)
    assert evidence(only(record(wire, tmp_path))) == [None, "relayed-payload"]


def test_an_operator_transfers_two_callers_at_once(tmp_path: Path) -> None:
    """The PBX calls under its own number, the second first: the number that is called tells whose leg it is."""
    wire = Wire()
    pairs = []
    for n in (1, 2):
        phone = (f"10.0.5.{n}", 5060)
        hops = ((phone[0], 4000), (IN[0], 9000 + 2 * n), (IN[0], 9400 + 2 * n), (B[0], 6000 + 2 * n))
        a = leg(wire, f"a{n}", (phone, PBX), (f"031234567{n}", "0398765432"))
        b = leg(wire, f"b{n}", (PBX, B), ("0570000100", "202"))
        answered_twins(a, b, n * 1_200_000, hops)
        passed_on(wire, (n + 1) * 1_200_000, 200, hops, 50 + n)
        b.extra = (f"Refer-To: <sip:20{2 + n}@pbx.example>", "Referred-By: <sip:202@b.example>")
        b.request(8 * S + n * 50_000, "REFER", by_caller=False)
        b.bye(10 * S + n * S, by_caller=False)
        pairs.append(a)
    for n in (2, 1):
        c = leg(wire, f"c{n}", (PBX, (f"10.0.6.{n}", 5060)), ("0570000100", f"20{2 + n}"), ("Referred-By: <sip:202@b.example>",))
        c.answered(8 * S + 400_000 - n * 100_000, (sdp((IN[0], 9500 + 2 * n)),), (sdp((f"10.0.6.{n}", 4000)),))
        c.bye(15 * S + n * S)
    for n, a in enumerate(pairs, 1):
        a.bye(15 * S + n * S)
    assert groups(record(wire, tmp_path)) == [["a1@x", "b1@x", "c1@x"], ["a2@x", "b2@x", "c2@x"]]


@pytest.mark.parametrize("twins", [False, True])
def test_a_call_that_comes_back_over_the_trunk(twins: bool, tmp_path: Path) -> None:
    """A calls B's outside number: out to the provider and in again, through one PBX."""
    wire = Wire()
    trunk = ("10.0.0.200", 5060)
    legs = [leg(wire, "a", (A, PBX), ("201", "0311112222")), leg(wire, "p", (PBX, trunk), ("0398765432", "0311112222")),
            leg(wire, "t", (trunk, PBX), ("0398765432", "0311112222" if twins else "81311112222,5")),
            leg(wire, "b", (PBX, B), ("0398765432", "202"))]
    ends = [A_RTP, (IN[0], 9000), (IN[0], 9002), (trunk[0], 8000), (trunk[0], 8002), (IN[0], 9004), (IN[0], 9006), B_RTP]
    for n, d in enumerate(legs):
        d.request(n * 30_000, "INVITE", sdp(ends[2 * n]))
    for n, d in reversed(list(enumerate(legs))):
        d.response(2 * S - n * 10_000, 200, sdp(ends[2 * n + 1]))
    for n in range(4):
        wire.rtp(3 * S + n * 3_000, ends[2 * n], ends[2 * n + 1], 1, 300)
        wire.rtp(3 * S + 12_000 - n * 3_000, ends[2 * n + 1], ends[2 * n], 2, 300)
    for n, d in enumerate(legs):
        d.bye(10 * S + n * 10_000)
    call = only(record(wire, tmp_path))
    assert ids(call) == ["a@x", "p@x", "t@x", "b@x"]
    assert {s["direction"] for s in call["streams"] if s["ssrc"] == 1} == {"caller"}
    assert call["parts"] == []


def test_a_supervisor_listens_in(tmp_path: Path) -> None:
    """A third leg of the PBX receives what both say, and says nothing."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "0398765432")), leg(wire, "b", (PBX, B), ("0570000100", "201"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    s = leg(wire, "s", (C, PBX), ("203", "*55"))
    s.answered(200_000, (sdp(C_RTP),), (sdp((IN[0], 9700)),))
    relayed(wire, S + 260_000, 250)
    for voice in (1, 2):
        wire.rtp(S + 266_000, (IN[0], 9700), C_RTP, voice, 250)
    for d in (a, b, s):
        d.bye(7 * S)
    assert groups(record(wire, tmp_path)) == [["a@x", "b@x"], ["s@x"]]


def test_a_transferred_call_is_transferred_and_the_caller_transfers(tmp_path: Path) -> None:
    """A and B talk; A hands B to C, and B, who called C, hands C to D: whoever took B's place is heard where B was."""
    wire = Wire()
    places = {n: (at, (at[0], port)) for n, at, port in (("a", A, 4000), ("b", B, 6000), ("c", C, 7000),
                                                         ("d", ("10.0.0.4", 5060), 8000))}
    def talk(name: str, one: str, two: str, numbers: tuple[str, str], at_us: int, k: int) -> Leg:
        d = leg(wire, name, (places[one][0], places[two][0]), numbers)
        ends = [(places[who][1][0], places[who][1][1] + 10 * k) for who in (one, two)]
        d.answered(at_us, (sdp(ends[0]),), (sdp(ends[1]),), after_us=S)
        wire.rtp(at_us + S + 100_000, ends[0], ends[1], 10 * k + 1, 150)
        wire.rtp(at_us + 4_500_000, ends[1], ends[0], 10 * k + 2, 150)
        return d
    ab = talk("ab", "a", "b", ("201", "202"), 0, 0)
    ab.extra = ("Refer-To: <sip:203@x>",)
    ab.request(8 * S, "REFER")
    bc = talk("bc", "b", "c", ("202", "203"), 8 * S + 100_000, 1)
    ab.bye(8 * S + 300_000)
    bc.extra = ("Refer-To: <sip:204@x>",)
    bc.request(16 * S, "REFER")
    cd = talk("cd", "c", "d", ("203", "204"), 16 * S + 100_000, 2)
    bc.bye(16 * S + 300_000)
    cd.bye(24 * S + 500_000)
    call = only(record(wire, tmp_path))
    assert ids(call) == ["ab@x", "bc@x", "cd@x"]
    assert call["parts"] == []
    left, right = loud(tmp_path / "data", call)

    def heard(tenths: list[int]) -> set[int]:
        return {tenth // 10 for tenth in tenths}
    # B is right, so that C, who talks to B, is left, and D, who talks to C, right
    assert {1, 1 + 12, 1 + 16} <= heard(left)
    assert {4, 1 + 8, 20} <= heard(right)
    assert not {9} & heard(left)
    assert not {1, 13} & heard(right)


@pytest.mark.parametrize("how", ["at once", "by re-INVITE", "offer in the answer"])
def test_a_pbx_that_lets_phones_talk_directly(how: str, tmp_path: Path) -> None:
    """It shows other numbers; both dialogs name the same two addresses for media. Two calls would have a voice each."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("201", "0677778888")), leg(wire, "b", (PBX, B), ("0398765432", "0677778888,9"))
    at_us = 2 * S
    if how == "offer in the answer":
        a.request(0, "INVITE", sdp(A_RTP))
        b.request(30_000, "INVITE")
        b.response(S, 200, sdp(B_RTP))
        a.response(S + 10_000, 200, sdp(B_RTP))
        a.request(S + 20_000, "ACK")
        b.request(S + 30_000, "ACK", sdp(A_RTP))
    elif how == "at once":
        answered_twins(a, b, 0, (A_RTP, B_RTP, A_RTP, B_RTP))
    else:
        answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
        a.reinvite(1_500_000, (sdp(B_RTP),), (sdp(A_RTP),), by_caller=False)
        b.reinvite(1_510_000, (sdp(A_RTP),), (sdp(B_RTP),))
    talks = both(wire, at_us, 300)
    for n, d in enumerate((a, b)):
        d.bye(9 * S + 20_000 * n)
    call = only(record(wire, tmp_path))
    assert (ids(call), evidence(call)) == (["a@x", "b@x"], [None, "shared-media"])
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    left, right = loud(tmp_path / "data", call)
    assert left
    assert right


def test_call_after_call_on_the_same_addresses(tmp_path: Path) -> None:
    """An agent's line that stays up: the PBX gives it the media of one caller after another."""
    wire = Wire()
    line = leg(wire, "line", (PBX, B), ("700", "201"))
    line.answered(0, (sdp(IN),), (sdp(B_RTP),))
    for n in range(2):
        a = leg(wire, f"a{n}", (A, PBX), (f"031234567{n}", "0398765432"))
        at_us = (20 + 30 * n) * S
        a.answered(at_us, (sdp(A_RTP),), (sdp(B_RTP),))
        line.reinvite(at_us + 1_500_000, (sdp(A_RTP),), (sdp(B_RTP),))
        both(wire, at_us + 2 * S, 250, ssrcs=(2 * n + 1, 2 * n + 2))
        a.bye(at_us + 20 * S)
    line.bye(100 * S)
    assert groups(record(wire, tmp_path)) == [["a0@x"], ["a1@x"], ["line@x"]]


def test_a_capture_that_ends_in_the_middle(tmp_path: Path) -> None:
    """Both legs end with it, in the same moment."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "0398765432")), leg(wire, "b", (PBX, B), ("0570000100", "201"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    relayed(wire, S + 60_000, 80)
    call = only(record(wire, tmp_path))
    assert (evidence(call), call["end_reason"]) == ([None, "relayed-payload"], "capture-stopped")


def test_a_short_call_that_is_held_when_it_is_looked_at(tmp_path: Path) -> None:
    """Some 3 s after the answer nobody speaks; it ends before the next look."""
    wire = Wire()
    a, b = leg(wire, "a", (A, PBX), ("0312345678", "241")), leg(wire, "b", (PBX, B), ("0570000100", "241"))
    answered_twins(a, b, 0, (A_RTP, IN, OUT, B_RTP))
    relayed(wire, S + 60_000, 50)
    relayed(wire, 5_800_000, 85)
    for d in (a, b):
        d.bye(7 * S + 500_000)
    wire.rtp(12 * S, ("10.9.9.9", 4000), ("10.9.9.8", 4000), 77, 300)  # time goes on
    assert groups(record(wire, tmp_path)) == [["a@x", "b@x"]]
