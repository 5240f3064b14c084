"""Calls as files for somebody else: audio in other formats and layouts, or the packets."""

# ruff: noqa: PLC0415 -- soundfile loads a library, which a copy of a file does not need

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rokuon.store.errors import DataError, ExistsError, StoreError
from rokuon.store.layout import FILE_MODE, Layout, refused
from rokuon.store.result_file import appear
from rokuon.store.sidecar import Sidecar, nanoseconds, read

__all__ = ["FORMATS", "LAYOUTS", "NoAudioError", "Request", "audio_files", "export_call", "format_of", "to_stream"]

Format = Literal["wav", "flac", "opus", "pcap"]
Channels = Literal["stereo", "mono", "split", "caller", "callee"]
FORMATS: tuple[Format, ...] = ("wav", "flac", "opus", "pcap")
LAYOUTS: tuple[Channels, ...] = ("stereo", "mono", "split", "caller", "callee")
SUFFIXES: dict[str, Format] = {".wav": "wav", ".flac": "flac", ".opus": "opus", ".ogg": "opus", ".pcap": "pcap"}
SIDES = ("caller", "callee")

OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
"""Sampling rates that libopus takes."""
BLOCK = 1 << 16
"""Frames read at a time: memory does not grow with the call."""
LARGEST_RIFF = 0xFFFFFFFF - 4096
ADJACENT_NS = 500_000_000
"""A part that begins this near to the end of the one before it goes on with it."""


class NoAudioError(StoreError):
    """The call has none of what was asked for; nothing is wrong with the archive."""


@dataclass(slots=True, frozen=True)
class Request:
    """What to make of a call."""

    format: Format = "wav"
    channels: Channels = "stereo"
    force: bool = False
    """Write over files that are there."""


def format_of(path: Path) -> Format | None:
    """The format that a file's name says."""
    return SUFFIXES.get(path.suffix.lower())


def audio_files(layout: Layout, call_id: str) -> list[Path]:
    """The call's audio files, parts in order. Raises NoAudioError with the reason, DataError for a damaged sidecar."""
    return [path for path, _ in stated_files(layout, read(layout.sidecar(call_id)))]


def stated_files(layout: Layout, sidecar: Sidecar) -> list[tuple[Path, int]]:
    """Audio files and when each begins."""
    audio = sidecar.get("audio")
    if not audio:
        raise NoAudioError(f"{sidecar['id']} has no audio: {sidecar.get('audio_reason') or 'no media'}")
    if audio.get("pending"):
        raise NoAudioError(f"{sidecar['id']} has no audio yet: it is being made")
    try:
        return [(layout.resolve(entry["path"]), nanoseconds(entry["start"])) for entry in [audio, *(sidecar.get("parts") or [])]]
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{layout.sidecar(sidecar['id'])} is damaged") from None


def export_call(layout: Layout, call_id: str, target: Path, request: Request) -> list[Path]:
    """Write a call as `target`, or where it becomes several files (split, more than one talk path) beside that name.

    Returns the files that were written. Raises NoAudioError, ExistsError, NotPermittedError, DataError; then files of
    this call that were written before stay.
    """
    if request.format == "pcap":
        packets = layout.packets(call_id)
        if not packets.is_file():
            raise NoAudioError(f"no packets of {call_id} are kept ([record] keep_packets)")
        return [copied(packets, target, request.force)]
    written: list[Path] = []
    for n, track in enumerate(tracks(stated_files(layout, read(layout.sidecar(call_id)))), 1):
        path = target if n == 1 else target.with_name(f"{target.stem}-{n}{target.suffix}")
        if request.channels == "split":
            for channel, side in enumerate(SIDES):
                if channel < track[0].channels:
                    written.append(converted(track, path.with_name(f"{path.stem}-{side}{path.suffix}"), request, channel))
        elif request.channels in SIDES:
            channel = SIDES.index(request.channels)
            if channel >= track[0].channels:
                raise NoAudioError(f"the sound of {call_id} has one channel: nobody knows whose")
            written.append(converted(track, path, request, channel))
        elif request.format == "wav" and len(track) == 1 and (request.channels == "stereo" or track[0].channels == 1):
            written.append(copied(track[0].path, path, request.force))
        else:
            written.append(converted(track, path, request, None))
    return written


def to_stream(layout: Layout, call_id: str, stream: IO[bytes], request: Request) -> None:
    """Write a call's one file to a stream. Raises as `export_call`, and DataError where it would be several files."""
    with tempfile.TemporaryDirectory(prefix="rokuon-") as folder:
        paths = export_call(layout, call_id, Path(folder) / f"call.{request.format}", request)
        if len(paths) > 1:
            raise DataError(f"{call_id} is {len(paths)} files: write them to a directory")
        with open(paths[0], "rb") as file:
            shutil.copyfileobj(file, stream, 1 << 20)


# -- reading -----------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Piece:
    """An audio file and what its header says."""

    path: Path
    start_ns: int
    frames: int
    rate: int
    channels: int
    subtype: str

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.frames * 1_000_000_000 // self.rate


def tracks(files: Sequence[tuple[Path, int]]) -> list[list[Piece]]:
    """Files that go on with each other put together: parts of one talk path, in order."""
    import soundfile  # type: ignore[import-untyped]

    found: list[list[Piece]] = []
    for path, start_ns in files:
        try:
            info = soundfile.info(str(path))
        except (soundfile.SoundFileError, OSError):
            raise DataError(f"{path} is missing" if not path.exists() else f"{path} is damaged") from None
        piece = Piece(path, start_ns, info.frames, info.samplerate, info.channels, info.subtype)
        for track in found:
            last = track[-1]
            same = (last.rate, last.channels, last.subtype) == (piece.rate, piece.channels, piece.subtype)
            if same and abs(piece.start_ns - last.end_ns) <= ADJACENT_NS:
                track.append(piece)
                break
        else:
            found.append([piece])
    return found


def blocks(track: Sequence[Piece]) -> Iterator[NDArray[np.int16]]:
    """Samples of a track, shape (frames, channels); what is missing between two parts is silence."""
    import soundfile

    end_ns = track[0].start_ns
    for piece in track:
        missing = max(0, piece.start_ns - end_ns) * piece.rate // 1_000_000_000
        if missing:
            yield np.zeros((missing, piece.channels), np.int16)
        with soundfile.SoundFile(str(piece.path)) as file:
            while len(block := file.read(BLOCK, dtype="int16", always_2d=True)):
                yield block
        end_ns = piece.end_ns


def mixed(block: NDArray[np.int16]) -> NDArray[np.int16]:
    """Both sides in one channel: added, held within 16 bits. People mostly speak in turn, so halving would only be quiet."""
    both: NDArray[np.int16] = np.clip(block.sum(axis=1, dtype=np.int32), -32768, 32767).astype(np.int16)
    return both


# -- writing -----------------------------------------------------------------
def converted(track: Sequence[Piece], target: Path, request: Request, channel: int | None) -> Path:
    """A track in another format; `channel`: only this one of it."""
    import soundfile

    single = channel is not None or request.channels == "mono"
    with whole(target, request.force) as part:
        with opened(part, track, request, 1 if single else track[0].channels) as file:
            for block in blocks(track):
                file.write(mixed(block) if single and channel is None else block if channel is None else block[:, channel])
        if (written := soundfile.info(str(part)).frames) == 0 and any(piece.frames for piece in track):
            raise DataError(f"cannot write {target}: {written} samples arrived")
    return target


def opened(path: Path, track: Sequence[Piece], request: Request, channels: int) -> Any:
    """The file to write samples to. libsndfile gets its path: its callbacks on Python's file objects need memory that is
    writable and executable, which the service is denied.
    """
    import soundfile

    rate, subtype, container = track[0].rate, "PCM_16", request.format.upper()
    if request.format == "opus":
        if rate not in OPUS_RATES:
            raise DataError(f"Opus has no sampling rate of {rate} Hz; take wav or flac")
        subtype, container = "OPUS", "OGG"
    elif request.format == "wav":
        if not (request.channels == "mono" or channels != track[0].channels):
            subtype = track[0].subtype
        if sum(piece.frames for piece in track) * channels * 2 > LARGEST_RIFF:
            container = "RF64"
    return soundfile.SoundFile(str(path), "w", rate, channels, subtype, format=container)


def copied(source: Path, target: Path, force: bool) -> Path:
    """The file as it is."""
    try:
        with open(source, "rb") as file, whole(target, force) as part, open(part, "wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
    except FileNotFoundError:
        raise DataError(f"{source} is missing") from None
    return target


@contextmanager
def whole(target: Path, force: bool) -> Iterator[Path]:
    """A temporary file that takes the target's name when the block ends well."""
    import soundfile

    if not force and target.exists():
        raise ExistsError(f"{target} is there already; --force writes over it")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
        yield part
        appear(part, target, force)
    except OSError as error:
        raise refused(error, f"cannot write {target}") from None
    except soundfile.SoundFileError as error:
        raise StoreError(f"cannot write {target}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
