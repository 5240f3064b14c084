"""The hash table over arrays against a dict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rokuon.sniffer.keytable import KeyTable

Key = tuple[int, ...]


class Plain:
    """What KeyTable promises, in the plainest way."""

    def __init__(self) -> None:
        self.ids: dict[Key, int] = {}

    def insert(self, keys: Sequence[Key]) -> tuple[list[int], list[int]]:
        ids, new = [], []
        for row, key in enumerate(keys):
            if key not in self.ids:
                self.ids[key] = len(self.ids)
                new.append(row)
            ids.append(self.ids[key])
        return ids, new

    def keep(self, which: Sequence[bool]) -> None:
        self.ids = {key: i for i, key in enumerate(k for k, kept in zip(self.ids, which, strict=True) if kept)}


def columns(keys: Sequence[Key], width: int) -> list[NDArray[np.uint64]]:
    return [np.array([key[i] for key in keys], np.uint64) for i in range(width)]


@lru_cache
def crowded(width: int, count: int, bits: int = 12) -> list[Key]:
    """Keys that all want the last two slots of an empty table: probes run long and around the end."""
    candidates = np.random.default_rng(1).integers(0, 1 << 63, (width, count << bits), dtype=np.uint64)
    slots = KeyTable(width, bits)._hash(list(candidates))
    chosen = np.flatnonzero(slots >= (1 << bits) - 2)[:count]
    return [tuple(int(v) for v in row) for row in candidates[:, chosen].T]


# few values, so that keys come again, and words that differ in one bit or one half only
words = st.one_of(st.integers(0, 3), st.sampled_from([1 << 32, 1 << 63, 0xFFFFFFFF]), st.integers(0, (1 << 64) - 1))
batches = st.lists(st.lists(st.tuples(words, words, words), max_size=30), max_size=8)


@settings(max_examples=200, deadline=None)
@given(batches, st.integers(2, 5), st.lists(st.booleans(), min_size=1, max_size=7), st.integers(0, 8))
def test_like_a_dict(lots: list[list[Key]], bits: int, pattern: list[bool], keep_at: int) -> None:
    table, plain = KeyTable(3, bits), Plain()
    for i, keys in enumerate(lots):
        if i == keep_at:
            which = [pattern[j % len(pattern)] for j in range(table.count)]
            table.keep(np.array(which, bool))
            plain.keep(which)
        assert table.find(columns(keys, 3)).tolist() == [plain.ids.get(key, -1) for key in keys]
        ids, new = table.insert(columns(keys, 3))
        assert (ids.tolist(), new.tolist()) == plain.insert(keys)
        assert table.count == len(plain.ids)
        first, *others = table.keys()
        assert list(zip(first.tolist(), *(c.tolist() for c in others), strict=True)) == list(plain.ids)
    known = list(plain.ids)
    assert table.find(columns(known, 3)).tolist() == list(range(len(known)))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.lists(st.integers(0, 150), max_size=10))
def test_ids_do_not_depend_on_batches(data: st.DataObject, cuts: list[int]) -> None:
    pool = crowded(2, 40)
    keys = data.draw(st.lists(st.sampled_from(pool), max_size=150))
    whole, parts = KeyTable(2), KeyTable(2)
    ids, _ = whole.insert(columns(keys, 2))
    places = sorted({0, len(keys), *(min(c, len(keys)) for c in cuts)})
    found = [i for a, b in pairwise(places) for i in parts.insert(columns(keys[a:b], 2))[0].tolist()]
    assert found == ids.tolist()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_keys_that_want_the_same_slots(width: int) -> None:
    table, plain = KeyTable(width, 8), Plain()
    keys = crowded(width, 100, 8)
    assert len(keys) == 100
    for lot in (keys[:7], keys[3:60], keys):
        ids, new = table.insert(columns(lot, width))
        assert (ids.tolist(), new.tolist()) == plain.insert(lot)
    strangers = [(*key[:-1], key[-1] ^ 1) for key in keys]
    assert table.find(columns(strangers, width)).tolist() == [-1] * 100


def test_grows_and_shrinks() -> None:
    table = KeyTable(1, 2)
    many = np.arange(100_000, dtype=np.uint64) * np.uint64(1 << 40)
    ids, new = table.insert([many])
    assert (ids == np.arange(len(many))).all()
    assert len(new) == len(many)
    table.keep(np.arange(len(many)) % 10 == 0)
    assert table.count == 10_000
    assert (table.find([many[::10].copy()]) == np.arange(10_000)).all()
    assert (table.find([many[1::10].copy()]) == -1).all()
    table.keep(np.zeros(10_000, bool))
    assert table.count == 0
    assert (table.find([many]) == -1).all()


def test_leaves_its_arguments_alone() -> None:
    table = KeyTable(2, 3)
    keys = [np.array([5, 6, 5, 7], np.uint64), np.array([1, 2, 1, 3], np.uint64)]
    before = [key.copy() for key in keys]
    table.insert(keys)
    table.find(keys)
    assert all((a == b).all() for a, b in zip(keys, before, strict=True))


def test_nothing_in_nothing_out() -> None:
    table = KeyTable(2)
    none = [np.zeros(0, np.uint64)] * 2
    assert table.find(none).tolist() == []
    ids, new = table.insert(none)
    assert (ids.tolist(), new.tolist()) == ([], [])
    table.keep(np.zeros(0, bool))
    assert table.count == 0


def same_slot(table: KeyTable, count: int) -> list[NDArray[np.uint64]]:
    """Keys that differ in ports and SSRC only and fall into one slot, for whoever knows how `table` hashes."""
    word = (1 << 64) - 1
    first, second, third, last = (int(m) for m in table._multipliers)
    ends = 0x0A000001_0A000002
    known = ends * first & word
    known ^= known >> 32
    found = []
    for wanted in range(count):  # hashes that are small numbers, so that their top bits are all the same
        h = wanted * pow(last, -1, 1 << 64) & word
        h ^= h >> 32
        h = h * pow(third, -1, 1 << 64) & word
        h ^= h >> 32
        found.append((h * pow(second, -1, 1 << 64) - known) & word)
    return [np.full(count, ends, np.uint64), np.array(found, np.uint64), np.zeros(count, np.uint64)]


def test_a_sender_cannot_choose_slots() -> None:
    """Who sends to ports and with SSRCs of his own choice must not make every look-up a walk through all of them."""
    plain, seeded = KeyTable(3, seed=0), KeyTable(3, seed=0x0123456789ABCDEF)
    keys = same_slot(plain, 500)
    assert len(np.unique(plain._hash(keys))) == 1
    assert len(np.unique(seeded._hash(keys))) > 400
    assert seeded.insert(keys)[0].tolist() == plain.insert(keys)[0].tolist() == list(range(500))
