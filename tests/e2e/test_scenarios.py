"""What `rokuon record` makes of a phone's ways, held against what was sent: signalling, media, codecs."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

import soundfile as sf
from tests.e2e.recorded import at, calls_of, events, loud, only, record, rokuon, sent, stream
from tests.e2e.scenarios import A_RTP, B_RTP, C_RTP, PBX, A, B, Dialog, S, Wire, both, plain, sdp

from rokuon.decoders import registry

ROOT = Path(__file__).parents[2]


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


# -- what is not plain G.711 audio -----------------------------------------------
A_VIDEO, B_VIDEO = ("10.0.0.1", 4002), ("10.0.0.2", 6002)


def test_video_beside_audio(tmp_path: Path) -> None:
    wire = Wire()
    lines = ["m=video {} RTP/AVP 96", "a=rtpmap:96 H264/90000"]
    d = Dialog(wire)
    d.answered(0, (sdp(A_RTP, more=[line.format(4002) for line in lines]),), (sdp(B_RTP, more=[x.format(6002) for x in lines]),))
    talks = both(wire, S, 100)
    video = both(wire, S, 100, A_VIDEO, B_VIDEO, (31, 32), payload_type=96, ticks=1800)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    assert {s["codec"] for s in call["streams"]} == {"PCMU", "H264"}
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    for (src, dst), talk, side in zip(((A_VIDEO, B_VIDEO), (B_VIDEO, A_VIDEO)), video, ("caller", "callee"), strict=True):
        seen = stream(call, src, dst)
        assert (seen["direction"], seen["packets"], seen["lost"], seen["codec"]) == (side, talk.packets, 0, "H264")
        assert seen["payload_sha256"] is None
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
