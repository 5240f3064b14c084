"""Runs of the spool in, files and index out: the composition of correlation and finalising, whatever the runs' source."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rokuon.store.correlate import Correlator
from rokuon.store.database import WRITE_PATIENCE_S
from rokuon.store.ended import Ended, Piece
from rokuon.store.errors import DataError, StoreError
from rokuon.store.index import Index
from rokuon.store.jobs import Job, make_jobs
from rokuon.store.kept import KeptPackets
from rokuon.store.known import Known, Notes
from rokuon.store.layout import Layout, make_id
from rokuon.store.listing import Listing
from rokuon.store.owed import Owed
from rokuon.store.pool import Outcome, Pool
from rokuon.store.quarantine import Quarantine
from rokuon.store.relays import sampler
from rokuon.store.revision import Revisions
from rokuon.store.runs import Run
from rokuon.store.settings import Settings
from rokuon.store.sidecar import nanoseconds
from rokuon.store.spool import Spool
from rokuon.store.summary import LOST, Summary
from rokuon.store.tally import Balance

__all__ = ["Recorder", "Summary"]

_NS = 1_000_000_000
_NEVER = 1 << 62
_LOOK_UP = 128
_PATIENCE_S = 0.5
"""So long is waited for somebody who holds the index, while packets come in."""
_RETRY_S = 2.0
_SETTLED_NS = 10 * _NS
"""What is younger stays in a lasting spool: messages that wait for their INVITE are nobody's yet."""


class Recorder:
    """Runs in, files and index out."""

    def __init__(self, layout: Layout, settings: Settings, spool: Spool, pool: Pool, *, lasting: bool = False,
                 notice: Callable[[dict[str, Any]], None] | None = None, refuses: Callable[[int], bool] | None = None,
                 fits: Callable[[int], bool] | None = None, notes: Notes | None = None) -> None:
        """`lasting`: for a spool that outlives this process: what the archive has by then is recorded no second time, and a full
        disk is waited for. `notice` is told of the sidecar of each call that can be queried; `refuses`: whether a call that
        began at that time is not to be recorded, for want of room; `fits`: whether there is room for so many bytes of sound.
        `notes`: where it is noted what of the spool is in recordings.
        """
        record = settings.record
        self._layout, self._pool, self._spool, self._lasting = layout, pool, spool, lasting
        self._window_ns = int(record.window * _NS)
        self.correlator = Correlator(
            linger_ns=int(record.linger * _NS), window_ns=self._window_ns, lead_ns=int(record.early * _NS),
            recover_ns=int(settings.spool.recover * 3600 * _NS) if lasting else 0, leg_headers=record.leg_headers)
        self.correlator.legs.relays.sample = sampler(spool)
        index = Index(layout.index, settings.index.region or None, _PATIENCE_S if lasting else WRITE_PATIENCE_S)
        self._refuses, self._fits = refuses, fits
        self.interface: str | None = None
        self.summary = Summary()
        self._notes = notes
        self._archive = Known(layout, index, lasting, notes.directory if notes is not None else None, self.summary.warnings)
        if lasting:
            self.correlator.ended_before = self._archive.ended
            self.correlator.signalling.hurry(True)
        self._owed = Owed(self.correlator.recover_ns)
        self._releases: list[list[int]] = []
        self._recorded: list[str] = []
        self._left_out: list[str] = []
        self._news_ns = _NEVER
        """Calls that began later are news: nobody can have recorded them yet."""
        self._waiting: list[Job] = []
        self._retry: list[tuple[float, Job]] = []
        self._found, self._begun, self._set_aside, self._refused = set[int](), set[int](), set[int](), set[int]()
        self._known, self._unlisted, self._deleted = set[int](), set[int](), set[int]()
        self._revisions = Revisions(layout, index, self.summary.warnings)
        self._aside = Quarantine(layout, spool.root, settings)
        self._full_segments = 0
        self.calls_lost: Counter[str] = Counter()
        """Calls that are over and of which there is no recording, by reason."""
        self.not_recorded: Counter[str] = Counter()
        """Calls of which there is a recording without sound, by reason."""
        self._listing = Listing(index, self._archive, lasting, self.summary, self.calls_lost, notice, self._revisions)

    def process(self, run: Run) -> None:
        """One run, which the spool has taken in, all the way."""
        self._take(self.correlator.process(run))
        self._recycle()
        self._collect(self._pool.outcomes())

    def tick(self, now_ns: int) -> None:
        """Time has passed to `now_ns` (packet time), with or without packets: what is over by then gets to the index at once."""
        self._take(self.correlator.advance(now_ns))
        self._look_up()
        self._again()
        self._collect(self._pool.outcomes())
        self._listing.commit_in_time()

    def end_all(self, reason: str, capturing: bool = False) -> None:
        """Ends all calls that are open, because `reason`; what is captured later is not theirs. `capturing`: more comes."""
        self._finalise(self.correlator.end_open(reason) if capturing else self.correlator.finish(reason))
        self._listing.commit_or_wait()

    def _finalise(self, ended: Sequence[Ended | Piece]) -> None:
        """Returns when all of these, and what was waiting, is finalised."""
        self._take(ended)
        self._look_up()
        self._again(now=True)
        self._collect(self._pool.outcomes(all_of_them=True))

    def collect(self) -> None:
        """Takes what finalisers are done with."""
        self._collect(self._pool.outcomes())

    def caught_up(self) -> None:
        """All that was in the spool when this began has been processed."""
        if self._lasting and self._news_ns == _NEVER:
            self._news_ns = self.correlator.now_ns
            self.correlator.ended_before = None
            self._archive.forget_hours()
            self.correlator.signalling.hurry(False)

    def finish(self, counts: Mapping[str, int] | None = None, reason: str = "capture-stopped") -> Summary:
        """The capture is over; `counts`: what it saw."""
        self._finalise(self.correlator.finish(reason))
        self._listing.commit()
        summary, correlator = self.summary, self.correlator
        seen = Counter(counts or {}) + correlator.counts + correlator.signalling.counts
        seen.update({"spool_segments": self._spool.segment_count, "spool_bytes_merged": self._spool.merged_bytes})
        summary.counts = dict(sorted(seen.items()))
        anomalies = self.anomalies
        summary.anomalies = dict(sorted(anomalies.items()))
        summary.not_recorded, summary.balance = self.lost(seen), self.balance
        return summary

    def lost(self, counts: Counter[str]) -> dict[str, int]:
        """What there is no recording of beside calls, by reason. `counts`: what capture and correlation saw."""
        anomalies = self.anomalies
        lost = self.not_recorded.copy()
        lost.update({reason: counts[name] + anomalies[name] for name, reason in LOST.items() if counts[name] + anomalies[name]})
        return dict(sorted(lost.items()))

    @property
    def balance(self) -> Balance:
        """What became of the calls that are over. How many were seen and what became of them is counted apart, so that they
        can be held against one another.
        """
        lost = self.calls_lost.copy()
        if odd := self.correlator.signalling.counts["invite-not-understood"]:
            lost["invite-not-understood"] = odd
        seen = self.correlator.begun + self._listing.left_over + odd
        return Balance(seen - self.in_progress, self.summary.calls_added, self.summary.calls_known, lost)

    @property
    def in_progress(self) -> int:
        """Calls that go on, or that are not finalised or not in the index yet."""
        jobs = [*self._waiting, *(job for _, job in self._retry)]
        over = sum(job.until_ns is None for job in jobs) + self._pool.calls + len(self._listing)
        return self.correlator.open + over

    @property
    def anomalies(self) -> Counter[str]:
        """What was odd in all that was seen, by name."""
        correlator = self.correlator
        return correlator.signalling.all_anomalies() + correlator.tracker.anomalies + correlator.binder.anomalies

    def close(self) -> None:
        """Lets go of files."""
        self._revisions.close()
        self._aside.close()
        self._spool.close()

    def stop(self, spool: Path | None = None) -> None:
        """Interrupted: what is finished is kept, the rest is left for the same command again.

        `spool`: segments to be emptied: nothing will be read from them any more.
        """
        with suppress(StoreError, OSError):
            self._collect(self._pool.outcomes())
        for path in spool.glob("*.seg") if spool is not None else ():
            with suppress(OSError):  # on a full disk: room for the index
                os.truncate(path, 0)
        with suppress(StoreError, OSError):
            self._listing.commit()

    @property
    def backlog(self) -> int:
        """Calls, or pieces of some, that are over and not finalised yet."""
        return len(self._waiting) + len(self._retry) + self._pool.waiting

    # -- calls ---------------------------------------------------------------
    def _take(self, ended: Sequence[Ended | Piece]) -> None:
        self._spool.recognise(self.correlator.recognised)
        self.correlator.recognised.clear()
        if not ended:
            return
        self._spool.settle()
        for begin in range(0, len(ended), _LOOK_UP):  # thousands may end at once: where their packets lie takes room
            some = ended[begin:begin + _LOOK_UP]
            for item, job in zip(some, make_jobs(some, self._spool, self.correlator, self.interface), strict=True):
                self._found.add(job.number)
                self._waiting.append(job)
                if self._lasting:
                    self._owed.add(item, job)
            if len(self._waiting) >= _LOOK_UP or any(isinstance(item, Piece) for item in some):
                self._look_up()  # at once for a long call: the spool waits for it

    def _look_up(self) -> None:
        """Leaves out what the archive has already, and hands out the rest."""
        waiting, self._waiting = self._waiting, []
        seen = self._begun, self._known, self._deleted
        if fresh := [job for job in waiting if not any(job.number in some for some in seen)]:
            looked = self._archive.find(fresh, self._news_ns)
            self._known |= looked.known
            self._deleted |= looked.deleted
            for number, sidecar in looked.unlisted:
                self._listing.add(sidecar)
                self._recorded.append(str(sidecar["id"]))
                self._known.add(number)
                self._unlisted.add(number)
            for job, copies in looked.fuller:
                self._revisions.stage(job, copies)
        for job in waiting:
            if job.number in self._known or job.number in self._set_aside:
                if job.number in self._set_aside:
                    self._lose(job, "quarantined")
                elif job.until_ns is None and job.number not in self._unlisted:
                    self.summary.calls_known += 1
                self._done(job)
            elif job.number in self._deleted:
                self._done(job)
                self._lose(job, "deleted-before")
            elif self._is_refused(job):
                self._done(job)
                self._lose(job, "disk-full")
            else:
                self._begun.add(job.number)
                self._submit(job)
        self._collect(self._pool.outcomes())

    def _is_refused(self, job: Job) -> bool:
        """Whether there is no room for the call; once refused, what is to come of it is refused too."""
        refused = job.number in self._refused or (job.number not in self._begun and self._refuses is not None
                                                  and self._refuses(nanoseconds(job.facts["start"])))
        if refused and job.until_ns is not None:
            self._refused.add(job.number)
        return refused

    def _submit(self, job: Job) -> None:
        self._revisions.name(job)
        if self._fits is None or self._fits(sum(int(stream.slices["payload"].sum()) for stream in job.streams)):
            self._pool.submit(job)
        else:
            self._retry.append((time.monotonic() + _RETRY_S, job))

    def _collect(self, outcomes: Sequence[Outcome]) -> None:
        failed = ""
        for outcome in outcomes:
            job = outcome.job
            if outcome.disk:
                if self._lasting and not job.pieced and job.until_ns is None:
                    self._retry.append((time.monotonic() + _RETRY_S, job))
                    continue
                failed = failed or f"cannot write the recording {job.id}: {outcome.error.lower()}"
                if not self._lasting:
                    continue
            if outcome.error:
                self._quarantine(outcome)
            aside = job.number in self._set_aside
            self._done(job)
            if outcome.error or aside:
                self._lose(job, "quarantined")
                continue
            copies = self._archive.later_copies(job, outcome.sidecar)
            if outcome.sidecar is not None and (copies or job.number in self._revisions):
                self._listing.revise(job, outcome.sidecar, copies)
            elif outcome.sidecar is not None:
                self._listing.add(outcome.sidecar)
                self._recorded.append(job.id)
                if outcome.sidecar.get("audio") is None and outcome.sidecar["streams"]:
                    self.not_recorded[f"no-audio: {outcome.sidecar.get('audio_reason') or 'unknown'}"] += 1
            elif job.until_ns is None:
                self._lose(job, "rtp-not-voice")
        self._begin_again()
        if failed and not self._lasting:
            raise DataError(failed)
        self._listing.commit_many()

    def _begin_again(self) -> None:
        """Calls that a worker had begun, and that were lost with it: the spool has them yet."""
        while self._pool.torn:
            number, left = self._pool.torn.popitem()
            left += [job for job in [*self._waiting, *(job for _, job in self._retry)] if job.number == number]
            self._waiting = [job for job in self._waiting if job.number != number]
            self._retry = [(at, job) for at, job in self._retry if job.number != number]
            for job in left:
                self._spool.release(job.segments)
            for job in self._owed.again(number, lambda items: make_jobs(items, self._spool, self.correlator, self.interface)):
                self._submit(job)

    def _lose(self, job: Job, reason: str) -> None:
        """Counts a call that is not recorded, when the last of its jobs comes to it."""
        if job.until_ns is None:
            self._found.discard(job.number)
            self.calls_lost[reason] += 1
            self._revisions.drop(job.number)
            if job.facts["legs"]:
                self._left_out.append(str(job.facts["id"]))

    def _done(self, job: Job) -> None:
        """The job needs the spool no more."""
        if self._lasting:
            if job.until_ns is None:
                self._owed.done(job.number)
                for some in (self._found, self._begun, self._set_aside, self._refused, self._known, self._unlisted,
                             self._deleted):
                    some.discard(job.number)
            self._releases.append(job.segments)
        else:
            self._spool.release(job.segments)

    def note(self) -> None:
        """What was finalised is noted, so that the part of the spool may go that it came from. Raises OSError."""
        if not self._releases or self._notes is None:
            return
        self._archive.note(self._recorded, self._left_out, self._oldest)
        self._notes.note(self._owed.taken())
        self._owed.noted()
        self._recorded, self._left_out = [], []
        for segments in self._releases:
            self._spool.release(segments)
        self._releases.clear()

    def _oldest(self) -> str:
        """An id that all calls lie above of which more than the signalling of open ones is in the spool."""
        return make_id(min((run.first_ns for run in self._spool.runs if not any(run.replaces)), default=0), "")

    def _again(self, now: bool = False) -> None:
        """Jobs that the disk had no room for."""
        due = [job for at, job in self._retry if now or at <= time.monotonic()]
        if due:
            self._retry = [(at, job) for at, job in self._retry if not now and at > time.monotonic()]
            for job in due:
                self._submit(job)

    def _quarantine(self, outcome: Outcome) -> None:
        job = outcome.job
        if job.number in self._set_aside:
            return
        self._set_aside.add(job.number)
        self._found.discard(job.number)
        job.id = str(job.facts["id"])
        self.summary.quarantined += 1
        self.summary.warnings.append(f"call {job.id} could not be finalised and is in quarantine: {outcome.error}")
        try:
            self._aside.take(job, outcome.error)
        except StoreError as error:
            if not self._lasting:
                raise
            self.summary.warnings.append(str(error))

    def _recycle(self) -> None:
        count = self._spool.segment_count
        if count <= max(2, self._full_segments):
            return
        self._look_up()  # calls that wait to be finalised hold their segments
        self._collect(self._pool.outcomes())
        self.give_back()
        self._full_segments = self._spool.segment_count

    def give_back(self) -> None:
        """Gives back what of the spool nothing needs. Raises OSError."""
        correlator, owed = self.correlator, self._owed
        self._spool.forget(owed.forgettable(correlator.forgotten))
        correlator.forgotten.clear()
        correlator.trim()
        self._spool.settle()
        if self._lasting:
            self._archive.sync()
            if self._notes is not None:
                self._notes.sync()
            self._spool.recycle(owed.needed(correlator.keep_from.of), correlator.now_ns - self._window_ns,
                                correlator.now_ns - _SETTLED_NS, KeptPackets([*correlator.open_frames(), *owed.frames()]))
        else:
            self._spool.recycle(correlator.keep_from.of, correlator.now_ns - self._window_ns)

    @property
    def calls_found(self) -> int:
        """Calls that ended so far, of a recorder that ends itself."""
        return len(self._found)
