"""Which part of a stream is a call's: ports used again, media before, behind and without signalling, calls of hours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

import soundfile as sf
from tests.e2e.recorded import at, loud, only, record, sent, sound, stream
from tests.e2e.scenarios import A_RTP, B_RTP, PBX, A, B, Dialog, S, Talk, Wire, both, sdp


def test_ports_used_again_by_a_stream_that_goes_on(tmp_path: Path) -> None:
    """A gateway keeps its ports and SSRC from call to call; each has its part, cut at the signalling."""
    wire = Wire()
    for n, begin in enumerate((0, 10 * S)):
        d = Dialog(wire, f"c{n}@x", from_tag=f"f{n}", to_tag=f"t{n}")
        d.answered(begin)
        d.bye(begin + 8 * S)
    one, two = Talk(), Talk()
    for n, talk in ((0, one), (1, two)):
        for src, dst, ssrc in ((A_RTP, B_RTP, 1), (B_RTP, A_RTP, 2)):
            mine = talk if ssrc == 1 else None
            wire.rtp(S + n * 9_500_000, src, dst, ssrc, (7 * 50) + 25 if n == 0 else 75 + 325, sequence=100 + n * 475,
                     stamp=5_000 + n * 475 * 160, talk=mine)
    calls = record(wire, tmp_path)
    assert len(calls) == 2
    first, second = (stream(c, A_RTP, B_RTP) for c in calls)
    assert first["packets"] + second["packets"] == one.packets + two.packets
    assert first["packets"] == 375  # up to half a second behind the BYE, where it pauses
    assert at(second["first"]) == pytest.approx(10.5, abs=0.001)


def test_ssrc_and_codec_changes(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    changing = Talk()
    for n, kind in enumerate((0, 9, 0)):
        wire.rtp(S + n * 2 * S, A_RTP, B_RTP, 1, 100, payload_type=kind, sequence=100 + n * 100, stamp=5_000 + n * 16_000,
                 talk=changing)
    one = wire.rtp(S, B_RTP, A_RTP, 2, 150)
    two = wire.rtp(4 * S, B_RTP, A_RTP, 3, 150, sequence=9_000)
    d.bye(7 * S + 100_000)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), changing, "caller")
    sent(stream(call, B_RTP, A_RTP, 2), one, "callee")
    sent(stream(call, B_RTP, A_RTP, 3), two, "callee")
    assert [(e["side"], e["detail"]) for e in call["events"]] == [("caller", "PCMU to G722"), ("callee", "2 to 3"),
                                                                   ("caller", "G722 to PCMU")]
    samples, rate = sound(tmp_path / "data", call)
    assert rate == 16_000
    assert len(samples) == pytest.approx(6 * rate, abs=160)
    left, right = loud(tmp_path / "data", call)
    assert left == right == list(range(60))


@pytest.mark.parametrize("behind_s", [0.5, 3.0])
def test_rtp_behind_the_bye(behind_s: float, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    both(wire, S, 200 + round(behind_s * 50))
    d.bye(5 * S)
    call = only(record(wire, tmp_path))
    assert [s["packets"] for s in call["streams"]] == [200 + min(50, round(behind_s * 50))] * 2


@pytest.mark.parametrize("late_s", [0.5, 4.5])
def test_signalling_behind_its_rtp(late_s: float, tmp_path: Path) -> None:
    wire = Wire()
    talks = both(wire, 0, 400)
    d = Dialog(wire)
    d.answered(round(late_s * S), after_us=300_000)
    d.bye(8 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_rtp_alone(count: int, tmp_path: Path) -> None:
    wire = Wire()
    talks = [wire.rtp(0, A_RTP, B_RTP, 1, 200), wire.rtp(5_000, B_RTP, A_RTP, 2, 200), wire.rtp(9_000, A_RTP, B_RTP, 3, 200)]
    sources = [(A_RTP, B_RTP), (B_RTP, A_RTP), (A_RTP, B_RTP)]
    wire.frames = [f for f in wire.frames if int.from_bytes(f.data[50:54], "big") <= count]
    call = only(record(wire, tmp_path))
    assert (call["state"], call["legs"], call["answer"], len(call["streams"])) == ("rtp-only", [], None, count)
    for n in range(count):
        sent(stream(call, *sources[n], n + 1), talks[n], "caller" if n != 1 else "callee")
    assert call["audio"]["duration_s"] == pytest.approx(4, abs=0.02)
    assert call["streams"][0]["codec"] == "PCMU"


def test_rtp_alone_until_an_invite_claims_it(tmp_path: Path) -> None:
    wire = Wire()
    talks = both(wire, 0, 3_000)
    d = Dialog(wire)
    d.answered(45 * S)
    d.bye(60 * S + 100_000)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    assert call["state"] == "answered"


@pytest.mark.parametrize("pause_s", [3, 12])
def test_ports_used_again_after_a_call_without_signalling(pause_s: int, tmp_path: Path) -> None:
    """Others talked through the gateway's port before: that is a call of theirs, and no part of the next one."""
    wire = Wire()
    gateway = ("10.0.0.9", 30_000)
    one = both(wire, 0, 500, ("10.0.0.7", 4000), gateway, (11, 12))
    begin = (10 + pause_s) * S
    d = Dialog(wire)
    d.answered(begin, answer=(sdp(gateway),))
    two = both(wire, begin + S, 100, A_RTP, gateway)
    d.bye(begin + 4 * S)
    alone, call = record(wire, tmp_path)
    assert (alone["state"], call["state"]) == ("rtp-only", "answered")
    for entry, talk, side in zip([*alone["streams"], *call["streams"]], [*one, *two], ("caller", "callee") * 2, strict=True):
        sent(entry, talk, side)


def test_capture_begun_in_mid_call(tmp_path: Path) -> None:
    wire = Wire()
    talks = both(wire, 0, 500)
    d = Dialog(wire)
    d.reinvite(4 * S, [sdp(A_RTP, direction="sendonly", version=2)], [sdp(B_RTP, direction="recvonly", version=2)])
    d.bye(10 * S + 100_000, by_caller=False)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["hangup_by"], call["end_reason"]) == ("answered", "callee", "bye")
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")


def test_no_bye_when_the_capture_ends(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    talks = both(wire, S, 200)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["end_reason"], call["hangup_by"]) == ("answered", "capture-stopped", None)
    assert at(call["end"]) == pytest.approx(4.985, abs=0.001)
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")


@pytest.mark.parametrize("minutes", [11, 125])
def test_long_call(minutes: int, tmp_path: Path) -> None:
    """Pieces after ten minutes, a new file after an hour. One side pauses between packets, the other nearly always."""
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    count = minutes * 60 * 4
    mine = wire.rtp(S, A_RTP, B_RTP, 1, count, step_us=S // 4, ticks=2_000)
    theirs = wire.rtp(2 * S, B_RTP, A_RTP, 2, 3)
    wire.rtp(2 * S + (minutes - 2) * 60 * S, B_RTP, A_RTP, 2, 3, sequence=103, stamp=5_000 + (minutes - 2) * 480_000, talk=theirs)
    d.bye(S + minutes * 60 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), mine, "caller")
    sent(stream(call, B_RTP, A_RTP), theirs, "callee")
    files = [call["audio"], *call["parts"]]
    assert len(files) == 1 + minutes // 60
    assert sum(f["duration_s"] for f in files) == pytest.approx(minutes * 60 - 0.23, abs=0.1)
    times = []
    for file in files:
        samples, rate = sf.read(tmp_path / "data" / file["path"], dtype="int16")
        begin = at(file["start"])
        places = np.flatnonzero(np.abs(samples[:len(samples) // 80 * 80, 0].astype(int)).reshape(-1, 80).mean(1) > 100)
        times += (begin + places[np.diff(places, prepend=-2) > 1] * 80 / rate).tolist()
        assert at(file["start"]) == pytest.approx(begin)
    assert times == pytest.approx([1 + n / 4 for n in range(count)], abs=0.02)


def test_a_relay_whose_one_side_moves_in_a_long_call(tmp_path: Path) -> None:
    """The far side of a relay, unheard in the call's first piece, is not heard beside the near one in the next."""
    wire = Wire()
    relay_a, relay_b, a2, relay_a2 = ("10.0.0.9", 30_000), ("10.0.0.9", 30_010), ("10.0.0.1", 4020), ("10.0.0.9", 30_020)
    d = Dialog(wire, hops=((A, PBX), (PBX, B)))
    d.answered(0, (sdp(A_RTP), sdp(relay_b)), (sdp(relay_a), sdp(B_RTP)))
    for begin, count, near, far in ((1, 750, A_RTP, relay_a), (756, 300, a2, relay_a2)):
        number = begin - 1
        wire.rtp(begin * S, near, far, 1, count, step_us=S, ticks=8_000, sequence=number, stamp=number * 8_000)
        wire.rtp(begin * S + 5_000, far, near, 2, count, step_us=S, ticks=8_000, sequence=number, stamp=number * 8_000)
    for src, dst, ssrc in ((relay_b, B_RTP, 1), (B_RTP, relay_b, 2)):
        wire.rtp(S + 300, src, dst, ssrc, 1055, step_us=S, ticks=8_000, sequence=0, stamp=0)
    d.reinvite(754 * S, [sdp(a2, version=2), sdp(relay_b, version=2)], [sdp(relay_a2, version=2), sdp(B_RTP, version=2)])
    d.bye(1057 * S)
    call = only(record(wire, tmp_path))
    assert len(call["streams"]) == 6
    samples, _ = sound(tmp_path / "data", call)
    for side in range(2):
        places = np.flatnonzero(np.abs(samples[:len(samples) // 80 * 80, side].astype(int)).reshape(-1, 80).mean(1) > 100)
        assert np.count_nonzero(np.diff(places, prepend=-2) > 1) == 1050
