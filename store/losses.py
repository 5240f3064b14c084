"""What was not captured: times without a capture, and packets that were lost on the way to the spool."""

from __future__ import annotations

from collections import deque

__all__ = ["Losses"]

_MOST = 1000
_NEWEST = 64
_RUN_NS = 1_000_000_000
"""Drops are known to the run, not to the packet."""


class Losses:
    """Gaps and drops, the newest thousand of each. Times are packet times in nanoseconds."""

    def __init__(self) -> None:
        self.gaps: deque[tuple[int, int]] = deque(maxlen=_MOST)
        self.away: list[int] = []
        """Since when captures do not run that were not ended on purpose."""
        self._drops: deque[tuple[int, int]] = deque(maxlen=_MOST)

    def gap(self, since_ns: int, until_ns: int) -> bool:
        """Nothing was captured between two times, for want of a capture. Returns whether that is news."""
        for n in range(len(self.gaps) - 1, max(len(self.gaps) - _NEWEST, 0) - 1, -1):  # of each capture its own
            if self.gaps[n][0] == since_ns:
                self.gaps[n] = (since_ns, max(until_ns, self.gaps[n][1]))
                return False
        if until_ns > since_ns:
            self.gaps.append((since_ns, until_ns))
        return until_ns > since_ns

    def drop(self, time_ns: int, count: int) -> None:
        """So many packets were lost shortly before that time."""
        self._drops.append((time_ns, count))

    def gaps_within(self, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
        """The gaps that reach into a span of time; one that is not over lasts to its end."""
        open_yet = [(since, until_ns) for since in self.away if since < until_ns]
        return open_yet + [(since, until) for since, until in self.gaps if until > since_ns and since < until_ns]

    def dropped_within(self, since_ns: int, until_ns: int) -> int:
        """Packets that were lost in a span of time, whosever they were."""
        return sum(count for at, count in self._drops if since_ns <= at <= until_ns + _RUN_NS)
