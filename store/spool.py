"""What lies in the spool: which runs, where, and which of it is still needed.

The spool is a directory of sources, each a directory of segments (see `segments`) that one capture writes. Whoever binds calls to
streams keeps this account of it, copies what little is still needed out of old segments, and gives these back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rokuon.store.kept import KeptPackets
from rokuon.store.merging import Files, neighbours, put_back
from rokuon.store.numbering import Numbers
from rokuon.store.runs import PACKET, RECORD, STREAM, DamagedRunError, Run
from rokuon.store.segments import SpoolWriter
from rokuon.store.strangers import CROWD
from rokuon.store.tables import LARGE, Tables

__all__ = ["SLICE", "Needed", "Source", "Spool"]

SLICE = np.dtype([("records_at", "<i8"), ("records", "<i8"), ("payload_at", "<i8"), ("payload", "<i8"), ("payload_base", "<i8"),
                  ("first_ns", "<i8"), ("last_ns", "<i8"), ("segment", "<i8")])
"""A stream's part of one run: where its RECORDs lie in the segment's file and how many they are, where its payload lies and how
much it is, what to take off a record's `offset` to count from there, the times of the whole run, and the segment's number."""

Needed = Callable[[NDArray[np.uint32]], NDArray[np.int64]]
"""By stream number: the time from which on its packets are needed (the largest int64: not at all)."""
_SPAN_NS = 500_000_000
"""What one run can last that is merged of several, where other sources tell of the same time: whoever reads them again, run by
run, is to hear of everything at about its time."""
_REST_NS = 30_000_000_000
"""For so long at most a segment is not looked at again."""
_LONG_NS = 600_000_000_000
"""When calls that are still going on are long ones."""
_MANY = 32
_NOWHERE = 1 << 40
"""In no file."""
_FREE = 2
"""Segments of a source that are kept to be used again."""


@dataclass(slots=True)
class Segment:
    """A file of runs."""

    number: int
    name: str
    """Relative to the spool's directory."""
    source: Source
    jobs: int = 0
    """Readers that still need it, beside the runs."""
    look_ns: int = 0
    """Packet time before which there is no use in looking whether it can be given back."""


class Source:
    """One capture's part of the spool."""

    def __init__(self, name: str, writer: SpoolWriter | None = None) -> None:
        """`name`: of its directory, "" the spool's own. `writer`: where its runs are written by this process."""
        self.name = name
        self.writer = writer
        self.merger: SpoolWriter | None = None
        self.reads: Callable[[str], bool] | None = None
        """Whether more runs may come of the file of this name, where another process writes."""
        self.numbers: dict[int, Numbers] | None = None
        """By epoch, how the capture's stream numbers are called here; None: the same."""

    def theirs(self, numbers: NDArray[np.uint32], epoch: int) -> NDArray[np.uint32]:
        """Our stream numbers as the capture gave them in this epoch. Raises KeyError where they are of another."""
        return numbers if self.numbers is None else self.numbers[epoch].theirs(numbers)

    def busy(self, segment: str) -> bool:
        """Whether the segment may yet be written to."""
        file = segment.rpartition("/")[2]
        writers = (writer.current for writer in (self.writer, self.merger) if writer is not None)
        return file in writers or (self.reads is not None and self.reads(file))


class Spool:
    """The account of a spool's runs, and the only one who gives segments back."""

    def __init__(self, root: Path, *, segment_bytes: int = 64 << 20, lasting: bool = False) -> None:
        """`lasting`: the spool will be all that is left after a crash. Streams' addresses and the signalling of open calls
        then outlive the segments they came in, and what is copied is on the disk before its segment is given back.
        """
        self.root = root
        self.segment_bytes = segment_bytes
        self.runs: list[Run] = []
        """In order of time within a source; merged ones in the place of the first they stand for."""
        self.streams: dict[int, np.void] = {}
        """STREAM row of every stream that is still needed."""
        self.merged_bytes = 0
        self._lasting = lasting
        self._segments: dict[str, Segment] = {}
        self._numbers: dict[int, str] = {}
        self._next = 0
        self._unsettled = 0
        """Bytes of runs that may be in memory still."""
        self._sources: dict[str, Source] = {}
        self._tables = Tables()
        self.unreadable = 0
        """Runs whose tables were not in their file any more when they were looked up."""

    # -- in ------------------------------------------------------------------
    def enter(self, source: Source) -> None:
        """Makes a source known."""
        self._sources[source.name] = source

    def append(self, run: Run, source: Source) -> None:
        """Writes a run, through the source's own writer, and takes it in. Raises OSError: see `SpoolWriter.append`."""
        assert source.writer is not None
        source.writer.append(run)
        self.add(run, source)

    def add(self, run: Run, source: Source) -> None:
        """Takes a run in that is written, or about to be: `settle` waits for it."""
        if self._unsettled > self.segment_bytes:
            self.settle()
        self._unsettled += run.size
        if len(run.fresh) < CROWD:
            self.recognise(run.fresh)
        self._sources[source.name] = source
        run.source = source.name
        if self._lasting:
            run.begun = run.fresh["number"].astype(np.uint32)
            run.small_bytes = run.fresh.nbytes + run.packet_bytes.nbytes
        self.runs.append(run)

    def recognise(self, rows: Iterable[np.void]) -> None:
        """These streams, STREAM rows, are needed."""
        for row in rows:
            self.streams[int(row["number"])] = row

    def settle(self) -> None:
        """Returns when all runs are on disk; their bytes are let go from memory. Raises OSError."""
        for source in self._sources.values():
            if source.writer is not None:
                source.writer.drain()
        self._unsettled = 0
        for run in reversed(self.runs):
            if run.settled:
                break
            self._let_go(run)

    def _let_go(self, run: Run) -> None:
        self._located(run)
        run.let_go(tables=self._lasting and len(run.streams) > LARGE)

    def _located(self, run: Run) -> Segment:
        name = run.segment
        if run.source and "/" not in name:
            name = run.segment = f"{run.source}/{name}"
        return self._segment(name, self._sources[run.source])

    def _segment(self, name: str, source: Source) -> Segment:
        segment = self._segments.get(name)
        if segment is None:
            segment = self._segments[name] = Segment(self._next, name, source)
            self._numbers[self._next] = name
            self._next += 1
        return segment

    def note_segment(self, name: str, source: Source) -> None:
        """The source has a segment of this name: where nothing comes of it that is needed, it is given back."""
        self._segment(f"{source.name}/{name}" if source.name else name, source)

    def announced(self, source: str) -> set[tuple[int, int]]:
        """The streams, by epoch and the capture's number, whose beginning the runs of a source tell of."""
        return {(run.epoch, number) for run in self.runs if run.source == source for number in run.announced.tolist()}

    # -- reading -------------------------------------------------------------
    def slices(self, numbers: NDArray[np.uint32], since_ns: int, until_ns: int) -> list[NDArray[np.void]]:
        """For each stream number (ascending) its parts in the runs between two times, in order: SLICE rows."""
        found: list[NDArray[np.int64]] = [np.zeros((0, 9), np.int64)]
        with Files(self.root) as files:
            for run in self.runs:
                if run.last_ns < since_ns or run.first_ns > until_ns or not len(run.streams):
                    continue
                at = np.searchsorted(run.streams, numbers)
                at[at == len(run.streams)] = 0
                which = np.flatnonzero(run.streams[at] == numbers)
                if not len(which):
                    continue
                at = at[which]
                rows = np.empty((len(which), 9), np.int64)
                rows[:, 5:8] = run.first_ns, run.last_ns, self._located(run).number
                rows[:, 8] = which
                try:
                    starts, payload_starts, _ = self._tables_of(run, files)
                    rows[:, 0] = run.records_at + starts[at].astype(np.int64) * RECORD.itemsize
                    rows[:, 1] = starts[at + 1] - starts[at]
                    rows[:, 4] = payload_starts[at]
                    rows[:, 2], rows[:, 3] = run.payload_at + rows[:, 4], payload_starts[at + 1] - payload_starts[at]
                except OSError:  # whoever looks for the packets there finds that they are gone: about so many
                    self.unreadable += 1
                    rows[:, :5] = _NOWHERE, max(1, run.records_bytes // RECORD.itemsize // len(run.streams)), _NOWHERE, 0, 0
                found.append(rows)
        together = np.concatenate(found)
        order = np.argsort(together[:, 8], kind="stable")
        ends = np.searchsorted(together[order, 8], np.arange(1, len(numbers) + 1))
        slices = np.ascontiguousarray(together[order, :8]).view(SLICE).reshape(-1)
        return np.split(slices, ends[:-1]) if len(numbers) else []

    def _tables_of(self, run: Run, files: Files) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]]:
        """`starts`, `payload_starts`, `last`, until the next are asked for. Raises OSError."""
        kept = len(run.starts) or not len(run.streams)
        return (run.starts, run.payload_starts, run.last) if kept else self._tables.of(run, files.open(run.segment))

    def files(self, segments: Iterable[int]) -> dict[int, str]:
        """The names of segments' files, relative to the spool's directory."""
        return {number: self._numbers[number] for number in segments}

    def hold(self, segments: Iterable[int]) -> None:
        """A reader needs these segments until `release`."""
        for number in segments:
            self._segments[self._numbers[number]].jobs += 1

    def release(self, segments: Iterable[int]) -> None:
        """A reader that held these segments is done."""
        for number in segments:
            self._segments[self._numbers[number]].jobs -= 1

    @property
    def segment_count(self) -> int:
        """Segments in use."""
        return len(self._segments)

    # -- giving back ---------------------------------------------------------
    def recycle(self, needed: Needed, old_ns: int, free_ns: int | None = None, kept: KeptPackets | None = None) -> None:
        """Gives segments back that nothing needs, and copies out of old ones what little is needed of them.

        old_ns: only runs that end before it are merged: younger ones may yet be let go whole. free_ns: only segments whose runs
        end before it are given back; None: at any time. kept: signalling that open calls need, in a lasting spool. Raises
        OSError where a source's runs cannot be written.
        """
        kept = kept or KeptPackets([])
        self.settle()
        by_segment: dict[str, list[Run]] = {}
        for run in self.runs:
            by_segment.setdefault(self._located(run).name, []).append(run)
        gone: set[int] = set()
        merged: dict[int, Run] = {}
        for name, runs in by_segment.items():
            segment = self._segments[name]
            if old_ns < segment.look_ns:
                continue
            newest = max(run.last_ns for run in runs)
            if segment.source.busy(name) or segment.jobs or (free_ns is not None and newest >= free_ns):
                continue
            live, total = self._weigh(runs, needed, kept)
            if live == 0:
                gone.update(id(run) for run in runs)
            elif newest < old_ns and (live * 2 <= total or self._scattered(segment, runs, old_ns)):
                for group in neighbours(runs, self.runs, _SPAN_NS if len(self._sources) > 1 else 0):
                    with contextlib.suppress(OSError, KeyError, DamagedRunError):  # no room for a copy: it stays where it is
                        made = self._merge(group, needed, segment.source, kept)
                        gone.update(id(run) for run in group)
                        if made is not None:
                            gone.discard(id(group[0]))
                            merged[id(group[0])] = made
            elif self._lasting:  # what was needed for long will be for a while
                segment.look_ns = old_ns + min(max(old_ns - newest, 0) // 10, _REST_NS)
        if gone or merged:
            self.runs = [merged.get(id(run), run) for run in self.runs if id(run) not in gone]
        used = {run.segment for run in self.runs}
        for name in [n for n, s in self._segments.items() if n not in used and not s.jobs and not s.source.busy(n)]:
            self._give_back(self._segments.pop(name))

    def _scattered(self, segment: Segment, runs: list[Run], old_ns: int) -> bool:
        """Whether a lasting spool has what long calls need in many small runs, each of which takes memory and a read."""
        return (self._lasting and len(runs) > _MANY and runs[-1].last_ns < old_ns - _LONG_NS
                and not segment.name.rpartition("/")[2].startswith("m"))

    def _weigh(self, runs: list[Run], needed: Needed, kept: KeptPackets) -> tuple[int, int]:
        """Bytes that are needed of runs, and bytes that they hold."""
        live = total = 0
        with Files(self.root) as files:
            for run in runs:
                is_needed = needed(run.streams) <= run.last_ns
                if is_needed.any():
                    try:
                        live += int(np.diff(self._tables_of(run, files)[1].astype(np.int64))[is_needed].sum())
                    except OSError:
                        live += run.payload_bytes
                total += run.payload_bytes + run.small_bytes
                live += STREAM.itemsize * sum(n in self.streams for n in run.begun.tolist())
        if self._lasting:
            live += kept.size(min(run.first_ns for run in runs), max(run.last_ns for run in runs))
        return live, total

    def _give_back(self, segment: Segment) -> None:
        del self._numbers[segment.number]
        with contextlib.suppress(OSError):
            put_back(self.root / segment.name, _FREE)

    def forget(self, numbers: Collection[int]) -> None:
        """These streams are needed no more."""
        for number in numbers:
            self.streams.pop(number, None)
        if numbers and self._lasting:
            gone = np.fromiter(numbers, np.uint32, len(numbers))
            for source in self._sources.values():
                for known in (source.numbers or {}).values():
                    known.forget(gone)

    def origin(self, number: int) -> tuple[str, int, int] | None:
        """Source, epoch and the capture's own number of a stream; None where that is not known any more."""
        for source in self._sources.values():
            for epoch, known in (source.numbers or {}).items():
                with contextlib.suppress(KeyError):
                    return source.name, epoch, int(known.theirs(np.array([number], np.uint32))[0])
        return None

    def _merge(self, runs: list[Run], needed: Needed, source: Source, kept: KeptPackets) -> Run | None:
        """One run of what is still needed of several that lie side by side, written before they are given up; None: of none."""
        numbers = np.unique(np.concatenate([run.streams[needed(run.streams) <= run.last_ns] for run in runs]))
        epoch = runs[0].epoch
        begun = [n for run in runs for n in run.begun.tolist() if n in self.streams]
        known = [self.streams[n] for n in (begun if self._lasting else numbers.tolist()) if n in self.streams]
        fresh = np.array(known, STREAM) if known else np.zeros(0, STREAM)
        theirs = source.theirs(numbers, epoch)
        fresh["number"] = source.theirs(fresh["number"], epoch)
        packets: list[NDArray[np.void]] = [np.zeros(0, PACKET)]
        packet_bytes = bytearray()
        records: list[NDArray[np.void]] = [np.zeros(0, RECORD)]
        payload: list[NDArray[np.uint8]] = [np.zeros(0, np.uint8)]
        starts, payload_starts, count, size, last = [0], [0], 0, 0, []
        with Files(self.root) as files:
            for run in runs if self._lasting else ():
                if kept.size(run.first_ns, run.last_ns):
                    head = os.pread(files.open(run.segment), run.records_at - run.at, run.at)
                    there = Run.parse(memoryview(head), whole=False)
                    rows, data = kept.among(there.packets, there.packet_bytes)
                    rows["offset"] += len(packet_bytes)
                    packets.append(rows)
                    packet_bytes += data
            if not len(numbers) and not len(fresh) and not packet_bytes:
                return None
            tables = [tuple(table.copy() for table in self._tables_of(run, files)) for run in runs] if len(numbers) else []
            for number in numbers.tolist():
                newest = 0
                for run, (its_starts, its_payload_starts, its_last) in zip(runs, tables, strict=True):
                    k = int(np.searchsorted(run.streams, number))
                    if k == len(run.streams) or run.streams[k] != number:
                        continue
                    first, end = int(its_starts[k]), int(its_starts[k + 1])
                    begin, stop = int(its_payload_starts[k]), int(its_payload_starts[k + 1])
                    file = files.open(run.segment)
                    rows = np.frombuffer(os.pread(file, (end - first) * RECORD.itemsize,
                                                  run.records_at + first * RECORD.itemsize), RECORD).copy()
                    rows["offset"] += np.uint32((size - begin) & 0xFFFF_FFFF)
                    records.append(rows)
                    payload.append(np.frombuffer(os.pread(file, stop - begin, run.payload_at + begin), np.uint8))
                    count, size = count + end - first, size + stop - begin
                    newest = max(newest, int(its_last[k]) if len(its_last) else run.last_ns)
                starts.append(count)
                payload_starts.append(size)
                last.append(newest)
        first_ns, last_ns = min(run.first_ns for run in runs), max(run.last_ns for run in runs)
        replaced = [run.replaces if any(run.replaces) else (run.sequence, run.sequence) for run in runs]
        made = Run(first_ns, last_ns, theirs, np.array(starts, np.uint32), fresh, np.concatenate(packets),
                   np.frombuffer(bytes(packet_bytes), np.uint8),
                   np.concatenate(records), np.concatenate(payload), np.array(payload_starts, np.uint32),
                   replaces=(min(first for first, _ in replaced), max(last for _, last in replaced)),
                   last=np.array(last, np.int64), epoch=epoch, gap_ns=runs[0].gap_ns)
        writer = self._merger(source)
        writer.append(made)
        writer.drain()
        self.merged_bytes += made.size
        made.streams, made.begun, made.source = numbers, np.array(begun, np.uint32), source.name
        made.announced = fresh["number"].astype(np.uint32)
        made.small_bytes = fresh.nbytes + len(packet_bytes)
        self._let_go(made)
        return made

    def _merger(self, source: Source) -> SpoolWriter:
        if source.merger is None or source.merger.error is not None:
            if source.merger is not None:
                source.merger.close()
            source.merger = SpoolWriter(self.root / source.name, segment_bytes=self.segment_bytes, prefix="m", sync=self._lasting)
        return source.merger

    def close(self) -> None:
        """Ends the writers of copies."""
        for source in self._sources.values():
            if source.merger is not None:
                source.merger.close()
