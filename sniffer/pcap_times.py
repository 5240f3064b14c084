"""Times in a capture file that cannot be: a few packets that claim to come long after those that follow them.

Time goes by packets: one that is dated a year ahead would end every call in progress for want of signs of life, and, where files
are merged, put all that follows it in its file behind the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["AHEAD_NS", "FEW", "Times"]

AHEAD_NS = 10_000_000_000
"""So far ahead of packets behind it no packet is by chance: cards and mirrors confuse milliseconds."""
FEW = 64
"""More packets than this in a row are believed: the clock was set, or files of two clocks were put together."""
_WITNESSES = 4
"""Packets that contradict a time, at the least; at least as many as claim it, and half of those around."""
_NEAR = 256
"""Part of a jump by which time may have gone on when the file comes back from it: packets may be minutes apart."""
_SHARE = 8
"""Nor is anything mended in a file of which more than one packet in so many claims such times, after the first hundreds."""


class Times:
    """Follows the times of one file, batch by batch."""

    def __init__(self) -> None:
        self.mended = 0
        """Packets that were given the time of what comes before them."""
        self._top: int | None = None
        """The latest time so far that was believed."""
        self._seen = 0

    def mend(self, time_ns: NDArray[np.int64], more: bool = False) -> bool:
        """Gives packets that are far ahead of what is before and behind them the latest time before them, in place.

        time_ns: UTC, nanoseconds, in the order of the file. A jump is believed where the file does not come back from it within
        `FEW` packets. False: nothing is settled, for that lies behind the end of `time_ns`, and `more` could be had; it is to
        be shown again with more behind it.
        """
        if not len(time_ns):
            return True
        at, top = (0, self._top) if self._top is not None else self._beginning(time_ns)
        runs = [(0, at, top)] if at else []
        mended = self.mended + at
        steps = (np.flatnonzero(np.diff(time_ns) > AHEAD_NS) + 1).tolist()
        for jump in [0, *steps]:
            if jump < at or (mended > FEW * _SHARE and mended * _SHARE > self._seen + jump):
                continue
            top = max(top, int(time_ns[at:jump].max(initial=top)))
            there = int(time_ns[jump])
            if there - top <= AHEAD_NS:
                continue
            since = max(at, jump - FEW)
            beside = time_ns[since:jump + 2 * FEW]
            near = (beside >= top - AHEAD_NS) & (beside <= top + max(AHEAD_NS, (there - top) // _NEAR))
            back = int(near[jump - since:].argmax())
            if not near[jump - since + back] or back > FEW:
                if more and len(time_ns) - jump <= FEW:
                    return False
            elif int(np.count_nonzero(near)) >= max(back, _WITNESSES, len(near) // 2):
                at = jump + back
                mended += back
                runs.append((jump, at, top))
        self._top = max(top, int(time_ns[at:].max(initial=top)))
        for begin, end, level in runs:
            np.minimum(time_ns[begin:end], level, out=time_ns[begin:end])
        self.mended = mended
        self._seen += len(time_ns)
        return True

    @staticmethod
    def _beginning(time_ns: NDArray[np.int64]) -> tuple[int, int]:
        """How many of the file's first packets cannot be believed, and the time that the file begins at."""
        first = int(time_ns[0])
        back = int((first - time_ns[:FEW // 8 + 1] > AHEAD_NS).argmax())
        level = int(time_ns[back])
        near = np.abs(time_ns[back:back + FEW] - level) <= (first - level) // 2
        return (back, level) if back and int(np.count_nonzero(near)) >= _WITNESSES * back else (0, first)
