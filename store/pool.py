"""Finalise workers: processes that may crash, each with calls of its own; or the same work in this process."""

# ruff: noqa: PLC0415 -- without processes, what they need is not imported: start-up is felt

from __future__ import annotations

import contextlib
import os
import signal
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rokuon.decoders import registry
from rokuon.store.finaliser import Kept, Leaving, attempt, serve
from rokuon.store.jobs import Job
from rokuon.store.layout import Layout
from rokuon.store.settings import Settings
from rokuon.store.traces import Traces, sweep
from rokuon.store.worker import Worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

__all__ = ["Outcome", "Pool"]

_AHEAD = 32
"""Jobs that a worker has at most: enough for their files to be flushed together."""
_STRIKES = 2
_OURS = frozenset({"PCMU", "PCMA", "G722", "L16", "CN", "TELEPHONE-EVENT"})
"""Codecs of plain numpy: they can neither crash a process nor loop."""


class Outcome(NamedTuple):
    """What became of a job."""

    job: Job
    sidecar: dict[str, Any] | None
    error: str
    """"" where all went well."""
    disk: bool = False
    """The error is the disk's, not the call's."""


def _why(exit_code: int | None) -> str:
    """How a worker came to its end."""
    if exit_code in (-signal.SIGPROF, -signal.SIGALRM):
        return "took too long"
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exit_code).name
    return f"exit {exit_code}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """No Ctrl-C in here: a message that was read by half would make rubbish of all that follow."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(slots=True)
class _Process:
    process: BaseProcess
    connection: Connection
    jobs: OrderedDict[int, Job] = field(default_factory=OrderedDict)
    written: deque[Outcome] = field(default_factory=deque)
    """Done, and not on the disk yet."""
    leaving: bool = False
    """It ends of itself, at no job."""

    @property
    def load(self) -> int:
        """Jobs that it has."""
        return len(self.jobs) + len(self.written)


class Pool:
    """`processes` workers on a spool; 0: the work is done at once in this process, but for codecs that could crash it."""

    def __init__(self, root: Path, spool: Path, settings: Settings, processes: int, sync: bool = True, *,
                 notes: Path | None = None, waits: bool = True, again: bool = False) -> None:
        """`spool`: the directory in which segments lie. `notes`: where it is noted what is being written; None: there too.

        `waits`: `submit` returns when a worker can take the job; else the job is kept here meanwhile. `again`: calls of which a
        dead worker had done parts are left to whoever reads `torn`, to begin them again.
        """
        self._root, self._spool, self._settings, self._sync = root, spool, settings, sync
        self._notes, self._waits = notes or spool, waits
        self._backlog: deque[Job] = deque()
        self._processes: list[_Process] = []
        self._inline = Worker(root, spool, settings, sync) if processes == 0 else None
        self._layout = Layout(root)
        self._traces = Traces(self._notes)
        self._traces.process(os.getpid())
        self._pinned: dict[int, int] = {}
        self._begun: set[int] = set()
        """Calls of which a worker has a part done already."""
        self._torn: set[int] = set()
        self.torn: dict[int, list[Job]] = {}
        """Calls, by number, of which all that was made is lost with a worker, and what of their jobs was still to be done, since
        whoever reads this last emptied it."""
        self._again = again
        self._condemned: dict[int, str] = {}
        """Calls that ended workers too often, while more may come of them; and what is said of them."""
        self._strikes: dict[int, tuple[int, int]] = {}
        """How often a call ended a worker, and up to where the part of it that last did."""
        self._tickets = 0
        self._done: list[Outcome] = []
        for _ in range(processes):
            self._processes.append(self._start())

    def _start(self) -> _Process:
        from multiprocessing import get_context

        context = get_context("fork")
        ours, theirs = context.Pipe()
        others = [p.connection for p in self._processes]
        process = context.Process(target=_child, daemon=True, args=(
            ours, others, theirs, self._root, self._spool, self._settings, self._sync))
        process.start()
        theirs.close()
        assert process.pid is not None
        self._traces.process(process.pid)
        return _Process(process, ours)

    def submit(self, job: Job) -> None:
        """Hands out a job; waits where all workers have enough to do. Raises OSError."""
        if job.number in self.torn:  # without what was made before it, it would make a call of its own
            self.torn[job.number].append(job)
            return
        if job.number in self._condemned:
            self._done.append(Outcome(job, None, self._condemned[job.number]))
            if job.until_ns is None:
                del self._condemned[job.number]
            return
        self._traces.folder(self._layout.relative(self._layout.folder(job.id)))
        if self._inline and job.number not in self._pinned:
            if job.number in self._inline.open or not _risky(job):
                self._done.append(Outcome(job, *attempt(self._inline, job)))
                return
            if not self._processes:
                self._processes.append(self._start())
        self._backlog.append(job)
        self._receive(0)
        self._hand_out()
        while self._waits and self._backlog:
            self._receive(None)
            self._hand_out()

    def _hand_out(self) -> None:
        """Gives jobs to workers that can take some, in order; a long call's go to the one that has its beginning."""
        held: list[Job] = []
        late: set[int] = set()
        while self._backlog:
            job = self._backlog.popleft()
            at = self._pinned.get(job.number)
            if at is None:
                at = min(range(len(self._processes)), key=lambda i: self._processes[i].load)
                if self._processes[at].load >= _AHEAD:
                    self._backlog.appendleft(job)
                    break
            if job.number in late or self._processes[at].load >= _AHEAD:
                held.append(job)
                late.add(job.number)
                continue
            if job.until_ns is not None:
                self._pinned[job.number] = at
            self._send(at, job)
        self._backlog.extendleft(reversed(held))

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken yet."""
        return len(self._backlog)

    @property
    def calls(self) -> int:
        """Calls whose last job was submitted, and whose outcome has not been taken."""
        jobs = [*self._backlog, *(done.job for done in self._done)]
        for process in self._processes:
            jobs += [*process.jobs.values(), *(done.job for done in process.written)]
        return sum(job.until_ns is None for job in jobs)

    @property
    def busy(self) -> bool:
        """Whether a worker has something to do."""
        return any(p.load for p in self._processes)

    @property
    def workers(self) -> list[tuple[int, int]]:
        """Process numbers of the workers, and how many jobs each has."""
        return [(p.process.pid or 0, p.load) for p in self._processes]

    def _send(self, at: int, job: Job) -> None:
        target = self._processes[at]
        if job.number in self._torn:
            job.facts.setdefault("anomalies", {})["audio-lost-with-finaliser"] = 1
        self._tickets += 1
        target.jobs[self._tickets] = job
        with contextlib.suppress(OSError), _undisturbed():  # it died: noticed when its outcome is read
            target.connection.send(job)

    def _receive(self, timeout: float | None) -> None:
        from multiprocessing.connection import wait

        ready = wait([p.connection for p in self._processes], timeout)
        for at, process in enumerate(self._processes):
            if process.connection not in ready:
                continue
            try:
                while process.connection.poll():
                    with _undisturbed():
                        message = process.connection.recv()
                    if isinstance(message, Kept):
                        for _ in range(message.jobs):
                            self._kept(process.written.popleft(), message.error)
                    elif isinstance(message, Leaving):
                        process.leaving = True
                    else:
                        process.written.append(Outcome(process.jobs.popitem(last=False)[1], *message))
            except (EOFError, OSError):
                self._restart(at)

    def _kept(self, outcome: Outcome, error: str) -> None:
        """What a worker wrote is on the disk; or not, for a reason of the disk's."""
        job = outcome.job
        if job.until_ns is not None:
            self._begun.add(job.number)
        elif self._pinned.pop(job.number, None) is not None:
            self._begun.discard(job.number)
            self._torn.discard(job.number)
        if _until(job) >= self._strikes.get(job.number, (0, 0))[1]:
            self._strikes.pop(job.number, None)
        self._done.append(Outcome(job, None, error, True) if error and outcome.sidecar is not None else outcome)

    def _restart(self, at: int) -> None:
        """A worker died of the job it was at: once may be chance, twice is the call's fault. Or it left."""
        dead = self._processes[at]
        dead.process.join()
        dead.connection.close()
        if dead.process.pid is not None:
            sweep(self._layout, self._notes, {dead.process.pid})
        jobs, again = list(dead.jobs.values()), [done.job for done in dead.written]
        self._processes[at] = self._start()
        if jobs and not dead.leaving:
            first = jobs[0]
            strikes = self._strikes.get(first.number, (0, 0))[0] + 1
            self._strikes[first.number] = strikes, _until(first)
            if strikes >= _STRIKES:
                reason = f"ended the finaliser {_STRIKES} times ({_why(dead.process.exitcode)})"
                condemned = [job for job in [*again, *jobs, *self._backlog] if job.number == first.number]
                self._done += [Outcome(job, None, reason) for job in condemned]
                if condemned[-1].until_ns is not None:
                    self._condemned[first.number] = reason
                self._backlog = deque(job for job in self._backlog if job.number != first.number)
                again, jobs = ([job for job in some if job.number != first.number] for some in (again, jobs))
                for numbers in (self._strikes, self._pinned):
                    numbers.pop(first.number, None)
                self._begun.discard(first.number)
        lost = {n for n, place in self._pinned.items() if place == at and n in self._begun}
        if not self._again:
            self._torn |= lost
            lost.clear()
        for number in lost:
            self.torn.setdefault(number, [])
            self._pinned.pop(number)
            self._begun.discard(number)
        waiting = list(self._backlog)
        self._backlog = deque(job for job in waiting if job.number not in lost)
        for job in [*again, *jobs, *waiting]:
            if job.number in lost:
                self.torn[job.number].append(job)
        for job in [*again, *jobs]:
            if job.number not in lost:
                self._send(at, job)

    def outcomes(self, all_of_them: bool = False) -> list[Outcome]:
        """What is done since last asked; `all_of_them`: waits for everything that was submitted."""
        if self._processes:
            self._receive(0)
            self._hand_out()
            while all_of_them and (self._backlog or any(p.load for p in self._processes)):
                self._receive(None)
                self._hand_out()
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Ends the workers; what they were at is left undone."""
        for process in self._processes:
            process.connection.close()
        for process in self._processes:
            process.process.join(10)
            if process.process.is_alive():
                process.process.kill()
        if self._inline:
            self._inline.close()
        sweep(self._layout, self._notes, {p.process.pid for p in self._processes if p.process.pid} | {os.getpid()})


def _until(job: Job) -> int:
    """Up to where it makes its call."""
    return job.until_ns if job.until_ns is not None else 1 << 62


def _risky(job: Job) -> bool:
    """Whether its packets may come to a codec of others, or to a library in C."""
    names = {form.encoding.upper() for stream in job.streams for form in stream.plan.formats.values()}
    return any(registry.claimed(name) for name in names - _OURS)


def _child(ours: Connection, others: list[Connection], theirs: Connection, root: Path, spool: Path, settings: Settings,
           sync: bool) -> None:
    """In the new process: lets go of the ends of pipes that are not its own, so that a closed one is seen as closed."""
    ours.close()
    for other in others:
        other.close()
    serve(theirs, root, spool, settings, sync)
