"""G.722 at 64 kbit/s: 16 kHz audio whose RTP clock ticks at 8 kHz all the same (RFC 3551 section 4.5.2).

Decoding is the C extension of the G722 package (public domain, wheels for every platform rokuon runs on).
"""

from __future__ import annotations

import numpy as np

from rokuon.decoders.api import Bytes, Decoder, DecoderUnavailable, Lengths, Offsets, PayloadFormat, Samples, gather

__all__ = ["G722Decoder", "available", "g722"]

_MISSING = "the Python package G722 is missing: pip install G722"


class G722Decoder:
    """Two samples for each byte; every byte is valid. The sub-band predictors' state carries over between runs."""

    sample_rate = 16_000
    channels = 1
    errors = 0

    def __init__(self) -> None:
        """Raises DecoderUnavailable without the package."""
        self.reset()

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`."""
        samples = np.frombuffer(self._codec.decode(gather(data, offsets, lengths).tobytes()), np.int16)
        return samples, (lengths * 2).astype(np.int32)

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`: a tick a byte, for two samples."""
        return lengths.astype(np.int32)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`: silence; the predictors stay as they are, and mostly find their way back within 100 ms."""
        return np.zeros(samples, np.int16)

    def reset(self) -> None:
        """See `Decoder.reset`."""
        try:
            # Only who records G.722 needs the package.
            from G722 import G722  # type: ignore[import-not-found] # noqa: PLC0415
        except ImportError as e:
            raise DecoderUnavailable(_MISSING) from e
        self._codec = G722(16_000, 64_000)


def g722(format: PayloadFormat) -> Decoder:
    """Raises DecoderUnavailable without the package G722 or for more than one channel."""
    if format.channels != 1:
        raise DecoderUnavailable(f"G722 with {format.channels} channels cannot be decoded")
    return G722Decoder()


def available() -> None:
    """Raises DecoderUnavailable where `g722` would for every format."""
    G722Decoder()
