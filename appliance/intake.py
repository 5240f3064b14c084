"""Runs of all captures, in order of time, their streams called by numbers of our own."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np

from rokuon.appliance.capturing import SPOOL_PREFIX
from rokuon.store.correlate import Correlator
from rokuon.store.layout import Layout
from rokuon.store.numbering import Numbers
from rokuon.store.runs import Run
from rokuon.store.spool import Source, Spool
from rokuon.store.spool_reader import SourceReader
from rokuon.store.taken import Taken

__all__ = ["Intake"]

_SCAN_S = 1.0
_MOST_SOURCES = 64
_MOST = 16
_SPAN_NS = 2_000_000_000
"""For so long at most signalling of other captures is handled together with a run's."""
_AWAY_NS = 600_000_000_000
"""For so long a capture that does not run is missed."""
_PATIENCE_S = 1.5
"""So long is waited for what other captures may have to say of the same time."""


def packets_until(run: Run, others: Sequence[Sequence[Run]], until_ns: int) -> None:
    """Moves packets of other captures' runs, up to a time, to a run: signalling makes sense in order of time, whoever saw it."""
    rows, data, size = [run.packets], [run.packet_bytes], len(run.packet_bytes)
    for other in chain(*others):
        if other.first_ns > until_ns or not len(other.packets):
            continue
        mine = other.packets["time_ns"] <= until_ns
        if mine.any():
            moved, other.packets = other.packets[mine].copy(), other.packets[~mine]
            moved["offset"] += size
            rows.append(moved)
            data.append(other.packet_bytes)
            size += len(other.packet_bytes)
    if len(rows) > 1:
        together = np.concatenate(rows)
        run.packets = together[np.argsort(together["time_ns"], kind="stable")]
        run.packet_bytes = np.concatenate(data)


class _Each:
    """One capture's part."""

    def __init__(self, layout: Layout, name: str, spool: Spool) -> None:
        self.reader = SourceReader(layout.spool, name)
        self.source = Source(name)
        self.source.numbers = {}
        self.taken = Taken(layout.spool / name)
        self.source.reads = self._reads
        self.runs: deque[Run] = deque()
        self.since = 0.0
        """When the oldest of `runs` was read; monotonic."""
        spool.enter(self.source)

    def _reads(self, name: str) -> bool:
        """Whether not all of a segment is in the spool's account."""
        return self.reader.busy(name) or any(run.segment.endswith(f"/{name}") for run in self.runs)

    @property
    def reached_ns(self) -> int:
        """Up to which packet time all of it is here."""
        state = self.reader.head()
        return max(self.reader.newest_ns, state.now_ns if state is not None and self.reader.has_all(state) else 0)


class Intake:
    """The sources of a spool, as they come and go."""

    def __init__(self, layout: Layout, spool: Spool, directory: Path) -> None:
        """`directory`: of whoever reads."""
        self._layout, self._spool, self.directory = layout, spool, directory
        self._each: dict[str, _Each] = {}
        self._scanned = 0.0
        self._next = 1
        self.behind_s = 0.0
        """Seconds between the newest packet in the spool and the newest that was handed out."""
        self.more = False
        """Whether the last look left something unread."""

    @property
    def names(self) -> list[str]:
        """Of captures, as people know them."""
        return [name.removeprefix(SPOOL_PREFIX) for name in self._each]

    @property
    def sources(self) -> dict[str, int]:
        """The captures' parts of the spool, and the epoch of each that is known."""
        states = ((name, each.reader.head()) for name, each in self._each.items())
        return {name: state.epoch for name, state in states if state is not None}

    @property
    def anomalies(self) -> Counter[str]:
        """What was wrong with the spool."""
        return sum((each.reader.anomalies for each in self._each.values()), Counter())

    @property
    def replayed_ns(self) -> int | None:
        """The newest packet time of what was in the spool when this began; None: not all of it has been read."""
        if not self._scanned or any(each.reader.replayed_ns is None for each in self._each.values()):
            return None
        return max((each.reader.replayed_ns or 0 for each in self._each.values()), default=0)

    def _scan(self) -> None:
        now = time.monotonic()
        if self._scanned and now - self._scanned < _SCAN_S:
            return
        self._scanned = now
        with suppress(OSError):
            for name in sorted(os.listdir(self._layout.spool)):
                known = name in self._each or len(self._each) >= _MOST_SOURCES
                if name.startswith(SPOOL_PREFIX) and not known and (self._layout.spool / name).is_dir():
                    self._each[name] = _Each(self._layout, name, self._spool)

    def read(self, correlator: Correlator, alive: Callable[[], None]) -> Iterator[Run]:
        """The next runs, each in the spool's account when it is given out, and to be done with before the next is asked for.

        None: there is nothing at the moment. `alive` is called now and then.
        """
        self._scan()
        now = time.monotonic()
        for each in self._each.values():
            if not each.runs:
                self._look(each, now)
                alive()
        newest_ns = 0
        self.more = any(each.runs for each in self._each.values())
        for _ in range(_MOST if self.more else 0):
            first = min((each for each in self._each.values() if each.runs), key=lambda each: each.runs[0].first_ns)
            run = first.runs[0]
            others = [each for each in self._each.values() if each is not first]
            until = min(run.last_ns, run.first_ns + _SPAN_NS)
            for each in others:
                while each.reader.newest_ns < until and self._look(each, now):
                    pass
            lagging = [each for each in others if each.reached_ns < until and each.reader.alive(each.reader.head())]
            if lagging and now - first.since < _PATIENCE_S:
                self.more = False
                break
            first.runs.popleft()
            self._number(run, first, correlator)
            self._spool.add(run, first.source)
            packets_until(run, [each.runs for each in others], until)
            newest_ns = run.last_ns
            yield run
            if not first.runs:
                break  # what it has next is not known yet
        if newest_ns:
            heads = (each.reader.head() for each in self._each.values())
            self.behind_s = max(0.0, (max((state.now_ns for state in heads if state is not None), default=0) - newest_ns) / 1e9)
        elif not self.more:
            self.behind_s = 0.0

    def _look(self, each: _Each, now: float) -> bool:
        """Reads what a source has next; False: nothing at the moment."""
        runs = each.reader.read(_MOST)
        if not each.runs:
            each.since = now
        each.runs.extend(runs)
        for name in each.reader.opened:
            self._spool.note_segment(name, each.source)
        each.reader.opened.clear()
        return bool(runs)

    def _number(self, run: Run, each: _Each, correlator: Correlator) -> None:
        assert each.source.numbers is not None
        numbers = each.source.numbers.setdefault(run.epoch, Numbers())
        fresh = run.fresh["number"].astype(np.uint32)
        self._next = numbers.begin(np.sort(fresh), self._next)
        run.streams, gone = numbers.ours(run.streams)
        if gone.any():
            run.last = np.where(gone, 0, run.last)
        if len(fresh):
            order = np.argsort(fresh, kind="stable")
            ours, gone = numbers.ours(fresh[order])
            order, ours = order[~gone], ours[~gone]
            run.announced = fresh = fresh[order]
            run.fresh = run.fresh[order]
            run.fresh["number"] = ours
            correlator.foresee(ours, each.reader.lasts.of(run.epoch, fresh))
            if each.taken.spans:
                for theirs, number in zip(fresh.tolist(), run.fresh["number"].tolist(), strict=True):
                    if spans := each.taken.spans.get((run.epoch, theirs)):
                        correlator.taken[number] = list(spans)

    def note(self, taken: Sequence[tuple[str, int, int, int, int]]) -> None:
        """Notes (source, epoch, number, since, until) of what is in recordings. Raises OSError."""
        by_source: dict[str, list[tuple[int, int, int, int]]] = {}
        for source, *stream in taken:
            by_source.setdefault(source, []).append((stream[0], stream[1], stream[2], stream[3]))
        for source, streams in by_source.items():
            each = self._each.get(source)
            if each is None:
                continue
            each.taken.add(streams)
            if each.taken.long:
                each.taken.shorten(self._spool.announced(source).union(
                    (run.epoch, number) for run in each.runs for number in run.fresh["number"].tolist()))

    def sync(self) -> None:
        """Returns when all that was noted is on the disk. Raises OSError."""
        for each in self._each.values():
            each.taken.sync()

    def gaps(self) -> list[tuple[int, int]]:
        """Times in which a capture did not run that now does, though nothing has come since."""
        found = []
        for each in self._each.values():
            state, reader = each.reader.head(), each.reader
            if state is not None and reader.given_epoch not in (0, state.epoch) and not each.runs and reader.alive(state):
                since, epoch = reader.newest_ns, state.epoch  # which is when that capture began
                found.append((since, epoch if since < epoch < state.now_ns else state.now_ns))
        return found

    def away(self) -> list[int]:
        """Since when captures do not run that were not ended on purpose, while others go on; for so long only as somebody may see
        to it.
        """
        now = self.now_ns()
        if now is None:
            return []
        states = [(each.reader, each.reader.head()) for each in self._each.values() if not each.runs]
        return [reader.newest_ns for reader, state in states
                if state is not None and state.beat_ns and state.epoch == reader.given_epoch
                and not reader.alive(state) and now - reader.newest_ns < _AWAY_NS]

    def now_ns(self) -> int | None:
        """Up to which packet time nothing more is to come; None: no capture runs."""
        states = [(each, state) for each in self._each.values() if each.reader.alive(state := each.reader.head()) and state]
        if not states:
            return None
        return min(state.now_ns if not each.runs else each.runs[0].first_ns for each, state in states)

    def remove_ended(self) -> None:
        """Removes what captures left that do not run; all of it is in recordings."""
        for name in [n for n, each in self._each.items() if not each.runs and not each.reader.alive(each.reader.head())]:
            self._each.pop(name).reader.close()
            shutil.rmtree(self._layout.spool / name, ignore_errors=True)

    def close(self) -> None:
        """Lets go of files."""
        for each in self._each.values():
            each.reader.close()
