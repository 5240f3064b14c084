"""Runs that say whose they are, and a plain account of them."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rokuon.store.runs import PACKET, RECORD, STREAM, Run
from rokuon.store.spool import Spool

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
                   np.array(edges, np.uint32))


def read(spool: Spool, number: int, since: int = 0, until: int = 1 << 60) -> list[Record]:
    """What the spool says of a stream, read from its file."""
    (slices,) = spool.slices(np.array([number], np.uint32), since, until)
    found = []
    with open(spool.path, "rb") as file:
        for piece in slices:
            rows = os.pread(file.fileno(), int(piece["records"]) * RECORD.itemsize, int(piece["records_at"]))
            for r in np.frombuffer(rows, RECORD):
                at, size = int(r["offset"]) - int(piece["payload_base"]), int(r["captured"])
                assert 0 <= at <= at + size <= int(piece["payload"])
                at += int(piece["payload_at"])
                found.append((int(r["time_ns"]), os.pread(file.fileno(), size, at)))
    return found


def places(spool: Spool) -> dict[int, slice]:
    """Where the segments in use lie."""
    return {n: slice(segment.base, segment.base + segment.size) for n, segment in spool._segments.items()}
