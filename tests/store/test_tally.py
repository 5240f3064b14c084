"""Counts of calls and of what was not recorded add up, whoever counts."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.store.errors import StoreError
from rokuon.store.layout import Layout
from rokuon.store.tally import Balance, Ledger, add, read, read_balance


def test_counts_add_up(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert read(layout) == {}
    add(layout, {})
    assert not layout.not_recorded.exists()
    add(layout, {"sealed": 2, "no codec": 1})
    add(layout, {"sealed": 3})
    assert read(layout) == {"no codec": 1, "sealed": 5}


def test_many_at_once(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: add(layout, {"x": 1, f"y{n % 3}": 1}), range(30)))
    assert read(layout) == {"x": 30, "y0": 10, "y1": 10, "y2": 10}


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"a": "x"}'])
def test_a_damaged_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    layout = Layout(tmp_path)
    layout.not_recorded.write_bytes(content)
    assert read(layout) == {}
    add(layout, {"x": 1})
    assert read(layout) == {"x": 1}


def test_a_process_posts_what_is_new(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert read_balance(layout) == Balance()
    first, second = Ledger(layout), Ledger(layout)
    first.post(Balance())
    assert not list(tmp_path.iterdir())
    first.post(Balance(3, 2, 0, {"disk-full": 1}))
    first.post(Balance(3, 2, 0, {"disk-full": 1}))
    second.post(Balance(5, 0, 5))
    first.post(Balance(9, 6, 1, {"disk-full": 1, "rtp-not-voice": 1}))
    assert read_balance(layout) == Balance(14, 6, 6, {"disk-full": 1, "rtp-not-voice": 1})
    assert read_balance(layout).unaccounted == 0
    Ledger(layout).post(Balance(2, 3))
    assert read_balance(layout).unaccounted == -1


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["recorded", "known", "disk-full", "quarantined"]),
                          st.integers(1, 9)), max_size=12))
def test_what_agrees_in_each_process_agrees_in_all(steps: list[tuple[int, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        ledgers, now = [Ledger(layout) for _ in range(3)], [Balance() for _ in range(3)]
        counted: Counter[str] = Counter()
        for which, what, count in steps:
            was = now[which]
            counted[what] += count
            if what in ("recorded", "known"):
                now[which] = replace(was, seen=was.seen + count, **{what: getattr(was, what) + count})
            else:
                reasons = Counter(was.not_recorded)
                reasons[what] += count
                now[which] = replace(was, seen=was.seen + count, not_recorded=reasons)
            ledgers[which].post(now[which])
        total = read_balance(layout)
        assert total.unaccounted == 0
        assert total.seen == counted.total()
        assert {"recorded": total.recorded, "known": total.known, **total.not_recorded} == {"recorded": 0, "known": 0, **counted}


def test_reasons_have_a_bound(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    Ledger(layout).post(Balance(1000, 0, 0, {f"codec {n}": 1 for n in range(1000)}))
    assert len(read_balance(layout).not_recorded) <= 201
    assert read_balance(layout).unaccounted == 0


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"{}", b'{"seen": "x"}', b'{"seen": 1, "recorded": 1}',
                                     b'{"seen": 1, "recorded": 1, "known": 0, "not_recorded": 3}', b"[" * 100_000])
def test_a_damaged_balance_begins_anew(tmp_path: Path, content: bytes) -> None:
    layout = Layout(tmp_path)
    (tmp_path / "balance.json").write_bytes(content)
    assert read_balance(layout) == Balance()
    Ledger(layout).post(Balance(1, 1))
    assert read_balance(layout) == Balance(1, 1)


def test_what_cannot_be_written_is_added_later(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "data")
    ledger = Ledger(layout)
    with pytest.raises(StoreError, match=r"cannot write .*balance\.json"):
        ledger.post(Balance(2, 2))
    layout.root.mkdir()
    ledger.post(Balance(3, 3))
    assert read_balance(layout) == Balance(3, 3)
