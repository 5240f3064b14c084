"""A finalise worker's own process: jobs in, outcomes out. The codecs of others run in it, on packets from anywhere."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import resource
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rokuon.store.durable import Batch
from rokuon.store.jobs import Job
from rokuon.store.process import end_with_parent
from rokuon.store.settings import Settings
from rokuon.store.worker import Worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Kept", "Leaving", "attempt", "serve"]

_JOB_S = 60
"""Seconds of processor time that a job may take, and
"""
_PACKET_US = 2000
"""microseconds for each of its packets: beyond that a codec has gone astray."""
_STALLED = 20
"""So many times as long it may take by the clock."""
_MEMORY = 3 << 30
"""Bytes that a worker may have beyond what it began with, while it does a job. In between there is no such bound: what ties it to
the recorder must not fail for want of memory."""
_KEPT = 1 << 30
"""One that still has so many when its job is done gives way to a fresh one: a codec kept them, and would keep more. With
twice as many it does so even if that costs doing the calls again of which it has made parts."""
_FILES, _FLUSH_S = 48, 0.25
"""So many files, or those of so many seconds, are flushed together; fewer where nothing else is to be done."""


class Kept(NamedTuple):
    """So many jobs, the oldest of those that are done, are on the disk; or not, for a reason of the disk's."""

    jobs: int
    error: str


class Leaving(NamedTuple):
    """All that was reported is kept; what else was handed out has to be done by another worker."""


def serve(connection: Connection, root: Path, spool: Path, settings: Settings, sync: bool) -> None:
    """A worker process: jobs in, outcomes out, until the other end closes."""
    memory = _restrain()
    worker = Worker(root, spool, settings, sync)
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    over = threading.Event()

    def listen() -> None:  # takes jobs off the pipe while one is done, so that neither side ever waits for the other
        try:
            while True:
                jobs.put(connection.recv())
        except (EOFError, OSError):
            over.set()
        except BaseException:  # half a message is read, most likely for want of memory: the job at hand is to blame
            os._exit(1)
        jobs.put(None)  # type: ignore[arg-type]

    threading.Thread(target=listen, daemon=True).start()
    batch, done, since = Batch(), 0, 0.0
    while True:
        full = done > 0 and memory.kept > (2 * _KEPT if worker.open else _KEPT)
        if done and (full or jobs.empty() or len(batch) >= _FILES or time.monotonic() - since > _FLUSH_S):
            try:
                batch.flush()
                error = ""
            except OSError as e:
                error = f"{e.strerror or e}"
            with contextlib.suppress(OSError):
                connection.send(Kept(done, error))
            done = 0
        if full:
            with contextlib.suppress(OSError):
                connection.send(Leaving())
            return
        job = jobs.get()
        if over.is_set():  # nobody waits for what is left
            batch.forget(0)
            worker.close()
            return
        memory.bound(_MEMORY)
        _limit(_JOB_S + _PACKET_US * sum(int(stream.slices["records"].sum()) for stream in job.streams) / 1e6)
        whole = job.until_ns is None and not job.pieced
        before, Batch.current = len(batch), batch if whole and sync else None
        outcome = attempt(worker, job)
        Batch.current = None
        if outcome[0] is None:
            batch.forget(before)
        _limit(0)
        memory.bound(None)
        since = since if done else time.monotonic()
        done += 1
        try:
            connection.send(outcome)
        except OSError:
            over.set()
            jobs.put(job)


class _Memory:
    """What this process has of it (statm(5): data and stack), and may have."""

    def __init__(self) -> None:
        self._most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        self._begun = self._now()

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()

    @property
    def kept(self) -> int:
        """Bytes beyond what it began with."""
        return self._now() - self._begun

    def bound(self, more: int | None) -> None:
        """It may have so many bytes beyond what it began with; None: all that the system gives it."""
        bound = self._most if more is None else self._begun + more
        if self._most != resource.RLIM_INFINITY:
            bound = min(bound, self._most)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (bound, self._most))


def _restrain() -> _Memory:
    """Sets what this process may do; the codecs of others run in it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the recorder decides what they mean
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        end_with_parent(signal.SIGKILL)  # nobody waits for the work of a recorder that was killed
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold voices
    gc.freeze()  # what the recorder has stays
    gc.set_threshold(20_000, 10, 10)  # codecs of others may leave garbage, and this process may run for years
    return _Memory()


def _limit(seconds: float) -> None:
    """The kernel ends this process when it has worked for so long, or not come back for many times that; 0: it does not."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _STALLED)


def attempt(worker: Worker, job: Job) -> tuple[dict[str, Any] | None, str, bool]:
    try:
        return worker.run(job), "", False
    except OSError as e:
        worker.give_up(job.number, for_good=job.number in worker.open and job.pieced)
        return None, f"{e.strerror or e}", True
    except Exception as e:  # a hostile call must not end the others
        worker.give_up(job.number)
        where = traceback.extract_tb(e.__traceback__)[-1]
        return None, f"{type(e).__name__}: {e} ({Path(where.filename).name}:{where.lineno})", False
