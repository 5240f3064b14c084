"""The finalise stage: reads a call's packets from the spool and makes its files."""

from __future__ import annotations

import errno
import os
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import NOTHING, RtpRecords, headers_of, join, select
from rokuon.store.copies import fold_copies
from rokuon.store.finalize import CallFinalizer, CallPlan, FinalizeSettings, StreamPlan
from rokuon.store.jobs import Job, StreamJob
from rokuon.store.layout import Layout
from rokuon.store.packets import PacketsInPieces, write_packets
from rokuon.store.runs import RECORD
from rokuon.store.settings import Settings
from rokuon.store.talk_path import assign_paths, audible, voice_like

__all__ = ["Worker"]

_SLACK = 256
_GONE = (errno.EIO, errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ENOTDIR)
"""What is wrong with a file that will not become better by waiting."""
_OPEN_FILES = 32
"""Segments are not used by the same name again: what stays open of them has a bound."""


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
        """`root`: the archive; `spool`: the directory in which the segments lie that jobs speak of."""
        self._layout = Layout(root)
        self._keep_packets = settings.record.keep_packets
        self._choices = FinalizeSettings(show_digits=not settings.record.mask_digits)
        self._sync = sync
        self._spool = spool
        self._files: OrderedDict[str, int] = OrderedDict()
        """Segments that are open, the one used last at the end."""
        self.open: dict[int, CallFinalizer] = {}
        """Calls in the making, by their number."""
        self._given_up: set[int] = set()
        self._copies: Counter[int] = Counter()
        """Packets that a mirror brought with other tags as well, by the call's number."""
        self._damaged: Counter[int] = Counter()
        """Packets that the spool had, and has no more."""
        self._pieces: dict[int, PacketsInPieces] = {}

    def run(self, job: Job) -> dict[str, Any] | None:
        """Does the job. Returns the sidecar of a call that is over; None for a piece, and for RTP that is no voice."""
        if job.number in self._given_up:
            raise ValueError("an earlier part of the call could not be finalised")
        try:
            loaded = [self._load(stream, job.files) for stream in job.streams]
        except OSError as error:
            if error.errno not in _GONE:
                raise
            loaded = [self._load(self._sound(stream, job), job.files) for stream in job.streams]
        streams = [stream for stream, packets in zip(job.streams, loaded, strict=True) if len(packets.records)]
        loaded = [packets for packets in loaded if len(packets.records)]
        finalizer = self.open.get(job.number)
        if job.rtp_only and finalizer is None and not any(voice_like(packets.rtp) for packets in loaded):
            return None
        if finalizer is None:
            plan = CallPlan(job.facts, self._layout.stem(job.id), [])
            finalizer = self.open[job.number] = CallFinalizer(self._layout.root, plan, self._choices)
        known = {_name(plan): plan for plan in finalizer.plan.streams}
        streams, loaded = self._once(job, streams, loaded, finalizer.plan.streams)
        before = [was.voice if (was := known.get(_name(stream.plan))) else None for stream in streams]
        for stream, hears in zip(streams, audible([s.plan for s in streams], [p.rtp for p in loaded], before), strict=True):
            stream.plan.voice = hears
        assign_paths([s.plan for s in streams], [p.rtp for p in loaded], finalizer.plan.streams)
        finalizer.add(_in_places(finalizer.plan.streams, streams, [p.rtp for p in loaded]), job.until_ns)
        kept = [(stream.template, packets) for stream, packets in zip(streams, loaded, strict=True)]
        if job.until_ns is not None:
            self._keep(job, kept, finalizer)
            return None
        odd = {"mirror-copies": self._copies.pop(job.number, 0), "spool-damaged": self._damaged.pop(job.number, 0)}
        if any(odd.values()):
            odd = {name: count for name, count in odd.items() if count}
            job.facts["anomalies"] = dict(sorted({**job.facts["anomalies"], **odd}.items()))
        sidecar = finalizer.finish(job.facts, sync=self._sync)
        del self.open[job.number]
        pieces = self._pieces.pop(job.number, None)
        if self._keep_packets or sidecar["audio"] is None:
            if pieces is not None:
                pieces.finish(job.frames, kept, self._sync)
            elif kept:
                write_packets(self._layout.packets(job.id), job.frames, kept, self._sync)
        elif pieces is not None:
            pieces.discard()
        return sidecar

    def _keep(self, job: Job, kept: list[tuple[bytes, Loaded]], finalizer: CallFinalizer) -> None:
        """A piece's packets: nobody knows yet whether there will be audio."""
        if self._keep_packets or finalizer.silent:
            self._pieces.setdefault(job.number, PacketsInPieces(self._layout.packets(job.id))).add(kept)
        elif pieces := self._pieces.pop(job.number, None):
            pieces.discard()

    def _once(self, job: Job, streams: list[StreamJob], loaded: list[Loaded],
              known: list[StreamPlan]) -> tuple[list[StreamJob], list[Loaded]]:
        """Streams and packets without those that a mirror brought with other tags as well."""
        folded = fold_copies([s.plan for s in streams], [p.rtp for p in loaded], known)
        for mine, fold in zip(loaded, folded, strict=True):
            if fold is not None:
                at, rows = fold
                self._copies[job.number] += len(mine.records) - len(rows)
                if len(rows):
                    loaded[at] = _joined(loaded[at], mine, rows)
        alone = [i for i, fold in enumerate(folded) if fold is None]
        return [streams[i] for i in alone], [loaded[i] for i in alone]

    def _sound(self, stream: StreamJob, job: Job) -> StreamJob:
        """The stream without what cannot be read any more: somebody removed a segment, or the disk has lost it."""
        sound = np.ones(len(stream.slices), bool)
        for n in range(len(sound)):
            try:
                self._load(replace(stream, slices=stream.slices[n:n + 1]), job.files)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                sound[n] = False
        if not sound.all():
            self._damaged[job.number] += int(stream.slices["records"][~sound].sum())
        return replace(stream, slices=stream.slices[sound])

    def _load(self, stream: StreamJob, files: dict[int, str]) -> Loaded:
        """Reads the stream's packets. (Mapped, the spool would count as this process's memory: the kernel maps large folios.)"""
        parts = stream.slices.tolist()
        counts = [part[1] for part in parts]
        count, size = sum(counts), sum([part[3] for part in parts])
        if not count:
            return _NOTHING
        records, data = np.empty(count, RECORD), np.empty(size + _SLACK, np.uint8)
        rows, octets = records.view(np.uint8).data, data.data
        width, read, preadv = RECORD.itemsize, 0, os.preadv
        file, before = -1, -1
        moved: list[int] = []
        at = row = 0
        for records_at, number, payload_at, length, base, _, _, segment in parts:
            if segment != before:
                file, before = self._file(files[segment]), segment
            end = row + number * width
            read += preadv(file, [rows[row:end]], records_at) + preadv(file, [octets[at:at + length]], payload_at)
            moved.append(at - base)
            row, at = end, at + length
        if read != count * width + size:
            raise OSError(errno.EIO, "the spool is cut short")
        data[size:] = 0
        offset = records["offset"] + np.repeat(np.array(moved, np.int64), counts)
        time_ns = np.ascontiguousarray(records["time_ns"])
        rtp = RtpRecords(time_ns, data, offset, records["captured"].astype(np.int32), records["length"].astype(np.int32))
        if stream.plan.headers_only and not self._keep_packets:  # capture may have been advised to keep no more of them
            rtp = headers_of(rtp)
            records["captured"] = rtp.length
        kept = _within(rtp, stream.spans)
        if len(time_ns) > 1 and len(parts) > 1 and (time_ns[1:] < time_ns[:-1]).any():
            # several capture points, or a stream that was numbered twice
            kept = np.argsort(time_ns, kind="stable") if kept is None else kept[np.argsort(time_ns[kept], kind="stable")]
        if kept is None:
            return Loaded(rtp, records)
        return Loaded(RtpRecords(time_ns[kept], data, offset[kept], rtp.length[kept], rtp.wire_length[kept]), records[kept])

    def _file(self, name: str) -> int:
        """The segment's file. What was read lately stays open: names are never used twice."""
        file = self._files.pop(name, -1)
        if file < 0:
            file = os.open(self._spool / name, os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) >= _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files[name] = file
        return file

    def give_up(self, number: int, for_good: bool = True) -> None:
        """A job of this call failed: nothing stays of what was made of it; `for_good`: nothing is made of what is to come."""
        if for_good:
            self._given_up.add(number)
        self._copies.pop(number, None)
        self._damaged.pop(number, None)
        if pieces := self._pieces.pop(number, None):
            pieces.discard()
        finalizer = self.open.pop(number, None)
        if finalizer is not None:
            finalizer.discard()

    def set_aside(self, job: Job, path: Path) -> None:
        """Writes the job's packets as a capture; none of them is looked into. Raises OSError."""
        kept = [(stream.template, self._load(self._sound(stream, job), job.files)) for stream in job.streams]
        write_packets(path, job.frames, kept, self._sync)

    def close(self) -> None:
        """Gives up calls of which pieces are still to come: no audio of them stays."""
        for finalizer in self.open.values():
            finalizer.discard()
        for pieces in self._pieces.values():
            pieces.discard()
        for file in self._files.values():
            os.close(file)


def _name(plan: StreamPlan) -> tuple[str, str, tuple[int, ...], int]:
    return plan.src, plan.dst, tuple(plan.vlan), plan.ssrc


def _joined(one: Loaded, other: Loaded, rows: NDArray[np.intp]) -> Loaded:
    """The packets of `one`, and some of `other`'s, in order of arrival."""
    rtp = join(one.rtp, select(other.rtp, rows))
    records = np.concatenate([one.records, other.records[rows]])
    order = np.argsort(rtp.time_ns, kind="stable")
    return Loaded(select(rtp, order), records[order])


def _in_places(known: list[StreamPlan], streams: list[StreamJob], packets: list[RtpRecords]) -> list[RtpRecords | None]:
    """The packets by stream, in the order in which the finaliser knows the call's streams; new ones are added to it."""
    places = {_name(plan): i for i, plan in enumerate(known)}
    records: list[RtpRecords | None] = [None] * len(known)
    for stream, mine in zip(streams, packets, strict=True):
        plan = stream.plan
        at = places.get(_name(plan))
        if at is None:
            known.append(plan)
            records.append(mine)
        else:
            known[at].voice, known[at].headers_only, known[at].path = plan.voice, plan.headers_only, plan.path
            if known[at].formats != plan.formats:
                known[at].formats, known[at].former = plan.formats, plan.former
            records[at] = mine
    return records


def _within(rtp: RtpRecords, spans: list[tuple[int, int]]) -> NDArray[np.intp] | None:
    """Rows whose time lies in one of the spans; None: all do."""
    first, last = rtp.span
    if len(spans) == 1 and spans[0][0] <= first and last < spans[0][1]:
        return None
    time_ns = rtp.time_ns
    inside = np.zeros(len(time_ns), bool)
    for since, until in spans:
        inside |= (time_ns >= since) & (time_ns < until)
    return np.flatnonzero(inside)
