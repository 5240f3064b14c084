"""`rokuon record -i`: the processes of the appliance, started, watched and ended from one terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from rokuon.appliance.capturing import source_name
from rokuon.appliance.correlating import DRAIN
from rokuon.appliance.state import SUPERVISED, captures, correlation
from rokuon.store.errors import ChildFailedError
from rokuon.store.layout import FILE_MODE, Layout
from rokuon.store.process import end_with_parent, on_signals
from rokuon.store.record_files import Progress
from rokuon.store.summary import Summary

__all__ = ["supervise"]

_POLL_S = 0.1
_LONG_S = 2.0
"""A child that ran for so long and then ended had bad luck; one that ends sooner is given a rest before it is started again."""
_LONGEST_REST_S = 10.0
_MOST_STARTS = 5
"""When calls are to be finished at the end, a process that keeps ending is started again so often."""
_CAPTURE_END_S, _DRAIN_S, _CORRELATE_END_S = 20.0, 600.0, 40.0


@dataclass(slots=True)
class _Child:
    """A process of the appliance."""

    name: str
    command: Sequence[str]
    state: Callable[[], dict[str, Any] | None]
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    rest_s: float = 0.0
    due: float = 0.0
    starts: int = 0
    packets: dict[int, int] = field(default_factory=dict)
    """How many each process captured, by its number."""

    def start(self) -> None:
        parent = os.getpid()

        def follow() -> None:  # in the child: Ctrl-C is the parent's business, and nobody is left behind when that dies
            os.setsid()
            end_with_parent(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(0)

        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, env={**os.environ, SUPERVISED: "1"},
                                        preexec_fn=follow)  # noqa: PLW1509 -- there are no threads here
        self.began = time.monotonic()
        self.starts += 1

    @property
    def ready(self) -> bool:
        """Whether it has said that it runs."""
        state = self.state()
        return self.process is not None and state is not None and state.get("pid") == self.process.pid

    def begin(self, going_on: Callable[[], bool]) -> None:
        """Starts it, and returns when it runs. Raises ChildFailedError."""
        self.start()
        assert self.process is not None
        while not self.ready and going_on():
            status = self.process.poll()
            if status is not None:
                raise ChildFailedError(status if status > 0 else 1)
            time.sleep(0.02)

    def look(self, warn: Callable[[str], None]) -> None:
        """Starts it again where it has ended."""
        now = time.monotonic()
        if self.process is not None and (status := self.process.poll()) is not None:
            self.process = None
            self.rest_s = 0.0 if now - self.began > _LONG_S else min(_LONGEST_REST_S, self.rest_s * 2 or 0.05)
            self.due = now + self.rest_s
            why = signal.Signals(-status).name if -status in set(signal.Signals) else f"exit {status}"
            warn(f"{self.name} ended ({why}) and is started again")
        if self.process is None and now >= self.due:
            self.start()

    def count(self) -> int:
        """Packets that all processes of this name captured."""
        state = self.state() or {}
        if self.process is not None and state.get("pid") == self.process.pid:
            self.packets[self.process.pid] = int(state.get("packets") or 0)
        return sum(self.packets.values())

    def end(self, patience_s: float) -> None:
        """Asks it to end, and waits."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Signals:
    """What the user wants: to end (SIGINT, SIGTERM), at once (a second time), or settings read again (SIGHUP)."""

    def __init__(self) -> None:
        self.ends = 0
        self.reload = False

    def heard(self) -> AbstractContextManager[None]:
        def end(*_: object) -> None:
            self.ends += 1

        def again(*_: object) -> None:
            self.reload = True

        return on_signals({signal.SIGINT: end, signal.SIGTERM: end, signal.SIGHUP: again})


def supervise(options: Sequence[str], layout: Layout, interfaces: Sequence[str], jobs: int, *, bpf: str = "",
              duration_s: float | None = None, progress: Callable[[Progress], None] | None = None,
              warn: Callable[[str], None] = lambda _: None) -> Summary:
    """Records from interfaces until SIGINT, SIGTERM or `duration_s`; open calls are finished then.

    options: those before the command, for the processes to have them too. warn: is told what happens to them, a line each.
    Raises ChildFailedError where one of them cannot begin, StoreError where the archive cannot be written.
    """
    layout.prepare()
    name = source_name(interfaces)
    rokuon = [sys.executable, "-m", "rokuon", *options]
    capture = _Child("capture", [*rokuon, "capture", *(part for i in interfaces for part in ("-i", i)),
                                 *(("--filter", bpf) if bpf else ())], lambda: captures(layout).get(name))
    correlate = _Child("correlate", [*rokuon, "correlate", "--jobs", str(jobs)], lambda: correlation(layout))
    signals, seen = _Signals(), Summary()
    with signals.heard():
        try:
            for child in (capture, correlate):
                child.begin(lambda: not signals.ends)
            _watch(capture, correlate, signals, duration_s, progress, warn)
            capture.end(_CAPTURE_END_S)
            _finish(layout, correlate, signals, warn)
        finally:
            for child, patience_s in ((capture, _CAPTURE_END_S), (correlate, _CORRELATE_END_S)):
                child.end(patience_s)
    _add_up(seen, capture.count(), correlate.state())
    return seen


def _watch(capture: _Child, correlate: _Child, signals: _Signals, duration_s: float | None,
           progress: Callable[[Progress], None] | None, warn: Callable[[str], None]) -> None:
    begun = looked = time.monotonic()
    while not signals.ends and (duration_s is None or time.monotonic() - begun < duration_s):
        for child in (capture, correlate):
            child.look(warn)
            if signals.reload and child.process is not None:
                child.process.send_signal(signal.SIGHUP)
        signals.reload = False
        if time.monotonic() - looked < 1:
            time.sleep(_POLL_S)
            continue
        looked, packets = time.monotonic(), capture.count()
        if progress:
            calls = (correlate.state() or {}).get("totals", {})
            progress(Progress(packets=packets, calls_found=int(calls.get("recorded") or 0)))
        time.sleep(_POLL_S)


def _finish(layout: Layout, correlate: _Child, signals: _Signals, warn: Callable[[str], None]) -> None:
    """Has the open calls finished; a second signal leaves them in the spool."""
    request = layout.spool / DRAIN
    os.close(os.open(request, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    until, ends, starts = time.monotonic() + _DRAIN_S, signals.ends, correlate.starts
    while request.exists() and time.monotonic() < until:
        if correlate.starts > starts + _MOST_STARTS:
            warn("calls that were in progress cannot be finished now; `rokuon drain` tries again")
            request.unlink(missing_ok=True)
            return
        if signals.ends > max(ends, 1):
            with contextlib.suppress(OSError):
                request.unlink()
            warn("interrupted; calls that were in progress go on after the next start, or are finished by `rokuon drain`")
            return
        correlate.look(warn)
        time.sleep(_POLL_S)


def _add_up(summary: Summary, packets: int, correlate: dict[str, Any] | None) -> None:
    totals = (correlate or {}).get("totals", {})
    summary.packets = packets
    summary.calls_added = summary.calls_found = int(totals.get("recorded") or 0)
    summary.calls_known, summary.quarantined = int(totals.get("known") or 0), int(totals.get("quarantined") or 0)
