"""Comfort noise (RFC 3389): a packet says how loud the silence after it is. Also the old payload type 19.

A CN packet has no length of its own; it speaks of the time until the next packet. So `decode_run` gives no samples
(and `durations` 0) and keeps the level of its last packet, and `lost(n)` makes n samples of that noise. Noise is white,
so it has no sampling rate either: who fills a gap in 16 kHz audio asks for as many samples as that gap has.
"""

from __future__ import annotations

import numpy as np

from rokuon.decoders.api import Bytes, Decoder, Lengths, Offsets, PayloadFormat, Samples

__all__ = ["ComfortNoise", "comfort_noise"]

# -30 dBov is as loud as a quiet talker: a hostile level byte of 0 must not become full-scale noise in somebody's ear.
LOUDEST = 30
SILENT = 127


class ComfortNoise:
    """White noise at the level last signalled, the same for the same packets; silence before the first one.

    The reflection coefficients that may follow the level (RFC 3389 section 3) are not used: the noise stays white.
    """

    channels = 1

    def __init__(self, sample_rate: int) -> None:
        """`sample_rate`: what it calls its own, see the module's text."""
        self.sample_rate = sample_rate
        self.errors = 0
        self.level = SILENT
        """Noise level in -dBov, 0 (loudest) to 127 (RFC 3389 section 3)."""
        self._made = 0

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`: no samples; the level is kept. A packet without a level byte counts as broken."""
        said = np.flatnonzero(lengths > 0)
        self.errors += len(lengths) - len(said)
        if len(said):
            self.level = int(data[offsets[said[-1]]]) & 0x7F
        return np.zeros(0, np.int16), np.zeros(len(lengths), np.int32)

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`: 0."""
        return np.zeros(len(lengths), np.int32)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`: noise of the level last signalled, at most -30 dBov."""
        if self.level >= SILENT:
            return np.zeros(samples, np.int16)
        # A hash of the running sample number instead of a random generator: the same packets make the same file anywhere.
        x = np.arange(self._made, self._made + samples, dtype=np.uint32)
        self._made = (self._made + samples) & 0x3FFFFFFF
        x *= np.uint32(0x9E3779B1)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x85EBCA77)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE3D)
        x ^= x >> np.uint32(16)
        # 0 dBov is the power of a full-scale square wave; uniform noise of amplitude a has the power a²/3
        amplitude = 32768 * 10 ** (-max(self.level, LOUDEST) / 20) * 3 ** 0.5
        noise: Samples = np.rint(x.view(np.int32) * (amplitude / 2**31)).astype(np.int16)
        return noise

    def reset(self) -> None:
        """See `Decoder.reset`: silence until the next packet."""
        self.level, self._made = SILENT, 0


def comfort_noise(format: PayloadFormat) -> Decoder:
    """Never unavailable."""
    return ComfortNoise(format.clock_rate if 1000 <= format.clock_rate <= 384_000 else 8000)
