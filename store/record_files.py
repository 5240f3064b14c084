"""Capture files in, calls out: the recorder with files as its source."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_merge import cut, open_captures
from rokuon.store.capture import Capture
from rokuon.store.layout import Layout, refused
from rokuon.store.memory import keep_pages
from rokuon.store.pool import Pool
from rokuon.store.recorder import Recorder
from rokuon.store.segments import SpoolWriter
from rokuon.store.settings import Settings
from rokuon.store.spool import Source, Spool
from rokuon.store.summary import Summary
from rokuon.store.traces import sweep

__all__ = ["Progress", "private_spool", "record_files", "spells"]

_NS = 1_000_000_000
CHUNK = 16 << 20
SPELL_NS, SPELL = 600 * _NS, 64


@dataclass(slots=True)
class Progress:
    """How far a recording is."""

    packets: int = 0
    bytes_read: int = 0
    bytes_total: int | None = None
    calls_found: int = 0


def spells(batch: PacketBatch) -> Iterator[PacketBatch]:
    """The batch in parts that last `SPELL_NS` at most, or hold `SPELL` packets: calls of hours in which next to nothing is
    said are then followed step by step.
    """
    latest = np.maximum.accumulate(batch.time_ns)
    begin = 0
    while begin < len(batch):
        end = max(int(np.searchsorted(latest, latest[begin] + SPELL_NS, "right")), begin + SPELL)
        yield batch if end - begin >= len(batch) else cut(batch, begin, min(end, len(batch)), batch.data)
        begin = end


@contextmanager
def private_spool(layout: Layout) -> Iterator[Path]:
    """A spool directory of this run's own; those that died leave theirs to whoever comes next."""
    for left in layout.spool.glob("import-*"):
        with suppress(OSError), open(left / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sweep(layout, left)
            shutil.rmtree(left, ignore_errors=True)
    directory = layout.spool / f"import-{os.getpid()}-{time.time_ns()}"
    directory.mkdir(mode=0o750)
    try:
        with open(directory / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def record_files(paths: Sequence[str], data: Path, settings: Settings, jobs: int = 1,
                 progress: Callable[[Progress], None] | None = None) -> Summary:
    """Records the calls in captures, merged by time, into the archive at `data`.

    jobs: how many calls are finalised side by side, beside the reading; 1: one process does it all. Raises CaptureError where
    a capture cannot be read at all, DataError where the archive cannot be written; what was finished before is kept.
    """
    layout = Layout(data)
    layout.prepare()
    keep_pages()
    record = settings.record
    with open_captures(paths, chunk=min(CHUNK, record.segment << 17)) as source:
        with private_spool(layout) as directory:
            pool = Pool(data, directory, settings, jobs if jobs > 1 else 0)
            writer = None
            try:
                capture = Capture(record.sip_ports, idle_ns=int(record.window * _NS) // 2)
                writer = SpoolWriter(directory, segment_bytes=record.segment << 20, epoch=time.time_ns())
                spool = Spool(directory, segment_bytes=record.segment << 20)
                recorder = Recorder(layout, settings, spool, pool)
                mine = Source("", writer)
                state = Progress(bytes_total=getattr(source, "size", None))
                try:
                    for batch in source:
                        for part in spells(batch):
                            run = capture.process(part)
                            spool.append(run, mine)
                            recorder.process(run)
                        state.packets += len(batch)
                        if progress:
                            state.bytes_read, state.calls_found = source.bytes_read, recorder.calls_found
                            progress(state)
                    summary = recorder.finish(capture.counts)
                    summary.packets = state.packets
                    summary.counts["spool_segments_reused"] = writer.recycled
                except OSError as error:
                    recorder.stop(directory)
                    raise refused(error, f"cannot write to {layout.root}") from None
                except BaseException:
                    recorder.stop(directory)
                    raise
                finally:
                    recorder.close()
            finally:
                if writer is not None:
                    writer.close()
                pool.close()
        summary.warnings = [*source.warnings, *summary.warnings]
        return summary
