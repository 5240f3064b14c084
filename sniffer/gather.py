"""Bytes out of a buffer at many offsets at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["among", "overlapping", "scatter", "window"]

Bytes = NDArray[np.uint8]


def overlapping(data: Bytes, width: int) -> NDArray[np.void]:
    """`data` seen as items of `width` bytes, one beginning at every byte."""
    return np.ndarray(max(len(data) - width + 1, 0), f"V{width}", data.data, strides=(1,))


def window(data: Bytes, offset: NDArray[np.int64], width: int) -> Bytes:
    """The `width` bytes from each offset: shape (n, width), contiguous, so that its columns are aligned.

    Offsets that would leave the buffer are the caller's error (a batch has `packet.SLACK`).
    """
    return overlapping(data, width)[offset].view(np.uint8).reshape(len(offset), width)


def scatter(into: Bytes, at: NDArray[np.int64], data: Bytes, offset: NDArray[np.int64], width: int) -> None:
    """Copies `width` bytes from each `offset` of `data` to each place `at` of `into`."""
    overlapping(into, width)[at] = overlapping(data, width)[offset]


def among(values: NDArray[Any], few: Iterable[int]) -> NDArray[np.bool_]:
    """Which of the values are among a few. (np.isin sorts, and loads all of numpy.ma when it is first called: 12 ms.)"""
    found = np.zeros(len(values), np.bool_)
    for each in few:
        found |= values == each
    return found
