"""Opus (RFC 6716) as RTP carries it (RFC 7587): always decoded to 48 kHz, mono.

Decoding is libopus through opuslib; both are looked for when the first Opus stream comes, so everything else works
without them.
"""

from __future__ import annotations

import ctypes
import warnings
from ctypes import util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.api import Bytes, Decoder, DecoderUnavailable, Lengths, Offsets, PayloadFormat, Samples

__all__ = ["MAX_TICKS", "OpusDecoder", "available", "opus", "packet_duration_48k"]

MAX_TICKS = 5760
"""A packet holds at most 120 ms (RFC 6716 section 3.2.5, R5)."""
NOMINAL_TICKS = 960

_DECODE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int,
                           ctypes.c_int)
"""opus_decode of opus.h: state, packet, its length, samples, room for how many, forward error correction."""
_SONAME = "libopus.so.0"
_NO_LIBRARY = "libopus is missing: install the Debian package libopus0"
_NO_BINDING = "the Python package opuslib is missing: pip install opuslib"


def _frame_table() -> NDArray[np.int32]:
    # RFC 6716 section 3.1, table 2: SILK 10 to 60 ms, hybrid 10 and 20 ms, CELT 2.5 to 20 ms
    return np.array([480, 960, 1920, 2880] * 3 + [480, 960] * 2 + [120, 240, 480, 960] * 4, np.int32)


_FRAME_TICKS = _frame_table()


def packet_duration_48k(payload: bytes) -> int:
    """How long an Opus packet lasts in ticks of 48 kHz, from its first two bytes (RFC 6716 section 3.1); 0: no valid packet."""
    row = np.frombuffer(payload, np.uint8)
    return int(_durations(row, np.zeros(1, np.int64), np.array([len(row)], np.int32))[0])


def _durations(data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
    if not len(data):
        return np.zeros(len(lengths), np.int32)
    last = len(data) - 1
    toc = data[np.minimum(offsets, last)].astype(np.int32)
    count = data[np.minimum(offsets + 1, last)].astype(np.int32) & 0x3F
    code = toc & 3
    # code 0: one frame; 1 and 2: two; 3: as many as the second byte says, which must be there
    frames = np.where(code == 3, np.where(lengths > 1, count, 0), np.minimum(code + 1, 2))
    ticks: Lengths = (_FRAME_TICKS[toc >> 3] * frames).astype(np.int32)
    ticks[(lengths < 1) | (ticks > MAX_TICKS)] = 0
    return ticks


def _load() -> Any:
    """The module opuslib with libopus behind it. Raises DecoderUnavailable with the reason."""
    try:
        ctypes.CDLL(_SONAME)
        found: str | None = _SONAME
    except OSError:
        found = util.find_library("opus")
    if found is None:
        raise DecoderUnavailable(_NO_LIBRARY)
    # opuslib asks find_library, which runs ldconfig or a compiler: neither needs to be there, nor may a sandboxed service
    # start programs. We know the answer already.
    ask = util.find_library
    util.find_library = lambda name: found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # opuslib 3.0.1 compares integers with "is not"
            import opuslib.api.decoder  # type: ignore[import-untyped] # noqa: PLC0415
            return opuslib
    except ImportError as e:
        raise DecoderUnavailable(_NO_BINDING) from e
    except Exception as e:
        raise DecoderUnavailable(f"libopus cannot be used: {type(e).__name__}") from e
    finally:
        util.find_library = ask


class OpusDecoder:
    """One packet at a time through libopus, which mixes stereo down itself."""

    sample_rate = 48_000
    channels = 1

    def __init__(self) -> None:
        """Raises DecoderUnavailable without opuslib or libopus."""
        self._opuslib = _load()
        self._decode = _DECODE(("opus_decode", self._opuslib.api.libopus))
        self._last = NOMINAL_TICKS
        self.errors = 0
        self.reset()

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`."""
        counts = np.zeros(len(offsets), np.int32)
        view = np.ascontiguousarray(data).data
        ticks = self.durations(data, offsets, lengths).tolist()
        state, decode = self._codec.decoder_state, self._decode
        # libopus writes into the samples themselves: before each packet there has to be room for the longest.
        made = np.empty(sum(ticks) + MAX_TICKS, np.int16)
        begin, size, end = made.ctypes.data, len(made) - MAX_TICKS, 0
        for row, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
            if end > size:  # what is broken lasted longer than it said
                made = np.concatenate([made, np.empty(len(made), np.int16)])
                begin, size = made.ctypes.data, len(made) - MAX_TICKS
            count = -1
            if ticks[row]:  # else libopus is not asked: no bytes at all would mean "conceal" to it
                count = decode(state, bytes(view[offset:offset + length]), length, begin + 2 * end, MAX_TICKS, 0)
            if count > 0:
                self._last = count
            else:
                self.errors += 1
                count = ticks[row] or self._last
                made[end:end + count] = 0
            counts[row] = count
            end += count
        return made[:end], counts

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`: from the table-of-contents byte, in ticks of 48 kHz whatever the audio's bandwidth."""
        return _durations(data, offsets, lengths)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`: silence for now; libopus' own concealment belongs here."""
        return np.zeros(samples, np.int16)

    def reset(self) -> None:
        """See `Decoder.reset`."""
        self._codec = self._opuslib.Decoder(self.sample_rate, self.channels)


def opus(format: PayloadFormat) -> Decoder:
    """Raises DecoderUnavailable without opuslib or libopus. Rate and channels are always signalled as 48000/2."""
    return OpusDecoder()


def available() -> None:
    """Raises DecoderUnavailable where `opus` would."""
    OpusDecoder()
