"""The finalise stage: reads a call's packets from the spool and makes its files."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords
from rokuon.store.finalize import CallFinalizer, CallPlan, FinalizeSettings, StreamPlan
from rokuon.store.jobs import Job, StreamJob
from rokuon.store.layout import Layout
from rokuon.store.packets import write_packets
from rokuon.store.runs import RECORD
from rokuon.store.settings import Settings
from rokuon.store.talk_path import audible, voice_like

__all__ = ["Worker"]

_SLACK = 256
_OPEN_FILES = 256


@dataclass(slots=True)
class Loaded:
    """The packets of one stream that are the call's, in order of arrival."""

    rtp: RtpRecords
    records: NDArray[np.void]
    """RECORD rows; `offset` counts from the start of `rtp.data`."""


class Worker:
    """Finalises calls one after another. Long calls come in pieces, all to the same worker."""

    def __init__(self, root: Path, settings: Settings, sync: bool = True) -> None:
        self._layout = Layout(root)
        self._keep_packets = settings.record.keep_packets
        self._choices = FinalizeSettings(show_digits=not settings.record.mask_digits)
        self._sync = sync
        self._files: OrderedDict[str, int] = OrderedDict()
        self._open: dict[int, CallFinalizer] = {}

    def run(self, job: Job) -> dict[str, Any] | None:
        """Does the job. Returns the sidecar of a call that is over; None for a piece, and for RTP that is no voice."""
        loaded = [self._load(stream, job.paths) for stream in job.streams]
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
        finalizer.add(_in_places(finalizer.plan.streams, streams, loaded), job.until_ns)
        if job.until_ns is not None:
            self._open[job.number] = finalizer
            return None
        self._open.pop(job.number, None)
        sidecar = finalizer.finish(job.facts, sync=self._sync)
        if streams and (self._keep_packets or sidecar["audio"] is None):
            kept = [(stream.template, packets) for stream, packets in zip(streams, loaded, strict=True)]
            write_packets(self._layout.packets(job.id), job.frames, kept, self._sync)
        return sidecar

    def _load(self, stream: StreamJob, paths: dict[int, str]) -> Loaded:
        count = sum(piece.records for piece in stream.slices)
        size = sum(piece.payload for piece in stream.slices)
        records = np.empty(count, RECORD)
        data = np.empty(size + _SLACK, np.uint8)
        row_bytes = records.view(np.uint8).data
        payload_bytes = data.data
        shift = np.empty(count, np.int64)
        at = row = 0
        width = RECORD.itemsize
        for piece in stream.slices:
            file = self._file(paths[piece.segment])
            if os.preadv(file, [row_bytes[row * width:(row + piece.records) * width]], piece.records_at) != piece.records * width:
                raise OSError(f"spool segment {piece.segment} is cut short")
            if os.preadv(file, [payload_bytes[at:at + piece.payload]], piece.payload_at) != piece.payload:
                raise OSError(f"spool segment {piece.segment} is cut short")
            shift[row:row + piece.records] = at - piece.payload_base
            row, at = row + piece.records, at + piece.payload
        data[size:] = 0
        offset = records["offset"] + shift
        time_ns = np.ascontiguousarray(records["time_ns"])
        rows = _within(time_ns, stream.spans)
        if rows is not None:
            records, offset, time_ns = records[rows], offset[rows], time_ns[rows]
        if len(time_ns) > 1 and len(stream.slices) > 1 and (time_ns[1:] < time_ns[:-1]).any():
            order = np.argsort(time_ns, kind="stable")  # several capture points, or a stream that was numbered twice
            records, offset, time_ns = records[order], offset[order], time_ns[order]
        records["offset"] = offset
        return Loaded(RtpRecords(time_ns, data, offset, records["captured"].astype(np.int32), records["length"].astype(np.int32)),
                      records)

    def _file(self, path: str) -> int:
        descriptor = self._files.get(path)
        if descriptor is None:
            descriptor = self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


def _in_places(known: list[StreamPlan], streams: list[StreamJob], loaded: list[Loaded]) -> list[RtpRecords | None]:
    """The packets by stream, in the order in which the finaliser knows the call's streams; new ones are added to it."""
    places = {(plan.src, plan.dst, tuple(plan.vlan), plan.ssrc): i for i, plan in enumerate(known)}
    records: list[RtpRecords | None] = [None] * len(known)
    for stream, packets in zip(streams, loaded, strict=True):
        plan = stream.plan
        at = places.get((plan.src, plan.dst, tuple(plan.vlan), plan.ssrc))
        if at is None:
            known.append(plan)
            records.append(packets.rtp)
        else:
            records[at] = packets.rtp
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
