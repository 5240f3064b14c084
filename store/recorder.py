"""Capture files in, calls out: the composition of capture, spool, correlation and finalising."""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_merge import cut, open_captures
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator, Piece
from rokuon.store.errors import DataError, IndexBusyError, StoreError
from rokuon.store.index import Index, LegSpan
from rokuon.store.jobs import Job, make_jobs
from rokuon.store.layout import Layout, refused
from rokuon.store.pool import Outcome, Pool
from rokuon.store.settings import Settings
from rokuon.store.sidecar import dump, nanoseconds, write_file
from rokuon.store.spool import Spool
from rokuon.store.traces import sweep
from rokuon.store.worker import Worker

__all__ = ["Progress", "Recorder", "Summary", "record_files"]

_NS = 1_000_000_000
CHUNK = 16 << 20
SPELL_NS, SPELL = 600 * _NS, 64
_LOOK_UP = 128
_COMMIT = 1000
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


_LOST = {"calls-evicted": "calls-given-up-for-room", "streams_evicted": "streams-given-up-for-room",
         "unclaimed-streams-let-go": "rtp-unclaimed", "rtp-after-call": "rtp-after-its-call",
         "rtp-in-fragments": "rtp-in-fragments",
         "sip-cut-by-snaplen": "sip-cut-by-snaplen", "packet-cut-or-unknown": "signalling-cut-by-snaplen"}
"""What is counted elsewhere and left no recording, and the reason that people are told."""


@dataclass(slots=True)
class Progress:
    """How far a recording is."""

    packets: int = 0
    bytes_read: int = 0
    bytes_total: int | None = None
    calls_found: int = 0


@dataclass(slots=True)
class Summary:
    """What became of a capture."""

    packets: int = 0
    calls_found: int = 0
    calls_added: int = 0
    calls_known: int = 0
    quarantined: int = 0
    """Calls that could not be finalised and were set aside."""
    warnings: list[str] = field(default_factory=list)
    not_recorded: dict[str, int] = field(default_factory=dict)
    """Calls and streams of which there is no recording, by reason."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was seen, by kind."""
    anomalies: dict[str, int] = field(default_factory=dict)


def keep_pages() -> None:
    """Tells the allocator to keep freed memory, for fresh pages for every array cost more than what is done with them; and
    the garbage collector to look less often at what is nearly all alive.
    """
    gc.set_threshold(50_000, 20, 100)
    gc.freeze()  # modules stay
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 64 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 128 << 20)


def spells(batch: PacketBatch) -> Iterator[PacketBatch]:
    """The batch in parts that last `SPELL_NS` at most, or hold `SPELL` packets: calls of hours in which next to nothing is
    said are then followed step by step.
    """
    latest = np.maximum.accumulate(batch.time_ns)
    begin = 0
    while begin < len(batch):
        end = max(int(np.searchsorted(latest, latest[begin] + SPELL_NS, "right")), begin + SPELL)
        yield batch if end - begin >= len(batch) else cut(batch, begin, min(end, len(batch)), batch.data)
        begin = end


@contextmanager
def private_spool(layout: Layout) -> Iterator[Path]:
    """A spool directory of this run's own; those that died leave theirs to whoever comes next."""
    for left in layout.spool.glob("import-*"):
        with suppress(OSError), open(left / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep(layout, left)
            shutil.rmtree(left, ignore_errors=True)
    directory = layout.spool / f"import-{os.getpid()}-{time.time_ns()}"
    directory.mkdir(mode=0o750)
    try:
        with open(directory / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Recorder:
    """Batches in, files and index out."""

    def __init__(self, layout: Layout, settings: Settings, spool: Path, pool: Pool) -> None:
        record = settings.record
        self._layout, self._pool = layout, pool
        self._window_ns = int(record.window * _NS)
        self._capture = Capture(record.sip_ports, idle_ns=self._window_ns // 2)
        self._spool = Spool(spool, segment_bytes=record.segment << 20, epoch=time.time_ns())
        self._correlator = Correlator(linger_ns=int(record.linger * _NS), window_ns=self._window_ns,
                                      lead_ns=int(record.early * _NS))
        self._index = Index(layout.index, settings.index.region or None)
        self._waiting: list[Job] = []
        self._known: set[int] = set()
        self._found: set[int] = set()
        self._begun: set[int] = set()
        self._set_aside: set[int] = set()
        self._aside = Worker(layout.root, spool / "packets.spool", settings)
        self._finished: list[dict[str, Any]] = []
        self._full_segments = 0
        self.summary = Summary()
        self._not_recorded: Counter[str] = Counter()

    def process(self, batch: PacketBatch) -> None:
        """One batch of packets, all the way."""
        for part in spells(batch):
            self._process(part)

    def _process(self, batch: PacketBatch) -> None:
        run = self._capture.process(batch)
        self.summary.packets += len(batch)
        self._spool.append(run)
        ended = self._correlator.process(run)
        if ended:
            self._take(ended)
        self._recycle()
        self._collect(self._pool.outcomes())

    def tick(self, now_ns: int) -> None:
        """Time has passed to `now_ns` (packet time), with or without packets: what is over by then gets to the index at once."""
        self._take(self._correlator.advance(now_ns))
        self._look_up()
        self._collect(self._pool.outcomes())
        with suppress(IndexBusyError):  # somebody reads it for long: tried again the next time
            self._commit()

    def finish(self) -> Summary:
        """The capture is over."""
        self._take(self._correlator.finish())
        self._look_up()
        self._collect(self._pool.outcomes(all_of_them=True))
        self._commit()
        summary = self.summary
        counts = self._capture.counts + self._correlator.counts + self._correlator.signalling.counts
        counts.update({"spool_segments": self._spool.segment_count, "spool_segments_reused": self._spool.recycled,
                       "spool_bytes_merged": self._spool.merged_bytes})
        summary.counts = dict(sorted(counts.items()))
        anomalies = (self._correlator.signalling.all_anomalies() + self._correlator.tracker.anomalies
                     + self._correlator.binder.anomalies)
        summary.anomalies = dict(sorted(anomalies.items()))
        self._not_recorded.update({reason: counts[name] + anomalies[name] for name, reason in _LOST.items()
                                   if counts[name] + anomalies[name]})
        summary.not_recorded = dict(sorted(self._not_recorded.items()))
        return summary

    def close(self) -> None:
        self._aside.close()
        self._spool.close()

    def stop(self) -> None:
        """Interrupted: what is finished is kept, the rest is left for the same command again."""
        with suppress(StoreError, OSError):
            self._collect(self._pool.outcomes())
        self._spool.abandon()  # on a full disk: room for the index
        with suppress(StoreError, OSError):
            self._commit()

    # -- calls ---------------------------------------------------------------
    def _take(self, ended: Sequence[Any]) -> None:
        self._spool.settle()
        for begin in range(0, len(ended), _LOOK_UP):  # thousands may end at once: where their packets lie takes room
            some = ended[begin:begin + _LOOK_UP]
            for job in make_jobs(some, self._spool, self._correlator.encapsulations):
                self._found.add(job.number)
                self._waiting.append(job)
            if len(self._waiting) >= _LOOK_UP or any(isinstance(item, Piece) for item in some):
                self._look_up()  # at once for a long call: the spool waits for it

    def _look_up(self) -> None:
        """Leaves out what the archive has already, and hands out the rest."""
        waiting, self._waiting = self._waiting, []
        fresh = [job for job in waiting if job.number not in self._begun and job.number not in self._known]
        if fresh and self._layout.index.exists():
            self._find_known(fresh)
        for job in waiting:
            if job.number in self._known or job.number in self._set_aside:
                if job.until_ns is None and job.number in self._known:
                    self.summary.calls_known += 1
                self._spool.release(job.segments)
                continue
            self._begun.add(job.number)
            self._pool.submit(job)
        self._collect(self._pool.outcomes())

    def _find_known(self, jobs: list[Job]) -> None:
        legs: list[LegSpan] = []
        owners: list[int] = []
        for job in jobs:
            for leg in job.facts["legs"]:
                last = max([nanoseconds(leg["start"])] + [nanoseconds(m["time"]) for m in job.facts["messages"][-1:]])
                legs.append(LegSpan.of(leg, last))
                owners.append(job.number)
        for owner, found in zip(owners, self._index.known_calls(legs), strict=True):
            if found:
                self._known.add(owner)
        loose = {job.id: job.number for job in jobs if not job.facts["legs"]}
        if loose:
            self._known.update(loose[i] for i in self._index.known_ids(loose))

    def _collect(self, outcomes: Sequence[Outcome]) -> None:
        failed = ""
        for outcome in outcomes:
            job = outcome.job
            if outcome.disk:
                failed = failed or f"cannot write the recording {job.id}: {outcome.error.lower()}"
                continue
            if outcome.error:
                self._quarantine(outcome)
            self._spool.release(job.segments)
            if outcome.error or job.number in self._set_aside:
                continue
            if outcome.sidecar is not None:
                self._finished.append(outcome.sidecar)
                if outcome.sidecar.get("audio") is None and outcome.sidecar["streams"]:
                    self._not_recorded[f"no-audio: {outcome.sidecar.get('audio_reason') or 'unknown'}"] += 1
            elif job.until_ns is None:
                self._found.discard(job.number)
                self._not_recorded["rtp-not-voice"] += 1
        if failed:
            raise DataError(failed)
        if len(self._finished) >= _COMMIT:
            self._commit()

    def _commit(self) -> None:
        finished = self._finished
        self._index.add_calls(finished)
        self._finished = []
        self.summary.calls_added += len(finished)
        self.summary.calls_found = self.summary.calls_added + self.summary.calls_known

    def _quarantine(self, outcome: Outcome) -> None:
        """Sets a call aside that could not be finalised: the reason, what is known of it, and its packets (of a long call the
        part that could not be, for what came before is gone).
        """
        job = outcome.job
        if job.number in self._set_aside:
            return
        self._set_aside.add(job.number)
        self._found.discard(job.number)
        self.summary.quarantined += 1
        self._not_recorded["quarantined"] += 1
        self.summary.warnings.append(f"call {job.id} could not be finalised and is in quarantine: {outcome.error}")
        self._layout.make_directory(self._layout.quarantine)
        path = self._layout.quarantine / f"{job.id}.json"
        try:
            self._aside.set_aside(job, path.with_suffix(".pcap"))
            write_file(path, dump({**job.facts, "quarantine_reason": outcome.error}))
        except OSError as error:
            raise refused(error, f"cannot write {path}") from None

    def _recycle(self) -> None:
        count = self._spool.segment_count
        if count > max(2, self._full_segments):
            self._look_up()  # calls that wait to be finalised hold their segments
            self._collect(self._pool.outcomes())
            self._spool.forget(self._correlator.forgotten)
            self._correlator.forgotten.clear()
            self._spool.settle()
            self._spool.recycle(self._correlator.keep_from, self._correlator.now_ns - self._window_ns)
            self._full_segments = self._spool.segment_count

    @property
    def calls_found(self) -> int:
        return len(self._found)


def record_files(paths: Sequence[str], data: Path, settings: Settings, jobs: int = 1,
                 progress: Callable[[Progress], None] | None = None) -> Summary:
    """Records the calls in captures, merged by time, into the archive at `data`.

    jobs: how many calls are finalised side by side, beside the reading; 1: one process does it all. Raises CaptureError where
    a capture cannot be read at all, DataError where the archive cannot be written; what was finished before is kept.
    """
    layout = Layout(data)
    layout.prepare()
    keep_pages()
    with open_captures(paths, chunk=min(CHUNK, settings.record.segment << 17)) as source:
        with private_spool(layout) as spool:
            pool = Pool(data, spool / "packets.spool", settings, jobs if jobs > 1 else 0)
            try:
                recorder = Recorder(layout, settings, spool, pool)
                state = Progress(bytes_total=getattr(source, "size", None))
                try:
                    for batch in source:
                        recorder.process(batch)
                        if progress:
                            state.packets, state.bytes_read = recorder.summary.packets, source.bytes_read
                            state.calls_found = recorder.calls_found
                            progress(state)
                    summary = recorder.finish()
                except OSError as error:
                    recorder.stop()
                    raise refused(error, f"cannot write to {layout.root}") from None
                except BaseException:
                    recorder.stop()
                    raise
                finally:
                    recorder.close()
            finally:
                pool.close()
        summary.warnings = [*source.warnings, *summary.warnings]
        return summary
