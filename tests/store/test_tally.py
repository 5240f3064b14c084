"""Counts of what was not recorded add up, whoever counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rokuon.store.layout import Layout
from rokuon.store.tally import add, read


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
