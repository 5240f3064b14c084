from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tests.decoders.packets import MS, T0, Rtp, event, raw_records, records, talk

from rokuon.decoders.api import PayloadFormat
from rokuon.store import sidecar
from rokuon.store.finalize import CallFinalizer, CallPlan, FinalizeSettings, StreamPlan

Json = dict[str, Any]

FORMATS = {0: PayloadFormat("PCMU", 8000, 1, "", 0), 8: PayloadFormat("PCMA", 8000, 1, "", 8),
           9: PayloadFormat("G722", 8000, 1, "", 9), 13: PayloadFormat("CN", 8000, 1, "", 13),
           97: PayloadFormat("iLBC", 8000, 1, "", 97),
           98: PayloadFormat("L16", 44_100, 1, "", 98), 101: PayloadFormat("telephone-event", 8000, 1, "", 101)}
PARTY = {"number": "", "name": "", "uri": "", "address": ""}
FACTS: Json = {
    "id": "20260101T000000Z-abcdefgh", "schema": 1, "revision": 1, "state": "answered", "sip_status": 200, "end_reason": "bye",
    "hangup_by": None, "start": sidecar.iso(T0), "answer": None, "end": None, "duration_s": None, "setup_s": None,
    "caller": PARTY | {"number": "0312345678"}, "callee": PARTY | {"number": "200"}, "parties": [], "legs": [], "streams": [],
    "events": [], "messages": [], "audio": {"pending": True}, "parts": [], "related": [], "anomalies": {},
    "recorder": {"version": "0", "host": None, "interface": None, "dropped": None}, "tags": [], "notes": [], "hold": None}
STEM = "recordings/2026/01/01/00/20260101T000000Z-abcdefgh"


def stream(direction: str = "caller", ssrc: int = 1, **more: Any) -> StreamPlan:
    ends = ["10.0.0.1:4000", "10.0.0.2:5000"]
    src, dst = ends if direction == "caller" else ends[::-1]
    given = {"leg": 0, "hop": 0, "src": src, "dst": dst, "vlan": [], "formats": FORMATS, "voice": True} | more
    return StreamPlan(direction=direction, ssrc=ssrc, **given)  # type: ignore[arg-type]


def finalize(data: Path, packets: Sequence[list[Rtp]], plans: Sequence[StreamPlan] | None = None, facts: Json | None = None,
             **choices: Any) -> Json:
    plans = [stream("caller", 1), stream("callee", 2)] if plans is None else plans
    plan = CallPlan(FACTS, STEM, list(plans[:len(packets)]))
    maker = CallFinalizer(data, plan, FinalizeSettings(**choices))
    maker.add([records(p) for p in packets], None)
    call = maker.finish(facts, sync=False)
    assert sidecar.problems(call) == []
    assert json.loads((data / f"{STEM}.json").read_text()) == call
    assert not [name for _, _, names in os.walk(data) for name in names if name.startswith(".")]
    for part in [*([call["audio"]] if call["audio"] else []), *call["parts"]]:
        assert hashlib.sha256((data / part["path"]).read_bytes()).hexdigest() == part["sha256"]
    return call


def sound(data: Path, call: Json) -> np.ndarray:
    """Samples as soundfile reads them, shape (n, 2)."""
    samples, rate = soundfile.read(str(data / call["audio"]["path"]), dtype="int16", always_2d=True)
    assert rate == call["audio"]["sample_rate"]
    return samples


def codes(data: Path, call: Json) -> tuple[bytes, bytes]:
    content = (data / call["audio"]["path"]).read_bytes()[58:]
    return content[0::2], content[1::2]


def ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000


def test_one_law_stays_as_it_was_sent(tmp_path: Path) -> None:
    caller, callee = talk(100), talk(100, begin_ns=T0 + 100 * MS, seed=2)
    call = finalize(tmp_path, [caller, callee])
    audio = call["audio"]
    assert (audio["format"], audio["channels"], audio["sample_rate"]) == ("wav/ulaw", 2, 8000)
    assert (audio["start"], audio["duration_s"], audio["path"]) == (sidecar.iso(T0), 2.1, f"{STEM}.wav")
    left, right = codes(tmp_path, call)
    assert left == b"".join(p.payload for p in caller) + b"\xff" * 800
    assert right == b"\xff" * 800 + b"".join(p.payload for p in callee)
    assert (audio["corrections"], audio["concealed_ms"], call["parts"]) == ([], 0, [])
    entry = call["streams"][0]
    assert entry["payload_sha256"] == hashlib.sha256(b"".join(p.payload for p in caller)).hexdigest()
    assert (entry["codec"], entry["payload_type"], entry["clock_rate"]) == ("PCMU", 0, 8000)
    assert (entry["first"], entry["last"]) == (sidecar.iso(T0), sidecar.iso(T0 + 1980 * MS))
    assert (entry["r_factor"], entry["jitter_ms"]) == (93.2, 0)


def test_nothing_of_a_call_stays(tmp_path: Path) -> None:
    """A worker that runs for years looks for garbage in cycles seldom: there is to be none."""
    gc.collect()
    gc.disable()
    try:
        made, alive = [], weakref.WeakSet[object]()
        init = CallFinalizer.__init__
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CallFinalizer, "__init__", lambda self, *more: (made.append(1), alive.add(self), init(self, *more))[2])
            finalize(tmp_path, [talk(100), talk(100, begin_ns=T0 + 100 * MS, seed=2)])
        assert made
        assert not alive
    finally:
        gc.enable()


def test_both_laws_become_pcm(tmp_path: Path) -> None:
    caller, callee = talk(50), talk(50, payload_type=8, seed=2)
    call = finalize(tmp_path, [caller, callee])
    assert (call["audio"]["format"], call["audio"]["sample_rate"]) == ("wav/pcm16", 8000)
    samples = sound(tmp_path, call)
    for side, (packets, law) in enumerate(((caller, "ULAW"), (callee, "ALAW"))):
        raw = tmp_path / "raw"
        raw.write_bytes(b"".join(p.payload for p in packets))
        wanted, _ = soundfile.read(str(raw), dtype="int16", samplerate=8000, channels=1, subtype=law, format="RAW")
        assert (samples[:, side] == wanted).all()


def test_the_highest_rate_counts(tmp_path: Path) -> None:
    call = finalize(tmp_path, [talk(50), talk(50, payload_type=9, seed=2)])
    assert (call["audio"]["format"], call["audio"]["sample_rate"], call["audio"]["duration_s"]) == ("wav/pcm16", 16_000, 1.0)
    call = finalize(tmp_path, [talk(50), talk(50, payload_type=98, ticks=882, size=1764)])
    assert (call["audio"]["sample_rate"], call["audio"]["duration_s"]) == (44_100, 1.0)


def test_one_side_only(tmp_path: Path) -> None:
    call = finalize(tmp_path, [[], talk(50)])
    left, right = codes(tmp_path, call)
    assert left == b"\xff" * 8000
    assert right == b"".join(p.payload for p in talk(50))
    assert len(call["streams"]) == 1


def test_losses_are_silence_of_their_length(tmp_path: Path) -> None:
    sent = talk(100, payload_type=8)
    call = finalize(tmp_path, [sent[:40] + sent[43:]])
    left, _ = codes(tmp_path, call)
    assert left == b"".join(p.payload if not 40 <= k < 43 else b"\xd5" * 160 for k, p in enumerate(sent))
    assert (call["streams"][0]["lost"], call["audio"]["concealed_ms"]) == (3, 60)
    assert 70 < call["streams"][0]["r_factor"] < 93


def test_losses_before_pcm(tmp_path: Path) -> None:
    sent = talk(100, payload_type=9)
    call = finalize(tmp_path, [sent[:40] + sent[43:]])
    assert (sound(tmp_path, call)[40 * 320:43 * 320] == 0).all()
    assert (call["audio"]["duration_s"], call["audio"]["concealed_ms"]) == (2.0, 60)


def test_keys_do_not_sound(tmp_path: Path) -> None:
    sent = talk(100)
    pressed = event(sent[40], 5)
    call = finalize(tmp_path, [sent[:40] + pressed + sent[48:]])
    left, _ = codes(tmp_path, call)
    assert left == b"".join(p.payload if not 40 <= k < 48 else b"\xff" * 160 for k, p in enumerate(sent))
    assert call["events"] == [{"time": sidecar.iso(sent[40].time_ns), "type": "dtmf", "side": "caller", "detail": None,
                               "duration_ms": 120}]
    entry = call["streams"][0]
    assert (entry["packets"], entry["lost"], entry["payload_type"]) == (100, 0, 0)
    assert entry["payload_sha256"] == hashlib.sha256(b"".join(p.payload for p in sent[:40] + sent[48:])).hexdigest()
    assert call["audio"]["concealed_ms"] == 0


def test_a_key_that_two_streams_carry_is_one_press(tmp_path: Path) -> None:
    sent = talk(200)
    keys = event(sent[40], 5) + event(sent[60], 5) + event(sent[100], 11)
    relayed = [p.at(p.time_ns + 15 * MS) for p in keys if p not in keys[8:10]]
    plans = [stream(), stream(ssrc=2, leg=1, src="10.0.0.3:1", voice=False), stream("callee", ssrc=3)]
    call = finalize(tmp_path, [keys, relayed, event(sent[40], 1)], plans, show_digits=True)
    assert [(e["side"], e["detail"]) for e in call["events"]] == [
        ("caller", "5"), ("callee", "1"), ("caller", "5"), ("caller", "#")]


def test_what_is_sealed_presses_no_keys(tmp_path: Path) -> None:
    call = finalize(tmp_path, [event(talk(1)[0], 5)], [stream(sealed=True)])
    assert call["events"] == []


def test_keys_of_a_type_that_nobody_described(tmp_path: Path) -> None:
    keys = [Rtp(p.time_ns, p.sequence, p.timestamp, p.payload, 96) for p in event(talk(1)[0], 5)]
    call = finalize(tmp_path, [keys], show_digits=True)
    assert [e["detail"] for e in call["events"]] == ["5"]
    assert call["anomalies"] == {"guessed-telephone-event": 1}
    assert call["streams"][0]["codec"] is None
    assert call["audio_reason"] == "no voice in the media"


def test_comfort_noise_is_no_voice(tmp_path: Path) -> None:
    sent = talk(100)
    quiet = [Rtp(sent[40].time_ns, sent[40].sequence, sent[40].timestamp, b"\x40", 13)]
    after = [Rtp(p.time_ns, p.sequence - 29, p.timestamp, p.payload) for p in sent[70:]]
    call = finalize(tmp_path, [sent[:40] + quiet + after])
    left, _ = codes(tmp_path, call)
    assert left == b"".join(p.payload if not 40 <= k < 70 else b"\xff" * 160 for k, p in enumerate(sent))
    assert (call["streams"][0]["packets"], call["streams"][0]["lost"]) == (71, 0)


def test_the_codec_changes(tmp_path: Path) -> None:
    first, then = talk(50), talk(50, begin_ns=T0 + 1000 * MS, sequence=65_550, timestamp=0xFFFFF000 + 8000, payload_type=9)
    call = finalize(tmp_path, [first + then])
    assert call["audio"]["sample_rate"] == 16_000
    assert call["audio"]["duration_s"] == 2.0
    assert call["events"] == [{"time": sidecar.iso(T0 + 1000 * MS), "type": "codec-change", "side": "caller",
                               "detail": "PCMU to G722"}]
    assert call["streams"][0]["codec"] == "PCMU"
    samples = sound(tmp_path, call)[:, 0]
    assert np.abs(samples[:16_000]).mean() > 1000
    assert np.abs(samples[16_000:]).mean() > 100


def test_the_ssrc_changes(tmp_path: Path) -> None:
    first, then = talk(50), talk(50, begin_ns=T0 + 1000 * MS, sequence=5, timestamp=9, seed=2)
    call = finalize(tmp_path, [first, then], [stream(), stream(ssrc=2)])
    left, _ = codes(tmp_path, call)
    assert left == b"".join(p.payload for p in first + then)
    assert call["events"] == [{"time": sidecar.iso(T0 + 1000 * MS), "type": "ssrc-change", "side": "caller", "detail": "1 to 2"}]


@pytest.mark.parametrize(("packets", "plans", "reason"), [
    ([], [], "no media seen"),
    ([[]], [stream()], "no media seen"),
    ([talk(20, payload_type=97)], [stream()], "no decoder for iLBC"),
    ([talk(20, payload_type=99)], [stream()], "no description says what payload type 99 is"),
    ([talk(20)], [stream(sealed=True)], "the media is encrypted (SRTP)"),
    ([talk(20)], [stream(voice=False)], "no audio among the media"),
    ([event(talk(1)[0], 3)], [stream()], "no voice in the media"),
])
def test_why_there_is_no_audio(packets: list[list[Rtp]], plans: list[StreamPlan], reason: str, tmp_path: Path) -> None:
    call = finalize(tmp_path, packets, plans)
    assert call["audio"] is None
    assert call["audio_reason"] == reason
    assert len(call["streams"]) == sum(map(bool, packets))
    assert [p.name for p in tmp_path.rglob("*.*")] == [f"{FACTS['id']}.json"]


def test_a_side_that_cannot_be_decoded_is_silent(tmp_path: Path) -> None:
    call = finalize(tmp_path, [talk(100, payload_type=97), talk(50, begin_ns=T0 + 500 * MS)])
    assert call["audio"]["start"] == sidecar.iso(T0)
    assert 1.98 <= call["audio"]["duration_s"] <= 2.0
    assert set(codes(tmp_path, call)[0]) == {0xFF}
    assert call["streams"][0]["codec"] == "iLBC"


def test_late_facts_and_anomalies_join(tmp_path: Path) -> None:
    given = [(T0, b"\x80"), *((p.time_ns, p.octets()) for p in talk(20))]
    plan = CallPlan(FACTS, STEM, [stream()])
    maker = CallFinalizer(tmp_path, plan)
    maker.add([raw_records(given)], None)
    late = {"events": [{"time": sidecar.iso(T0), "type": "hold", "side": "caller", "detail": None}], "anomalies": {"bad-cseq": 2},
            "state": "failed"}
    call = maker.finish(late, sync=False)
    assert call["state"] == "failed"
    assert call["anomalies"] == {"bad-cseq": 2, "bad-rtp": 1}
    assert [e["type"] for e in call["events"]] == ["hold"]


def test_parts(tmp_path: Path) -> None:
    """Every part holds its seconds to the sample; together they are the call."""
    caller, callee = talk(500), talk(500, begin_ns=T0 + 105 * MS, seed=2)
    finalize(tmp_path / "whole", [caller, callee])
    call = finalize(tmp_path / "parts", [caller, callee], part_s=3, block_s=2)
    files = [call["audio"], *call["parts"]]
    assert [f["path"] for f in files] == [f"{STEM}.wav", f"{STEM}-2.wav", f"{STEM}-3.wav", f"{STEM}-4.wav"]
    assert [f["duration_s"] for f in files] == [3, 3, 3, pytest.approx(1.105)]
    assert [ns(f["start"]) for f in files] == [T0 + 3_000 * MS * k for k in range(4)]
    assert {(f["left"], f["right"]) for f in call["parts"]} == {("0312345678", "200")}
    content = b"".join((tmp_path / "parts" / f["path"]).read_bytes()[58:] for f in files)
    assert content == (tmp_path / "whole" / f"{STEM}.wav").read_bytes()[58:]


def test_a_richer_codec_late_in_a_long_call_begins_another_file(tmp_path: Path) -> None:
    first, then = talk(250), talk(250, begin_ns=T0 + 5_000 * MS, sequence=65_750, timestamp=0xFFFFF000 + 40_000, payload_type=9)
    call = finalize(tmp_path, [first + then], block_s=3)
    assert call["audio"]["format"] == "wav/ulaw"
    assert [p["format"] for p in call["parts"]] == ["wav/pcm16"]
    assert call["audio"]["duration_s"] + call["parts"][0]["duration_s"] == pytest.approx(10, abs=0.001)


def test_hours_of_nothing_are_not_written(tmp_path: Path) -> None:
    late = talk(100, begin_ns=T0 + 5 * 3600 * 1000 * MS, sequence=65_600, timestamp=0xFFFFF000 + 5 * 3600 * 8000)
    call = finalize(tmp_path, [talk(100) + late])
    assert call["audio"]["duration_s"] == 2
    assert [(p["start"], p["duration_s"]) for p in call["parts"]] == [(sidecar.iso(late[0].time_ns), 2)]


def test_a_forged_timestamp_makes_no_gigabytes(tmp_path: Path) -> None:
    sent = talk(100)
    forged = [p if k != 50 else Rtp(p.time_ns, p.sequence, p.timestamp + (1 << 30), p.payload) for k, p in enumerate(sent)]
    call = finalize(tmp_path, [forged])
    assert 1.9 <= call["audio"]["duration_s"] <= 2.1


def test_a_long_call_needs_no_more_than_a_block(tmp_path: Path) -> None:
    """Hours in pieces of a minute: what is held between them stays small."""
    plan = CallPlan(FACTS, STEM, [stream()])
    maker = CallFinalizer(tmp_path, plan, FinalizeSettings(block_s=30, part_s=600))
    total = 0
    for minute in range(30):
        begin = T0 + minute * 60_000 * MS
        packets = talk(3_000, begin, sequence=minute * 3_000, timestamp=minute * 3_000 * 160, seed=minute)
        maker.add([records(packets)], begin + 60_000 * MS)
        held = sum(len(r) for state in maker._streams for r in state._held)
        total += 3_000
        assert held <= 34 * 50
    maker.add([None], None)
    call = maker.finish(sync=False)
    assert call["streams"][0]["packets"] == total
    assert call["streams"][0]["lost"] == 0
    assert [f["duration_s"] for f in [call["audio"], *call["parts"]]] == [600, 600, 600]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = CallFinalizer(tmp_path, CallPlan(FACTS, STEM, [stream()]))
    maker.add([records(talk(100))], None)
    real = os.rename

    def full(source: Path, target: Path) -> None:
        if str(target).endswith(".json"):
            raise OSError(errno.ENOSPC, "no space left on device")
        real(source, target)

    monkeypatch.setattr(os, "rename", full)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        maker.finish(sync=True)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("stem", ["../x", "/etc/x", "recordings/../../x", ""])
def test_paths_stay_in_the_data(stem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a path"):
        CallFinalizer(tmp_path, CallPlan(FACTS, stem, []))
