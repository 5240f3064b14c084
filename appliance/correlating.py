"""The correlating process: from the spool to recordings, with finalisers as its children. Needs no capability and no network."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from rokuon import __version__
from rokuon.appliance.advising import Advising
from rokuon.appliance.finished import Finished
from rokuon.appliance.in_progress import calls_in_progress
from rokuon.appliance.intake import Intake
from rokuon.appliance.logs import Log
from rokuon.appliance.notify import Notifier
from rokuon.appliance.state import publish
from rokuon.appliance.watching import Watching
from rokuon.store import tally
from rokuon.store.disk import DiskWatch
from rokuon.store.errors import StoreError, why
from rokuon.store.index import Index
from rokuon.store.layout import Layout, refused
from rokuon.store.memory import give_back, one_arena
from rokuon.store.pool import Pool
from rokuon.store.process import begin_again, on_signals, sole
from rokuon.store.recorder import Recorder
from rokuon.store.settings import Settings
from rokuon.store.sidecar import iso
from rokuon.store.spool import Spool
from rokuon.store.traces import sweep

__all__ = ["DRAIN", "correlate_spool"]

DRAIN = "drain"
"""Name of the file in the spool by which somebody asks that open calls be finished."""
_NS = 1_000_000_000
_POLL_S, _IDLE_S, _TICK_S, _STATE_S, _GIVE_BACK_S = 0.05, 0.1, 0.1, 1.0, 5.0
_MOST_BACKLOG = 120
"""Calls that wait to be finalised, each of which takes some 100 KB; while there are more, the spool waits instead."""
_ALONE_S = 120.0
"""When no capture has run for so long, calls that were in progress are over."""
_SEGMENT = 16 << 20
_WORKERS = 8


class _Correlating:
    """One run of the process."""

    def __init__(self, layout: Layout, settings: Settings, jobs: int, log: Log, notifier: Notifier) -> None:
        self._layout, self._log, self._notifier = layout, log, notifier
        own = layout.spool / "correlate"
        layout.make_directory(own)
        layout.make_directory(layout.state)
        sweep(layout, own)
        with suppress(OSError):
            (own / "traces").unlink()
        self._spool = Spool(layout.spool, segment_bytes=min(settings.record.segment << 20, _SEGMENT), lasting=True)
        self._pool = Pool(layout.root, layout.spool, settings, max(1, min(jobs, _WORKERS)), notes=own, waits=False,
                          again=True)
        self._disk = DiskWatch(layout, settings.disk)
        self._index = Index(layout.index, settings.index.region or None)
        self._finished = Finished(layout)
        self._intake = Intake(layout, self._spool, own)
        self._recorder = Recorder(layout, settings, self._spool, self._pool, lasting=True, notice=self._notice,
                                  refuses=self._disk.refuses, fits=self._disk.fits, notes=self._intake)
        self._watching = Watching(layout)
        self._advising = Advising(layout, settings.record.keep_packets)
        self._states: Counter[str] = Counter()
        self._tallied: Counter[str] = Counter()
        self._ledger = tally.Ledger(layout)
        self._told = self._damage = 0
        self._started = iso(time.time_ns())
        self._heard = time.monotonic()
        self._stopping = self._reload = False
        self._looked = self._ticked = self._gave_back = 0.0

    def stop(self, *_: object) -> None:
        """Ends at the next occasion; open calls go on after the next start."""
        self._stopping = True

    def again(self, *_: object) -> None:
        """Ends, to begin again with other settings."""
        self._stopping = self._reload = True

    def _notice(self, sidecar: dict[str, Any]) -> None:
        self._states[str(sidecar.get("state"))] += 1
        self._disk.wrote(sum(part.get("bytes", 0) for part in [sidecar.get("audio") or {}, *sidecar.get("parts", [])]))
        try:
            self._finished.add(sidecar)
        except OSError as error:
            self._log.warning("finished", f"cannot write what the call hook reads: {why(error)}")

    # -- the loop ------------------------------------------------------------
    def run(self) -> bool:
        """Until somebody says stop; returns whether to begin again."""
        self._notifier.ready("reading the spool")
        self._look()
        while not self._stopping:
            worked = self._step()
            now = time.monotonic()
            if now - self._ticked >= _TICK_S:
                self._ticked = now
                self._tick(worked)
            if now - self._looked >= _STATE_S:
                self._looked = now
                self._look()
            if not worked:
                time.sleep(_POLL_S if self._recorder.in_progress else _IDLE_S)
        self._settle()
        return self._reload

    def _step(self) -> bool:
        """Some of what has come; False: there was nothing, or too much is waiting already."""
        recorder = self._recorder
        if recorder.backlog > _MOST_BACKLOG:
            recorder.collect()
            return False
        worked = False
        for run in self._intake.read(recorder.correlator, self._notifier.watchdog):
            self._watching.see(run)
            recorder.process(run)
            worked = True
        self._note()
        return worked

    def _note(self) -> None:
        """What is in recordings is noted before the part of the spool is given back that it came from."""
        try:
            self._recorder.note()
        except OSError as error:
            self._log.error("spool", f"cannot note what is recorded: {why(error)}")

    def _replays(self) -> bool:
        """Whether part of what was in the spool when this began is still to be processed."""
        until = self._intake.replayed_ns
        return until is None or self._recorder.correlator.now_ns < until

    def _tick(self, worked: bool) -> None:
        recorder, now = self._recorder, self._intake.now_ns()
        recorder.interface = "+".join(self._intake.names) or None
        if now is not None:
            self._heard = time.monotonic()
            recorder.correlator.losses.away = self._intake.away()
            for since, until in self._intake.gaps() if not worked else ():
                recorder.correlator.note_gap(since, until)
            if not self._intake.more:
                recorder.tick(now)
            else:
                recorder.tick(0)
        elif not worked and time.monotonic() - self._heard > _ALONE_S:
            self._heard = time.monotonic()
            if recorder.correlator.open or recorder.correlator.stream_count:
                recorder.end_all("recovered")
        else:
            recorder.tick(0)
        if not self._replays():
            recorder.caught_up()
        self._note()
        if time.monotonic() - self._gave_back > _GIVE_BACK_S:
            self._gave_back = time.monotonic()
            try:
                recorder.give_back()
            except OSError as error:
                self._log.error("spool", f"cannot give spool back: {why(error)}")
            give_back()
        if not worked and not self._intake.more and (self._layout.spool / DRAIN).exists():
            self._drain()

    def _drain(self) -> None:
        """Somebody asked that open calls be finished."""
        capturing = self._intake.now_ns() is not None
        self._recorder.end_all("capture-stopped", capturing)
        self._note()
        with suppress(OSError):
            self._recorder.give_back()
        if not capturing and not self._recorder.backlog:
            self._intake.remove_ended()
        self._look()
        (self._layout.spool / DRAIN).unlink(missing_ok=True)
        self._notifier.status("open calls were finished on request")

    def _settle(self) -> None:
        """What the finalisers are at is waited for, for a while; all else lies in the spool."""
        until = time.monotonic() + 20
        while self._pool.busy and time.monotonic() < until:
            self._recorder.tick(0)
            self._note()
            self._notifier.watchdog()
            time.sleep(_POLL_S)
        self._recorder.stop()
        self._note()
        self._look(stopped=True)

    # -- telling -------------------------------------------------------------
    def _look(self, stopped: bool = False) -> None:
        self._notifier.watchdog()
        recorder = self._recorder
        if self._disk.look(recorder.correlator.now_ns):
            self._log.warning("disk", f"the disk's level is {self._disk.level}", level=self._disk.level)
        self._disk.make_room(self._index)
        while self._disk.warnings:
            self._log.warning("disk", self._disk.warnings.popleft())
        damage = sum(self._intake.anomalies.values()) + self._spool.unreadable
        if damage > self._damage:
            self._log.warning("spool", "part of the spool is damaged; what lay there is lost", places=damage - self._damage)
        self._damage = damage
        for line in recorder.summary.warnings[self._told:]:
            self._log.warning("call", line)
        self._told = len(recorder.summary.warnings)
        if self._told > 1000:
            recorder.summary.warnings.clear()
            self._told = 0
        if stopped:
            self._advising.withdraw()
        else:
            self._advising.look(recorder.correlator, self._spool, self._intake.sources, self._intake.behind_s)
        self._tally()
        self._publish(stopped)

    def _tally(self) -> None:
        """Adds what became of calls, and what else was not recorded, to what was counted for as long as the archive exists."""
        correlator = self._recorder.correlator
        lost = Counter(self._recorder.lost(correlator.counts + correlator.signalling.counts))
        try:
            balance = self._recorder.balance  # what is known already was counted before this process read the spool once more
            self._ledger.post(replace(balance, seen=balance.seen - balance.known, known=0))
            tally.add(self._layout, {reason: n for reason in lost if (n := lost[reason] - self._tallied[reason]) > 0})
        except StoreError as error:
            self._log.warning("stats", str(error))
            return
        self._tallied = lost

    def _publish(self, stopped: bool = False) -> None:
        recorder, correlator, summary = self._recorder, self._recorder.correlator, self._recorder.summary
        balance, in_progress = recorder.balance, recorder.in_progress
        self._watching.look(self._intake.behind_s)
        calls, more = calls_in_progress(correlator, self._watching)
        state: dict[str, Any] = {
            "pid": os.getpid(), "version": __version__, "started": self._started, "stopped": stopped,
            "now": iso(correlator.now_ns) if correlator.now_ns else None, "behind_s": round(self._intake.behind_s, 3),
            "replaying": self._replays(),
            "calls_in_progress": correlator.open, "streams": correlator.stream_count,
            "backlog": {"jobs": recorder.backlog, "spool_segments": self._spool.segment_count},
            "totals": {"seen": balance.seen + in_progress, "recorded": balance.recorded, "known": balance.known,
                       "states": dict(self._states), "in_progress": in_progress,
                       "calls_not_recorded": dict(sorted(balance.not_recorded.items())),
                       "not_recorded": dict(sorted((self._tallied + Counter(balance.not_recorded)).items())),
                       "quarantined": summary.quarantined, "recovered": summary.recovered},
            "end_to_queryable": self._finished.histogram(), "disk": self._disk.state(),
            "workers": [{"pid": pid, "jobs": count} for pid, count in self._pool.workers],
            "anomalies": dict((recorder.anomalies + self._intake.anomalies).most_common(50)), "live": calls, "live_more": more}
        try:
            publish(self._layout.state / "correlate.json", state)
        except OSError as error:
            self._log.warning("state", f"cannot write the state: {why(error)}")

    def close(self) -> None:
        """Lets go of everything."""
        self._intake.close()
        self._recorder.close()
        self._pool.close()


def correlate_spool(layout: Layout, settings: Settings, jobs: int = 1, *, reload: Callable[[], Settings] | None = None) -> None:
    """Makes recordings of what captures write into the spool, until SIGINT or SIGTERM. Open calls go on after the next start.

    `reload`: reads the settings anew, at SIGHUP, with which the process then begins again.
    Raises NotPermittedError where another process does the same, StoreError where the archive cannot be written.
    """
    layout.prepare()
    gc.freeze()  # modules stay
    gc.set_threshold(50_000, 10, 10)
    one_arena()
    log, notifier = Log("correlate"), Notifier()
    with ExitStack() as stack:
        stack.enter_context(sole(layout.spool / "correlate.lock",
                                 f"calls in {layout.root} are being recorded by another process already"))
        try:
            correlating = _Correlating(layout, settings, jobs, log, notifier)
        except OSError as error:
            raise refused(error, f"cannot write to {layout.spool}") from None
        stack.callback(correlating.close)

        def again(*_: object) -> None:
            try:
                if reload is not None:
                    reload()
            except Exception as error:  # whatever is wrong with the file: recording goes on as it is
                log.error("settings", f"not reloaded: {error}")
                return
            correlating.again()

        stack.enter_context(on_signals({signal.SIGINT: correlating.stop, signal.SIGTERM: correlating.stop, signal.SIGHUP: again}))
        reloading = correlating.run()
        (notifier.reloading if reloading else notifier.stopping)()
    if reloading:
        begin_again()
