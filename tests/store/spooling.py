"""Runs that say whose they are, and a plain account of them."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rokuon.store.runs import PACKET, RECORD, STREAM, Run
from rokuon.store.segments import SpoolWriter
from rokuon.store.spool import Source, Spool

NEVER = np.iinfo(np.int64).max
Record = tuple[int, bytes]
"""Time and payload."""


class Maker:
    """Runs full of records that say whose they are, and a plain account of them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1000
        self.all: dict[int, list[Record]] = defaultdict(list)
        self.known: set[int] = set()

    def run(self, numbers: Sequence[int], most: int = 6, width: int = 300) -> Run:
        first = self.now
        streams = sorted(set(numbers))
        rows: list[tuple[int, int, bytes]] = []
        for number in streams:
            for _ in range(self.rng.randint(1, most)):
                rows.append((number, first + self.rng.randrange(10), self.rng.randbytes(self.rng.randint(12, width))))
        rows.sort(key=lambda r: (r[0], r[1]))
        records, payload = np.zeros(len(rows), RECORD), bytearray()
        for row, (number, at, data) in zip(records, rows, strict=True):
            row["time_ns"], row["offset"], row["captured"] = at, len(payload), len(data)
            payload += data + bytes(-len(data) % 8)
            self.all[number].append((at, data))
        starts = [next(i for i, r in enumerate(rows) if r[0] == n) for n in streams] + [len(rows)]
        edges = [int(records["offset"][i]) for i in starts[:-1]] + [len(payload)]
        fresh = np.zeros(len(set(streams) - self.known), STREAM)
        fresh["number"] = sorted(set(streams) - self.known)
        fresh["ssrc"] = fresh["number"] * 7
        self.known |= set(streams)
        self.now += 10
        times = records["time_ns"] if rows else np.array([first], np.int64)
        return Run(int(times.min()), int(times.max()), np.array(streams, np.uint32), np.array(starts, np.uint32), fresh,
                   np.zeros(0, PACKET), np.zeros(0, np.uint8), records, np.frombuffer(bytes(payload), np.uint8),
                   np.array(edges, np.uint32), last=records["time_ns"][np.array(starts[1:], np.int64) - 1].astype(np.int64))


class OwnSpool(Spool):
    """A spool with its writer, as one process has it."""

    def __init__(self, directory: Path, *, segment_bytes: int = 4096, epoch: int = 1, lasting: bool = False) -> None:
        super().__init__(directory, segment_bytes=segment_bytes, lasting=lasting)
        self.writer = SpoolWriter(directory, segment_bytes=segment_bytes, epoch=epoch)
        self.mine = Source("", self.writer)

    def put(self, run: Run) -> None:
        self.append(run, self.mine)

    def drop(self, keep_from: NDArray[np.int64], old_ns: int) -> None:
        self.recycle(lambda numbers: keep_from[numbers], old_ns)

    def close(self) -> None:
        self.writer.close()
        super().close()

    def bytes_used(self) -> int:
        return sum(path.stat().st_size for path in self.root.glob("*.seg"))


def read(spool: Spool, number: int, since: int = 0, until: int = 1 << 60) -> list[Record]:
    """What the spool says of a stream, read from its files."""
    (slices,) = spool.slices(np.array([number], np.uint32), since, until)
    files = spool.files(set(slices["segment"].tolist()))
    found = []
    for piece in slices:
        with open(spool.root / files[int(piece["segment"])], "rb") as file:
            rows = os.pread(file.fileno(), int(piece["records"]) * RECORD.itemsize, int(piece["records_at"]))
            for r in np.frombuffer(rows, RECORD):
                at, size = int(r["offset"]) - int(piece["payload_base"]), int(r["captured"])
                assert 0 <= at <= at + size <= int(piece["payload"])
                at += int(piece["payload_at"])
                found.append((int(r["time_ns"]), os.pread(file.fileno(), size, at)))
    return found


def voice(root: Path, run: Run, k: int) -> list[Record]:
    """The k-th stream of a run that a reader gave, from its file."""
    first, end = int(run.starts[k]), int(run.starts[k + 1])
    with open(root / run.segment, "rb") as file:
        at, width = run.records_at, RECORD.itemsize
        rows = np.frombuffer(os.pread(file.fileno(), (end - first) * width, at + first * width), RECORD)
        return [(int(r["time_ns"]), os.pread(file.fileno(), int(r["captured"]), run.payload_at + int(r["offset"]))) for r in rows]
