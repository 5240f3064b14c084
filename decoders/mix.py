"""Two directions of a call as one stereo signal: pieces of sound at their places, silence between them.

Sound is either 16-bit samples or, where a whole call is one G.711 law, its code words as they were sent; see `SILENCE`.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["SILENCE", "Channel", "Piece", "Sound", "interleave", "resample"]

Sound: TypeAlias = NDArray[Any]
"""int16 samples or uint8 code words of G.711, one dimension."""

SILENCE = {"pcm16": 0, "ulaw": 0xFF, "alaw": 0xD5}
"""The sample or code word (ITU-T G.711) of silence in each format."""


class Piece(NamedTuple):
    """Sound in one channel."""

    place: int
    """Sample at which it begins, counted from the beginning of the audio; may be negative, then its beginning is left out."""
    sound: Sound


class Channel:
    """One side of the stereo signal, handed out from the beginning on as it becomes final."""

    def __init__(self, kind: str) -> None:
        """`kind`: a key of `SILENCE`."""
        self._silence = SILENCE[kind]
        self._type: type[np.uint8 | np.int16] = np.int16 if kind == "pcm16" else np.uint8
        self._pieces: list[Piece] = []
        self.end = 0
        """Sample behind the last one that is not silence."""

    def add(self, place: int, sound: Sound) -> None:
        """Puts a piece in its place. What is added later is heard where two overlap."""
        if len(sound):
            self._pieces.append(Piece(place, sound))
            self.end = max(self.end, place + len(sound))

    def take(self, begin: int, end: int, keep: bool) -> Sound:
        """Samples [begin, end), silence included. What lies before `end` is forgotten; with `keep`, the rest is copied,
        so that it does not depend on buffers that are used again.
        """
        pieces = self._pieces
        if len(pieces) == 1 and pieces[0].place == begin and len(pieces[0].sound) == end - begin:
            self._pieces = []
            return pieces[0].sound
        out: Sound = np.full(max(end - begin, 0), self._silence, self._type)
        rest: list[Piece] = []
        for place, sound in pieces:
            head, stop = max(begin - place, 0), place + len(sound)
            if place < end and head < len(sound):
                out[place + head - begin:stop - begin] = sound[head:end - place if stop > end else None]
            if stop > end:
                rest.append(Piece(place, sound))
        self._pieces = rest
        if keep:
            self._pieces = [Piece(max(p.place, end), p.sound[max(end - p.place, 0):].copy()) for p in rest]
        return out


def interleave(left: Sound, right: Sound) -> NDArray[np.uint8]:
    """Both channels (same type and length n) as the bytes of a stereo WAV file: sample by sample, left first, little-endian."""
    # A multiplication and an addition in the next wider type are four times as fast as writing every other element.
    if left.dtype == np.uint8:
        codes = np.multiply(right, np.uint16(1 << 8), dtype=np.uint16)
        codes += left
        return codes.astype("<u2", copy=False).view(np.uint8)
    frames = np.multiply(right.view(np.uint16), np.uint32(1 << 16), dtype=np.uint32)
    frames += left.view(np.uint16)
    return frames.astype("<u4", copy=False).view(np.uint8)


def resample(samples: NDArray[np.int16], rate: int, wanted: int) -> NDArray[np.int16]:
    """Samples at `rate` Hz brought to `wanted` Hz by linear interpolation: round(n * wanted / rate) of them.

    For narrowband speech beside wideband in one call: simple, and no sample of the original is changed where `wanted` is
    a multiple of `rate`.
    """
    n = len(samples)
    if rate == wanted or not n:
        return samples
    length = max(round(n * wanted / rate), 1)
    times, rest = divmod(wanted, rate)
    if rest:
        at = np.arange(length) * (rate / wanted)
        between: NDArray[np.int16] = np.rint(np.interp(at, np.arange(n), samples)).astype(np.int16)
        return between
    out = np.empty((n, times), np.int16)
    here = samples.astype(np.int32)
    step = np.empty(n, np.int32)
    np.subtract(here[1:], here[:-1], out=step[:-1])
    step[-1] = 0
    for k in range(times):
        out[:, k] = here + step * k // times
    return out.reshape(-1)
