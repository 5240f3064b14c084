"""How stream numbers of a capture are called by whoever correlates: several captures, and starts of one, count from 1 each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["LastTimes", "Numbers"]

_PAGE = 1 << 16


class LastTimes:
    """When the newest packet of each stream came that a spool tells of, by epoch and the capture's number."""

    def __init__(self) -> None:
        self._pages: dict[tuple[int, int], NDArray[np.int64]] = {}

    def raise_to(self, epoch: int, numbers: NDArray[np.uint32], times_ns: NDArray[np.int64]) -> None:
        """Takes in times of these (ascending) numbers."""
        for page, which in _by_page(numbers):
            known = self._pages.get((epoch, page))
            if known is None:
                known = self._pages[epoch, page] = np.zeros(_PAGE, np.int64)
            np.maximum.at(known, numbers[which] % _PAGE, times_ns[which])

    def of(self, epoch: int, numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The times of these (ascending) numbers; 0: none is known."""
        times = np.zeros(len(numbers), np.int64)
        for page, which in _by_page(numbers):
            known = self._pages.get((epoch, page))
            if known is not None:
                times[which] = known[numbers[which] % _PAGE]
        return times

    def clear(self) -> None:
        """Forgets them all."""
        self._pages.clear()


def _by_page(numbers: NDArray[np.uint32]) -> list[tuple[int, slice]]:
    if not len(numbers):
        return []
    pages = numbers // _PAGE
    begins = np.flatnonzero(np.concatenate([[True], pages[1:] != pages[:-1]])).tolist()
    return [(int(pages[begin]), slice(begin, end)) for begin, end in zip(begins, [*begins[1:], len(numbers)], strict=True)]


class Numbers:
    """Stream numbers of one start of a capture, and ours; both ascend together."""

    def __init__(self) -> None:
        self._theirs = np.zeros(0, np.uint32)
        self._ours = np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(self._theirs)

    def begin(self, fresh: NDArray[np.uint32], next_number: int) -> int:
        """These (ascending) begin, and are counted from `next_number` on; returns the next number to be given out. One that is
        not above all that were seen is none of ours: it was forgotten.
        """
        if len(self._theirs):
            fresh = fresh[fresh > self._theirs[-1]]
        self._theirs = np.concatenate([self._theirs, fresh])
        self._ours = np.concatenate([self._ours, np.arange(next_number, next_number + len(fresh), dtype=np.uint32)])
        return next_number + len(fresh)

    def ours(self, theirs: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
        """Our numbers of these (ascending) ones, and which of them are not known (any more): those are given that of the one
        before, so that the result still ascends.
        """
        if not len(theirs) or not len(self._theirs):
            return np.zeros(len(theirs), np.uint32), np.ones(len(theirs), bool)
        at = np.minimum(np.searchsorted(self._theirs, theirs), len(self._theirs) - 1)
        gone = self._theirs[at] != theirs
        numbers = self._ours[at]
        if gone.any():
            before = np.maximum.accumulate(np.where(gone, -1, np.arange(len(theirs))))
            numbers = np.where(before < 0, np.uint32(0), numbers[before])
        return numbers.astype(np.uint32), gone

    def theirs(self, ours: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The capture's numbers of these. Raises KeyError where one is not known."""
        if not len(ours):
            return ours
        at = np.searchsorted(self._ours, ours)
        if not len(self._ours) or (at == len(self._ours)).any() or (self._ours[at] != ours).any():
            raise KeyError("not known")
        return self._theirs[at]

    def forget(self, gone: NDArray[np.uint32]) -> None:
        """Those of ours that are needed no more."""
        keep = ~np.isin(self._ours, gone)
        self._theirs, self._ours = self._theirs[keep], self._ours[keep]
