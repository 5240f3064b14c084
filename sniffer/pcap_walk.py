"""Where the records of a capture begin: a chain of lengths, walked by many lanes at once.

Each record of a pcap or pcapng file says only how long it is, so the next one is found by reading this one. To do that
in array steps, the bytes are divided into lanes. In each a place is looked for that looks like a record's beginning,
and all lanes walk on from there in step. A lane that arrives exactly where the next one began has proved the guess
right; where it does not, the chain is walked on one by one to the next guess that it meets. So the answer is always that
of the walk from record to record, whatever the bytes are; wrong guesses cost time only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

__all__ = ["Chain", "RecordShape", "headers_at"]

RECORDS_A_LANE = 32
"""A step of all lanes costs some 6 µs however many they are, a lane some 0.1 µs to find."""
FEW_LANES = 24
"""So few are walked faster one by one than together."""
LANES_MIN = 32
CHECK_EVERY = 4

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RecordShape:
    """How a kind of file chains its records."""

    order: str
    """Byte order of the length: "<" or ">"."""
    header: int
    """Bytes of a record's beginning that have to be there for it to be reported."""
    length_at: int
    """Where in the record its length (32 bits) is."""
    overhead: int
    """Bytes of the record that the length does not count."""
    shortest: int
    """What a record takes at the least, whatever its length says."""
    align: int = 1
    """Records begin at multiples of this from the first one; lengths are rounded up."""


def headers_at(data: NDArray[np.uint8], at: Positions, size: int) -> NDArray[np.uint8]:
    """The `size` bytes at each of the places `at`, as an array of shape (len(at), size); all have to lie in `data`.

    A gather of opaque items of that size from a view at every byte: 3 ns a row, a sixth of what a gather of bytes takes.
    """
    items: NDArray[Any] = np.ndarray((max(len(data) - size + 1, 0),), f"V{size}", data, 0, (1,))
    return items[at].view(np.uint8).reshape(len(at), size)


class Chain:
    """Walks record chains of one shape; remembers how long records are on the average, to choose its lanes."""

    def __init__(self, shape: RecordShape, lanes: int | None = None) -> None:
        """Walk with as many `lanes` as given (1: one by one), by default as the amount of data asks for."""
        self._shape = shape
        self._lanes = lanes
        self._mean = 256
        self._length = struct.Struct(shape.order + "I")

    def walk(self, data: NDArray[np.uint8], begin: int, end: int, needle: dict[int, int] | None = None) -> tuple[Positions, int]:
        """All records from `begin` on of which `header` bytes lie before `end`.

        In: bytes; `needle`: what a record's beginning is recognised by, bytes by their place in it.
        Out: where the records begin, rising, and where the chain arrives behind the last of them (which may be far
        beyond `end`). Lengths are taken as they stand: it is for the caller to judge them.
        """
        last = end - self._shape.header
        """No record begins behind this."""
        starts = self._find_starts(data, begin, last, needle) if needle and last > begin else None
        if starts is None or len(starts) < 2:
            serial, arrived = self._walk_one_by_one(data, begin, last + 1)
            found = np.array(serial, np.int64)
        else:
            found, arrived = self._prove(data, starts, last, *self._walk_lanes(data, starts, last))
        if len(found) > 1:
            self._mean = int(found[-1] - found[0]) // (len(found) - 1)
        return found, arrived

    def _walk_one_by_one(self, data: NDArray[np.uint8], at: int, stop: int) -> tuple[list[int], int]:
        """The plain walk, from `at` until `stop` is reached: records, and where it arrived."""
        shape = self._shape
        unpack, place, overhead, shortest = self._length.unpack_from, shape.length_at, shape.overhead, shape.shortest
        up = shape.align - 1
        view = data.data
        found = []
        while at < stop:
            found.append(at)
            size = (unpack(view, at + place)[0] + overhead + up) & ~up
            at += size if size > shortest else shortest
        return found, at

    def _find_starts(self, data: NDArray[np.uint8], begin: int, last: int, needle: dict[int, int]) -> Positions | None:
        """Where lanes may begin: `begin`, then of each stretch the first place that has the needle's bytes; rising."""
        lanes = self._lanes or (last - begin) // (RECORDS_A_LANE * max(self._mean, 64))
        if lanes < (2 if self._lanes else LANES_MIN):
            return None
        pace = (last - begin) // lanes // self._shape.align * self._shape.align
        width = min(2 * self._mean + 32, pace)
        if width < 1:
            return None
        first = begin + pace
        # Windows of all lanes but the first as rows; the last row ends at `last` at the latest, its needle inside the header.
        hit: NDArray[np.bool_] | None = None
        for place, value in needle.items():
            rows = as_strided(data[first + place:], (lanes - 1, width), (pace, 1), writeable=False)
            same = rows == value
            hit = same if hit is None else np.logical_and(hit, same, out=hit)
        assert hit is not None
        if self._shape.align > 1:
            hit[:, np.arange(width) % self._shape.align != 0] = False
        column = hit.argmax(axis=1)
        row = np.flatnonzero(hit[np.arange(lanes - 1), column])
        found = first + row * pace + column[row]
        return np.concatenate(([begin], found[found <= last]))

    def _walk_lanes(self, data: NDArray[np.uint8], starts: Positions, last: int) -> tuple[Positions, Positions]:
        """Walk each lane from its start until it reaches the next one's: all records in order, where each lane arrived."""
        shape = self._shape
        lengths: NDArray[Any] = np.ndarray((last + shape.header - 3,), shape.order + "u4", data, 0, (1,))
        end = last + shape.length_at
        stops = np.append(starts[1:], last + 1)
        arrived = np.empty(len(starts), np.int64)
        pieces: list[Positions] = []
        lane, at, stop = np.arange(len(starts)), starts, stops
        while len(lane) > FEW_LANES:
            steps = [at]
            running = len(lane)
            while running * 2 > len(lane):
                for _ in range(CHECK_EVERY):
                    size = lengths[np.minimum(at + shape.length_at, end)].astype(np.int64)
                    size += shape.overhead + shape.align - 1
                    if shape.align > 1:
                        size &= -shape.align
                    if shape.shortest > shape.overhead:
                        np.maximum(size, shape.shortest, out=size)
                    at = at + size
                    steps.append(at)
                running = int((at < stop).sum())
            # Lanes that are through have walked on into the next one's ground: those steps are not theirs.
            table = np.stack(steps, axis=1)
            own = table < stop[:, None]
            own[:, -1] = False
            pieces.append(table[own])
            count = own.sum(axis=1)
            arrived[lane] = table[np.arange(len(lane)), count]
            still = arrived[lane] < stop
            lane, at, stop = lane[still], at[still], stop[still]
        for number, place, until in zip(lane.tolist(), at.tolist(), stop.tolist(), strict=True):
            found, arrived[number] = self._walk_one_by_one(data, place, until)
            pieces.append(np.array(found, np.int64))
        if len(pieces) == 1:
            return pieces[0], arrived
        # Each lane's records lie between its start and the next, so the order of places is that of the lanes.
        together = np.concatenate(pieces)
        together.sort(kind="stable")
        return together, arrived

    def _prove(self, data: NDArray[np.uint8], starts: Positions, last: int, found: Positions,
               arrived: Positions) -> tuple[Positions, int]:
        """Join the lanes' records to one chain; where a start was a wrong guess, walk on one by one."""
        if bool((arrived[:-1] == starts[1:]).all()):
            return found, int(arrived[-1])
        stops = np.append(starts[1:], last + 1).tolist()
        ends = np.append(np.searchsorted(found, starts[1:]), len(found)).tolist()
        pieces: list[Positions] = []
        at, begun = int(starts[0]), 0
        for start, stop, end, after in zip(starts.tolist(), stops, ends, arrived.tolist(), strict=True):
            if at == start:
                pieces.append(found[begun:end])
                at = after
            elif at < stop:
                serial, at = self._walk_one_by_one(data, at, stop)
                pieces.append(np.array(serial, np.int64))
            begun = end
        return np.concatenate(pieces), at
