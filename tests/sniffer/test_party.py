"""Who calls whom, by the header fields that say so: RFC 3261, 3323, 3325, 3966, 5806, 7044, 7315."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sniffer.flows import ANSWERED, one

from rokuon.sniffer.identity import REASONS, is_telephone, reason_for
from rokuon.sniffer.model import NameAddr, Party, SipMessage
from rokuon.sniffer.party import callee_of, caller_of, connect, number_of, reach
from rokuon.sniffer.sip import parse

ANONYMOUS = '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=1'


def invite(*more: str, from_: str = '"Tanaka" <sip:201@pbx.example>;tag=1', to: str = "<sip:0312345678@pbx.example>",
           uri: str = "sip:0312345678@pbx.example") -> SipMessage:
    return parse(message(f"INVITE {uri} SIP/2.0", *more, from_=from_, to=to))


def message(first: str, *more: str, from_: str = "<sip:201@pbx.example>;tag=1", to: str = "<sip:0312345678@pbx>") -> bytes:
    lines = [first, "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1", f"From: {from_}", f"To: {to}", "Call-ID: a",
             "CSeq: 1 INVITE", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def caller(*more: str, **fields: str) -> Party:
    return caller_of(invite(*more, **fields), "192.0.2.1")[0]


def callee(*more: str, **fields: str) -> Party:
    return callee_of(invite(*more, **fields), "192.0.2.2")


def also(party: Party) -> list[tuple[str, str]]:
    return [(identity.header, identity.number) for identity in party.also]


@pytest.mark.parametrize(("uri", "number"), [
    ("sip:0312345678@h", "0312345678"), ("sip:+81312345678@h;user=phone", "+81312345678"),
    ("tel:+81-3-1234-5678", "+81-3-1234-5678"),
    ("TEL:+81312345678;phone-context=x", "+81312345678"), ("sip:%2B81312345678@h", "+81312345678"),
    ("sip:0312345678;phone-context=+81@h;user=phone", "0312345678"), ("sip:0312345678;isub=1;postd=pp22@h", "0312345678"),
    ("sip:100:secret@h", "100"), ("sips:alice@h", "alice"), ("sip:h", ""), ("sip:pbx.example:5060", ""), ("", ""), ("x", ""),
    ("sip:*72@h", "*72"), ("sip:184%300312@h", "18400312"), ("sip:%93c%92%86@h", "田中"), ("sip:%E7%94%B0%E4%B8%AD@h", "田中"),
    ("sip:a%00%1b@h", "a\ufffd\ufffd"), ("sip:%%@h", "%%"), ("sip:０３１２@h", "０３１２"), ("urn:service:sos", "")])
def test_number_as_signalled(uri: str, number: str) -> None:
    assert number_of(NameAddr("", uri)) == number


def test_from_alone() -> None:
    party, vouched = caller_of(invite(), "192.0.2.1")
    assert (party, vouched) == (Party("201", "Tanaka", "sip:201@pbx.example", "192.0.2.1"), False)


def test_asserted_before_remote_party_before_from() -> None:
    pai, rpid = 'P-Asserted-Identity: "A" <sip:0311111111@c>', 'Remote-Party-ID: "R" <sip:0322222222@c>;party=calling'
    party, vouched = caller_of(invite(rpid, pai), "192.0.2.1")
    assert (party.number, party.name, party.uri, vouched) == ("0311111111", "A", "sip:0311111111@c", True)
    assert also(party) == [("remote-party-id", "0322222222"), ("from", "201")]
    assert caller(rpid).number == "0322222222"


@pytest.mark.parametrize("lines", [
    ['P-Asserted-Identity: "Cullen" <sip:fluffy@cisco.example>, <tel:+14085264000>'],
    ['P-Asserted-Identity: "Cullen" <sip:fluffy@cisco.example>', "P-Asserted-Identity: tel:+14085264000"],
    ["P-Asserted-Identity: <tel:+14085264000>", 'P-Asserted-Identity: "Cullen" <sip:fluffy@cisco.example>']])
def test_of_two_asserted_identities_the_telephone_number(lines: list[str]) -> None:
    """RFC 3325 section 9.1: a sip and a tel URI; section 6 has the example."""
    party = caller(*lines)
    assert (party.number, party.name) == ("+14085264000", "Cullen")
    assert ("p-asserted-identity", "fluffy") in also(party)


def test_name_of_from_where_the_asserted_has_none() -> None:
    assert caller("P-Asserted-Identity: <tel:0311111111>").name == "Tanaka"


@pytest.mark.parametrize("privacy", ["id", "user", "header", "header;id", "id;critical", "user;header; ID", "id, user"])
def test_asked_not_to_be_shown(privacy: str) -> None:
    """The number that the network vouches for is kept, and that the other end must not see it."""
    party = caller("P-Asserted-Identity: <tel:09012345678>", f"Privacy: {privacy}", from_=ANONYMOUS)
    assert (party.number, party.name, party.withheld) == ("09012345678", "Anonymous", "by-caller")
    assert also(party) == [("from", "anonymous")]
    assert caller(f"Privacy: {privacy}").withheld == "by-caller"


@pytest.mark.parametrize("privacy", ["none", "session", "critical", "history", "idiot", ""])
def test_not_asked(privacy: str) -> None:
    assert caller(f"Privacy: {privacy}", "P-Asserted-Identity: <tel:09012345678>").withheld == ""


@pytest.mark.parametrize(("privacy", "withheld"), [
    ("full", "by-caller"), ("uri", "by-caller"), ('"full"', "by-caller"), ("name", ""), ("off", ""),
    ("full-network", "by-caller")])
def test_privacy_of_a_remote_party(privacy: str, withheld: str) -> None:
    party = caller(f"Remote-Party-ID: <sip:0311111111@c>;party=calling;screen=yes;privacy={privacy}")
    assert (party.number, party.withheld) == ("0311111111", withheld)


@pytest.mark.parametrize(("from_", "withheld"), [
    (ANONYMOUS, "by-caller"), ("<sip:anonymous@anonymous.invalid>", "by-caller"),
    ("<sip:c8oqz84zk7z@x.anonymous.invalid>", "by-caller"), ('"ｺｳｼｭｳﾃﾞﾝﾜ" <sip:0@carrier>', "payphone"),
    ('"Coin line/payphone" <sip:anonymous@anonymous.invalid>', "payphone"), ('"公衆電話" <sip:anonymous@pbx>', "payphone"),
    ('"Unavailable" <sip:anonymous@anonymous.invalid>', "unavailable"), ('"表示圏外" <sip:unknown@carrier>', "unavailable"),
    ('"Interaction with other service" <sip:anonymous@anonymous.invalid>', "service-conflict"),
    ('"非通知" <sip:anonymous@pbx>', "by-caller"), ("<sip:Restricted@pbx>", "by-caller"),
    ("<sip:unavailable@pbx>", "unavailable"),
    ('"Anonymous" <sip:0312345678@carrier>', "by-caller"), ('"ﾋﾂｳﾁ" <sip:0312345678@carrier>', "by-caller"),
    ('"Unknown" <sip:0312345678@carrier>', ""), ('"Private Bank" <sip:0312345678@carrier>', ""), ("<sip:pbx.example>", ""),
    ('"Unknown" <sip:pbx.example>', "unavailable"), ('"Alice" <sip:a@anonymous.invalid.example>', "")])
def test_withheld_by_what_from_says(from_: str, withheld: str) -> None:
    """The words of carriers (3GPP TS 24.008 10.5.4.30) beside RFC 3323 section 4.1.1.3."""
    assert caller(from_=f"{from_};tag=1").withheld == withheld
    assert withheld in ("", *REASONS)


def test_an_identity_that_is_nobody_is_none() -> None:
    party = caller("P-Asserted-Identity: <sip:anonymous@anonymous.invalid>", "Remote-Party-ID: <sip:unknown@c>")
    assert (party.number, party.withheld) == ("201", "")


def test_name_hidden_but_number_asserted() -> None:
    party = caller('P-Asserted-Identity: "Anonymous" <sip:0311111111@c>')
    assert (party.number, party.withheld) == ("0311111111", "by-caller")


def test_remote_party_of_the_other_side_is_not_the_caller() -> None:
    assert caller("Remote-Party-ID: <sip:0322222222@c>;party=called").number == "201"


def test_what_the_telephone_prefers_is_kept() -> None:
    assert also(caller("P-Preferred-Identity: <sip:0333333333@c>")) == [("p-preferred-identity", "0333333333")]


# -- the callee ------------------------------------------------------------------
def test_to_before_request_uri() -> None:
    assert callee() == Party("0312345678", "", "sip:0312345678@pbx.example", "192.0.2.2")
    party = callee(uri="sip:202@192.0.2.2:5060")
    assert (party.number, also(party)) == ("0312345678", [("request-uri", "202")])
    party = callee(to="<sip:pbx.example>", uri="tel:+81312345678")
    assert (party.number, also(party)) == ("+81312345678", [])


def test_forwarded() -> None:
    party = callee("Diversion: <sip:0312345678@c>;reason=no-answer;counter=1, <sip:0311111111@c>;reason=unconditional",
                   "History-Info: <sip:0399999999@c?Reason=SIP%3Bcause%3D302>;index=1, <sip:0312345678@c>;index=1.1",
                   "P-Called-Party-ID: <sip:0355555555@c>", uri="sip:202@c")
    assert [(i.header, i.number, i.reason) for i in party.also] == [
        ("request-uri", "202", ""), ("p-called-party-id", "0355555555", ""), ("diversion", "0312345678", "no-answer"),
        ("diversion", "0311111111", "unconditional"), ("history-info", "0399999999", "")]
    assert party.also[-1].uri == "sip:0399999999@c"


def test_connected_to_somebody_else() -> None:
    party = callee()
    other = Party(party.number)
    for more in ("P-Asserted-Identity: <sip:0312345678@pbx.example>", 'P-Asserted-Identity: "Suzuki" <sip:205@pbx.example>',
                 'Remote-Party-ID: "Suzuki" <sip:205@pbx.example>;party=called'):
        connect(parse(message("SIP/2.0 180 Ringing", more)), party, other)
    assert (party.number, party.name, also(party)) == ("0312345678", "", [("p-asserted-identity", "205")])
    assert also(other)[-1] == ("p-asserted-identity", "205")


def test_the_name_of_who_was_called_comes_with_the_answer() -> None:
    party = callee()
    connect(parse(message("SIP/2.0 200 OK", 'P-Asserted-Identity: "Suzuki" <sip:03-1234-5678@pbx.example>')), party)
    assert party.name == "Suzuki"


def test_identities_in_an_answer_are_not_the_callers() -> None:
    answer = parse(message("SIP/2.0 200 OK", "P-Asserted-Identity: <sip:205@pbx.example>", "Privacy: id"))
    party, vouched = caller_of(answer, "192.0.2.1")
    assert (party.number, party.withheld, vouched) == ("201", "", False)


def test_passed_on() -> None:
    """What a further hop says is added."""
    call = one("""
        0    A>P INVITE 1 sdp=A:1000
        0.01 P>B INVITE 1 sdp=A:1000 hdr=P-Called-Party-ID:_<sip:205@10.0.0.2>
        0.02 P>B INVITE 1 sdp=A:1000 hdr=Diversion:_<sip:200@pbx>;reason=no-answer
        0.1  B>P 486 1""")
    assert call.callee.number == "200"
    assert [(i.header, i.number, i.reason) for i in call.callee.also] == [
        ("p-called-party-id", "205", ""), ("diversion", "200", "no-answer")]
    assert call.legs[0].callee == call.callee


def test_reached_at_a_further_hop() -> None:
    party = callee()
    reach(invite(uri="sip:205@192.0.2.9:5060;transport=udp"), party)
    reach(invite(uri="sip:205@192.0.2.9:5060;transport=udp"), party)
    reach(invite("Diversion: <sip:0312345678@c>;reason=no-answer"), party)
    reach(invite("Diversion: <sip:0312345678@c>;reason=no-answer"), party)
    assert also(party) == [("request-uri", "205"), ("diversion", "0312345678")]


def test_in_a_call() -> None:
    """Seen again behind a proxy that asserts an identity, the INVITE gives that; the answer's is the callee's."""
    call = one(ANSWERED.replace("0.1  B>A 180    1", """
        0.01 P>B INVITE 1 sdp=A:1000 hdr=P-Asserted-Identity:_<tel:0311111111>|Privacy:_id
        0.1  B>A 180    1 hdr=P-Asserted-Identity:_"Bob"_<sip:200@pbx>""") + "9 A>B BYE 2")
    assert (call.caller.number, call.caller.withheld, call.caller.name) == ("0311111111", "by-caller", "Alice")
    assert (call.callee.number, call.callee.name, call.callee.also) == ("200", "Bob", ())
    assert (call.legs[0].caller, call.legs[0].callee) == (call.caller, call.callee)


# -- whatever comes ----------------------------------------------------------------
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=60)
VALUES = st.builds(lambda name, uri, more: f'"{name}" <{uri}>;{more}', TEXTS, TEXTS, TEXTS) | TEXTS
HEADERS = st.sampled_from(["P-Asserted-Identity", "Remote-Party-ID", "Diversion", "History-Info", "Privacy", "P-Called-Party-ID",
                           "P-Preferred-Identity"])


@given(VALUES, VALUES, st.lists(st.tuples(HEADERS, VALUES), max_size=30))
def test_never_raises_and_bounded(from_: str, to: str, more: list[tuple[str, str]]) -> None:
    lines = [f"{name}: {value}" for name, value in more]
    found = parse(message("INVITE sip:1@h SIP/2.0", *lines, from_=from_, to=to))
    party, _ = caller_of(found, "192.0.2.1")
    other = callee_of(found, "192.0.2.2")
    connect(parse(message("SIP/2.0 200 OK", *lines)), other)
    check(party)
    check(other)


def check(party: Party) -> None:
    assert len(party.also) <= 8
    assert sum(len(i.number) + len(i.name) + len(i.uri) for i in party.also) <= 2048
    assert party.withheld in ("", *REASONS)
    for holder in (party, *party.also):
        assert len(holder.number) <= 256
        assert len(holder.name) <= 256
        assert len(holder.uri) <= 1024


@given(TEXTS)
def test_a_telephone_number_is_no_word(text: str) -> None:
    assert not (is_telephone(text) and reason_for(text))
