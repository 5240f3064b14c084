"""Fuzzes the decoders: any payloads give audio of bounded length, and as many samples as they say."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from fuzz import harness, seeds
from fuzz.harness import Input, split

with harness.instrumented():
    from rokuon.decoders.api import DecoderUnavailable, PayloadFormat
    from rokuon.decoders.comfort_noise import comfort_noise
    from rokuon.decoders.g711 import pcma, pcmu
    from rokuon.decoders.g722 import g722
    from rokuon.decoders.l16 import l16
    from rokuon.decoders.opus import opus

KINDS = ((pcmu, PayloadFormat("PCMU", 8_000)), (pcma, PayloadFormat("PCMA", 8_000)), (g722, PayloadFormat("G722", 8_000)),
         (opus, PayloadFormat("opus", 48_000, 2)), (l16, PayloadFormat("L16", 44_100, 2)),
         (comfort_noise, PayloadFormat("CN", 8_000)))
LONGEST_S = 2.0


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    make, form = KINDS[given.number(len(KINDS) - 1)]
    try:
        decoder, other = make(form), make(form)
    except DecoderUnavailable:
        return
    parts = split(given.rest)
    gap = given.number(9)
    lengths = np.array([len(part) for part in parts], np.int32)
    offsets = np.cumsum(lengths + gap, dtype=np.int64) - lengths - gap
    octets = np.frombuffer(b"".join(part + b"\xa5" * gap for part in parts) + bytes(64), np.uint8)
    samples, counts = decoder.decode_run(octets, offsets, lengths)
    assert samples.dtype == np.int16
    assert samples.ndim == 1
    assert len(counts) == len(parts)
    assert (counts >= 0).all()
    assert int(counts.sum()) == len(samples), "samples that belong to no packet"
    most = max(LONGEST_S * decoder.sample_rate, 2 * max(map(len, parts), default=0))
    assert not len(parts) or int(counts.max()) <= most, "a packet that lasts too long"
    ticks = decoder.durations(octets, offsets, lengths)
    assert len(ticks) == len(parts)
    assert (ticks >= 0).all()
    half = len(parts) // 2
    one, _ = other.decode_run(octets, offsets[:half], lengths[:half])
    two, _ = other.decode_run(octets, offsets[half:], lengths[half:])
    assert np.array_equal(np.concatenate([one, two]), samples), "it matters how packets come in runs"
    assert other.errors == decoder.errors <= len(parts)
    assert len(decoder.lost(gap * 100)) == gap * 100


if __name__ == "__main__":
    harness.fuzz(check, seeds.decoders)
