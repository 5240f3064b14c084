from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rokuon.store import audio_file
from rokuon.store.audio_file import WavFile, wav_header

KINDS = {"pcm16": "PCM_16", "ulaw": "ULAW", "alaw": "ALAW"}


def noise(frames: int, kind: str) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 256, frames * (4 if kind == "pcm16" else 2), dtype=np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held", [1 << 20, 1000])
def test_others_can_read_it(kind: str, held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_file, "HELD", held)
    path = tmp_path / "a" / "b" / "call.wav"
    wav = WavFile(path, kind, 16_000)
    parts = [noise(n, kind) for n in (300, 0, 1, 7000)]
    for part in parts:
        wav.write(part)
        assert not path.exists()
    made = wav.close(sync=True)
    content = path.read_bytes()
    assert made.path == path
    assert made.bytes == len(content)
    assert made.sha256 == hashlib.sha256(content).hexdigest()
    assert (made.format, made.channels, made.sample_rate, made.frames) == (f"wav/{kind}", 2, 16_000, 7301)
    assert content == wav_header(kind, 16_000, sum(map(len, parts))) + b"".join(p.tobytes() for p in parts)
    assert os.listdir(path.parent) == ["call.wav"]
    assert path.stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert path.parent.stat().st_mode & 0o777 == 0o750 & ~_umask()
    info = soundfile.info(str(path))
    assert (info.channels, info.samplerate, info.frames, info.subtype) == (2, 16_000, 7301, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_ffmpeg_reads_the_same_samples(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    wav = WavFile(path, kind, 8000)
    wav.write(noise(5000, kind))
    wav.close(sync=False)
    try:
        raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-"], check=True, capture_output=True).stdout
    except FileNotFoundError:
        pytest.skip("no ffmpeg")
    samples, _ = soundfile.read(str(path), dtype="int16")
    assert raw == samples.tobytes()


def test_both_ways_make_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for k, held in enumerate((1 << 20, 0)):
        monkeypatch.setattr(audio_file, "HELD", held)
        wav = WavFile(tmp_path / f"{k}.wav", "ulaw", 8000)
        wav.write(noise(4000, "ulaw"))
        wav.write(noise(10, "ulaw"))
        made.append(wav.close(sync=False).sha256)
    assert made[0] == made[1]


def test_an_empty_file(tmp_path: Path) -> None:
    made = WavFile(tmp_path / "x.wav", "pcm16", 8000).close(sync=False)
    assert (made.frames, made.bytes) == (0, 44)


@pytest.mark.parametrize("held", [1 << 20, 0])
def test_a_full_disk_leaves_nothing(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_file, "HELD", held)

    def full(fd: int, parts: list[memoryview]) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "writev", full)
    wav = WavFile(tmp_path / "x.wav", "ulaw", 8000)
    with pytest.raises(OSError, match="no space"):  # noqa: PT012 - which of them it is depends on what is held
        wav.write(noise(100, "ulaw"))
        wav.close(sync=False)
    assert os.listdir(tmp_path) == []


def test_writes_that_are_taken_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: real(fd, [next(p for p in parts if len(p))[:777]]))
    wav = WavFile(tmp_path / "x.wav", "ulaw", 8000)
    wav.write(noise(4000, "ulaw"))
    wav.close(sync=False)
    assert (tmp_path / "x.wav").read_bytes() == wav_header("ulaw", 8000, 8000) + noise(4000, "ulaw").tobytes()


def test_what_a_crash_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / f".x.wav.{os.getpid()}.part").write_bytes(b"older and longer" * 1000)
    wav = WavFile(tmp_path / "x.wav", "ulaw", 8000)
    wav.write(noise(10, "ulaw"))
    assert wav.close(sync=False).bytes == 58 + 20
    assert os.listdir(tmp_path) == ["x.wav"]


def test_discard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_file, "HELD", 0)
    wav = WavFile(tmp_path / "x.wav", "ulaw", 8000)
    wav.write(noise(10, "ulaw"))
    assert os.listdir(tmp_path) != []
    wav.discard()
    wav.discard()
    assert os.listdir(tmp_path) == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
