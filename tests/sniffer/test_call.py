"""Flows of SIP messages against the calls they must give."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.flows import ANSWERED, OUTCOMES, RINGING, T0, Row, S, calls_of, closed, host, one, row, rows, seconds, send

from rokuon.sniffer.call import CallClosed, CallTracker, ClaimAdded, ClaimEnded
from rokuon.sniffer.model import Call
from rokuon.sniffer.noting import MESSAGES

BY_CALLER = ANSWERED + "9 A>B BYE 2\n9.1 B>A 200 2 of=BYE"


@pytest.mark.parametrize("name", OUTCOMES)
def test_outcome(name: str) -> None:
    table, expected = OUTCOMES[name]
    call = one(table)
    found = (call.state, call.sip_status, call.end_reason, call.hangup_by, seconds(call.start_ns), seconds(call.answer_ns),
             seconds(call.end_ns))
    assert " ".join("-" if f is None else f"{f:g}" if isinstance(f, float) else str(f) for f in found) == expected
    assert [(leg.answer_ns, leg.end_ns, leg.sip_status) for leg in call.legs] == [(call.answer_ns, call.end_ns, call.sip_status)]
    assert bool(call.anomalies["begun-in-mid-call"]) == name.startswith("mid-call")
    assert bool(call.anomalies["answer-not-captured"]) == (name == "the 200 was lost")


@pytest.mark.parametrize(("table", "state", "reason", "end"), [
    (ANSWERED, "answered", "capture-stopped", 2.1),
    (RINGING, "in-progress", "capture-stopped", 0.1),
    ("0 A>B INVITE 1\n1 B>A 407 1", "failed", "reject", 1),
    (RINGING + "5 A>B CANCEL 1", "cancelled", "cancel", 5),
    (BY_CALLER, "answered", "bye", 9),
])
def test_end_of_capture(table: str, state: str, reason: str, end: float) -> None:
    call = one(table, capture_goes_on=False)
    assert (call.state, call.end_reason, seconds(call.end_ns)) == (state, reason, end)


@pytest.mark.parametrize(("table", "when"), [
    (BY_CALLER, 10), (RINGING + "3 B>A 486 1", 4), ("0 A>B INVITE 1", 32), (RINGING, 180.1), (ANSWERED, 602.1),
    (RINGING + "5 A>B CANCEL 1", 37), ("0 A>B INVITE 1\n1 B>A 407 1", 65),
    (ANSWERED.replace("2000", "2000 hdr=Session-Expires:_1800;refresher=uac"), 1802.1),
])
def test_closed_when_nothing_can_change(table: str, when: float) -> None:
    tracker = CallTracker()
    at = T0 + round(when * 1e9)
    assert not closed(send(tracker, rows(table)))
    assert not closed(tracker.expire(at - 1))
    assert tracker.next_timer_ns() == at
    assert len(closed(tracker.expire(at))) == 1


def test_media_keeps_a_call_alive() -> None:
    tracker = CallTracker()
    send(tracker, rows(ANSWERED))
    (call,) = tracker.live.values()
    tracker.media_seen(call, T0 + 500 * S)
    assert not tracker.expire(T0 + 1_100 * S - 1)
    assert closed(tracker.expire(T0 + 1_100 * S)) == [call]
    assert (call.end_ns, call.end_reason) == (T0 + 500 * S, "timeout")


def test_what_comes_after_the_end_makes_no_call() -> None:
    late = "20 A>B BYE 2\n21 A>B INVITE 1\n22 B>A 200 1 sdp=B:2000\n23 B>A INVITE 7 by=callee tag=b\n24 A>B INVITE 8 tag=b\n"
    tracker = CallTracker()
    assert len(closed(send(tracker, rows(BY_CALLER + "\n" + late)))) == 1
    assert not tracker.live
    assert tracker.anomalies["late-message"] == 5


def test_another_tag_or_a_later_attempt_is_another_call() -> None:
    calls = calls_of(BY_CALLER + "\n20 A>B INVITE 1 from=z\n20.1 B>A 486 1 from=z\n21 A>B INVITE 9\n21.1 B>A 404 9\n")
    assert [c.state for c in calls] == ["answered", "busy", "failed"]


def test_no_call_without_an_invite() -> None:
    tracker = CallTracker()
    assert send(tracker, rows("""
0  A>B REGISTER  1
0  B>A 200       1 of=REGISTER
0  A>B OPTIONS   2
0  A>B MESSAGE   3
0  A>B SUBSCRIBE 4
1  A>B BYE       2
2  B>A 200       1 sdp=B:1 id=z
""")) == []
    assert tracker.expire(T0 + 100 * S) == []
    assert tracker.anomalies == {"bye-of-unknown-dialog": 1, "response-of-unknown-dialog": 1}


def test_forking() -> None:
    """One call, and a leg for each dialog that was answered (RFC 3261 13.2.2.4)."""
    ringing = "0 A>B INVITE 1 sdp=A:1000\n1 B>A 180 1 tag=x\n1 B>A 183 1 tag=y sdp=B:2002\n2 B>A 200 1 tag=x sdp=B:2000\n"
    call = one(ringing + "9 A>B BYE 2 tag=x")
    assert [leg.to_tag for leg in call.legs] == ["x"]
    assert {(c.port, c.answered, seconds(c.until_ns)) for c in call.claims} == {
        (1000, True, None), (2000, True, None), (2002, False, 2)}
    call = one(ringing + "2.5 B>A 200 1 tag=y sdp=B:2004\n3 A>B BYE 2 tag=y\n9 A>B BYE 2 tag=x")
    assert [(leg.to_tag, seconds(leg.answer_ns), seconds(leg.end_ns)) for leg in call.legs] == [("x", 2, 9), ("y", 2.5, 3)]
    assert (seconds(call.answer_ns), seconds(call.end_ns)) == (2, 9)
    assert {(c.port, c.leg) for c in call.claims if c.answered} == {(1000, 0), (2000, 0), (2004, 1)}


@pytest.mark.parametrize(("header", "number", "name"), [
    ("Subject:_x", "100", "Alice"),
    ("P-Asserted-Identity:_<sip:0312345678@x>", "0312345678", "Alice"),
    ('P-Asserted-Identity:_"田中"_<tel:+81-3-1234;cpc=x>,_<sip:9@x>', "+81-3-1234", "田中"),
    ('Remote-Party-ID:_"Bob"_<sip:55%2356@x>;party=calling', "55#56", "Bob"),
    ("Remote-Party-ID:_<sip:1@x>|P-Asserted-Identity:_<sip:2@x>", "2", "Alice"),
    ("P-Asserted-Identity:_<sip:x%1b[31m@x>", "x\ufffd[31m", "Alice"),
    ("P-Asserted-Identity:_<sip:pbx>", "100", "Alice"),
])
def test_caller_identity(header: str, number: str, name: str) -> None:
    call = one(f"0 A>B INVITE 1 hdr={header}")
    assert (call.caller.number, call.caller.name, call.caller.address) == (number, name, "10.0.0.1")
    assert (call.callee.number, call.callee.name, call.callee.address) == ("200", "", "10.0.0.2")
    assert call.legs[0].caller == call.caller


def test_who_a_later_invite_vouches_for() -> None:
    call = one("0 A>B INVITE 1\n0.1 B>A 407 1\n0.2 A>B INVITE 2 hdr=P-Asserted-Identity:_<sip:777@x>\n1 B>A 486 2")
    assert (call.caller.number, seconds(call.start_ns), len(call.legs)) == ("777", 0, 1)


def test_a_spiral_passes_both_ways_between_two_hosts() -> None:
    call = one("""
0    A>B INVITE 1 sdp=A:1000
0.1  B>A INVITE 1 sdp=B:3000
1    A>B 200    1 sdp=A:1002
1.1  B>A 200    1 sdp=B:3002
9    A>B BYE    2
""")
    assert {(c.side, c.hop.upstream, c.port) for c in call.claims} == {
        ("caller", host("A"), 1000), ("caller", host("B"), 3000), ("callee", host("B"), 1002), ("callee", host("A"), 3002)}


def test_messages_are_noted() -> None:
    call = one(BY_CALLER)
    assert [(m.cseq, m.first_line, m.src, m.transport) for m in call.messages[:2]] == [
        ("1 INVITE", "INVITE sip:200@pbx SIP/2.0", host("A"), "udp"), ("1 INVITE", "SIP/2.0 180 X", host("B"), "udp")]
    assert len(call.messages) == 6


def test_what_a_mirror_brings_twice_is_noted_once() -> None:
    table = [line for line in BY_CALLER.splitlines() if line]
    twice = [row(line) for line in table for _ in range(2)]
    call = one("\n".join(table))
    tracker = CallTracker()
    (copied,) = closed(send(tracker, twice) + tracker.expire(T0 + 1_000 * S))
    assert copied.messages == call.messages
    assert copied.anomalies["message-copies"] == len(table)
    again = one(BY_CALLER.replace("9 A>B BYE 2", "9 A>B BYE 2\n9.05 A>B BYE 2\n9.5 A>B BYE 2"))
    assert len(again.messages) == len(call.messages) + 1  # the last was sent again


def test_forked_responses_are_no_copies() -> None:
    """They come by the proxy, within milliseconds, and differ in the To tag alone."""
    call = one("0 A>P INVITE 1 sdp=A:1000\n1 P>A 180 1 tag=x\n1.01 P>A 180 1 tag=y\n2 P>A 200 1 tag=x sdp=P:2000\n"
               "2.01 P>A 200 1 tag=y sdp=P:2002\n2.02 P>A 200 1 tag=y sdp=P:2002\n9 A>P BYE 2 tag=x")
    assert [m.first_line for m in call.messages].count("SIP/2.0 200 X") == 2
    assert call.anomalies == {"message-copies": 1, "answer-not-acknowledged": 1}
    assert [leg.to_tag for leg in call.legs] == ["x", "y"]


def test_the_oldest_unanswered_call_makes_room() -> None:
    tracker = CallTracker(max_calls=50)
    send(tracker, rows(ANSWERED))
    calls = closed(send(tracker, [row(f"{3 + i / 1000} A>B INVITE 1 id=f{i} sdp=A:5000") for i in range(500)]))
    assert len(tracker.live) == 50
    assert len(calls) == tracker.anomalies["calls-evicted"] == 451
    assert [c.legs[0].call_id for c in calls[:2]] == ["f0", "f1"]  # never the one that was answered


def test_a_call_is_bounded() -> None:
    tracker = CallTracker()
    send(tracker, rows(ANSWERED))
    for i in range(700):
        mode = "sendonly" if i % 2 else "sendrecv"
        send(tracker, rows(f"{3 + i / 100} A>B INVITE {i + 2} tag=b sdp=A:{5000 + 2 * i}/{mode}\n"
                           f"{3 + i / 100} B>A 200 {i + 2} sdp=B:2000"))
    (call,) = tracker.live.values()
    assert (len(call.claims), len(call.messages)) == (64, MESSAGES)
    assert call.anomalies["claims-dropped"]
    assert call.anomalies["messages-dropped"] == 1404 - MESSAGES


def facts(call: Call) -> object:
    return (call.legs, call.caller, call.callee, call.start_ns, call.state, call.sip_status, call.end_reason, call.hangup_by,
            call.answer_ns, call.end_ns, call.claims, call.events)


@pytest.mark.parametrize("name", [n for n, (_, expected) in OUTCOMES.items() if "timeout" not in expected])
def test_retransmissions_change_nothing(name: str) -> None:
    flow = rows(OUTCOMES[name][0])
    again = [r._replace(time_ns=r.time_ns + i) for r in flow for i in range(3)]
    runs = []
    for some in (flow, again):
        tracker = CallTracker()
        runs.append([facts(c) for c in closed(send(tracker, some) + tracker.expire(T0 + 10_000 * S))])
    assert runs[0] == runs[1]


LINES = sorted({line.split(maxsplit=1)[1] for table, _ in OUTCOMES.values() for line in table.strip().splitlines()}
               | {"A>B UPDATE 3", "B>A 200 3 of=UPDATE", "A>B PRACK 2", "B>A INVITE 4 by=callee", "A>B 200 4 by=callee",
                  "A>B 491 4 by=callee", "A>B INVITE 3 tag=b", "B>A 200 3", "B>A 183 1 tag=c", "A>B INVITE 1 vlan=5"})
SDP = st.sampled_from(("A:1000", "B:2000", "0:1000", "B:0", "A:1002/sendonly", "B:2000/inactive", "A:1000,A:1004",
                       "pbx.example:9"))
SENT = st.builds(lambda line, call, sdp: row(f"0 {line} id={call}" + ("" if "sdp" in line else f" sdp={sdp}")),
                 st.sampled_from(LINES), st.sampled_from(("c1", "c2")), SDP)
STEPS = st.sampled_from((0, 1, S // 2, S, 5 * S, 33 * S, 65 * S, 181 * S, 700 * S, -2 * S))
TRAFFIC = st.lists(st.tuples(STEPS, SENT), max_size=25)


def timed(traffic: list[tuple[int, Row]]) -> list[Row]:
    now, out = T0, []
    for step, r in traffic:
        now += step
        out.append(r._replace(time_ns=now))
    return out


@settings(max_examples=200, deadline=None)
@given(TRAFFIC, st.data())
def test_extra_looks_at_the_timers_change_nothing(traffic: list[tuple[int, Row]], data: st.DataObject) -> None:
    flow, runs = timed(traffic), []
    for extra in (False, True):
        tracker, events, now = CallTracker(), [], T0
        for r in flow:
            if extra and r.time_ns > now:
                for at in sorted(data.draw(st.lists(st.integers(now, r.time_ns), max_size=3))):
                    events += tracker.expire(at)
            now = max(now, r.time_ns)
            events += send(tracker, [r])
        events += tracker.close_all(now, "capture-stopped")
        runs.append([(type(e), e.call, None if isinstance(e, CallClosed) else e.claim) for e in events])
    assert runs[0] == runs[1]


@settings(max_examples=300, deadline=None)
@given(TRAFFIC)
def test_any_traffic_is_calls_that_close_once(traffic: list[tuple[int, Row]]) -> None:
    tracker, flow = CallTracker(max_calls=3), timed(traffic)
    events = send(tracker, flow)
    assert len(tracker.live) <= 3
    events += tracker.close_all(max((r.time_ns for r in flow), default=T0), "capture-stopped")
    calls = closed(events)
    assert len({c.number for c in calls}) == len(calls)
    added = [id(e.claim) for e in events if isinstance(e, ClaimAdded)]
    ended = [id(e.claim) for e in events if isinstance(e, ClaimEnded)]
    assert sorted(added) == sorted(id(claim) for c in calls for claim in c.claims)
    assert len(set(ended)) == len(ended)
    for call in calls:
        assert None not in (call.end_ns, call.end_reason)
        assert (call.state == "answered") == (call.answer_ns is not None)
        assert call.hangup_by is None or call.state == "answered"
        assert all((claim.until_ns is not None) == (id(claim) in ended) for claim in call.claims)
        for side in ("caller", "callee"):
            assert all(a != b for a, b in pairwise(e.type for e in call.events if e.side == side))
