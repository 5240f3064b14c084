"""Network interfaces in, calls out, until somebody says stop: the recorder with another source."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rokuon.sniffer.pcap_live import LiveCapture, open_live
from rokuon.store.errors import NotPermittedError
from rokuon.store.layout import Layout, refused
from rokuon.store.pool import Pool
from rokuon.store.recorder import Progress, Recorder, Summary, keep_pages, private_spool
from rokuon.store.settings import Settings

__all__ = ["record_live"]

_NS = 1_000_000_000
_BEHIND_NS = _NS // 2
"""How far time without packets stays behind the clock: packets of that age may still be on their way."""


@contextmanager
def only_recorder_of(interface: str, layout: Layout) -> Iterator[None]:
    """Keeps a second recorder of the same interface off the same data. Raises NotPermittedError where there is one."""
    with open(os.open(layout.spool / f"{interface}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640), "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise NotPermittedError(f"{interface} is being recorded into {layout.root} already") from None
        yield


@contextmanager
def stopped_by_signals(source: LiveCapture) -> Iterator[None]:
    """SIGINT and SIGTERM end the capture; open calls are finished then."""
    def stop(_: int, __: FrameType | None) -> None:
        source.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def record_live(interfaces: Sequence[str], data: Path, settings: Settings, jobs: int = 1, *, bpf: str = "",
                duration_s: float | None = None, progress: Callable[[Progress], None] | None = None,
                warn: Callable[[str], None] | None = None) -> Summary:
    """Records calls from interfaces into the archive at `data` until SIGINT, SIGTERM or `duration_s`.

    bpf: a filter that packets have to pass beside the built-in one. warn: is told what happens to the interfaces, a line each.
    Raises CaptureError (its kind CapturePermissionError) where an interface cannot be opened, StoreError where the archive cannot
    be written; what was finished before is kept.
    """
    layout = Layout(data)
    layout.prepare()
    keep_pages()
    with ExitStack() as stack:
        for interface in dict.fromkeys(interfaces):
            if not interface or "/" in interface or interface.startswith("."):
                continue  # no name of an interface: open_live says so
            stack.enter_context(only_recorder_of(interface, layout))
        source = stack.enter_context(open_live(list(interfaces), filter=bpf))
        spool = stack.enter_context(private_spool(layout))
        pool = Pool(data, spool / "packets.spool", settings, jobs if jobs > 1 else 0)
        stack.callback(pool.close)
        recorder = Recorder(layout, settings, spool, pool)
        stack.callback(recorder.close)
        stack.enter_context(stopped_by_signals(source))
        try:
            _run(source, recorder, duration_s, progress, warn)
            summary = recorder.finish()
        except OSError as error:
            recorder.stop()
            raise refused(error, f"cannot write to {layout.root}") from None
        except BaseException:
            recorder.stop()
            raise
        stats = source.stats()
        for name in ("dropped_by_kernel", "dropped_by_interface"):
            if stats.get(name):
                summary.not_recorded[f"packets-{name.replace('_', '-')}"] = stats[name]
        summary.warnings = [*source.warnings, *summary.warnings]
        return summary


def _run(source: LiveCapture, recorder: Recorder, duration_s: float | None, progress: Callable[[Progress], None] | None,
         warn: Callable[[str], None] | None) -> None:
    """Until the source ends. Time is that of packets; while none come, it goes on with the monotonic clock."""
    begun = heard = time.monotonic_ns()
    newest = 0
    state = Progress()
    for batch in source:
        now = time.monotonic_ns()
        if len(batch):
            recorder.process(batch)
            newest, heard = max(newest, int(batch.time_ns.max())), now
        if newest:
            recorder.tick(max(newest, newest + now - heard - _BEHIND_NS))
        if progress:
            state.packets, state.calls_found = recorder.summary.packets, recorder.calls_found
            progress(state)
        while warn and source.warnings:
            warn(source.warnings.pop(0))
        if duration_s is not None and now - begun >= duration_s * _NS:
            source.stop()
