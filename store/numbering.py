"""How stream numbers of a capture are called by whoever correlates: several captures, and starts of one, count from 1 each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Numbers"]


class Numbers:
    """Stream numbers of one start of a capture, and ours; both ascend together."""

    def __init__(self) -> None:
        self._theirs = np.zeros(0, np.uint32)
        self._ours = np.zeros(0, np.uint32)

    def __len__(self) -> int:
        return len(self._theirs)

    def ours(self, theirs: NDArray[np.uint32], next_number: int) -> tuple[NDArray[np.uint32], NDArray[np.bool_], int]:
        """Our numbers of these (ascending) ones, which of them are unknown for good, and the next number to be given out.

        Numbers above all that were seen are new, and are counted from `next_number` on. One below that is not known was
        forgotten: it is given that of the one before it, so that the result still ascends.
        """
        at = np.searchsorted(self._theirs, theirs)
        new = at == len(self._theirs)
        if new.any():
            count = int(new.sum())
            self._theirs = np.concatenate([self._theirs, theirs[new]])
            self._ours = np.concatenate([self._ours, np.arange(next_number, next_number + count, dtype=np.uint32)])
            next_number += count
            at = np.searchsorted(self._theirs, theirs)
        gone = self._theirs[at] != theirs if len(theirs) else np.zeros(0, bool)
        numbers = self._ours[at] if len(theirs) else np.zeros(0, np.uint32)
        if gone.any():
            before = np.maximum.accumulate(np.where(gone, -1, np.arange(len(theirs))))
            numbers = np.where(before < 0, np.uint32(0), numbers[before])
        return numbers.astype(np.uint32), gone, next_number

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
