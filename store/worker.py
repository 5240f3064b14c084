"""The finalise stage: reads a call's packets from the spool and makes its files."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import NOTHING, RtpRecords
from rokuon.store.finalize import CallFinalizer, CallPlan, FinalizeSettings, StreamPlan
from rokuon.store.jobs import Job, StreamJob
from rokuon.store.layout import Layout
from rokuon.store.packets import write_packets
from rokuon.store.runs import RECORD
from rokuon.store.settings import Settings
from rokuon.store.talk_path import audible, voice_like

__all__ = ["Worker"]

_SLACK = 256


@dataclass(slots=True)
class Loaded:
    """The packets of one stream that are the call's, in order of arrival."""

    rtp: RtpRecords
    records: NDArray[np.void]
    """RECORD rows; where their payload lies says `rtp.offset`."""


_NOTHING = Loaded(NOTHING, np.zeros(0, RECORD))


class Worker:
    """Finalises calls one after another. Long calls come in pieces, all to the same worker."""

    def __init__(self, root: Path, spool: Path, settings: Settings, sync: bool = True) -> None:
        """`root`: the archive; `spool`: the file that jobs speak of, which may not exist yet."""
        self._layout = Layout(root)
        self._keep_packets = settings.record.keep_packets
        self._choices = FinalizeSettings(show_digits=not settings.record.mask_digits)
        self._sync = sync
        self._spool = spool
        self._descriptor = -1
        self._open: dict[int, CallFinalizer] = {}

    def run(self, job: Job) -> dict[str, Any] | None:
        """Does the job. Returns the sidecar of a call that is over; None for a piece, and for RTP that is no voice."""
        loaded = [self._load(stream) for stream in job.streams]
        streams = [stream for stream, packets in zip(job.streams, loaded, strict=True) if len(packets.records)]
        loaded = [packets for packets in loaded if len(packets.records)]
        if job.rtp_only and not any(voice_like(packets.rtp) for packets in loaded):
            return None
        finalizer = self._open.get(job.number)
        if finalizer is None:
            stem = self._layout.relative(self._layout.sidecar(job.id)).removesuffix(".json")
            finalizer = CallFinalizer(self._layout.root, CallPlan(job.facts, stem, []), self._choices)
        for stream, hears in zip(streams, audible([s.plan for s in streams], [p.rtp for p in loaded]), strict=True):
            stream.plan.voice = hears
        finalizer.add(_in_places(finalizer.plan.streams, streams, [p.rtp for p in loaded]), job.until_ns)
        if job.until_ns is not None:
            self._open[job.number] = finalizer
            return None
        self._open.pop(job.number, None)
        sidecar = finalizer.finish(job.facts, sync=self._sync)
        if streams and (self._keep_packets or sidecar["audio"] is None):
            kept = [(stream.template, packets) for stream, packets in zip(streams, loaded, strict=True)]
            write_packets(self._layout.packets(job.id), job.frames, kept, self._sync)
        return sidecar

    def _load(self, stream: StreamJob) -> Loaded:
        """Reads the stream's packets. (Mapped, the spool would count as this process's memory: the kernel maps large folios.)"""
        slices = stream.slices
        counts = slices["records"]
        count, size = int(counts.sum()), int(slices["payload"].sum())
        if not count:
            return _NOTHING
        records = np.empty(count, RECORD)
        data = np.empty(size + _SLACK, np.uint8)
        rows, octets = records.view(np.uint8).data, data.data
        at = row = 0
        file, width, read = self._file(), RECORD.itemsize, 0
        for records_at, number, payload_at, length in slices[["records_at", "records", "payload_at", "payload"]].tolist():
            end = row + number * width
            read += os.preadv(file, [rows[row:end]], records_at)
            read += os.preadv(file, [octets[at:at + length]], payload_at)
            row, at = end, at + length
        if read != count * width + size:
            raise OSError(errno.EIO, "the spool is cut short")
        data[size:] = 0
        ends = np.cumsum(slices["payload"])
        offset = records["offset"] + np.repeat(ends - slices["payload"] - slices["payload_base"], counts)
        time_ns = np.ascontiguousarray(records["time_ns"])
        kept = _within(time_ns, stream.spans)
        if kept is not None:
            records, offset, time_ns = records[kept], offset[kept], time_ns[kept]
        if len(time_ns) > 1 and len(slices) > 1 and (time_ns[1:] < time_ns[:-1]).any():
            order = np.argsort(time_ns, kind="stable")  # several capture points, or a stream that was numbered twice
            records, offset, time_ns = records[order], offset[order], time_ns[order]
        return Loaded(RtpRecords(time_ns, data, offset, records["captured"].astype(np.int32),
                                 records["length"].astype(np.int32)), records)

    def _file(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self._spool, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor

    def close(self) -> None:
        """Gives up calls of which pieces are still to come: no audio of them stays."""
        for finalizer in self._open.values():
            finalizer.discard()
        if self._descriptor >= 0:
            os.close(self._descriptor)


def _in_places(known: list[StreamPlan], streams: list[StreamJob], packets: list[RtpRecords]) -> list[RtpRecords | None]:
    """The packets by stream, in the order in which the finaliser knows the call's streams; new ones are added to it."""
    places = {(plan.src, plan.dst, tuple(plan.vlan), plan.ssrc): i for i, plan in enumerate(known)}
    records: list[RtpRecords | None] = [None] * len(known)
    for stream, mine in zip(streams, packets, strict=True):
        plan = stream.plan
        at = places.get((plan.src, plan.dst, tuple(plan.vlan), plan.ssrc))
        if at is None:
            known.append(plan)
            records.append(mine)
        else:
            records[at] = mine
    return records


def _within(time_ns: NDArray[np.int64], spans: list[tuple[int, int]]) -> NDArray[np.intp] | None:
    """Rows whose time lies in one of the spans; None: all do."""
    if not len(time_ns):
        return None
    if len(spans) == 1 and spans[0][0] <= time_ns.min() and time_ns.max() < spans[0][1]:
        return None
    inside = np.zeros(len(time_ns), bool)
    for since, until in spans:
        inside |= (time_ns >= since) & (time_ns < until)
    return np.flatnonzero(inside)
