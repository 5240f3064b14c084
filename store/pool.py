"""Finalise workers: processes that may crash, each with calls of its own; or the same work in this process."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
import traceback
from collections import OrderedDict
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from rokuon.store.jobs import Job
from rokuon.store.settings import Settings
from rokuon.store.worker import Worker

__all__ = ["Outcome", "Pool"]

_AHEAD = 6
_STRIKES = 2


class Outcome(NamedTuple):
    """What became of a job."""

    job: Job
    sidecar: dict[str, Any] | None
    error: str
    """"" where all went well."""
    disk: bool = False
    """The error is the disk's, not the call's."""


def _serve(connection: Connection, root: Path, spool: Path, settings: Settings, sync: bool) -> None:
    """A worker process: jobs in, outcomes out, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the recorder decides what Ctrl-C means
    worker = Worker(root, spool, settings, sync)
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    def listen() -> None:  # takes jobs off the pipe while one is done, so that neither side ever waits for the other
        with contextlib.suppress(EOFError, OSError):
            while True:
                jobs.put(connection.recv())
        jobs.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (job := jobs.get()) is not None:
        try:
            connection.send(_attempt(worker, job))
        except OSError:
            return


def _attempt(worker: Worker, job: Job) -> tuple[dict[str, Any] | None, str, bool]:
    try:
        return worker.run(job), "", False
    except OSError as e:
        return None, f"{e.strerror or e}", True
    except Exception as e:  # a hostile call must not end the others
        where = traceback.extract_tb(e.__traceback__)[-1]
        return None, f"{type(e).__name__}: {e} ({Path(where.filename).name}:{where.lineno})", False


@dataclass(slots=True)
class _Process:
    process: BaseProcess
    connection: Connection
    jobs: OrderedDict[int, Job] = field(default_factory=OrderedDict)


class Pool:
    """`processes` workers on a spool's file; 0: the work is done at once in this process."""

    def __init__(self, root: Path, spool: Path, settings: Settings, processes: int, sync: bool = True) -> None:
        self._root, self._spool, self._settings, self._sync = root, spool, settings, sync
        self._context = multiprocessing.get_context("fork")
        self._processes: list[_Process] = []
        self._inline = Worker(root, spool, settings, sync) if processes == 0 else None
        self._pinned: dict[int, int] = {}
        self._strikes: dict[int, int] = {}
        self._tickets = 0
        self._done: list[Outcome] = []
        for _ in range(processes):
            self._processes.append(self._start())

    def _start(self) -> _Process:
        ours, theirs = self._context.Pipe()
        others = [p.connection for p in self._processes]
        process = self._context.Process(target=_child, daemon=True, args=(
            ours, others, theirs, self._root, self._spool, self._settings, self._sync))
        process.start()
        theirs.close()
        return _Process(process, ours)

    def submit(self, job: Job) -> None:
        """Hands out a job; waits where all workers have enough to do."""
        if self._inline:
            self._done.append(Outcome(job, *_attempt(self._inline, job)))
            return
        self._receive(0)
        while True:
            at = self._pinned.get(job.number)
            if at is None:
                at = min(range(len(self._processes)), key=lambda i: len(self._processes[i].jobs))
            if len(self._processes[at].jobs) < _AHEAD:
                break
            self._receive(None)
        if job.until_ns is not None:
            self._pinned[job.number] = at
        else:
            self._pinned.pop(job.number, None)
        self._send(at, job)

    def _send(self, at: int, job: Job) -> None:
        target = self._processes[at]
        self._tickets += 1
        target.jobs[self._tickets] = job
        with contextlib.suppress(OSError):  # it died: noticed when its outcome is read
            target.connection.send(job)

    def _receive(self, timeout: float | None) -> None:
        ready = wait([p.connection for p in self._processes], timeout)
        for at, process in enumerate(self._processes):
            if process.connection in ready:
                try:
                    sidecar, error, disk = process.connection.recv()
                except (EOFError, OSError):
                    self._restart(at)
                    continue
                _, job = process.jobs.popitem(last=False)
                self._done.append(Outcome(job, sidecar, error, disk))

    def _restart(self, at: int) -> None:
        """A worker died of the job it was at: once may be chance, twice is the call's fault."""
        dead = self._processes[at]
        dead.process.join()
        dead.connection.close()
        jobs = list(dead.jobs.values())
        self._processes[at] = self._start()
        if jobs:
            first = jobs[0]
            self._strikes[first.number] = self._strikes.get(first.number, 0) + 1
            if self._strikes[first.number] >= _STRIKES:
                jobs.pop(0)
                self._done.append(Outcome(first, None, f"killed the finaliser {_STRIKES} times (exit {dead.process.exitcode})"))
        for job in jobs:
            self._send(at, job)

    def outcomes(self, all_of_them: bool = False) -> list[Outcome]:
        """What is done since last asked; `all_of_them`: waits for everything that was submitted."""
        if self._processes:
            self._receive(0)
            while all_of_them and any(p.jobs for p in self._processes):
                self._receive(None)
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


def _child(ours: Connection, others: list[Connection], theirs: Connection, root: Path, spool: Path, settings: Settings,
           sync: bool) -> None:
    """In the new process: lets go of the ends of pipes that are not its own, so that a closed one is seen as closed."""
    ours.close()
    for other in others:
        other.close()
    _serve(theirs, root, spool, settings, sync)
