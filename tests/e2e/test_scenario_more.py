"""Ways of phones that go wrong or come late: endings that were not captured, early media of minutes, branches, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.recorded import at, events, loud, only, record, sent, stream
from tests.e2e.scenarios import A_RTP, B_RTP, C_RTP, PBX, A, Dialog, S, Wire, both, sdp


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_bye_that_was_not_captured_and_the_next_call_on_its_ports(goes_on: bool, tmp_path: Path) -> None:
    wire = Wire()
    Dialog(wire, "lost@x", from_tag="f1", to_tag="t1").answered()
    one = both(wire, S, 200)
    d = Dialog(wire, "next@x", from_tag="f2", to_tag="t2")
    d.answered(14 * S)
    two = both(wire, 15 * S, 400, ssrcs=(1, 2) if goes_on else (11, 12), sequence=300, stamp=5_000 + 700 * 160)
    d.bye(23 * S + 100_000)
    first, second = record(wire, tmp_path)
    for call, talks in ((first, one), (second, two)):
        assert [s["direction"] for s in call["streams"]] == ["caller", "callee"]
        for entry, talk, side in zip(call["streams"], talks, ("caller", "callee"), strict=True):
            sent(entry, talk, side)
    assert (first["end_reason"], first["hangup_by"]) == ("capture-stopped", None)
    if goes_on:  # in one stream, no later than the next offer and answer
        assert 4.985 <= at(first["end"]) <= 15
    else:
        assert at(first["end"]) == pytest.approx(4.985, abs=0.001)


def test_early_media_of_minutes(tmp_path: Path) -> None:
    """A queue that plays music and sends no further provisional response."""
    wire = Wire()
    d = Dialog(wire)
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(100_000, 183, sdp(B_RTP))
    theirs = wire.rtp(S, B_RTP, A_RTP, 2, 800, step_us=S // 2, ticks=4_000)
    d.response(400 * S, 200, sdp(B_RTP))
    d.request(400 * S + 50_000, "ACK")
    mine = wire.rtp(400 * S + 100_000, A_RTP, B_RTP, 1, 100)
    d.bye(403 * S)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["sip_status"], call["duration_s"]) == ("answered", 200, 3.0)
    sent(stream(call, B_RTP, A_RTP), theirs, "callee")
    sent(stream(call, A_RTP, B_RTP), mine, "caller")


@pytest.mark.parametrize(("status", "state"), [(486, "busy"), (404, "failed"), (480, "no-answer")])
def test_announcement_and_refusal(status: int, state: str, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(100_000, 183, sdp(B_RTP))
    theirs = wire.rtp(200_000, B_RTP, A_RTP, 2, 100)
    d.response(2_200_000, status)
    d.request(2_250_000, "ACK", fresh=False)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["sip_status"], call["answer"]) == (state, status, None)
    sent(stream(call, B_RTP, A_RTP), theirs, "callee")
    assert loud(tmp_path / "data", call) == ([], list(range(20)))


def test_no_media_at_all(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    assert (call["streams"], call["audio"], call["audio_reason"]) == ([], None, "no media seen")


def test_payload_types_mean_what_the_listener_said(tmp_path: Path) -> None:
    """RFC 3264 section 5.1: each side sends with the numbers that the other has described."""
    wire = Wire()
    d = Dialog(wire)
    d.answered(0, (sdp(A_RTP, "100", maps=["100 PCMU/8000"]),), (sdp(B_RTP, "100", maps=["100 PCMA/8000"]),))
    both(wire, S, 100, payload_type=100)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    assert [(s["direction"], s["codec"]) for s in call["streams"]] == [("caller", "PCMA"), ("callee", "PCMU")]


@pytest.mark.parametrize("status", [488, 491])
def test_a_move_that_is_refused(status: int, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    talks = both(wire, S, 200)
    d.request(2 * S, "INVITE", sdp(("10.0.0.1", 4010), direction="sendonly", version=2), to_tag="tb")
    d.response(2 * S + 50_000, status)
    d.request(2 * S + 80_000, "ACK", fresh=False)
    d.bye(5 * S + 100_000)
    call = only(record(wire, tmp_path))
    for entry, talk, side in zip(call["streams"], talks, ("caller", "callee"), strict=True):
        sent(entry, talk, side)
    assert call["events"] == []


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
def test_the_callee_holds(method: str, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire, hops=((A, PBX), (PBX, ("10.0.0.2", 5060))))
    d.answered()
    both(wire, S, 400)
    for begin, way, back in ((3 * S, "sendonly", "recvonly"), (6 * S, "sendrecv", "sendrecv")):
        d.request(begin, method, sdp(B_RTP, direction=way, version=begin), by_caller=False)
        d.response(begin + 50_000, 200, sdp(A_RTP, direction=back, version=begin), method=method, to_caller=False)
        if method == "INVITE":
            d.request(begin + 80_000, "ACK", by_caller=False)
    d.bye(9 * S + 100_000)
    call = only(record(wire, tmp_path))
    assert events(call, "hold") == [("callee", 3.0)]
    assert events(call, "resume") == [("callee", 6.0)]


def test_two_branches_answer(tmp_path: Path) -> None:
    """The caller hangs one of them up (RFC 3261 section 13.2.2.4)."""
    wire = Wire()
    d = Dialog(wire, hops=((A, PBX),))
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(S, 200, sdp(B_RTP))
    d.request(S + 20_000, "ACK")
    d.to_tag = "tc"
    d.response(S + 100_000, 200, sdp(C_RTP))
    d.request(S + 120_000, "ACK")
    d.bye(S + 150_000)
    d.to_tag = "tb"
    talks = both(wire, S, 150)
    other = wire.rtp(S + 100_000, C_RTP, A_RTP, 3, 5)
    d.bye(4 * S + 100_000)
    call = only(record(wire, tmp_path))
    assert (call["state"], at(call["end"])) == ("answered", 4.1)
    assert [leg["to_tag"] for leg in call["legs"]] == ["tb", "tc"]
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    sent(stream(call, C_RTP, A_RTP), other, "callee")


def test_everything_sent_again(tmp_path: Path) -> None:
    """Retransmissions half a second and a second later change nothing but the list of messages."""
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    d.bye(6 * S)
    wire.frames += [f._replace(at_us=f.at_us + later) for f in wire.frames for later in (500_000, 1_500_000)]
    talks = both(wire, S, 240)
    call = only(record(wire, tmp_path))
    assert (call["state"], at(call["start"]), at(call["answer"]), at(call["end"])) == ("answered", 0.0, 1.0, 6.0)
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    assert len(call["legs"]) == 1


def test_both_sides_name_one_address_of_a_relay(tmp_path: Path) -> None:
    """A relay with one port for both phones tells them apart by where they send from."""
    wire = Wire()
    relay = ("10.0.0.9", 30_000)
    d = Dialog(wire, hops=((A, PBX), (PBX, ("10.0.0.2", 5060))))
    d.answered(0, (sdp(A_RTP), sdp(relay)), (sdp(relay), sdp(B_RTP)))
    for src, dst, ssrc, delay in ((A_RTP, relay, 1, 0), (relay, B_RTP, 1, 200), (B_RTP, relay, 2, 0), (relay, A_RTP, 2, 200)):
        wire.rtp(S + delay, src, dst, ssrc, 150)
    d.bye(4 * S + 100_000)
    call = only(record(wire, tmp_path))
    assert {(s["ssrc"], s["direction"], s["packets"]) for s in call["streams"]} == {(1, "caller", 150), (2, "callee", 150)}
    assert len(call["streams"]) == 4
