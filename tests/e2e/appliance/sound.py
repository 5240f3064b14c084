"""How much of a recording is heard, by the standard library alone."""

from __future__ import annotations

import array
import struct
import sys
from pathlib import Path

from tests.e2e.appliance.machine import Broken

LOUD = 500  # of 32767
TENTH = 10


def heard(wav: Path) -> tuple[int, list[float]]:
    """Sampling rate, and of each of two channels the share of tenths of a second in which there is sound."""
    data = wav.read_bytes()
    if data[:4] + data[8:12] != b"RIFFWAVE":
        raise Broken(f"{wav.name} is no WAV file")
    at, form, sound = 12, (0, 0, 0), b""
    while at + 8 <= len(data):
        name, size = data[at:at + 4], struct.unpack_from("<I", data, at + 4)[0]
        if name == b"fmt ":
            form = struct.unpack_from("<HHI", data, at + 8)
        elif name == b"data":
            sound = data[at + 8:at + 8 + size]
        at += 8 + size + size % 2
    kind, channels, rate = form
    if channels != 2:
        raise Broken(f"{wav.name} has {channels} channels")
    samples = array.array("h")
    if kind == 1:
        samples.frombytes(sound[:len(sound) // 4 * 4])
        if sys.byteorder == "big":
            samples.byteswap()
    elif kind in (6, 7):
        table = [(_alaw if kind == 6 else _mulaw)(code) for code in range(256)]
        samples.extend(table[code] for code in sound)
    else:
        raise Broken(f"{wav.name} has format {kind}")
    step, shares = 2 * rate // TENTH, []
    for side in (0, 1):
        blocks = [samples[n + side:n + step:2] for n in range(0, len(samples) - step + 1, step)]
        shares.append(sum(max(map(abs, block)) > LOUD for block in blocks) / max(1, len(blocks)))
    return rate, shares


def _mulaw(code: int) -> int:
    """ITU-T G.711, as 16 bits."""
    code = ~code & 0xFF
    value = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return -value if code & 0x80 else value


def _alaw(code: int) -> int:
    """ITU-T G.711, as 16 bits."""
    code ^= 0x55
    exponent, value = code >> 4 & 7, (code & 0x0F) << 4
    value = value + 8 if not exponent else value + 0x108 << exponent - 1
    return value if code & 0x80 else -value
