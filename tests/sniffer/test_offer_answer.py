"""Media claims and holds, from flows of SIP messages."""

from __future__ import annotations

import pytest
from tests.sniffer.flows import ANSWERED, T0, S, closed, host, one, rows, seconds, send

from rokuon.sniffer.call import CallTracker, ClaimAdded, ClaimEnded
from rokuon.sniffer.model import Call
from rokuon.sniffer.sdp import parse


def claims(call: Call) -> list[str]:
    """Each claim in a word: side, port, since, until, ! where it is answered."""
    until = ["" if c.until_ns is None else f"{seconds(c.until_ns):g}" for c in call.claims]
    return [f"{c.side} {c.port} {seconds(c.since_ns):g}-{u}{'!' * c.answered}" for c, u in zip(call.claims, until, strict=True)]


FLOWS: dict[str, tuple[str, list[str]]] = {
    "answered": (ANSWERED, ["caller 1000 0-!", "callee 2000 2-!"]),
    "never answered": ("0 A>B INVITE 1 sdp=A:1000\n3 B>A 486 1", ["caller 1000 0-"]),
    "late offer": ("0 A>B INVITE 1\n2 B>A 200 1 sdp=B:2000\n2.1 A>B ACK 1 sdp=A:1000", ["callee 2000 2-!", "caller 1000 2.1-!"]),
    "early media": ("0 A>B INVITE 1 sdp=A:1000\n1 B>A 183 1 sdp=B:2000\n2 B>A 200 1 sdp=B:2000",
                    ["caller 1000 0-!", "callee 2000 1-!"]),
    "early media, 200 without SDP": ("0 A>B INVITE 1 sdp=A:1000\n1 B>A 183 1 sdp=B:2000\n2 B>A 200 1",
                                     ["caller 1000 0-!", "callee 2000 1-!"]),
    "early media from elsewhere": ("0 A>B INVITE 1 sdp=A:1000\n1 B>A 183 1 sdp=B:2002\n2 B>A 200 1 sdp=B:2000",
                                   ["caller 1000 0-!", "callee 2002 1-2", "callee 2000 2-!"]),
    "early media of another tag": ("0 A>B INVITE 1 sdp=A:1000\n1 B>A 183 1 tag=x sdp=B:2000\n2 B>A 200 1 sdp=B:2000",
                                   ["caller 1000 0-!", "callee 2000 1-!"]),
    "PRACK and UPDATE before the answer": (
        "0 A>B INVITE 1 sdp=A:1000\n1 B>A 183 1 sdp=B:2000\n1.1 A>B PRACK 2\n1.2 B>A 200 2 of=PRACK\n"
        "1.5 A>B UPDATE 3 sdp=A:1002\n1.6 B>A 200 3 of=UPDATE sdp=B:2000\n2 B>A 200 1",
        ["caller 1000 0-1.6", "callee 2000 1-!", "caller 1002 1.5-!"]),
    "offer in 183, answer in PRACK": (
        "0 A>B INVITE 1\n1 B>A 183 1 sdp=B:2000\n1.1 A>B PRACK 2 sdp=A:1000\n1.2 B>A 200 2 of=PRACK\n2 B>A 200 1",
        ["callee 2000 1-!", "caller 1000 1.1-!"]),
    "asked again after 407 from another port": (
        "0 A>B INVITE 1 sdp=A:1000\n0.1 B>A 407 1\n0.2 A>B INVITE 2 sdp=A:1002\n2 B>A 200 2 sdp=B:2000",
        ["caller 1000 0-2", "caller 1002 0.2-!", "callee 2000 2-!"]),
    "re-INVITE, nothing moves": (ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1000\n5.1 B>A 200 2 sdp=B:2000",
                                 ["caller 1000 0-!", "callee 2000 2-!"]),
    "the caller moves": (ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1002\n5.1 B>A 200 2 sdp=B:2000\n5.2 A>B ACK 2",
                         ["caller 1000 0-5.1!", "callee 2000 2-!", "caller 1002 5-!"]),
    "the callee moves": (ANSWERED + "5 B>A INVITE 1 by=callee sdp=B:2002\n5.1 A>B 200 1 by=callee sdp=A:1000",
                         ["caller 1000 0-!", "callee 2000 2-5.1!", "callee 2002 5-!"]),
    "both move": (ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1002\n5.1 B>A 200 2 sdp=B:2002",
                  ["caller 1000 0-5.1!", "callee 2000 2-5.1!", "caller 1002 5-!", "callee 2002 5.1-!"]),
    "a move refused": (ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1002\n5.1 B>A 491 2\n5.2 A>B INVITE 2 tag=b sdp=A:1002",
                       ["caller 1000 0-!", "callee 2000 2-!", "caller 1002 5-5.1"]),
    "a move refused, then made": (
        ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1002\n5.1 B>A 491 2\n6 A>B INVITE 3 tag=b sdp=A:1002\n6.1 B>A 200 3 sdp=B:2000",
        ["caller 1000 0-6.1!", "callee 2000 2-!", "caller 1002 5-5.1", "caller 1002 6-!"]),
    "moves of both at once (glare)": (
        ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1002\n5 B>A INVITE 1 by=callee sdp=B:2002\n5.1 B>A 491 2\n5.1 A>B 491 1 by=callee",
        ["caller 1000 0-!", "callee 2000 2-!", "caller 1002 5-5.1", "callee 2002 5-5.1"]),
    "re-INVITE with late offer": (ANSWERED + "5 A>B INVITE 2 tag=b\n5.1 B>A 200 2 sdp=B:2002\n5.2 A>B ACK 2 sdp=A:1002",
                                  ["caller 1000 0-5.2!", "callee 2000 2-5.1!", "callee 2002 5.1-!", "caller 1002 5.2-!"]),
    "UPDATE moves": (ANSWERED + "5 B>A UPDATE 1 by=callee sdp=B:2002\n5.1 A>B 200 1 by=callee of=UPDATE sdp=A:1000",
                     ["caller 1000 0-!", "callee 2000 2-5.1!", "callee 2002 5-!"]),
    "a retransmission after a move": (
        ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1002\n5.1 B>A 200 2 sdp=B:2002\n5.2 A>B INVITE 1 sdp=A:1000\n"
        "5.3 B>A 200 1 sdp=B:2000",
        ["caller 1000 0-5.1!", "callee 2000 2-5.1!", "caller 1002 5-!", "callee 2002 5.1-!"]),
    "a second section, refused": ("0 A>B INVITE 1 sdp=A:1000,A:1010\n2 B>A 200 1 sdp=B:2000,B:0",
                                  ["caller 1000 0-!", "caller 1010 0-!", "callee 2000 2-!"]),
    "a section added and taken away": (
        ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1000,A:1010\n5.1 B>A 200 2 sdp=B:2000,B:2010\n"
        "7 A>B INVITE 3 tag=b sdp=A:1000,A:0\n7.1 B>A 200 3 sdp=B:2000,B:0",
        ["caller 1000 0-!", "callee 2000 2-!", "caller 1010 5-7.1!", "callee 2010 5.1-7.1!"]),
    "no address": ("0 A>B INVITE 1 sdp=0:1000\n2 B>A 200 1 sdp=pbx.example:2000", []),
    "held with c=0.0.0.0": (ANSWERED + "5 A>B INVITE 2 tag=b sdp=0:1000\n5.1 B>A 200 2 sdp=B:2000\n"
                            "7 A>B INVITE 3 tag=b sdp=A:1000\n7.1 B>A 200 3 sdp=B:2000", ["caller 1000 0-!", "callee 2000 2-!"]),
    "capabilities are no claim": (ANSWERED + "5 A>B OPTIONS 2\n5.1 B>A 200 2 of=OPTIONS sdp=B:9\n6 A>B INVITE 3 tag=b\n"
                                  "6.1 B>A 488 3 sdp=B:9", ["caller 1000 0-!", "callee 2000 2-!"]),
    "mid-call": ("0 A>B INVITE 5 tag=b sdp=A:1000\n0.1 B>A 200 5 sdp=B:2000", ["caller 1000 0-!", "callee 2000 0.1-!"]),
    "the 200 was lost": ("0 A>B INVITE 1 sdp=A:1000\n1 B>A 183 1 sdp=B:2000\n2 A>B ACK 1",
                         ["caller 1000 0-!", "callee 2000 1-!"]),
}


@pytest.mark.parametrize("name", FLOWS)
def test_claims(name: str) -> None:
    table, expected = FLOWS[name]
    assert claims(one(table)) == expected


def test_changes_are_told_as_they_come() -> None:
    tracker = CallTracker()
    told = [[(type(e), e.claim.port) for e in send(tracker, [r]) if isinstance(e, ClaimAdded | ClaimEnded)]
            for r in rows(FLOWS["the caller moves"][0])]
    assert told == [[(ClaimAdded, 1000)], [], [(ClaimAdded, 2000)], [], [(ClaimAdded, 1002)], [(ClaimEnded, 1000)], []]
    assert len(closed(tracker.expire(T0 + 10_000 * S))) == 1


def test_a_refused_offer_leaves_payload_types_as_they_were() -> None:
    flow = rows(ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1000\n5.1 B>A 488 2")
    sdp = flow[4].message.sdp
    assert sdp is not None
    changed = {0: sdp.media[0].formats[8]}
    object.__setattr__(sdp.media[0], "formats", changed)
    tracker = CallTracker()
    send(tracker, flow[:5])
    (call,) = tracker.live.values()
    assert changed.items() <= call.claims[0].formats.items()  # media may come so before the answer does
    send(tracker, flow[5:])
    assert set(call.claims[0].formats) == {8, 101}


def renumbered(offer: str, how: str) -> Call:
    """A call in which the caller describes its payload types anew, at the address that it has."""
    flow = rows(ANSWERED + "5 A>B INVITE 2 tag=b sdp=A:1000\n5.1 B>A 200 2 sdp=B:2000")
    text = f"v=0\no=- 1 2 IN IP4 10.0.0.1\ns=-\nt=0 0\nm=audio 1000 RTP/AVP {offer}\nc=IN IP4 10.0.0.1\n{how}"
    object.__setattr__(flow[4].message, "sdp", parse(text.encode()))
    tracker = CallTracker()
    send(tracker, flow)
    (call,) = tracker.live.values()
    return call


def test_payload_types_renumbered_in_mid_call() -> None:
    """What came before the change still means what it meant (RFC 3264 8.3.2)."""
    call = renumbered("0 97", "a=rtpmap:97 telephone-event/8000\n")
    assert {n: form.encoding for n, form in call.claims[0].formats.items()} == {
        0: "PCMU", 97: "telephone-event", 8: "PCMA", 101: "telephone-event"}
    assert next(iter(call.claims[0].formats)) == 0  # preferred now
    assert call.anomalies == {}


@pytest.mark.parametrize(("how", "told"), [("iLBC/8000", 1), ("telephone-event/16000", 1), ("Telephone-Event/8000", 0)])
def test_a_payload_type_that_changes_its_meaning_is_counted(how: str, told: int) -> None:
    call = renumbered("8 101", f"a=rtpmap:101 {how}\n")
    assert call.claims[0].formats[101].encoding == how.partition("/")[0]
    assert call.anomalies["payload-type-remapped"] == told


@pytest.mark.parametrize(("first", "then", "back", "told"), [
    ((1000, 0), (0, 4000), (1000, 0), ["codec-change caller audio to T.38 5", "codec-change caller T.38 to audio 7"]),
    ((1000, 0), (1000, 4000), (1000, 0), ["codec-change caller audio to T.38 5", "codec-change caller T.38 to audio 7"]),
    ((1000, 0), (1000, 0), (1000, 0), []),
])
def test_fax(first: tuple[int, int], then: tuple[int, int], back: tuple[int, int], told: list[str]) -> None:
    """A switch to T.38 and back is said, is no hold, and the call goes on; media is expected where it is said."""
    def described(letter: str, ports: tuple[int, int], at: int) -> bytes:
        audio, image = ((port + 1000 * (letter == "B")) * bool(port) for port in ports)
        return (f"v=0\no=- 1 {at} IN IP4 10.0.0.1\ns=-\nc=IN IP4 {host(letter).address}\nt=0 0\n"
                f"m=audio {audio} RTP/AVP 8\nm=image {image} udptl t38\n").encode()

    flow = rows("0 A>B INVITE 1\n2 B>A 200 1\n5 A>B INVITE 2 tag=b\n5.1 B>A 200 2\n7 A>B INVITE 3 tag=b\n7.1 B>A 200 3\n"
                "9 A>B BYE 4")
    for n, r in enumerate(flow[:6]):
        object.__setattr__(r.message, "sdp", parse(described("AB"[n % 2], (first, then, back)[n // 2], n // 2)))
    tracker = CallTracker()
    (call,) = closed(send(tracker, flow) + tracker.expire(T0 + 1000 * S))
    assert [f"{e.type} {e.side} {e.detail} {seconds(e.time_ns):g}" for e in call.events] == told
    assert (call.state, call.end_reason, seconds(call.end_ns)) == ("answered", "bye", 9)
    images = [f"{c.side} {c.port} {seconds(c.since_ns):g}-{seconds(c.until_ns):g}" for c in call.claims if c.media == "image"
              and c.until_ns]
    assert images == (["caller 4000 5-7.1", "callee 5000 5.1-7.1"] if told else [])


PROXIED = """
0     A>P INVITE 1 sdp=A:1000
0.01  P>B INVITE 1 sdp=P:3000
2     B>P 200 1 sdp=B:2000
2.01  P>A 200 1 sdp=P:3002
5     A>P INVITE 2 tag=b sdp=A:1000/sendonly
5.01  P>B INVITE 2 tag=b sdp=P:3000/sendonly
5.1   B>P 200 2 sdp=B:2000/recvonly
5.11  P>A 200 2 sdp=P:3002/recvonly
7     A>P INVITE 3 tag=b sdp=A:1000
7.01  P>B INVITE 3 tag=b sdp=P:3000
7.1   B>P 200 3 sdp=B:2004
7.11  P>A 200 3 sdp=P:3002
9     A>P BYE 4
9.01  P>B BYE 4
"""


def test_hops_have_claims_of_their_own() -> None:
    """A proxy that relays media: the same dialog twice, with other addresses."""
    call = one(PROXIED)
    assert [(c.hop.upstream, c.hop.downstream) for c in call.claims] == [
        (host("A"), host("P")), (host("P"), host("B")), (host("P"), host("B")), (host("A"), host("P")), (host("P"), host("B"))]
    assert claims(call) == [
        "caller 1000 0-!", "caller 3000 0.01-!", "callee 2000 2-7.1!", "callee 3002 2.01-!", "callee 2004 7.1-!"]


def test_a_second_hop_seen_late_is_answered_too() -> None:
    call = one("0 A>P INVITE 1 sdp=A:1000\n2 B>P 200 1 sdp=B:2000\n2.1 P>B INVITE 1 sdp=P:3000\n2.2 P>A 200 1 sdp=P:3002")
    assert all(c.answered for c in call.claims)
    assert len(call.claims) == 4


@pytest.mark.parametrize("back", ["B>A7 200 1 sdp=B:2000", "B>A 200 1 sdp=B:2000", "B9>A7 200 1 sdp=B:2000"])
def test_ports_that_differ_are_one_hop(back: str) -> None:
    """A phone that sends from another port than it listens on, and connections of either side."""
    call = one(f"0 A>B INVITE 1 sdp=A:1000\n2 {back}\n3 B9>A8 INVITE 1 by=callee sdp=B:2002\n3.1 A>B 200 1 by=callee sdp=A:1000")
    assert len({c.hop for c in call.claims}) == 1
    assert claims(call) == ["caller 1000 0-!", "callee 2000 2-3.1!", "callee 2002 3-!"]


def test_vlans_are_hops_of_their_own() -> None:
    call = one("0 A>B INVITE 1 sdp=A:1000 vlan=1\n0 A>B INVITE 1 sdp=A:1000 vlan=2\n2 B>A 200 1 sdp=B:2000 vlan=1")
    assert [(c.side, c.hop.encap) for c in call.claims] == [("caller", 1), ("caller", 2), ("callee", 1)]


def turn(at: int, cseq: int, offer: str, answer: str, who: str = "A", refused: bool = False) -> str:
    """A re-INVITE and its answer."""
    other, by = ("B", "caller") if who == "A" else ("A", "callee")
    ports = {"A": 1000, "B": 2000}
    sdp = {w: f"{'0' if mode == 'zero' else w}:{ports[w]}/{'sendrecv' if mode == 'zero' else mode}"
           for w, mode in ((who, offer), (other, answer))}
    reply = f"{at}.1 {other}>{who} 491 {cseq} by={by}" if refused else f"{at}.1 {other}>{who} 200 {cseq} by={by} sdp={sdp[other]}"
    return f"{at} {who}>{other} INVITE {cseq} by={by} tag=b sdp={sdp[who]}\n{reply}\n{at}.2 {who}>{other} ACK {cseq} by={by}\n"


HOLDS = {
    "sendonly": (turn(5, 2, "sendonly", "recvonly") + turn(7, 3, "sendrecv", "sendrecv"), ["hold caller 5", "resume caller 7"]),
    "inactive": (turn(5, 2, "inactive", "inactive") + turn(7, 3, "sendrecv", "sendrecv"), ["hold caller 5", "resume caller 7"]),
    "c=0.0.0.0": (turn(5, 2, "zero", "sendrecv") + turn(7, 3, "sendrecv", "sendrecv"), ["hold caller 5", "resume caller 7"]),
    "by the callee": (turn(5, 2, "sendonly", "recvonly", "B") + turn(7, 3, "sendrecv", "sendrecv", "B"),
                      ["hold callee 5", "resume callee 7"]),
    "twice": (turn(5, 2, "sendonly", "recvonly") + turn(6, 3, "sendrecv", "sendrecv") + turn(7, 4, "inactive", "inactive"),
              ["hold caller 5", "resume caller 6", "hold caller 7"]),
    "refreshed while held": (turn(5, 2, "inactive", "inactive") + turn(6, 1, "inactive", "inactive", "B")
                             + turn(7, 3, "sendonly", "recvonly") + turn(8, 4, "sendrecv", "sendrecv"),
                             ["hold caller 5", "resume caller 8"]),
    "each other": (turn(5, 2, "sendonly", "recvonly") + turn(6, 1, "inactive", "inactive", "B")
                   + turn(7, 2, "recvonly", "sendonly", "B") + turn(8, 3, "sendrecv", "sendrecv"),
                   ["hold caller 5", "hold callee 6", "resume callee 7", "resume caller 8"]),
    "refused": (turn(5, 2, "sendonly", "", refused=True) + turn(7, 3, "sendonly", "recvonly"), ["hold caller 7"]),
    "the answer holds": (turn(5, 2, "sendrecv", "sendonly") + turn(7, 3, "sendrecv", "sendrecv"),
                         ["hold callee 5", "resume callee 7"]),
    "the offer comes late": ("5 A>B INVITE 2 tag=b\n5.1 B>A 200 2 sdp=B:2000\n5.2 A>B ACK 2 sdp=A:1000/sendonly",
                             ["hold caller 5"]),
    "nothing": (turn(5, 2, "sendrecv", "sendrecv") + turn(6, 3, "recvonly", "sendonly"), []),
}


@pytest.mark.parametrize("name", HOLDS)
def test_holds(name: str) -> None:
    turns, expected = HOLDS[name]
    call = one(ANSWERED + turns)
    assert [f"{e.type} {e.side} {seconds(e.time_ns):g}" for e in call.events] == expected


def test_a_hold_seen_at_two_hops_counts_once() -> None:
    assert [(e.type, e.side, seconds(e.time_ns)) for e in one(PROXIED).events] == [("hold", "caller", 5), ("resume", "caller", 7)]


def test_a_call_that_begins_one_way_does_not_begin_held() -> None:
    call = one("0 A>B INVITE 1 sdp=A:1000/sendonly\n2 B>A 200 1 sdp=B:2000/recvonly\n" + turn(5, 2, "sendonly", "recvonly")
               + turn(6, 3, "sendrecv", "sendrecv") + turn(7, 4, "sendonly", "recvonly"))
    assert [(e.type, seconds(e.time_ns)) for e in call.events] == [("hold", 7)]
