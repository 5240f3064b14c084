"""G.711: the mu-law and A-law code words of ITU-T G.711 as tables; RTP payload PCMU and PCMA (RFC 3551 section 4.5.14)."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.api import Bytes, Decoder, DecoderUnavailable, Lengths, Offsets, PayloadFormat, Samples, gather

__all__ = ["ALAW", "ALAW_SILENCE", "ULAW", "ULAW_SILENCE", "G711Decoder", "pcma", "pcmu"]

ULAW_SILENCE = 0xFF
"""The mu-law code word of +0."""
ALAW_SILENCE = 0xD5
"""The A-law code word of the smallest positive value (A-law has no zero)."""


def _ulaw_table() -> Samples:
    # G.711 table 2: all bits are sent inverted; 4 bits of mantissa with the leading one implied, 3 of exponent, a sign;
    # the decision values carry a bias of 33 at 14 bits, which is 132 at 16 bits.
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 132) << (code >> 4 & 7)) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Samples:
    # G.711 table 1: even bits are sent inverted; the first two segments are linear; values lie in the middle of their step.
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = code >> 4 & 7, ((code & 0x0F) << 4) + 8
    magnitude = np.where(exponent == 0, mantissa, (mantissa + 256) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


ULAW: Samples = _ulaw_table()
"""int16[256]: the linear value of each mu-law code word, at 16 bits."""
ALAW: Samples = _alaw_table()
"""int16[256]: the linear value of each A-law code word, at 16 bits."""
ULAW.flags.writeable = ALAW.flags.writeable = False


@cache
def _pairs(law: str) -> NDArray[np.uint32]:
    """Two samples for two code words at once: half the look-ups, and 256 KiB still fit the second-level cache."""
    table = ULAW if law == "PCMU" else ALAW
    code_words: NDArray[np.uint8] = np.arange(65536, dtype=np.uint16).view(np.uint8)
    return np.asarray(table[code_words].view(np.uint32))


class G711Decoder:
    """One sample for each byte, no state, no payload that is broken."""

    sample_rate: int
    channels = 1
    errors = 0

    def __init__(self, law: str, sample_rate: int) -> None:
        """`law`: PCMU or PCMA."""
        self.sample_rate = sample_rate
        self._law = law

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`."""
        codes = gather(data, offsets, lengths)
        samples = np.empty(len(codes), np.int16)
        even = len(codes) & ~1
        # mode="clip" spares numpy the check of every index: a uint16 cannot leave a table of 65,536
        np.take(_pairs(self._law), codes[:even].view(np.uint16), mode="clip", out=samples[:even].view(np.uint32))
        if even != len(codes):
            samples[-1] = (ULAW if self._law == "PCMU" else ALAW)[codes[-1]]
        return samples, lengths.astype(np.int32)

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`: a tick a byte."""
        return lengths.astype(np.int32)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`: silence."""
        return np.zeros(samples, np.int16)

    def reset(self) -> None:
        """See `Decoder.reset`: there is no state."""


def _make(law: str, format: PayloadFormat) -> Decoder:
    if not 1000 <= format.clock_rate <= 384_000:
        raise DecoderUnavailable(f"{law} with a clock rate of {format.clock_rate} Hz cannot be decoded")
    if format.channels != 1:
        raise DecoderUnavailable(f"{law} with {format.channels} channels cannot be decoded")
    return G711Decoder(law, format.clock_rate)


def pcmu(format: PayloadFormat) -> Decoder:
    """mu-law, usually at 8000 Hz. Raises DecoderUnavailable for more than one channel."""
    return _make("PCMU", format)


def pcma(format: PayloadFormat) -> Decoder:
    """A-law, usually at 8000 Hz. Raises DecoderUnavailable for more than one channel."""
    return _make("PCMA", format)
