"""Reading a spool that another process writes, or that a dead one left: its runs, in order, each once."""

from __future__ import annotations

import contextlib
import os
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rokuon.store.numbering import LastTimes
from rokuon.store.runs import HEADER_SIZE, RUN_MAGIC, DamagedRunError, Run
from rokuon.store.segments import HEAD, SEGMENT_HEADER, SEGMENT_NAME, UNHEARD_OF, Head, HeadState, segment_header

__all__ = ["SourceReader"]

_READ_AHEAD = 1 << 17
_ALIVE_NS = 5_000_000_000
_LIST_S = 1.0
"""After which the directory is listed, whatever the writer says."""


class _Place(NamedTuple):
    """Where a sound run lies."""

    epoch: int
    first: int
    """Sequence numbers of capture's runs that it stands for."""
    last: int
    merged: bool
    name: str
    at: int


class SourceReader:
    """One source's runs: at first those that are there, then those that come. The voice itself is not read."""

    def __init__(self, root: Path, name: str) -> None:
        """`root`: the spool's directory; `name`: of the source's directory in it."""
        self.name = name
        self.directory = root / name
        self.anomalies: Counter[str] = Counter()
        self.reading = ""
        """Name of the segment that more may come of."""
        self.newest_ns = 0
        """Packet time of the newest run, or how far the source had come where none is left, and its epoch; 0: not known."""
        self.given_epoch = 0
        self.opened: list[str] = []
        """Segments that were looked into, since whoever reads this last emptied it; what none of them holds is not needed."""
        self.lasts = LastTimes()
        """Of the streams of runs that were found and are not read yet."""
        self._unread: Counter[str] = Counter()
        """Runs in `_left`, by segment."""
        self.replayed_ns: int | None = None
        """Packet time of the newest run of those that were there at first, when all of them have been read."""
        self._unlistable = False
        self._scanned = ""
        """Name of the segment whose damage is counted already, of those that are followed."""
        self._list_at = 0.0
        self._strange: dict[str, bool] = {}
        """Of files with a segment's name, whether they are none."""
        self._left: list[_Place] | None = None
        self._head: Head | None = None
        self._first_counter: int | None = None
        self._file = -1
        self._at = SEGMENT_HEADER
        self._epoch = self._sequence = 0

    def read(self, most: int = 64) -> list[Run]:
        """The next runs, at most so many; none: there are no more at the moment. Stream numbers are the capture's."""
        if self._left is None:
            self._leave(self._found())
            if not self._left:
                self._adopt()
        runs: list[Run] = []
        while len(runs) < most:
            if not self._left:
                self.lasts.clear()
                self.replayed_ns = self.newest_ns if self.replayed_ns is None else self.replayed_ns
                if not self._follow(runs):
                    break
                continue
            place = self._left.pop()
            self._unread[place.name] -= 1
            if not self._unread[place.name]:
                del self._unread[place.name]
            try:
                file = os.open(self.directory / place.name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    self._give(_load(file, self.name, place.name, place.at)[0], runs)
                finally:
                    os.close(file)
            except (OSError, DamagedRunError):
                self.anomalies["spool-unreadable"] += 1
        return runs

    def _leave(self, places: list[_Place]) -> None:
        """These runs are to be read next."""
        self._left = places[::-1]
        self._unread.update(place.name for place in places)

    def _adopt(self) -> None:
        """Nothing is left of what the source wrote: how far it was is in its head."""
        state = self.head()
        if state is not None and state.epoch:
            self.given_epoch, self.newest_ns, self.replayed_ns = state.epoch, state.now_ns, 0

    def busy(self, name: str) -> bool:
        """Whether more may come of the segment of this name."""
        return name == self.reading or name in self._unread

    def _give(self, run: Run, runs: list[Run]) -> None:
        run.source = self.name
        if run.epoch != self.given_epoch and self.given_epoch and self.newest_ns:
            run.gap_ns = self.newest_ns
        self.given_epoch = run.epoch
        self.newest_ns = max(self.newest_ns, run.last_ns)
        runs.append(run)

    # -- what is there -------------------------------------------------------
    def _found(self) -> list[_Place]:
        """All sound runs, in order, without those that a merged one stands for."""
        merged: list[_Place] = []
        plain: list[_Place] = []
        for name in self._names(merged=True):
            merged += self._runs_of(name, True)
        for name in self._names():
            mine = list(self._runs_of(name, False))
            plain += mine
            self.reading = self._scanned = name
            self._at = SEGMENT_HEADER
            if mine:
                self._epoch, self._sequence = mine[-1].epoch, mine[-1].last
        kept: list[_Place] = []
        for place in sorted(merged, key=lambda p: (p.epoch, p.first, -p.last)):
            if not kept or kept[-1].epoch != place.epoch or place.last > kept[-1].last:  # else it was merged once more
                kept.append(place)
        begins, ends = [(p.epoch, p.first) for p in kept], [(p.epoch, p.last) for p in kept]
        for place in plain:
            at = bisect_right(begins, (place.epoch, place.first)) - 1
            if at < 0 or ends[at] < (place.epoch, place.first):
                kept.append(place)
        return sorted(kept, key=lambda p: (p.epoch, p.first))

    def _names(self, merged: bool = False) -> list[str]:
        """Segments in the order of their making."""
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            if not self._unlistable and not isinstance(error, FileNotFoundError):
                self._unlistable = True
                self.anomalies["spool-unreadable"] += 1
            return []
        there = set(names)
        self._strange = {name: strange for name, strange in self._strange.items() if name in there}
        found = [(int(m[3]), n) for n in names if (m := SEGMENT_NAME.fullmatch(n)) and not m[1] and bool(m[2]) == merged]
        return [name for number, name in sorted(found) if number < UNHEARD_OF and not self._is_strange(name)]

    def _later(self) -> list[str]:
        """Segments that were made after the one that is read."""
        read = SEGMENT_NAME.fullmatch(self.reading)
        return [n for n in self._names() if (m := SEGMENT_NAME.fullmatch(n)) and (read is None or int(m[3]) > int(read[3]))]

    def _is_strange(self, name: str) -> bool:
        """Whether the file has no segment's beginning; one that is being made has none yet."""
        if name not in self._strange:
            try:
                with open(self.directory / name, "rb") as file:
                    start = file.read(SEGMENT_HEADER)
            except FileNotFoundError:
                return True
            except OSError:  # a directory, say
                start = b"?"
            if not any(start):
                return False
            self._strange[name] = segment_header(start) is None
            self.anomalies["spool-damaged"] += self._strange[name]
        return self._strange[name]

    def _runs_of(self, name: str, merged: bool) -> Iterator[_Place]:
        """The sound runs of a segment, each checked as a whole; what is damaged in between is left out."""
        try:
            whole = (self.directory / name).read_bytes()
        except OSError:
            self.anomalies["spool-unreadable"] += 1
            return
        self.opened.append(name)
        header = segment_header(whole)
        if header is None:
            return
        data = memoryview(whole)
        epoch, last, size = header
        self.anomalies["spool-damaged"] += len(whole) < size
        at, damaged = SEGMENT_HEADER, False
        while at + HEADER_SIZE <= len(data):
            try:
                run = Run.parse(data[at:], None if merged else epoch)
            except DamagedRunError:
                damaged = True  # or the end: what follows will tell
                at = whole.find(RUN_MAGIC, at + 8)
                if at < 0:
                    return
                continue
            if run.sequence < last:
                return  # left from an earlier use of the file
            self.anomalies["spool-damaged"] += damaged
            damaged = False
            last = run.sequence + 1
            if len(run.last) == len(run.streams):
                self.lasts.raise_to(run.epoch, run.streams, run.last)
            first, end = run.replaces if any(run.replaces) else (run.sequence, run.sequence)
            yield _Place(run.epoch, first, end, merged, name, at)
            at += run.size

    # -- what comes ----------------------------------------------------------
    def _follow(self, runs: list[Run]) -> bool:
        """The next run of those that come; False: there is none at the moment."""
        state = self.head()
        if state is not None and self._first_counter is None:
            self._first_counter = state.counter
        if self._file < 0 and not self._open():
            return False
        run = self._next(state)
        if run is None:
            if state is not None and state.segment == self.reading and time.monotonic() < self._list_at:
                return False  # it says that there is none
            self._list_at = time.monotonic() + _LIST_S
            later = self._later() or self._elsewhere(state)
            if not later:
                return False
            run = self._next(state)  # what was written before the other segment was begun
            if run is None:
                self._go_on(later[0])
                return True
        self._sequence = run.sequence
        self._give(run, runs)
        return True

    def _elsewhere(self, state: HeadState | None) -> list[str]:
        """The segment that the writer says it is at, where nobody would look: somebody put a file behind it."""
        if state is None or state.counter == self._first_counter or state.segment in ("", self.reading):
            return []
        return [state.segment] if (state.epoch, state.sequence) > (self._epoch, self._sequence) else []

    def _go_on(self, name: str) -> None:
        """To the next segment. What is sound of the present one, behind a place that is not, is read before."""
        os.close(self._file)
        left, self.reading, self._file, self._at = self.reading, name, -1, SEGMENT_HEADER
        try:
            with open(self.directory / name, "rb") as file:
                header = segment_header(file.read(SEGMENT_HEADER))
        except OSError:
            header = None
        if header is None or header[:2] != (self._epoch, self._sequence + 1):
            told = self.anomalies["spool-damaged"] if left == self._scanned else None
            self._leave([p for p in self._runs_of(left, False) if p.epoch == self._epoch and p.first > self._sequence])
            if told is not None:
                self.anomalies["spool-damaged"] = told

    def _open(self) -> bool:
        """Opens the segment that is next, or the first there is; False: there is none yet that has been begun."""
        while True:
            self.reading = self.reading or next(iter(self._names()), "")
            if not self.reading:
                return False
            header = None
            try:
                file = os.open(self.directory / self.reading, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self.reading = next(iter(self._later()), "")
                if not self.reading:
                    return False
                continue
            with contextlib.suppress(OSError):
                header = segment_header(os.pread(file, SEGMENT_HEADER, 0))
            if header is not None:
                break
            os.close(file)
            later = self._later()
            if not later:
                return False
            self.opened.append(self.reading)  # it was made, and nothing was written to it
            self.reading = later[0]
        if header[0] != self._epoch:
            self._epoch, self._sequence = header[0], header[1] - 1
        self._file = file
        self.opened.append(self.reading)
        return True

    def _next(self, state: HeadState | None) -> Run | None:
        """The run at the present place, if it is whole and was not read before; those that were are passed over."""
        while True:
            try:
                run, whole = _load(self._file, self.name, self.reading, self._at)
                if run.epoch != self._epoch:
                    return None
                if run.sequence <= self._sequence:  # read before, or left from an earlier use of the file
                    if self._passed(run):
                        self._at += whole
                        continue
                    return None
                told = state is not None and state.epoch == run.epoch and state.counter != self._first_counter
                if state is None or not told or run.sequence > state.sequence:
                    Run.parse(memoryview(os.pread(self._file, whole, self._at)), run.epoch)
            except (DamagedRunError, OSError):
                return None
            self._at += whole
            return run

    def _passed(self, run: Run) -> bool:
        """Whether a run of a known sequence number is one of this use of the file: they ascend from its header on."""
        header = segment_header(os.pread(self._file, SEGMENT_HEADER, 0))
        return header is not None and run.sequence >= header[1]

    def has_all(self, state: HeadState) -> bool:
        """Whether all that the writer says it has written was read."""
        return not self._left and state.epoch == self._epoch and state.sequence <= self._sequence

    def head(self) -> HeadState | None:
        """What the writer says of itself; None: nothing."""
        if self._head is None:
            with contextlib.suppress(OSError):
                self._head = Head(self.directory / HEAD)
        return self._head.read() if self._head is not None else None

    @staticmethod
    def alive(state: HeadState | None) -> bool:
        """Whether the writer runs."""
        return state is not None and state.beat_ns > 0 and 0 <= time.monotonic_ns() - state.beat_ns < _ALIVE_NS

    def close(self) -> None:
        """Lets go of its files."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._head is not None:
            self._head.close()
            self._head = None


def _load(file: int, source: str, name: str, at: int) -> tuple[Run, int]:
    """The run there, without its voice, and its bytes in all. Raises DamagedRunError, OSError."""
    data = os.pread(file, _READ_AHEAD, at)
    sizes = Run.sizes(data)
    if len(data) < sizes.head:
        data += os.pread(file, sizes.head - len(data), at + len(data))
    run = Run.parse(memoryview(data), whole=False)
    run.segment = f"{source}/{name}" if source else name
    run.at, run.records_at = at, at + sizes.head
    run.payload_at = run.records_at + sizes.records
    return run, sizes.whole
