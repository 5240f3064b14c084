"""L16: linear 16-bit samples in network byte order, channels interleaved (RFC 3551 section 4.5.11)."""

from __future__ import annotations

import numpy as np

from rokuon.decoders.api import Bytes, Decoder, DecoderUnavailable, Lengths, Offsets, PayloadFormat, Samples, gather

__all__ = ["L16Decoder", "l16"]


class L16Decoder:
    """Rate and channels are the format's; channels are mixed down to their mean."""

    channels = 1

    def __init__(self, sample_rate: int, source_channels: int) -> None:
        """`source_channels`: how many are interleaved in the payload."""
        self.sample_rate = sample_rate
        self.errors = 0
        self._source_channels = source_channels

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`. A payload that ends within a sample is cut there and counted as broken."""
        counts = self.durations(data, offsets, lengths)
        whole = (counts * (2 * self._source_channels)).astype(np.int32)
        self.errors += int(np.count_nonzero(whole != lengths))
        samples = gather(data, offsets, whole).view(">i2")
        if self._source_channels > 1:
            samples = samples.reshape(-1, self._source_channels).mean(axis=1)
        return samples.astype(np.int16), counts

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`: a tick for each sample of all channels."""
        return (lengths // (2 * self._source_channels)).astype(np.int32)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`: silence."""
        return np.zeros(samples, np.int16)

    def reset(self) -> None:
        """See `Decoder.reset`: there is no state."""


def l16(format: PayloadFormat) -> Decoder:
    """Raises DecoderUnavailable for a clock rate that no audio has, or more than 8 channels."""
    if not 1000 <= format.clock_rate <= 384_000:
        raise DecoderUnavailable(f"L16 with a clock rate of {format.clock_rate} Hz cannot be decoded")
    if not 1 <= format.channels <= 8:
        raise DecoderUnavailable(f"L16 with {format.channels} channels cannot be decoded")
    return L16Decoder(format.clock_rate, format.channels)
