"""What signalling says of legs: hostile header fields, numbers in several writings, and tables that empty again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rokuon.sniffer.linking import Linker, _ending, same_number
from rokuon.sniffer.model import Call, Leg, NameAddr, Party, SipMessage

S = 1_000_000_000
HOSTS = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.9", ""])
NUMBERS = (st.sampled_from(["", "201", "0312345678", "+81312345678", "81-3-1234-5678", "anonymous"])
           | st.text("0123456789+-a", max_size=12))
DIALOGS = st.sampled_from([
    "1@x", "2@x;to-tag=t1;from-tag=f1", "1@x;to-tag=t1;from-tag=f1", "<sip:201@x?Replaces=1%40x%3Bto-tag%3Dt1>", ";;;=", "%ff%00",
    "<sip:203@y>", "ab30317f1a784dc48ff824d0d3715d86;remote=0"])
HEADERS = st.dictionaries(st.sampled_from(["replaces", "join", "session-id", "x-call-id", "referred-by", "refer-to"]),
                          st.tuples(DIALOGS | st.text(max_size=40)), max_size=4)


def call(number: int, start_s: float, hosts: tuple[str, str], numbers: tuple[str, str]) -> Call:
    caller, callee = (Party(n, "", "", host) for n, host in zip(numbers, hosts, strict=True))
    leg = Leg(f"{number}@x", f"f{number}", f"t{number}", caller, callee, int(start_s * S))
    return Call([leg], caller, callee, leg.start_ns, number=number)


def message(method: str, found: Call, headers: dict[str, tuple[str, ...]]) -> SipMessage:
    leg = found.legs[0]
    return SipMessage(method, 0, "", f"sip:{leg.callee.number}@x", leg.call_id, NameAddr("", f"sip:{leg.caller.number}@x"),
                      NameAddr("", f"sip:{leg.callee.number}@x"), 1, "z", headers, None, "")


CALLS = st.lists(st.tuples(st.floats(0, 3), st.tuples(HOSTS, HOSTS), st.tuples(NUMBERS, NUMBERS), HEADERS, st.booleans(),
                           st.floats(0, 5), st.booleans()), max_size=12)


@given(CALLS)
def test_nothing_raises_and_nothing_stays(made: list[tuple[float, tuple[str, str], tuple[str, str], dict[str, tuple[str, ...]],
                                                           bool, float, bool]]) -> None:
    linker = Linker()
    calls = []
    for n, (start, hosts, numbers, headers, refers, _, _) in enumerate(sorted(made, key=lambda m: m[0]), 1):
        calls.append(call(n, start, hosts, numbers))
        linker.begun(calls[-1], message("INVITE", calls[-1], headers))
        if refers:
            linker.referred(calls[-1], message("REFER", calls[-1], headers), int((start + 1) * S), hosts[1], by_caller=True)
    for found, (_, _, _, _, _, lasts, answered) in zip(calls, made, strict=True):
        found.answer_ns = found.start_ns + S if answered else None
        linker.decided(found)
        found.end_ns = found.start_ns + S + int(lasts * S)
        linker.decided(found)
        linker.waits(found.number)
    numbers_known = {found.number for found in calls}
    for link in linker.links:
        assert {link.older, link.younger} <= numbers_known
        assert link.older != link.younger
    for found in calls:
        linker.over(found.number)
    left = linker._calls, linker._by_id, linker._sessions, linker._session_of, linker._up, linker._down, linker._referrals
    assert not any(left)


@given(NUMBERS, NUMBERS)
def test_numbers_that_are_one_have_one_ending(one: str, other: str) -> None:
    assert same_number(one, other) == same_number(other, one)
    if same_number(one, other):
        assert _ending(one) == _ending(other)


def test_writings_of_one_number() -> None:
    assert same_number("0312345678", "+81312345678")
    assert same_number("03-1234-5678", "312345678")
    assert not same_number("201", "1201")
    assert not same_number("0312345678", "0612345678")
    assert same_number("anonymous", "anonymous")
