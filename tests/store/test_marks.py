"""Times by number, held against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.store import marks as marks_module
from rokuon.store.marks import Marks


@pytest.fixture(autouse=True, scope="module")
def small() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marks_module, "_LEAST", 64)
        patch.setattr(marks_module, "_ROOM", 16)
        yield


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["raise", "set", "item", "trim", "end"]),
                          st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 1000)), max_size=60),
       st.integers(1, 9))
def test_against_a_dictionary(steps: list[tuple[str, list[int], int]], pace: int) -> None:
    """Numbers that go up and up, some of them needed for ever."""
    marks, plain, needed, top = Marks(7), dict[int, int](), {3}, 0
    for n, (what, offsets, time_ns) in enumerate(steps):
        top = n * pace
        fresh = {top + o for o in offsets}
        needed |= {number for number in fresh if number % 5 == 0}
        numbers = np.array(sorted(fresh | {x for x in needed if x % 2}), np.uint32)
        times = np.arange(time_ns, time_ns + len(numbers))
        if what == "raise":
            twice = np.sort(np.concatenate([numbers, numbers[:1]]))
            marks.raise_to(twice, np.concatenate([[1], times]))
            for number, at in zip(numbers.tolist(), times.tolist(), strict=True):
                plain[number] = max(plain.get(number, 7), at)
        elif what == "set":
            marks.set_all(numbers, time_ns)
            plain.update(dict.fromkeys(numbers.tolist(), time_ns))
        elif what == "item":
            marks[int(numbers[-1])] = time_ns
            plain[int(numbers[-1])] = time_ns
        elif what == "end":
            needed = {x for x in needed if x % 3}
        else:
            live = np.array(sorted(needed | fresh), np.uint32)
            marks.trim(live)
        wanted = sorted(needed | fresh)
        assert marks.of(np.array(wanted, np.uint32)).tolist() == [plain.get(x, 7) for x in wanted]
        assert all(marks[x] == plain.get(x, 7) for x in wanted)


def test_it_stays_small() -> None:
    marks = Marks(0)
    for n in range(0, 100_000, 50):
        marks.set_all(np.arange(n, n + 50, dtype=np.uint32), n)
        marks.trim(np.array([5, *range(n, n + 50)], np.uint32))
    assert len(marks) < 2000
    assert marks[5] == 0
    assert marks[99_999] == 99_950
