"""Streams that came in a crowd, thousands at once, and of which nothing more is known: rows of arrays until they are asked for.

Whoever sends packets with ever new SSRCs or ports would otherwise fill memory with objects and time with looking at each.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.store.runs import STREAM

__all__ = ["CROWD", "Strangers"]

CROWD = 4096
"""New streams in one run from which on they are strangers."""
_MOST = 1 << 20
_HEADLESS = STREAM.itemsize - 96


class _Chunk(NamedTuple):
    """Strangers that came together."""

    until_ns: int
    rows: NDArray[np.uint8]
    """STREAM rows without their packet headers, shape (n, _HEADLESS)."""
    numbers: NDArray[np.uint32]
    source: NDArray[np.uint64]
    destination: NDArray[np.uint64]

    def among(self, which: NDArray[np.bool_]) -> _Chunk:
        return _Chunk(self.until_ns, self.rows[which], self.numbers[which], self.source[which], self.destination[which])


class Strangers:
    """A bounded number of them, oldest first."""

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._count = 0
        self._factors = [int.from_bytes(os.urandom(8), "little") | 1 for _ in range(4)]

    def __len__(self) -> int:
        return self._count

    def _keys(self, addresses: NDArray[np.uint8], ports: NDArray[np.uint16]) -> NDArray[np.uint64]:
        """A number for each address (16 bytes, IPv4 in the first 4) and port."""
        halves = np.ascontiguousarray(addresses).view(np.uint64).reshape(-1, 2)
        a, b, c, d = (np.uint64(factor) for factor in self._factors)
        mixed: NDArray[np.uint64] = halves[:, 0] * a + halves[:, 1] * b + ports.astype(np.uint64) * c
        mixed ^= mixed >> np.uint64(29)
        mixed *= d
        return mixed

    def _keys_of(self, ends: Iterable[tuple[str, int]]) -> NDArray[np.uint64]:
        packed: list[bytes] = []
        ports: list[int] = []
        for address, port in ends:
            try:
                packed.append(ip_address(address).packed.ljust(16, b"\0"))
            except ValueError:  # SDP may name a host
                continue
            ports.append(port)
        return self._keys(np.frombuffer(b"".join(packed), np.uint8), np.array(ports, np.uint16))

    def add(self, fresh: NDArray[np.void], claimed: Iterable[tuple[str, int]], until_ns: int) -> NDArray[np.void]:
        """Takes in STREAM rows until a time. Those from or to a `claimed` address are no strangers: they are given back."""
        source = self._keys(fresh["source"], fresh["source_port"])
        destination = self._keys(fresh["destination"], fresh["destination_port"])
        known = self._keys_of(claimed)
        asked = np.isin(source, known) | np.isin(destination, known)
        plain = np.ascontiguousarray(fresh).view(np.uint8).reshape(-1, STREAM.itemsize)[:, :_HEADLESS].copy()
        chunk = _Chunk(until_ns, plain, fresh["number"].astype(np.uint32), source, destination).among(~asked)
        self._chunks.append(chunk)
        self._count += len(chunk.numbers)
        return fresh[asked]

    def ask(self, end: tuple[str, int]) -> NDArray[np.void]:
        """STREAM rows, without packet headers, of those from or to an address; they are no strangers any more."""
        found: list[NDArray[np.void]] = [np.zeros(0, STREAM)]
        keys = self._keys_of([end])
        if self._chunks and len(keys):
            for n, chunk in enumerate(self._chunks):
                which = (chunk.source == keys[0]) | (chunk.destination == keys[0])
                if which.any():
                    found.append(_whole(chunk.rows[which]))
                    self._chunks[n] = chunk.among(~which)
                    self._count -= int(which.sum())
        return np.concatenate(found)

    def over(self, now_ns: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        """Numbers (ascending) and rows of those whose time is over, and of the oldest where there are too many."""
        numbers, rows = [np.zeros(0, np.uint32)], [np.zeros((0, _HEADLESS), np.uint8)]
        while self._chunks and (self._chunks[0].until_ns <= now_ns or self._count > _MOST):
            chunk = self._chunks.pop(0)
            self._count -= len(chunk.numbers)
            numbers.append(chunk.numbers)
            rows.append(chunk.rows)
        return np.concatenate(numbers), np.concatenate(rows)

    def numbers(self) -> NDArray[np.uint32]:
        """All of their numbers."""
        return np.concatenate([np.zeros(0, np.uint32), *(chunk.numbers for chunk in self._chunks)])

    @staticmethod
    def whole(rows: NDArray[np.uint8]) -> NDArray[np.void]:
        """STREAM rows, without packet headers."""
        return _whole(rows)


def _whole(rows: NDArray[np.uint8]) -> NDArray[np.void]:
    """STREAM rows that say they have no packet header."""
    full = np.zeros((len(rows), STREAM.itemsize), np.uint8)
    full[:, :_HEADLESS] = rows
    made = full.reshape(-1).view(STREAM)
    made["header_length"] = 0
    return made
