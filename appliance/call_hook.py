"""The call hook: a command run for each finished call, the call's sidecar on its standard input.

Calls come from DATA/state/finished.jsonl (see finished_queue.py); how far we came is kept in DATA/state/hooks.json, so that each
call's command is run at least once, whatever ends in between, and again only where we were killed within a second of it. What
fails is tried again, later each time; where everything fails the queue stands still and one call at a time is tried, so that
calls wait in the file instead of being given up one after the other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rokuon.appliance.finished_queue import FinishedQueue
from rokuon.appliance.hooks import Outcome, Run, Says, environment
from rokuon.appliance.shapes import rows, table, whole
from rokuon.store.errors import why
from rokuon.store.layout import Layout, is_id

__all__ = ["AGAIN_S", "CallHook"]

PARALLEL = 2
AGAIN_S = (10.0, 60.0, 300.0, 1800.0, 7200.0)
"""Seconds after which a call that failed is tried again; after that it is given up."""
MOST_AGAIN = 1000
"""Calls that wait to be tried again."""
_TROUBLE = 5
"""Failures on end after which the command itself is at fault, not a call."""
_PAUSE_S, _LONGEST_PAUSE_S = 10.0, 300.0


@dataclass(slots=True)
class _Call:
    id: str
    failures: int = 0
    due: float = 0.0


class CallHook:
    """Runs the command for finished calls.

    `counts`: by result ("ok", "failed", "timeout", "missing": the sidecar was deleted, "given-up", "skipped": the file that named
    the call was gone before it was read, "unreadable"), kept by the caller. `saved`: what `state()` gave when we last ran; None:
    the first time.
    """

    def __init__(self, command: Sequence[str], timeout_s: float, layout: Layout, log: Says, counts: Counter[str],
                 saved: Any = None) -> None:
        self.command, self.timeout_s = tuple(command), timeout_s
        self._layout, self._log, self._counts = layout, log, counts
        self._queue = FinishedQueue(layout.state, table(saved).get("files") if saved is not None else None)
        self._again = [_Call(row["id"], whole(row.get("failures"))) for row in rows(table(saved).get("again"))
                       if isinstance(row.get("id"), str) and is_id(row["id"])]
        self._running: list[tuple[Run, _Call]] = []
        self._in_trouble, self._paused_until = 0, 0.0
        self._skipped_before, self._unreadable_before = 0, 0

    def state(self) -> dict[str, Any]:
        """What has to be kept for the next start. Calls whose command runs count as not done."""
        again = [call for _, call in self._running] + self._again
        return {"files": self._queue.state(), "again": [{"id": call.id, "failures": call.failures} for call in again]}

    @property
    def waiting(self) -> int:
        """Calls whose command was not run to its end yet."""
        return self._queue.waiting + len(self._again) + len(self._running)

    @property
    def wakes(self) -> list[int]:
        return [descriptor for run, _ in self._running for descriptor in run.wakes]

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def step(self, now: float) -> None:
        """Looks after the runs in progress and starts others. `now`: monotonic seconds."""
        self._queue.refresh()
        self.finish(now)
        while len(self._running) < self._room(now):
            following = self._next(now)
            if following is None:
                break
            self._start(following, now)
        self._count_lost()

    def finish(self, now: float) -> None:
        """Looks after the runs in progress, and starts none."""
        going = []
        for run, call in self._running:
            outcome = run.poll(now)
            if outcome is None:
                going.append((run, call))
            else:
                self._ended(call, outcome, now)
        self._running = going

    def stop(self, now: float) -> None:
        """Ends the runs in progress; they are run again after the next start."""
        for run, _ in self._running:
            run.stop()
            run.poll(now)

    def _room(self, now: float) -> int:
        """How many may run now."""
        if self._in_trouble < _TROUBLE:
            return PARALLEL
        return 1 if now >= self._paused_until else 0

    def _next(self, now: float) -> _Call | None:
        due = next((n for n, call in enumerate(self._again) if call.due <= now), None)
        if due is not None:
            return self._again.pop(due)
        if len(self._again) >= MOST_AGAIN:
            return None  # the others wait in their file
        call_id = self._queue.take()
        return None if call_id is None else _Call(call_id)

    def _start(self, call: _Call, now: float) -> None:
        try:
            sidecar = os.open(self._layout.sidecar(call.id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:  # deleted meanwhile, or one with another call now
            self._counts["missing"] += 1
            return
        except OSError as error:
            self._ended(call, Outcome("failed", f"cannot read its sidecar: {why(error)}"), now)
            return
        try:
            environ = environment(self._layout.root, "call", ROKUON_CALL=call.id)
            self._running.append((Run(self.command, sidecar, environ, self.timeout_s, now), call))
        except OSError as error:
            self._ended(call, Outcome("failed", f"cannot be run: {why(error)}"), now)
        finally:
            os.close(sidecar)

    def _ended(self, call: _Call, outcome: Outcome, now: float) -> None:
        if outcome.result == "stopped":
            self._again.insert(0, call)
            return
        self._counts[outcome.result] += 1
        if outcome.result == "ok":
            self._in_trouble = 0
            return
        self._in_trouble += 1
        if self._in_trouble >= _TROUBLE:
            self._paused_until = now + min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(self._in_trouble - _TROUBLE, 10))
        call.failures += 1
        gone = call.failures > len(AGAIN_S)
        after = "given up" if gone else f"tried again after {AGAIN_S[call.failures - 1]:g} s"
        self._log.warning("call-hook-failed", f"the call command {self.command[0]} failed for {call.id}: {outcome.why}; {after}",
                          call=call.id, result=outcome.result, failures=call.failures)
        if gone:
            self._counts["given-up"] += 1
        else:
            call.due = now + AGAIN_S[call.failures - 1]
            self._again.append(call)

    def _count_lost(self) -> None:
        queue = self._queue
        if queue.skipped > self._skipped_before:
            lost = queue.skipped - self._skipped_before
            self._counts["skipped"] += lost
            self._log.error("call-hook-skipped", f"{lost} finished calls were never given to the call command", calls=lost)
        self._counts["unreadable"] += queue.unreadable - self._unreadable_before
        self._skipped_before, self._unreadable_before = queue.skipped, queue.unreadable
