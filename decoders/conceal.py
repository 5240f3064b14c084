"""What is heard where packets are missing. Plain for now: what the codec itself offers, else silence.

Everything that fills a gap goes through `conceal`, so better concealment (waveform repetition with a fade for short
gaps) changes this file only. It is given what a better one needs: the audio before the gap.
"""

from __future__ import annotations

import numpy as np

from rokuon.decoders.api import Decoder, Samples

__all__ = ["conceal"]


def conceal(decoder: Decoder, samples: int, before: Samples | None = None) -> Samples:
    """Fill a gap of `samples` samples (at the decoder's rate; negative counts as 0): int16[samples], fresh.

    `before`: the audio that ends where the gap begins (100 ms are enough), None where there is none. Calls
    `decoder.lost` once, so a decoder that keeps state knows of the gap.
    """
    samples = max(samples, 0)
    filling = decoder.lost(samples)
    return filling if len(filling) == samples else np.zeros(samples, np.int16)
