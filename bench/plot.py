"""Curves over time as a PNG (ISO/IEC 15948), with nothing but numpy: enough to see whether something is flat."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1000, 190, 90, 20, 34, 26
SCALE = 2
INK, GRID, PAPER = (40, 40, 40), (225, 225, 225), (255, 255, 255)
COLOURS = ((0, 90, 181), (220, 50, 32), (0, 130, 90), (150, 90, 180), (120, 120, 120))
_FONT = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71111", "8": "75757",
    "9": "75717", "a": "25755", "b": "65656", "c": "34443", "d": "65556", "e": "74647", "f": "74644", "g": "34553", "h": "55755",
    "i": "72227", "j": "11152", "k": "55655", "l": "44447", "m": "57755", "n": "65555", "o": "25552", "p": "65644", "q": "25573",
    "r": "65655", "s": "34216", "t": "72222", "u": "55557", "v": "55552", "w": "55775", "x": "55255", "y": "55222", "z": "71247",
    ".": "00002", ",": "00024", ":": "02020", "-": "00700", "/": "11244", "(": "12221", ")": "42224", "%": "51245", " ": "00000"}
"""3 × 5 dots a character, an octal digit a row."""


@dataclass(frozen=True)
class Panel:
    """One diagram: curves by name, y by x; y begins at 0."""

    title: str
    curves: dict[str, Sequence[float]]


def _write(image: NDArray[np.uint8], x: int, y: int, text: str, colour: tuple[int, int, int], right: bool = False) -> int:
    """Text with its upper left (or right) corner there; returns where it ends."""
    step = 4 * SCALE
    x -= len(text) * step if right else 0
    for character in text.lower():
        for row, digit in enumerate(_FONT.get(character, _FONT["-"])):
            for column in range(3):
                if int(digit) >> (2 - column) & 1:
                    image[y + row * SCALE:y + (row + 1) * SCALE, x + column * SCALE:x + (column + 1) * SCALE] = colour
        x += step
    return x


def _steps(most: float) -> list[float]:
    """Round numbers from 0 to at least `most`."""
    rough = max(most, 1e-9) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
    return [step * n for n in range(math.ceil(most / step - 1e-9) + 1)]


def _panel(panel: Panel, minutes: NDArray[np.float64]) -> NDArray[np.uint8]:
    image = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    ticks = _steps(max(max(curve) for curve in panel.curves.values()) or 1)
    floor, wide = HEIGHT - BOTTOM, WIDTH - LEFT - RIGHT
    tall = floor - TOP
    for tick in ticks:
        y = floor - round(tick / ticks[-1] * tall)
        image[y, LEFT:LEFT + wide] = GRID
        _write(image, LEFT - 8, y - 5, f"{tick:g}", INK, right=True)
    last = max(float(minutes[-1]), 1e-9)
    for tick in _steps(last):
        if tick <= last:
            x = LEFT + round(tick / last * (wide - 1))
            image[TOP:floor, x] = GRID
            _write(image, x - 4, floor + 8, f"{tick:g}", INK)
    _write(image, LEFT + 16, floor + 8, "minutes", INK)
    at = _write(image, LEFT, 12, panel.title, INK) + 24
    columns = np.linspace(0, last, wide)
    for (name, curve), colour in zip(panel.curves.items(), COLOURS, strict=False):
        if len(panel.curves) > 1:
            at = _write(image, at, 12, name, colour) + 16
        ys = floor - np.rint(np.interp(columns, minutes, np.asarray(curve, float)) / ticks[-1] * tall).astype(int)
        for x, (y, before) in enumerate(zip(ys.tolist(), [ys[0], *ys[:-1]], strict=True)):
            image[min(y, before) - 1:max(y, before) + 1, LEFT + x] = colour
    return image


def write_png(path: Path, seconds: Sequence[float], panels: Sequence[Panel]) -> None:
    """The panels, one below the other."""
    minutes = np.asarray(seconds, float) / 60
    image = np.concatenate([_panel(panel, minutes) for panel in panels])
    lines = np.concatenate([np.zeros((len(image), 1), np.uint8), image.reshape(len(image), -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
                     + chunk(b"IEND", b""))
