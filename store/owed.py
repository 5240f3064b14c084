"""What a lasting spool still has to keep for calls that are over, until they are in recordings and that is noted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rokuon.store.ended import Ended, Piece
from rokuon.store.jobs import Job
from rokuon.store.signalling import Frame
from rokuon.store.spool import Needed
from rokuon.store.taken import Span, join

__all__ = ["Owed"]

_NEVER = (1 << 63) - 1
Part = tuple[str, int, int]
"""Source, epoch and number there of a stream."""


@dataclass(slots=True)
class _Call:
    """One that is in the making, or over and not noted yet."""

    parts: list[Ended | Piece] = field(default_factory=list)
    """What was given out of it, as far as the spool has it yet."""
    spans: dict[Part, list[Span]] = field(default_factory=dict)
    since: dict[int, int] = field(default_factory=dict)
    """From when on packets of its streams are needed, by our number."""
    frames: list[Frame] = field(default_factory=list)
    last_ns: int = 0
    """Up to where it was given out."""
    shortened: bool = False
    """Parts of it are not in the spool any more."""
    torn: bool = False
    """And these were lost."""


def _say_torn(job: Job) -> None:
    job.facts["anomalies"] = dict(sorted({**job.facts["anomalies"], "audio-lost-with-finaliser": 1}.items()))


class Owed:
    """Calls by number."""

    def __init__(self, recover_ns: int) -> None:
        """`recover_ns`: so much of a long call stays in the spool."""
        self._recover = recover_ns
        self._calls: dict[int, _Call] = {}
        self._over: dict[int, _Call] = {}
        self._done: list[_Call] = []
        self._forgotten: set[int] = set()

    def add(self, item: Ended | Piece, job: Job) -> None:
        """A part of a call is to be finalised."""
        call = self._calls.setdefault(job.number, _Call())
        call.parts.append(item)
        last = max((until for *_, until in job.taken), default=0)
        for source, epoch, number, since, until in job.taken:
            join(call.spans.setdefault((source, epoch, number), []), (since, until))
        for span in item.spans:
            number = span.stream.number
            call.since[number] = min(call.since.get(number, _NEVER), span.since_ns)
        call.last_ns = max(call.last_ns, last)
        gone = call.last_ns - self._recover
        while len(call.parts) > 1 and (first := call.parts[0].until_ns) is not None and first <= gone:
            del call.parts[0]
            call.shortened = True
        if call.torn:
            _say_torn(job)
        if job.until_ns is None:
            call.frames = job.frames
            call.since = {number: max(since, gone) for number, since in call.since.items()}
            self._over[job.number] = call

    def again(self, number: int, make: Callable[[list[Ended | Piece]], list[Job]]) -> list[Job]:
        """All that was made of a call is lost: jobs for its parts, from the first that the spool has. `make` makes them."""
        call = self._calls.get(number)
        if call is None:
            return []
        begun = min((span.since_ns for span in call.parts[0].spans), default=call.last_ns)
        call.torn |= call.shortened or begun < call.last_ns - self._recover
        jobs = make([replace(item, pieced=n > 0) for n, item in enumerate(call.parts)])
        for job in jobs if call.torn else ():
            _say_torn(job)
        return jobs

    def done(self, number: int) -> None:
        """The last part of the call is finalised, or never will be."""
        call = self._calls.pop(number, None)
        if call is not None:
            self._done.append(call)

    def taken(self) -> list[tuple[str, int, int, int, int]]:
        """Of calls that are done and not noted: source, epoch and number of streams, since and until when they are theirs."""
        return [(*part, *span) for call in self._done for part, spans in call.spans.items() for span in spans]

    def noted(self) -> None:
        """What `taken` says is noted."""
        gone = {id(call) for call in self._done}
        self._over = {number: call for number, call in self._over.items() if id(call) not in gone}
        self._done.clear()

    # -- what the spool keeps ------------------------------------------------
    def frames(self) -> list[Frame]:
        """The signalling of calls that are over, as captured."""
        return [frame for call in self._over.values() for frame in call.frames]

    def forgettable(self, numbers: Iterable[int]) -> list[int]:
        """Of streams that correlation needs no more, now and lately, those that are not needed here either."""
        self._forgotten.update(numbers)
        needed = {number for call in self._over.values() for number in call.since}
        gone = self._forgotten - needed
        self._forgotten &= needed
        return sorted(gone)

    def needed(self, correlation: Needed) -> Needed:
        """From when on packets of streams are needed, by correlation and here, as things are."""
        since: dict[int, int] = {}
        for call in self._over.values():
            for number, time_ns in call.since.items():
                since[number] = min(time_ns, since.get(number, _NEVER))
        if not since:
            return correlation
        mine = np.array(sorted(since), np.uint32)
        times = np.array([since[number] for number in mine.tolist()], np.int64)

        def both(numbers: NDArray[np.uint32]) -> NDArray[np.int64]:
            at = np.minimum(np.searchsorted(mine, numbers), len(mine) - 1)
            by_correlation = correlation(numbers)
            return np.where(mine[at] == numbers, np.minimum(times[at], by_correlation), by_correlation)

        return both
