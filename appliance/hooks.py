"""Commands that are run when something happens: one run of a command, and the alarm hook.

A command gets JSON on its standard input, as a file that it may leave unread, never through a shell. It runs in a process group
of its own, which is killed when its time is over. Nothing here waits: `step` and `poll` look, and return.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from rokuon.appliance.shapes import rows
from rokuon.store.errors import why
from rokuon.store.sidecar import dumps

__all__ = ["AlarmHook", "Outcome", "Run", "Says", "environment"]

_KEPT = 400
"""Characters of what a command said on standard error that are passed on."""
_CHUNK = 4096
_CHUNKS = 16
"""Read at a time: a command that writes for ever does not keep us from anything else."""
_GRACE_S = 2.0
"""Between asking a process group to end and killing it, and from there to giving it up."""
_OURS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "JOURNAL_STREAM",
         "OPENBLAS_NUM_THREADS")
"""What the service manager tells us and nobody else."""

ALARM_BURST = 10
ALARM_PER_S = 0.1
"""Alarm commands: so many at once, then one in ten seconds."""
MOST_NOTICES = 256
_TRIES = 3
_AGAIN_S = 30.0


class Says(Protocol):
    """Where events are logged: `rokuon.appliance.logs.Log`."""

    def info(self, event: str, message: str, **fields: Any) -> None: ...
    def warning(self, event: str, message: str, **fields: Any) -> None: ...
    def error(self, event: str, message: str, **fields: Any) -> None: ...


def environment(data: Path, hook: str, **more: str) -> dict[str, str]:
    """A command's environment: ours, without what the service manager means for us alone, with ROKUON_DATA and ROKUON_HOOK."""
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**kept, "ROKUON_DATA": str(data), "ROKUON_HOOK": hook, **more}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: "ok", "failed", "timeout" or, where it was ended by `stop`, "stopped", and why, on one line."""

    result: str
    why: str = ""


class Run:
    """A command that runs. `stdin`: a descriptor open for reading, which stays the caller's; `now`: monotonic seconds.

    Raises OSError where it cannot be started.
    """

    def __init__(self, command: Sequence[str], stdin: int, environ: Mapping[str, str], timeout_s: float, now: float) -> None:
        self._process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/",
                                         env=environ, start_new_session=True, bufsize=0)
        assert self._process.stderr is not None
        self._errors: IO[bytes] | None = self._process.stderr
        os.set_blocking(self._process.stderr.fileno(), False)
        self._timeout_s = timeout_s
        self._deadline = now + timeout_s
        self._signals = [signal.SIGTERM, signal.SIGKILL]
        self._late = self._stopped = False
        self._said = b""

    @property
    def wakes(self) -> list[int]:
        """Descriptors that become readable when the command says something or ends."""
        return [self._errors.fileno()] if self._errors is not None else []

    def poll(self, now: float) -> Outcome | None:
        """How it ended; None: it runs. A group whose time is over is told to end, then killed."""
        self._listen()
        if self._ended():
            if self._late:
                self._kill(signal.SIGKILL)  # the others of its group; its zombie still keeps the group's number ours
            code = self._process.wait()
            self._listen()
            self._close()
            if self._late:
                return self._overdue("was killed")
            return Outcome("ok") if code == 0 else Outcome("failed", self._reason(code))
        if now < self._deadline:
            return None
        self._late = True
        if self._signals:
            self._kill(self._signals.pop(0))
            self._deadline = now + _GRACE_S
            return None
        self._close()  # not even SIGKILL ends it: it hangs in the kernel, on a file system that is gone perhaps
        return self._overdue("cannot be killed")

    def stop(self) -> None:
        """Ends it as if its time were over; `poll` gives the outcome."""
        self._stopped, self._deadline = not self._late, 0.0

    def _overdue(self, fate: str) -> Outcome:
        return Outcome("stopped" if self._stopped else "timeout", f"took longer than {self._timeout_s:g} s and {fate}")

    def _ended(self) -> bool:
        try:
            return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # somebody else has waited for it
            return True

    def _kill(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # gone already, or become somebody else (su)
            os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        for _ in range(_CHUNKS):
            if self._errors is None:
                return
            try:
                block = os.read(self._errors.fileno(), _CHUNK)
            except BlockingIOError:
                return
            if not block:
                self._close()
            self._said = (self._said + block)[-_CHUNK:]

    def _close(self) -> None:
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def _reason(self, code: int) -> str:
        ended = f"was killed by signal {-code}" if code < 0 else f"exit status {code}"
        said = " ".join(self._said.decode("utf-8", "replace").split())[-_KEPT:]
        return f"{ended}: {said}" if said else ended


@dataclass(slots=True)
class _Notice:
    body: dict[str, Any]
    tries: int = 0
    due: float = 0.0


class AlarmHook:
    """Runs the alarm command, one notice at a time, at a bounded rate.

    Notices wait by alarm: a newer one takes the place of an older one, and an alarm that is over before it was told is not
    told. `counts`: runs by result, kept by the caller. `saved`: what `state()` gave when we last ran.
    """

    def __init__(self, command: Sequence[str], timeout_s: float, data: Path, log: Says, counts: Counter[str],
                 saved: Any = None) -> None:
        self.command, self.timeout_s = tuple(command), timeout_s
        self._data, self._log, self._counts = data, log, counts
        self._waiting: dict[str, _Notice] = {}
        for body in rows(saved):
            if isinstance(body.get("id"), str):
                self._waiting[body["id"]] = _Notice(body)
        self._running: tuple[Run, _Notice] | None = None
        self._tokens, self._filled = float(ALARM_BURST), 0.0

    def state(self) -> list[dict[str, Any]]:
        """The notices that have not been told."""
        running = [self._running[1].body] if self._running else []
        return running + [notice.body for notice in self._waiting.values()]

    @property
    def wakes(self) -> list[int]:
        return self._running[0].wakes if self._running else []

    @property
    def busy(self) -> bool:
        return self._running is not None

    def offer(self, body: dict[str, Any]) -> None:
        """Takes a notice to be told; nothing where no command is set."""
        if not self.command:
            return
        key = body["id"]
        older = self._waiting.pop(key, None)
        if older is not None and older.body["status"] == "raised":
            if body["status"] == "cleared" and not older.tries:
                return
            if body["status"] == "repeated":
                body = {**body, "status": "raised"}
        if len(self._waiting) >= MOST_NOTICES:
            self._waiting.pop(next(iter(self._waiting)))
            self._counts["dropped"] += 1
        self._waiting[key] = _Notice(body)

    def step(self, now: float) -> None:
        """Looks after the run in progress and starts the next. `now`: monotonic seconds."""
        self.finish(now)
        if self._running is not None:
            return
        self._tokens = min(ALARM_BURST, self._tokens + max(0.0, now - self._filled) * ALARM_PER_S)
        self._filled = now
        due = next((key for key, notice in self._waiting.items() if notice.due <= now), None)
        if due is None or self._tokens < 1:
            return
        self._tokens -= 1
        notice = self._waiting.pop(due)
        try:
            self._running = self._start(notice.body, now), notice
        except OSError as error:
            self._ended(notice, Outcome("failed", f"cannot be run: {why(error)}"), now)

    def finish(self, now: float) -> None:
        """Looks after the run in progress, and starts none."""
        if self._running is not None:
            run, notice = self._running
            outcome = run.poll(now)
            if outcome is not None:
                self._running = None
                self._ended(notice, outcome, now)

    def stop(self, now: float) -> None:
        """Ends the run in progress; its notice is told after the next start."""
        if self._running is not None:
            self._running[0].stop()
            self._running[0].poll(now)

    def _start(self, body: dict[str, Any], now: float) -> Run:
        content = os.memfd_create("alarm", os.MFD_CLOEXEC)
        try:
            with open(os.dup(content), "wb") as file:
                file.write(f"{dumps(body)}\n".encode())
            os.lseek(content, 0, os.SEEK_SET)
            return Run(self.command, content, environment(self._data, "alarm"), self.timeout_s, now)
        finally:
            os.close(content)

    def _ended(self, notice: _Notice, outcome: Outcome, now: float) -> None:
        if outcome.result == "stopped":
            self._waiting.setdefault(notice.body["id"], notice)
            return
        self._counts[outcome.result] += 1
        if outcome.result == "ok":
            return
        self._log.error("alarm-hook-failed", f"the alarm command {self.command[0]} failed: {outcome.why}",
                        alarm=notice.body["id"], result=outcome.result)
        key = notice.body["id"]
        if notice.tries + 1 < _TRIES and key not in self._waiting:
            self._waiting[key] = _Notice(notice.body, notice.tries + 1, now + _AGAIN_S)
        else:
            self._counts["given-up"] += 1
