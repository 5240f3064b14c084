"""SIP as it is spoken, case by case: what each makes of a call, and which irregularities are counted."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tests.sniffer.flows import T0, S, row
from tests.sniffer.spoken import BLOCKS, FACTS, HERE, calls_of, counted, document, outcome, read

from rokuon.sniffer.call import CallTracker
from rokuon.sniffer.linking import Linker
from rokuon.sniffer.sip import looks_like_sip

SECTIONS = read()
CASES = {case.name: case for cases in SECTIONS.values() for case in cases}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    calls, tracker = calls_of(case)
    assert [outcome(call) for call in calls] == case.calls
    for fact, expected in case.facts.items():
        assert FACTS[fact](calls[0]) == expected
    assert sum((call.anomalies for call in calls), Counter[str]()) + tracker.anomalies == case.odd


def test_names_are_unique() -> None:
    assert len(CASES) == sum(map(len, SECTIONS.values())) >= 100


@pytest.mark.parametrize("text", [b"INVITE sip:200@pbx sip/2.0\r\n", b"sip/2.0 180 X\r\n", b"NOVEL sip:200@pbx Sip/2.0\r\n"])
def test_version_in_small_letters(text: bytes) -> None:
    """RFC 3261 section 7.1: its case does not matter."""
    assert looks_like_sip(text)
    assert not looks_like_sip(text.replace(b"ip/2.0", b"mtp"))


def test_the_document_is_written_from_the_cases() -> None:
    page = HERE.parents[2] / "docs" / "signalling.md"
    assert page.read_text("utf-8") == document()


def test_every_name_that_is_counted_is_explained() -> None:
    told = re.compile(r"anomalies(?:\[|\.append)|_count\(|odd\.append|SipError\(")
    found: set[str] = set()
    for name in ("attempt", "binding", "call", "legs", "noting", "offer_answer", "sdp", "sip", "sip_headers", "tcp"):
        for line in (HERE.parents[2] / "sniffer" / f"{name}.py").read_text("utf-8").splitlines():
            if told.search(line):
                found.update(re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)+|evicted)"', line))
    families = {"bye-of-unknown-dialog", "sip-two-call-id"}
    assert found == set(counted()) - families
    seen = {name for case in CASES.values() for name in case.odd}
    assert all(name in counted() or name.endswith("-of-unknown-dialog") for name in seen)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "timeout" not in " ".join(case.calls)])
def test_what_comes_three_times_is_heard_once(name: str) -> None:
    """Retransmissions and a mirror's copies change nothing of the calls (of which the end was not captured: the last counts)."""
    case, runs = CASES[name], []
    for copies in (1, 3):
        calls, _ = calls_of(case, copies)
        runs.append([(outcome(call), call.caller, call.callee, call.legs, call.claims, call.events) for call in calls])
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("hosts", "twins"), [(("A>A", "A>A"), 0), (("A>P", "P>B"), 1)])
def test_a_host_that_calls_itself_has_no_twins(hosts: tuple[str, str], twins: int) -> None:
    """Load tests on the loopback interface: the same numbers at the same moment, and no back-to-back user agent (RFC 7092)."""
    linker, tracker = Linker(), CallTracker()
    for n, (there, at) in enumerate(zip(hosts, (0, 0.01), strict=True)):
        back = there[::-1]
        for line in (f"{at} {there} INVITE 1 id={n}", f"{1 + at} {back} 200 1 id={n}", f"{2 + at} {there} BYE 2 id={n}"):
            r = row(line)
            tracker.receive(r.time_ns, r.src, r.dst, 0, "udp", r.message)
            if r.message.method == "INVITE" and not r.message.status:
                linker.begun(tracker.live[n + 1], r.message)
    for call in list(tracker.live.values()):
        linker.decided(call)
    assert len(linker.links) == twins


def test_what_branches_say_is_bounded() -> None:
    """However many early dialogs there are, each with another description."""
    tracker = CallTracker()
    lines = ["0 A>B INVITE 1 sdp=A:1000", *(f"{n / 1000} B>A 183 1 tag=t{n} sdp=B:{2000 + 2 * n}" for n in range(1, 400))]
    for line in lines:
        r = row(line)
        tracker.receive(r.time_ns, r.src, r.dst, 0, "udp", r.message)
    (call,) = tracker.live.values()
    assert len(call.claims) == 64
    assert call.anomalies["parties-dropped"] == 400 - 64
    (attempt,) = tracker._by_number.values()
    assert [len(exchange.said) for exchange in attempt._media._exchanges.values()] == [64]


def test_media_goes_on_though_the_peer_denies_the_dialog() -> None:
    """481 to a re-INVITE, and both go on talking: the call goes on, until its BYE."""
    tracker = CallTracker()
    for line in [*BLOCKS["@talk"], "5 A>B INVITE 2 tag=b", "5.1 B>A 481 2"]:
        r = row(line)
        tracker.receive(r.time_ns, r.src, r.dst, 0, "udp", r.message)
    (call,) = tracker.live.values()
    for at in range(60, 1000, 60):  # as often as correlation looks for media
        tracker.media_seen(call, T0 + at * S)
        assert not tracker.expire(T0 + (at + 59) * S)
    r = row("1000 A>B BYE 3")
    tracker.receive(r.time_ns, r.src, r.dst, 0, "udp", r.message)
    tracker.close_all(r.time_ns, "capture-stopped")
    assert outcome(call) == "answered 200 bye caller 0 2 1000"
