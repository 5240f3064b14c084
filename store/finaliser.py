"""A finalise worker's own process: jobs in, outcomes out. The codecs of others run in it, on packets from anywhere."""

from __future__ import annotations

import contextlib
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

__all__ = ["Kept", "attempt", "serve"]

_JOB_S = 60
"""Seconds of processor time that a job may take, and
"""
_PACKET_US = 2000
"""microseconds for each of its packets: beyond that a codec has gone astray."""
_STALLED = 20
"""So many times as long it may take by the clock."""
_MEMORY = 3 << 30
"""Bytes that a worker may have beyond what it began with."""
_FILES, _FLUSH_S = 48, 0.25
"""So many files, or those of so many seconds, are flushed together; fewer where nothing else is to be done."""


class Kept(NamedTuple):
    """So many jobs, the oldest of those that are done, are on the disk; or not, for a reason of the disk's."""

    jobs: int
    error: str


def serve(connection: Connection, root: Path, spool: Path, settings: Settings, sync: bool) -> None:
    """A worker process: jobs in, outcomes out, until the other end closes."""
    _restrain()
    worker = Worker(root, spool, settings, sync)
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    over = threading.Event()

    def listen() -> None:  # takes jobs off the pipe while one is done, so that neither side ever waits for the other
        with contextlib.suppress(EOFError, OSError):
            while True:
                jobs.put(connection.recv())
        over.set()
        jobs.put(None)  # type: ignore[arg-type]

    threading.Thread(target=listen, daemon=True).start()
    batch, done, since = Batch(), 0, 0.0
    while True:
        if done and (jobs.empty() or len(batch) >= _FILES or time.monotonic() - since > _FLUSH_S):
            try:
                batch.flush()
                error = ""
            except OSError as e:
                error = f"{e.strerror or e}"
            with contextlib.suppress(OSError):
                connection.send(Kept(done, error))
            done = 0
        job = jobs.get()
        if over.is_set():  # nobody waits for what is left
            batch.forget(0)
            worker.close()
            return
        _limit(_JOB_S + _PACKET_US * sum(int(stream.slices["records"].sum()) for stream in job.streams) / 1e6)
        whole = job.until_ns is None and not job.pieced
        before, Batch.current = len(batch), batch if whole and sync else None
        outcome = attempt(worker, job)
        Batch.current = None
        if outcome[0] is None:
            batch.forget(before)
        _limit(0)
        since = since if done else time.monotonic()
        done += 1
        try:
            connection.send(outcome)
        except OSError:
            over.set()
            jobs.put(job)


def _restrain() -> None:
    """Sets what this process may do; the codecs of others run in it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the recorder decides what they mean
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        end_with_parent(signal.SIGKILL)  # nobody waits for the work of a recorder that was killed
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold voices
        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        begun = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
        if most == resource.RLIM_INFINITY or most > begun + _MEMORY:
            resource.setrlimit(resource.RLIMIT_DATA, (begun + _MEMORY, most))


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
