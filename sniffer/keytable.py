"""An open-address hash table over arrays: thousands of keys are found or inserted in a few numpy calls.

Keys are rows of uint64 columns; a key's row number is its id. Linear probing in rounds: every round moves all rows that
are still undecided on by one slot, so the number of rounds is the length of the longest probe, not the number of keys.
Who may choose keys (every sender of a packet may) and knows the hash makes that probe as long as the table: give a seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["KeyTable"]

Keys = Sequence[NDArray[np.uint64]]

_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_WORD = (1 << 64) - 1
_FOLD = np.uint64(32)


def _multipliers(seed: int) -> tuple[np.uint64, ...]:
    """Odd numbers that nobody knows who does not know the seed (mixed as in SplitMix64)."""
    mixed = []
    for i, multiplier in enumerate(_MULTIPLIERS):
        z = (seed + i * _MULTIPLIERS[0]) & _WORD if seed else 0
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _WORD
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _WORD
        mixed.append(np.uint64((multiplier ^ z ^ z >> 31) | 1))
    return tuple(mixed)


class KeyTable:
    """Ids 0, 1, 2 … for keys of `columns` uint64 each (at most four), in the order in which they were first inserted.

    Ids do not depend on the `seed`, a number of 64 bits; how fast they are found with keys chosen to collide does.
    """

    def __init__(self, columns: int, bits: int = 12, seed: int = 0) -> None:
        self.count = 0
        self._multipliers = _multipliers(seed)
        self._bits = bits
        self._slots = np.full(1 << bits, -1, np.int32)
        self._keys = [np.zeros(1 << bits - 1, np.uint64) for _ in range(columns)]

    def keys(self) -> list[NDArray[np.uint64]]:
        """The columns of all keys by id (views, not to be written to)."""
        return [column[: self.count] for column in self._keys]

    def _hash(self, keys: Keys) -> NDArray[np.int64]:
        h = keys[0] * self._multipliers[0]
        for column, multiplier in zip(keys[1:], self._multipliers[1:], strict=False):
            h ^= h >> _FOLD
            h += column
            h *= multiplier
        h ^= h >> _FOLD
        h *= self._multipliers[-1]
        h >>= np.uint64(64 - self._bits)
        return h.view(np.int64)

    def find(self, keys: Keys) -> NDArray[np.int32]:
        """The id of each key, shape (n,); -1 where it is not in the table."""
        slot = self._hash(keys)
        ids = self._slots[slot]
        mask = (1 << self._bits) - 1
        differs = self._keys[0][ids] != keys[0]
        for column, key in zip(self._keys[1:], keys[1:], strict=True):
            differs |= column[ids] != key
        differs &= ids >= 0
        rows = np.flatnonzero(differs)
        while len(rows):  # second and later probes, of those rows only
            slot[rows] = (slot[rows] + 1) & mask
            found = self._slots[slot[rows]]
            ids[rows] = found
            differs = np.zeros(len(rows), bool)
            for column, key in zip(self._keys, keys, strict=True):
                differs |= column[found] != key[rows]
            rows = rows[differs & (found >= 0)]
        return ids

    def insert(self, keys: Keys) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The id of each key, new ones given out by first appearance; and the rows at which the new ones first appear."""
        ids = self.find(keys)
        rows = np.flatnonzero(ids < 0)
        if not len(rows):
            return ids, rows
        missing = [key[rows] for key in keys]
        order = np.lexsort(missing)
        changes = np.zeros(len(rows), bool)
        changes[0] = True
        for column in missing:
            ordered = column[order]
            changes[1:] |= ordered[1:] != ordered[:-1]
        group = np.empty(len(rows), np.int64)
        group[order] = np.cumsum(changes) - 1
        first = order[changes]  # lexsort is stable: the first of each group is its first appearance
        by_appearance = np.argsort(first, kind="stable")
        rank = np.empty(len(first), np.int64)
        rank[by_appearance] = np.arange(len(first))
        first = first[by_appearance]
        begin = self.count
        self._append([column[first] for column in missing])
        ids[rows] = (begin + rank[group]).astype(np.int32)
        return ids, rows[first]

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Forgets the keys that are not in `which`, shape (count,); the others move up, in order."""
        kept = [column[: self.count][which] for column in self._keys]
        self.count = 0
        self._slots.fill(-1)
        self._append(kept)

    def _append(self, keys: Keys) -> None:
        begin, end = self.count, self.count + len(keys[0])
        self.count = end
        if end > len(self._keys[0]):
            while end > 1 << self._bits - 1:
                self._bits += 1
            for i, column in enumerate(self._keys):
                self._keys[i] = np.zeros(1 << self._bits - 1, np.uint64)
                self._keys[i][:begin] = column[:begin]
            self._slots = np.full(1 << self._bits, -1, np.int32)
            for column, key in zip(self._keys, keys, strict=True):
                column[begin:end] = key
            begin = 0
        else:
            for column, key in zip(self._keys, keys, strict=True):
                column[begin:end] = key
        ids = np.arange(begin, end, dtype=np.int32)
        slot = self._hash([column[begin:end] for column in self._keys])
        mask = (1 << self._bits) - 1
        while len(ids):  # all try their slot at once; where several do, the last written has it and the others go on
            free = self._slots[slot] < 0
            self._slots[slot[free]] = ids[free]
            homeless = self._slots[slot] != ids
            ids, slot = ids[homeless], (slot[homeless] + 1) & mask
