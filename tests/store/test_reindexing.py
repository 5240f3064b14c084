"""Reading sidecars in several processes gives what reading them in one does, and a process that is ended does no harm."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.store.sidecars import HOSTILE, hostile, some

from rokuon.store import reindexing
from rokuon.store.errors import StoreError
from rokuon.store.index import Index, reindex
from rokuon.store.layout import Layout
from rokuon.store.rows import TABLES
from rokuon.store.sidecar import Sidecar, read, write


def in_order(path: Path) -> dict[str, list[Any]]:
    """Every table's rows as they lie in the file."""
    with duckdb.connect(str(path), read_only=True) as db:
        return {table: db.execute(f"FROM {table} ORDER BY rowid").fetchall() for table in TABLES}


def written(layout: Layout, sidecars: list[Sidecar]) -> None:
    for made in sidecars:
        layout.make_directory(layout.folder(made["id"]))
        write(layout.sidecar(made["id"]), made, sync=False)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """120 calls, hostile text among them, and five files that are no sound sidecars."""
    monkeypatch.setattr(reindexing, "BATCH", 7)
    made = Layout(tmp_path / "data")
    written(made, some(120) + [hostile(n) for n in range(5, 5 + len(HOSTILE))])
    ids = list(made.ids())
    for n, content in enumerate([b"{", b"", b"[]", b'{"id": 1}', b"\xff" * 100]):
        made.sidecar(ids[20 * n + 3]).write_bytes(content)
    return made


@pytest.mark.parametrize("processes", [1, 3])
def test_several_processes_make_the_same_index(layout: Layout, processes: int) -> None:
    alone = reindex(layout, "JP", processes=0)
    before = in_order(layout.index)
    assert reindex(layout, "JP", processes=processes) == alone
    assert in_order(layout.index) == before
    count, warnings = alone
    assert (count, len(warnings)) == (len(before["calls"]), 5)
    sound = [i for i in layout.ids() if not any(i in warning for warning in warnings)]
    assert [row[0] for row in before["calls"]] == sound
    index = Index(layout.index.with_name("other.duckdb"), "JP")
    index.add_calls([read(layout.sidecar(i)) for i in sound])
    assert in_order(index.path) == before


def test_a_small_archive_starts_none(layout: Layout) -> None:
    with reindexing.readers(layout, "JP") as reading:
        assert reading._executor is None


def test_a_large_archive_is_read_by_as_many_as_there_are_processors(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindexing, "FEW", 10)
    for processors, processes in ((1, 0), (2, 2), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=processors: set(range(n)))
        with reindexing.readers(layout, "JP") as reading:
            assert reading._processes == processes


def test_a_process_that_is_ended_leaves_the_index_as_it_was(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    reindex(layout, "JP", processes=0)
    before = layout.index.read_bytes()
    honest = reindexing.taken_apart

    def ended(root: Path, region: str | None, ids: list[str]) -> reindexing.Batch:
        if ids[0] > list(Layout(root).ids())[60]:
            os.kill(os.getpid(), signal.SIGKILL)
        return honest(root, region, ids)

    ended.__module__, ended.__qualname__ = honest.__module__, honest.__qualname__  # how it reaches the processes
    with monkeypatch.context() as patch:
        patch.setattr(reindexing, "taken_apart", ended)
        with pytest.raises(StoreError, match="index is as it was"):
            reindex(layout, "JP", processes=2)
    assert layout.index.read_bytes() == before
    assert sorted(p.name for p in layout.root.iterdir()) == ["index.duckdb", "recordings", "spool"]
    assert reindex(layout, "JP", processes=2)[0] > 60


def test_no_more_is_begun_than_is_bounded(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with reindexing.readers(layout, "JP", 2) as reading:
        assert reading._executor is not None
        submitted: list[Any] = []
        submit = reading._executor.submit

        def counted(*arguments: Any) -> Any:
            submitted.append(arguments)
            return submit(*arguments)

        monkeypatch.setattr(reading._executor, "submit", counted)
        for taken, _ in enumerate(reading.batches()):
            assert len(submitted) - taken <= reindexing.AHEAD * 2
