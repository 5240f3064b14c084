"""Exported files hold the same sound, say other programs."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.store.sidecars import sidecar

from rokuon.store.errors import DataError, ExistsError
from rokuon.store.export import NoAudioError, Request, audio_files, export_call, format_of, to_stream
from rokuon.store.layout import Layout
from rokuon.store.sidecar import Sidecar, iso, nanoseconds, write

FFMPEG = shutil.which("ffmpeg")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
RATE = 8000


def wav(path: Path, tag: int, channels: int, rate: int, data: bytes) -> None:
    """A WAV file written by hand."""
    width = 1 if tag in (6, 7) else 2
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * channels * width, channels * width, width * 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<4sI4s4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16) + form
                     + struct.pack("<4sI", b"data", len(data)) + data)


def tone(hertz: float, seconds: float, rate: int = RATE) -> NDArray[np.int16]:
    return np.round(8000 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def pcm(left: NDArray[np.int16], right: NDArray[np.int16]) -> bytes:
    return np.stack([left, right], axis=1).astype("<i2").tobytes()


LEFT, RIGHT = tone(440, 2), tone(1000, 2)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def call(layout: Layout) -> Sidecar:
    """A call with two seconds of 16-bit stereo."""
    made = sidecar(0)
    wav(layout.audio(made["id"]), 1, 2, RATE, pcm(LEFT, RIGHT))
    write(layout.sidecar(made["id"]), made)
    return made


def heard(path: Path) -> NDArray[np.int16]:
    """The samples as ffmpeg reads them, shape (frames, channels)."""
    assert FFMPEG is not None
    probe = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "stream=channels", "-of", "csv=p=0", str(path)],
                           capture_output=True, check=True, text=True)
    raw = subprocess.run([FFMPEG, "-v", "error", "-i", str(path), "-f", "s16le", "-c:a", "pcm_s16le", "-"],
                         capture_output=True, check=True).stdout
    return np.frombuffer(raw, "<i2").reshape(-1, int(probe.stdout))


def test_wav_in_stereo_is_the_file_itself(layout: Layout, call: Sidecar, tmp_path: Path) -> None:
    target = tmp_path / "x.wav"
    assert export_call(layout, call["id"], target, Request()) == [target]
    assert target.read_bytes() == layout.audio(call["id"]).read_bytes()
    stream = io.BytesIO()
    to_stream(layout, call["id"], stream, Request())
    assert stream.getvalue() == target.read_bytes()


@needs_ffmpeg
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_lossless_formats_and_layouts(layout: Layout, call: Sidecar, tmp_path: Path, form: Any) -> None:
    stereo, mono = (export_call(layout, call["id"], tmp_path / f"{c}.{form}", Request(form, c))[0] for c in ("stereo", "mono"))
    np.testing.assert_array_equal(heard(stereo), np.stack([LEFT, RIGHT], axis=1))
    np.testing.assert_array_equal(heard(mono)[:, 0], LEFT + RIGHT)
    split = export_call(layout, call["id"], tmp_path / f"s.{form}", Request(form, "split"))
    sides: tuple[tuple[Any, Any], ...] = (("caller", LEFT), ("callee", RIGHT))
    for side, samples in sides:
        one, = export_call(layout, call["id"], tmp_path / f"{side}.{form}", Request(form, side))
        np.testing.assert_array_equal(heard(one)[:, 0], samples)
    assert [p.name for p in split] == [f"s-caller.{form}", f"s-callee.{form}"]
    np.testing.assert_array_equal(heard(split[0])[:, 0], LEFT)
    np.testing.assert_array_equal(heard(split[1])[:, 0], RIGHT)


def test_loud_voices_at_once_do_not_wrap_around(layout: Layout, tmp_path: Path) -> None:
    made = sidecar(0)
    loud = np.full(800, 30000, np.int16)
    wav(layout.audio(made["id"]), 1, 2, RATE, pcm(loud, loud))
    write(layout.sidecar(made["id"]), made)
    path = export_call(layout, made["id"], tmp_path / "x.wav", Request("wav", "mono"))[0]
    assert np.frombuffer(path.read_bytes()[-1600:], "<i2").min() == 32767


@needs_ffmpeg
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_opus(layout: Layout, tmp_path: Path, rate: int) -> None:
    made = sidecar(0)
    left, right = tone(440, 2, rate), tone(1000, 2, rate)
    wav(layout.audio(made["id"]), 1, 2, rate, pcm(left, right))
    write(layout.sidecar(made["id"]), made)
    sound = heard(export_call(layout, made["id"], tmp_path / "x.opus", Request("opus"))[0])
    for channel, hertz in enumerate((440, 1000)):
        part = sound[24000:72000, channel].astype(float)
        assert abs(np.argmax(np.abs(np.fft.rfft(part))) - hertz) <= 1  # a second of it: bins are hertz
        assert 0.7 < part.std() / (8000 / np.sqrt(2)) < 1.4


def test_opus_without_such_a_rate_is_said(layout: Layout, tmp_path: Path) -> None:
    made = sidecar(0)
    wav(layout.audio(made["id"]), 1, 2, 44100, pcm(LEFT, RIGHT))
    write(layout.sidecar(made["id"]), made)
    with pytest.raises(DataError, match="44100 Hz"):
        export_call(layout, made["id"], tmp_path / "x.opus", Request("opus"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


@needs_ffmpeg
@pytest.mark.parametrize("tag", [6, 7])
def test_g711_code_words_are_decoded_as_others_do(layout: Layout, tmp_path: Path, tag: int) -> None:
    made = sidecar(0)
    codes = bytes(range(256)) * 8
    wav(layout.audio(made["id"]), tag, 2, RATE, codes)
    write(layout.sidecar(made["id"]), made)
    flac = export_call(layout, made["id"], tmp_path / "x.flac", Request("flac"))[0]
    np.testing.assert_array_equal(heard(flac), heard(layout.audio(made["id"])))


# -- parts -------------------------------------------------------------------
def with_parts(layout: Layout, gaps_s: list[float], tag: int = 1) -> Sidecar:
    """A call of several files of one second, each `gaps_s` after the end of the one before."""
    made = sidecar(0)
    start = nanoseconds(made["audio"]["start"])
    parts = []
    for n, gap in enumerate([0.0, *gaps_s], 1):
        path = layout.audio(made["id"], n)
        wav(path, tag, 2, RATE, pcm(tone(100 * n, 1), tone(100 * n, 1)) if tag == 1 else bytes(range(250)) * 64)
        start += round(gap * 1e9)
        if n > 1:
            parts.append({"path": layout.relative(path), "start": iso(start), "duration_s": 1.0, "sha256": "",
                          "left": "", "right": ""})
        start += 1_000_000_000
    made["parts"] = parts
    write(layout.sidecar(made["id"]), made)
    return made


@needs_ffmpeg
def test_parts_of_one_talk_path_become_one_file(layout: Layout, tmp_path: Path) -> None:
    made = with_parts(layout, [0.0, 0.25])
    assert len(audio_files(layout, made["id"])) == 3
    paths = export_call(layout, made["id"], tmp_path / "x.wav", Request())
    assert [p.name for p in paths] == ["x.wav"]
    sound = heard(paths[0])[:, 0]
    gap = np.zeros(RATE // 4, np.int16)
    np.testing.assert_array_equal(sound, np.concatenate([tone(100, 1), tone(200, 1), gap, tone(300, 1)]))


@needs_ffmpeg
def test_parts_keep_their_law(layout: Layout, tmp_path: Path) -> None:
    made = with_parts(layout, [0.0], tag=7)
    path = export_call(layout, made["id"], tmp_path / "x.wav", Request())[0]
    assert path.stat().st_size < 2 * 16000 + 200
    one = heard(layout.audio(made["id"]))
    np.testing.assert_array_equal(heard(path), np.concatenate([one, one]))


def test_another_talk_path_is_a_file_of_its_own(layout: Layout, tmp_path: Path) -> None:
    made = with_parts(layout, [-0.8])
    paths = export_call(layout, made["id"], tmp_path / "x.wav", Request())
    assert [p.name for p in paths] == ["x.wav", "x-2.wav"]
    assert [p.read_bytes() for p in paths] == [layout.audio(made["id"], n).read_bytes() for n in (1, 2)]
    with pytest.raises(DataError, match="2 files"):
        to_stream(layout, made["id"], io.BytesIO(), Request())


# -- what can go wrong -------------------------------------------------------
def test_nothing_is_overwritten_unless_asked(layout: Layout, call: Sidecar, tmp_path: Path) -> None:
    target = tmp_path / "x.wav"
    target.write_text("mine")
    for request in (Request(), Request("wav", "mono")):
        with pytest.raises(ExistsError, match="is there already"):
            export_call(layout, call["id"], target, request)
    assert target.read_text() == "mine"
    export_call(layout, call["id"], target, Request(force=True))
    assert target.read_bytes()[:4] == b"RIFF"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "x.wav"]


def test_calls_without_audio_say_why(layout: Layout, tmp_path: Path) -> None:
    busy, pending = sidecar(2), sidecar(0, audio={"pending": True})
    for made, why in ((busy, "no media"), (pending, "being made")):
        layout.make_directory(layout.folder(made["id"]))
        write(layout.sidecar(made["id"]), made)
        with pytest.raises(NoAudioError, match=why):
            export_call(layout, made["id"], tmp_path / "x.wav", Request())
    with pytest.raises(NoAudioError, match="no packets"):
        export_call(layout, busy["id"], tmp_path / "x.pcap", Request("pcap"))


def test_damaged_archives_say_so(layout: Layout, call: Sidecar, tmp_path: Path) -> None:
    audio = layout.audio(call["id"])
    audio.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="is damaged"):
        export_call(layout, call["id"], tmp_path / "x.wav", Request())
    audio.unlink()
    with pytest.raises(DataError, match="is missing"):
        export_call(layout, call["id"], tmp_path / "x.wav", Request())
    call["audio"]["path"] = "../../etc/passwd"
    write(layout.sidecar(call["id"]), call)
    with pytest.raises(DataError, match="outside the recordings"):
        export_call(layout, call["id"], tmp_path / "x.wav", Request())


def test_a_place_that_is_none(layout: Layout, call: Sidecar, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        export_call(layout, call["id"], tmp_path / "none" / "x.flac", Request("flac"))


def test_packets_are_the_kept_file(layout: Layout, call: Sidecar, tmp_path: Path) -> None:
    layout.packets(call["id"]).write_bytes(b"pcap")
    assert export_call(layout, call["id"], tmp_path / "x.pcap", Request("pcap"))[0].read_bytes() == b"pcap"


def test_format_by_name() -> None:
    names = ["a.wav", "a.FLAC", "a.opus", "a.ogg", "a.pcap", "a.mp3", "a"]
    assert [format_of(Path(n)) for n in names] == ["wav", "flac", "opus", "opus", "pcap", None, None]
