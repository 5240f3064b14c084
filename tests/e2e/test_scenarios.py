"""What `rokuon record` makes of a phone's ways, held against what was sent: signalling, binding, streams, audio, ids."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

import soundfile as sf
from tests.e2e.scenarios import A_RTP, B_RTP, C_RTP, PBX, T0_US, A, B, Dialog, Frame, S, Talk, Wire, both, plain, sdp

from rokuon.cli import main
from rokuon.decoders import registry
from rokuon.store.sidecar import nanoseconds

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]


def rokuon(data: Path, *arguments: object) -> str:
    """Standard output of a command in this process, which has to succeed."""
    done = CliRunner().invoke(main, ["--data", str(data), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def calls_of(data: Path) -> list[Json]:
    """All calls, oldest first."""
    return list(reversed(json.loads(rokuon(data, "calls", "--json"))))


def record(wire: Wire, tmp_path: Path, *more: object) -> list[Json]:
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", wire.write(tmp_path / "a.pcap"), *more)
    return calls_of(tmp_path / "data")


def only(calls: list[Json]) -> Json:
    assert len(calls) == 1, [(c["state"], c["start"]) for c in calls]
    return calls[0]


def stream(call: Json, src: tuple[str, int], dst: tuple[str, int], ssrc: int | None = None) -> Json:
    """The one stream between two places."""
    def text(a: tuple[str, int]) -> str:
        return f"[{a[0]}]:{a[1]}" if ":" in a[0] else f"{a[0]}:{a[1]}"
    found = [s for s in call["streams"] if (s["src"], s["dst"]) == (text(src), text(dst)) and ssrc in (None, s["ssrc"])]
    assert len(found) == 1, [(s["src"], s["dst"], s["ssrc"], s["vlan"]) for s in call["streams"]]
    return found[0]


def sent(entry: Json, talk: Talk, side: str, lost: int = 0) -> None:
    assert (entry["direction"], entry["packets"], entry["lost"]) == (side, talk.packets, lost)
    assert entry["payload_sha256"] == talk.sha256


def at(text: str) -> float:
    """Seconds since the capture's beginning."""
    return (nanoseconds(text) - T0_US * 1000) / 1e9


def events(call: Json, kind: str) -> list[tuple[str, float]]:
    return [(e["side"], round(at(e["time"]), 2)) for e in call["events"] if e["type"] == kind]


def sound(data: Path, call: Json) -> tuple[Any, int]:
    """Samples (n, 2) of a call's only audio file, and their rate."""
    assert call["audio"], call.get("audio_reason")
    assert call["parts"] == []
    return sf.read(data / call["audio"]["path"], dtype="int16")


def loud(data: Path, call: Json) -> tuple[list[int], list[int]]:
    """Of both sides, in which tenths of a second of the call's audio they are heard."""
    samples, rate = sound(data, call)
    tenth = rate // 10
    blocks = np.abs(samples[:len(samples) // tenth * tenth].astype(int)).reshape(-1, tenth, 2).mean(1) > 100
    return np.flatnonzero(blocks[:, 0]).tolist(), np.flatnonzero(blocks[:, 1]).tolist()


# -- media of answered calls ---------------------------------------------------
def test_early_media_then_both_sides_move(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(100_000, 183, sdp(B_RTP))
    early = wire.rtp(200_000, B_RTP, A_RTP, 2, 40)
    d.response(S, 200, sdp(B_RTP))
    d.request(S + 50_000, "ACK")
    wire.rtp(S, B_RTP, A_RTP, 2, 100, sequence=140, stamp=5_000 + 6_400, talk=early)
    mine = wire.rtp(S + 60_000, A_RTP, B_RTP, 1, 97)
    a2, b2 = ("10.0.0.1", 4010), ("10.0.0.77", 6010)
    d.reinvite(3 * S, [sdp(a2, version=2)], [sdp(b2, version=2)])
    later = both(wire, 3 * S + 100_000, 100, a2, b2, (11, 12))
    d.bye(5 * S + 200_000)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["hangup_by"], call["duration_s"], call["setup_s"]) == ("answered", "caller", 4.2, 1.0)
    sent(stream(call, B_RTP, A_RTP), early, "callee")
    sent(stream(call, A_RTP, B_RTP), mine, "caller")
    sent(stream(call, a2, b2), later[0], "caller")
    sent(stream(call, b2, a2), later[1], "callee")
    assert at(call["audio"]["start"]) == pytest.approx(0.2, abs=0.001)
    left, right = loud(tmp_path / "data", call)
    assert left == [*range(8, 28), *range(29, 49)]  # from 1.06 to 3.0 s, and from 3.1 s; file begins at 0.2 s
    assert right[:8] == list(range(8))
    assert right[-1] == 48


@pytest.mark.parametrize("pause", [True, False])
@pytest.mark.parametrize("way", ["sendonly", "inactive", "0.0.0.0"])  # noqa: S104
def test_hold(way: str, pause: bool, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    mine = wire.rtp(S, A_RTP, B_RTP, 1, 100)
    theirs = wire.rtp(S, B_RTP, A_RTP, 2, 100)
    held = sdp(A_RTP, address="0.0.0.0", version=2) if way == "0.0.0.0" else sdp(A_RTP, direction=way, version=2)  # noqa: S104
    d.reinvite(3 * S, [held], [sdp(B_RTP, direction="inactive" if way == "inactive" else "recvonly", version=2)])
    if not pause:  # music from the holder, silence from the other
        wire.rtp(3 * S, A_RTP, B_RTP, 1, 150, sequence=200, stamp=5_000 + 16_000, talk=mine)
        wire.rtp(3 * S, B_RTP, A_RTP, 2, 150, sequence=200, stamp=5_000 + 16_000, talk=theirs)
    d.reinvite(6 * S, [sdp(A_RTP, version=3)], [sdp(B_RTP, version=3)])
    number = 200 if pause else 350
    wire.rtp(6 * S, A_RTP, B_RTP, 1, 50, sequence=number, stamp=5_000 + 40_000, talk=mine)
    wire.rtp(6 * S, B_RTP, A_RTP, 2, 50, sequence=number, stamp=5_000 + 40_000, talk=theirs)
    d.bye(7 * S + 100_000)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), mine, "caller")
    sent(stream(call, B_RTP, A_RTP), theirs, "callee")
    assert events(call, "hold") == [("caller", 3.0)]
    assert events(call, "resume") == [("caller", 6.0)]
    assert call["audio"]["duration_s"] == pytest.approx(6.0, abs=0.005)
    left, right = loud(tmp_path / "data", call)
    assert left == right == ([*range(20), *range(50, 60)] if pause else list(range(60)))


def test_proxy_that_leaves_sdp_alone(tmp_path: Path) -> None:
    wire = Wire()
    talks = plain(wire, hops=((A, PBX), (PBX, B)))
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    assert len(call["streams"]) == 2
    assert len(call["legs"]) == 1
    assert (call["caller"]["address"], call["end_reason"], at(call["end"])) == (A[0], "bye", 5.1)


@pytest.mark.parametrize("pieces", [False, True])
def test_media_relay_between_two_hops(pieces: bool, tmp_path: Path) -> None:
    """The same voice before and behind the relay: both paths are listed, one is heard, also when an address moves on."""
    wire = Wire()
    relay_a, relay_b = ("10.0.0.9", 30_000), ("10.0.0.9", 30_010)
    d = Dialog(wire, hops=((A, PBX), (PBX, B)))
    d.answered(0, (sdp(A_RTP), sdp(relay_b)), (sdp(relay_a), sdp(B_RTP)))
    step, count = (S, 800) if pieces else (20_000, 200)  # 800 s: the call's first 595 s are a piece
    for talk in (
        wire.rtp(S, A_RTP, relay_a, 1, count, step_us=step, ticks=step // 125),
        wire.rtp(S + 300, relay_b, B_RTP, 1, count, step_us=step, ticks=step // 125),
        wire.rtp(S + 4_700, B_RTP, relay_b, 2, count, step_us=step, ticks=step // 125),
        wire.rtp(S + 5_000, relay_a, A_RTP, 2, count, step_us=step, ticks=step // 125),
    ):
        assert talk.packets == count
    d.bye(S + count * step + 50_000)
    call = only(record(wire, tmp_path))
    assert len(call["streams"]) == 4
    assert sorted(s["direction"] for s in call["streams"]) == ["callee", "callee", "caller", "caller"]
    for one, two in (((A_RTP, relay_a), (relay_b, B_RTP)), ((B_RTP, relay_b), (relay_a, A_RTP))):
        assert stream(call, *one)["payload_sha256"] == stream(call, *two)["payload_sha256"]
    one_way = Wire()
    e = Dialog(one_way)
    e.answered()
    both(one_way, S, count, step_us=step, ticks=step // 125)
    e.bye(S + count * step + 50_000)
    (tmp_path / "one").mkdir()
    alone = only(record(one_way, tmp_path / "one"))
    assert call["audio"]["sha256"] == alone["audio"]["sha256"]


def test_behind_nat(tmp_path: Path) -> None:
    """The caller's SDP names a private address; its RTP comes from, and goes to, what the NAT made of it."""
    wire = Wire()
    private, public = ("192.168.1.5", 4000), ("10.0.0.1", 61_234)
    d = Dialog(wire)
    d.answered(0, (sdp(private),))
    talks = both(wire, S, 200, public, B_RTP)
    d.bye(5 * S + 100_000)
    call = only(record(wire, tmp_path))
    sent(stream(call, public, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, public), talks[1], "callee")
    left, right = loud(tmp_path / "data", call)
    assert left == right == list(range(40))


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_one_way_call(side: str, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    talk = wire.rtp(S, *((A_RTP, B_RTP) if side == "caller" else (B_RTP, A_RTP)), 1, 100)
    d.bye(3 * S + 100_000)
    call = only(record(wire, tmp_path))
    assert len(call["streams"]) == 1
    sent(call["streams"][0], talk, side)
    heard = loud(tmp_path / "data", call)
    assert heard == ((list(range(20)), []) if side == "caller" else ([], list(range(20))))


def test_fork_with_two_early_media_streams(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire, hops=((A, PBX),))
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(100_000, 183, sdp(B_RTP), to_tag="tb")
    d.response(120_000, 183, sdp(C_RTP), to_tag="tc")
    early_b = wire.rtp(200_000, B_RTP, A_RTP, 2, 50)
    early_c = wire.rtp(200_000, C_RTP, A_RTP, 3, 50)
    d.to_tag = "tc"
    d.response(2 * S, 200, sdp(C_RTP))
    d.request(2 * S + 40_000, "ACK")
    wire.rtp(2 * S, C_RTP, A_RTP, 3, 100, sequence=150, stamp=5_000 + 90 * 160, talk=early_c)
    mine = wire.rtp(2 * S, A_RTP, C_RTP, 1, 100)
    d.bye(4 * S + 100_000)
    call = only(record(wire, tmp_path))
    sent(stream(call, B_RTP, A_RTP), early_b, "callee")
    sent(stream(call, C_RTP, A_RTP), early_c, "callee")
    sent(stream(call, A_RTP, C_RTP), mine, "caller")
    assert (call["state"], len(call["legs"]), call["legs"][0]["to_tag"]) == ("answered", 1, "tc")
    once = sf.read(tmp_path / "data" / call["audio"]["path"], dtype="int16")[0][:8000, 1]
    assert np.abs(once).mean() > 100


# -- signalling ----------------------------------------------------------------
@pytest.mark.parametrize("status", [401, 407])
def test_challenge_is_followed_up(status: int, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(50_000, status, to_tag="other")
    d.request(60_000, "ACK", to_tag="other", fresh=False)
    d.answered(200_000)
    both(wire, 2 * S, 100)
    d.bye(4 * S + 100_000)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["sip_status"], at(call["start"]), at(call["answer"])) == ("answered", 200, 0.0, 1.2)
    assert len(call["legs"]) == 1
    assert [s["packets"] for s in call["streams"]] == [100, 100]


def test_cancel_that_crosses_the_answer(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.request(0, "INVITE", sdp(A_RTP))
    d.response(100_000, 180)
    d.request(S, "CANCEL", fresh=False)
    d.response(S + 1_000, 200, sdp(B_RTP))
    d.response(S + 20_000, 200, method="CANCEL")
    d.request(S + 30_000, "ACK")
    wire.rtp(S + 5_000, B_RTP, A_RTP, 2, 5)
    d.bye(S + 110_000)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["sip_status"], call["end_reason"], call["hangup_by"]) == ("answered", 200, "bye", "caller")
    assert len(call["streams"]) == 1


def test_challenged_bye(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    talks = both(wire, S, 250)
    d.request(3 * S, "BYE")
    d.response(3 * S + 20_000, 407, method="BYE")
    d.bye(6 * S + 100_000)
    call = only(record(wire, tmp_path))
    assert (call["end_reason"], at(call["end"]), call["duration_s"]) == ("bye", 6.1, 5.1)
    for entry, talk, side in zip(call["streams"], talks, ("caller", "callee"), strict=True):
        sent(entry, talk, side)


def test_offer_in_the_answer(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.request(0, "INVITE")
    d.response(100_000, 180)
    d.response(S, 200, sdp(B_RTP))
    d.request(S + 50_000, "ACK", sdp(A_RTP))
    talks = both(wire, S + 10_000, 100)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    assert call["events"] == []


@pytest.mark.parametrize(("charset", "name"), [("utf-8", "田中 花子"), ("euc_jp", "株式会社とよた"),
                                             ("cp932", "株式会社ソニック")])
def test_japanese_names(charset: str, name: str, tmp_path: Path) -> None:
    wire = Wire()
    plain(wire, name=b'"' + name.encode(charset) + b'"', seconds=1)
    assert only(record(wire, tmp_path))["caller"]["name"] == name


# -- spans of time ---------------------------------------------------------------
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


# -- what is not plain G.711 audio -----------------------------------------------
def test_video_beside_audio(tmp_path: Path) -> None:
    wire = Wire()
    lines = ["m=video {} RTP/AVP 96", "a=rtpmap:96 H264/90000"]
    d = Dialog(wire)
    d.answered(0, (sdp(A_RTP, more=[line.format(4002) for line in lines]),), (sdp(B_RTP, more=[x.format(6002) for x in lines]),))
    talks = both(wire, S, 100)
    video = both(wire, S, 100, ("10.0.0.1", 4002), ("10.0.0.2", 6002), (31, 32), payload_type=96, ticks=1800)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    assert {s["codec"] for s in call["streams"]} == {"PCMU", "H264"}
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, ("10.0.0.1", 4002), ("10.0.0.2", 6002)), video[0], "caller")
    assert call["audio"]["format"] == "ulaw" or "ulaw" in call["audio"]["format"]
    assert "audio_reason" not in call or call["audio_reason"] is None


def test_codec_without_decoder(tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered(0, (sdp(A_RTP, "18"),), (sdp(B_RTP, "18"),))
    talks = both(wire, S, 100, payload_type=18)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    assert call["audio"] is None
    assert "G729" in call["audio_reason"]
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    assert [s["codec"] for s in call["streams"]] == ["G729", "G729"]
    assert len(list((tmp_path / "data").rglob("*.pcap"))) == 1


@pytest.mark.parametrize("minutes", [0, 21])
def test_decoder_installed_later(minutes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packets of a codec that nobody decodes are kept; with the example's plugin they become sound."""
    wire = Wire()
    d = Dialog(wire)
    d.answered(0, (sdp(A_RTP, "5"),), (sdp(B_RTP, "5"),))
    step, count = (S, minutes * 60) if minutes else (20_000, 100)  # a long call comes in pieces
    talks = both(wire, S, count, payload_type=5, step_us=step, ticks=step // 125)
    d.bye(S + count * step)
    before = only(record(wire, tmp_path))
    assert before["audio"] is None
    assert "DVI4" in before["audio_reason"]
    monkeypatch.syspath_prepend(ROOT / "examples" / "rokuon-codec-dvi4")
    info = tmp_path / "site" / "rokuon_codec_dvi4-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rokuon-codec-dvi4\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rokuon.decoders]\nDVI4 = rokuon_codec_dvi4:DVI4\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    registry.forget()
    try:
        rokuon(tmp_path / "data", "decode", "last")
    finally:
        monkeypatch.undo()
        registry.forget()
    call = only(calls_of(tmp_path / "data"))
    assert (call["id"], call["legs"], call["events"]) == (before["id"], before["legs"], before["events"])
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    assert all(len(heard) > count / 10 for heard in loud(tmp_path / "data", call))  # what random DVI4 sounds like


def test_sealed_media(tmp_path: Path) -> None:
    wire = Wire()
    crypto = ["a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"]
    d = Dialog(wire)
    d.answered(0, (sdp(A_RTP, proto="RTP/SAVP", more=crypto),), (sdp(B_RTP, proto="RTP/SAVP", more=crypto),))
    both(wire, S, 100)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    assert call["audio"] is None
    assert "SRTP" in call["audio_reason"]
    assert [(s["packets"], s["codec"]) for s in call["streams"]] == [(100, "PCMU"), (100, "PCMU")]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("relayed", [False, True])
def test_digits_count_once(copies: int, relayed: bool, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire, hops=((A, PBX), (PBX, B)) if relayed else ((A, B),))
    near, far = (("10.0.0.9", 30_000), ("10.0.0.9", 30_010)) if relayed else (B_RTP, A_RTP)
    d.answered(0, (sdp(A_RTP), sdp(far)), (sdp(near), sdp(B_RTP)))
    for src, dst, delay in ((A_RTP, near, 0), (far, B_RTP, 400))[:2 if relayed else 1]:
        for n in range(3):
            number, at_us = 100 + n * 33, S + n * 660_000 + delay
            wire.rtp(at_us, src, dst, 1, 25, sequence=number, stamp=5_000 + n * 33 * 160)
            wire.key(at_us + 500_000, src, dst, 1, (5, 5, 11)[n], number + 25, 5_000 + (n * 33 + 25) * 160, copies)
    d.bye(4 * S)
    (tmp_path / "rokuon.toml").write_text("[record]\nmask_digits = false\n")
    capture = wire.write(tmp_path / "a.pcap")
    rokuon(tmp_path / "data", "--config", tmp_path / "rokuon.toml", "record", "--jobs", 1, "-r", capture)
    call = only(calls_of(tmp_path / "data"))
    assert [(e["side"], e["detail"]) for e in call["events"]] == [("caller", "5"), ("caller", "5"), ("caller", "#")]


# -- how it was captured -----------------------------------------------------------
def copied(wire: Wire, how: str) -> Wire:
    """Every packet once more, as a mirror may bring it."""
    again = Wire()
    for f in wire.frames:
        data = f.data
        if how in ("router", "router and tag"):  # another router's side of it: TTL one less, other MACs
            data = bytes.fromhex("020000000050020000000051") + data[12:22] + bytes([data[22] - 1]) + data[23:]
        if how in ("tag", "router and tag"):
            data = data[:12] + b"\x81\x00\x00\x64" + data[12:]
        again.frames += [f, Frame(f.at_us + 30, data)]
    return again


@pytest.mark.parametrize("how", ["same", "router", "tag", "router and tag"])
def test_mirror_that_brings_everything_twice(how: str, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    talks = both(wire, S, 150)
    wire.key(4 * S, A_RTP, B_RTP, 1, 5, 250, 5_000 + 150 * 160)
    d.reinvite(2 * S, [sdp(A_RTP, direction="sendonly", version=2)], [sdp(B_RTP, direction="recvonly", version=2)])
    d.bye(5 * S)
    (tmp_path / "one").mkdir()
    once = only(record(wire, tmp_path / "one"))
    call = only(record(copied(wire, how), tmp_path))
    for side, talk in zip((A_RTP, B_RTP), talks, strict=True):
        entry = stream(call, side, B_RTP if side is A_RTP else A_RTP)
        assert (entry["packets"], entry["lost"]) == (talk.packets + 8 * (side is A_RTP), 0)
        assert entry["payload_sha256"] == talk.sha256
        assert entry["vlan"] == []
    assert call["id"] == once["id"]
    assert call["audio"]["sha256"] == once["audio"]["sha256"]
    assert call["events"] == once["events"]
    shown, told = (json.loads(rokuon(where / "data", "show", "--json", "last")) for where in (tmp_path, tmp_path / "one"))
    assert shown["messages"] == told["messages"]
    assert all(call[key] == once[key] for key in ("start", "answer", "end", "legs"))


def test_what_one_copy_lacks_the_other_has(tmp_path: Path) -> None:
    wire = Wire()
    talks = plain(wire)
    rng = random.Random(3)
    frames = copied(wire, "tag").frames
    wire.frames = [f for n, f in enumerate(frames) if len(f.data) > 250 or n % 2 == 0 or rng.random() < 0.9]
    holes = [n for n in rng.sample(range(len(wire.frames)), 60) if len(wire.frames[n].data) == 214]
    wire.frames = [f for n, f in enumerate(wire.frames) if n not in holes or wire.frames[n + 1].at_us != f.at_us + 30]
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    assert call["anomalies"]["mirror-copies"] > 300


def test_each_direction_on_its_own_interface(tmp_path: Path) -> None:
    wire = Wire()
    talks = plain(wire)
    wire.frames = [f._replace(interface=int(f.data[26:30] == bytes([10, 0, 0, 2]))) for f in wire.frames]
    assert {f.interface for f in wire.frames} == {0, 1}
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")


@pytest.mark.parametrize("size", [1, 7, 400, 100_000])
def test_sip_over_tcp_cut_anywhere(size: int, tmp_path: Path) -> None:
    class Tcp(Dialog):
        def deliver(self, at_us: int, src: tuple[str, int], dst: tuple[str, int], message: bytes) -> None:
            pending.setdefault((src, dst), []).append((at_us, message))
    pending: dict[Any, list[tuple[int, bytes]]] = {}
    wire = Wire()
    d = Tcp(wire)
    d.answered()
    talks = both(wire, S, 100)
    d.bye(4 * S)
    for (src, dst), messages in pending.items():
        number = 0xFFFFFF00  # wraps soon
        for at_us, message in messages:
            for n in range(0, len(message), size):
                part = message[n:n + size]
                wire.tcp(at_us + n // size, src, dst, number & 0xFFFFFFFF, part)
                number += len(part)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["end_reason"], len(call["streams"])) == ("answered", "bye", 2)
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")


A6, B6 = ("2001:db8::1", 5060), ("2001:db8::2", 5060)
A6_RTP, B6_RTP = ("2001:db8::1", 4000), ("2001:db8::2", 6000)


@pytest.mark.parametrize("extended", [False, True])
def test_ipv6(extended: bool, tmp_path: Path) -> None:
    wire = Wire()
    link = {"extended": extended}
    d = Dialog(wire, hops=((A6, B6),), link=link)
    d.answered(0, (sdp(("2001:DB8:0::1", 4000)),), (sdp(B6_RTP),))
    talks = both(wire, S, 100, A6_RTP, B6_RTP, **link)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A6_RTP, B6_RTP), talks[0], "caller")
    sent(stream(call, B6_RTP, A6_RTP), talks[1], "callee")


@pytest.mark.parametrize("ends", [(A, B), (A6, B6)])
def test_fragmented_invite(ends: tuple[Any, Any], tmp_path: Path) -> None:
    class Fragmented(Dialog):
        def deliver(self, at_us: int, src: tuple[str, int], dst: tuple[str, int], message: bytes) -> None:
            self.wire.fragments(at_us, src, dst, message, 1280 if ":" in src[0] else 256)
    wire = Wire()
    d = Fragmented(wire, hops=(ends,))
    padding = [f"a=x-padding:{'p' * 900}"] * 3
    d.answered(0, (sdp(A_RTP, more=padding),))
    talks = both(wire, S, 100)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    assert call["end_reason"] == "bye"


# -- the same packets, told otherwise ------------------------------------------------
def several(wire: Wire) -> None:
    """A few calls beside and behind each other, one without signalling, one over a minute long."""
    for n in range(4):
        a, b = ("10.1.0.1", 4000 + 2 * n), ("10.1.0.2", 6000 + 2 * n)
        d = Dialog(wire, f"several{n}@x", from_tag=f"f{n}", to_tag=f"t{n}")
        d.answered(n * 3 * S, (sdp(a),), (sdp(b),))
        both(wire, n * 3 * S + S, 150 + 50 * n, a, b, (10 * n + 1, 10 * n + 2))
        d.bye((n * 3 + 4 + n) * S + 100_000, by_caller=bool(n % 2))
    both(wire, 2 * S, 100, ("10.2.0.1", 4000), ("10.2.0.2", 6000), (91, 92))


def essence(calls: list[Json], data: Path) -> list[Json]:
    """What must not depend on how the capture came."""
    for call in calls:
        call["audio bytes"] = (data / call["audio"]["path"]).read_bytes()
    return calls


@pytest.fixture(scope="module")
def all_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Wire, list[Json], Path]:
    wire = Wire()
    several(wire)
    base = tmp_path_factory.mktemp("once")
    calls = record(wire, base)
    assert sorted(c["state"] for c in calls) == ["answered"] * 4 + ["rtp-only"]
    return wire, essence(calls, base / "data"), base


def test_split_at_random(all_at_once: tuple[Wire, list[Json], Path], tmp_path: Path) -> None:
    wire, calls, _ = all_at_once
    frames = wire.sorted()
    places = sorted(random.Random(5).sample(range(1, len(frames)), 9))
    parts = [wire.write(tmp_path / f"{n}.pcap", frames[low:high])
             for n, (low, high) in enumerate(zip([0, *places], [*places, len(frames)], strict=True))]
    random.Random(6).shuffle(parts)
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", *parts)
    assert essence(calls_of(tmp_path / "data"), tmp_path / "data") == calls


def test_overlapping_files_of_a_ring(all_at_once: tuple[Wire, list[Json], Path], tmp_path: Path) -> None:
    wire, calls, _ = all_at_once
    frames = wire.sorted()
    half = len(frames) // 2
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", wire.write(tmp_path / "1.pcap", frames[:half + 700]),
           wire.write(tmp_path / "2.pcap", frames[half - 700:]))
    again = essence(calls_of(tmp_path / "data"), tmp_path / "data")
    assert again == calls


def test_once_more_adds_nothing(all_at_once: tuple[Wire, list[Json], Path]) -> None:
    _, calls, base = all_at_once
    before = {path: path.read_bytes() for path in sorted((base / "data" / "recordings").rglob("*.*"))}
    rokuon(base / "data", "record", "--jobs", 1, "-r", base / "a.pcap")
    assert {path: path.read_bytes() for path in sorted((base / "data" / "recordings").rglob("*.*"))} == before
    assert essence(calls_of(base / "data"), base / "data") == calls


def test_reindex_is_the_same(all_at_once: tuple[Wire, list[Json], Path]) -> None:
    _, _, base = all_at_once
    queries = ["select * from calls order by id", "select * from legs order by all", "select * from streams order by all",
               "select * from events order by all"]
    before = [rokuon(base / "data", "sql", "--json", q) for q in queries]
    rokuon(base / "data", "reindex")
    assert [rokuon(base / "data", "sql", "--json", q) for q in queries] == before
