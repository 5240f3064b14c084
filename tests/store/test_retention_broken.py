"""Deleting calls is broken off, or not possible: whole or not at all, and nothing dangles."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.archives import archive, dangling, files, listed, put
from tests.store.sidecars import sidecar

from rokuon.store.database import sole
from rokuon.store.errors import IndexBusyError
from rokuon.store.index import Index, reindex
from rokuon.store.layout import Layout
from rokuon.store.retention import Removed, finish_removals, remove_calls, removing
from rokuon.store.sidecar import read, write
from rokuon.store.tally import read as counts


class KilledError(BaseException):
    """What nobody catches."""


@contextmanager
def killed_at(step: int) -> Iterator[list[int]]:
    """Whatever changes the disk or the index is done `step` times, then no more."""
    done = [0]
    with pytest.MonkeyPatch.context() as patch:
        def limit(owner: Any, name: str) -> None:
            real: Callable[..., Any] = getattr(owner, name)

            def limited(*args: Any, **more: Any) -> Any:
                if done[0] >= step:
                    raise KilledError
                done[0] += 1
                return real(*args, **more)

            patch.setattr(owner, name, limited)

        for owner, name in ((os, "link"), (os, "unlink"), (os, "rename"), (os, "rmdir"), (os, "mkdir"), (Index, "remove_calls"),
                            (Index, "add_calls")):
            limit(owner, name)
        yield done


def test_broken_off_anywhere(tmp_path: Path) -> None:
    template = tmp_path / "template"
    _, _, ids = archive(template, 5)
    going = ids[:4]
    write(Layout(template).sidecar(ids[1]), read(Layout(template).sidecar(ids[1])) | {"hold": "x"})
    outcomes = set()
    for step in range(200):
        root = tmp_path / "data"
        shutil.copytree(template, root)
        layout, index = Layout(root), Index(root / "index.duckdb", "JP")
        before = files(layout)
        with killed_at(step) as done, suppress(KilledError):
            remove_calls(layout, index, going, reason="test")
        assert dangling(layout, index) == [], step
        finished = done[0] < step
        finish_removals(layout, index)
        assert dangling(layout, index) == [], step
        there = set(layout.ids())
        assert listed(index) == there
        assert {ids[1], ids[4]} <= there
        assert files(layout) == {name: content for name, content in before.items() if any(i in name for i in there)}, step
        assert finish_removals(layout, index) == Removed()
        outcomes.add(len(there))
        shutil.rmtree(root)
        if finished:
            break
    else:
        raise AssertionError("it never came to its end")
    assert outcomes == {2, 3, 4, 5}
    assert there == {ids[1], ids[4]}


def test_the_end_of_it_is_broken_off_too(tmp_path: Path) -> None:
    """Twice in a row: the removal, and its completion."""
    template = tmp_path / "template"
    _, _, ids = archive(template, 3)
    for first in range(5, 15, 3):
        for second in range(1, 8, 2):
            root = tmp_path / "data"
            shutil.copytree(template, root)
            layout, index = Layout(root), Index(root / "index.duckdb", "JP")
            for step, act in ((first, lambda: remove_calls(layout, index, ids, reason="test")),  # noqa: B023 -- called here
                              (second, lambda: finish_removals(layout, index))):  # noqa: B023
                with killed_at(step), suppress(KilledError):
                    act()
                assert dangling(layout, index) == []
            finish_removals(layout, index)
            assert listed(index) == set(layout.ids())
            assert {name.split("/")[-1][:25] for name in files(layout)} == set(layout.ids())
            shutil.rmtree(root)


def test_an_index_that_cannot_be_written(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 8)
    with sole(index.path, True, 1.0):
        removed = remove_calls(layout, index, ids[:4], reason="test")
        assert (removed.calls, removed.behind, removed.failed) == (0, 4, [])
        assert removed.bytes
        assert sorted(layout.ids()) == ids[4:]
        assert finish_removals(layout, index).behind == 4
    assert counts(layout) == {}
    removed = finish_removals(layout, index)
    assert (removed.calls, removed.behind) == (4, 0)
    assert listed(index) == set(ids[4:])
    assert counts(layout) == {"deleted: interrupted": 4}
    assert finish_removals(layout, index) == Removed()


def test_an_index_that_is_damaged_or_gone(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 4)
    index.path.write_bytes(b"no index" * 4096)
    assert remove_calls(layout, index, ids[:2], reason="test").behind == 2
    assert sorted(layout.ids()) == ids[2:]
    index.path.unlink()
    assert finish_removals(layout, index).calls == 2
    assert remove_calls(layout, index, ids[2:3], reason="test").calls == 1
    assert reindex(layout) == (1, [])


def test_recorded_again_before_the_rest_was_gone(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 2)
    with sole(index.path, True, 1.0):
        assert remove_calls(layout, index, ids[:1], reason="test").behind == 1
    put(layout, sidecar(0))
    index.add_calls([read(layout.sidecar(ids[0]))])
    assert finish_removals(layout, index) == Removed()
    assert listed(index) == set(ids)
    assert dangling(layout, index) == []


def test_what_the_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, index, ids = archive(tmp_path, 3)
    unlink = os.unlink

    def refuse(path: Any, **more: Any) -> None:
        if str(path) in (str(layout.sidecar(ids[0])), str(layout.audio(ids[1]))):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        removed = remove_calls(layout, index, ids, reason="test")
    assert removed.failed == [f"cannot delete {i}: operation not permitted" for i in ids[:2]]
    assert removed.calls == 1
    assert listed(index) == {ids[0]}  # whose files are all there
    assert dangling(layout, index) == []
    finish_removals(layout, index)
    assert {name.split("/")[-1] for name in files(layout)} == {f"{ids[0]}.json", f"{ids[0]}.wav", f"{ids[0]}.pcap"}


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    layout, index, ids = archive(tmp_path, 9)
    with sole(index.path, True, 1.0):
        assert remove_calls(layout, index, ids[:4], reason="test").behind == 4
    assert finish_removals(layout, index).calls == 4
    assert remove_calls(layout, index, ids[4:6], reason="test").calls == 2
    assert {name.split("/")[-1][:25] for name in files(layout)} == set(ids[6:]) == listed(index)


def test_one_at_a_time(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 2)
    with (removing(layout), pytest.raises(IndexBusyError, match="being deleted by another"), removing(layout, patience_s=0.05)):
        pass
    assert remove_calls(layout, index, ids, reason="test").calls == 2


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)), min_size=1, max_size=8), st.randoms())
def test_what_stays_is_whole(tmp_path_factory: pytest.TempPathFactory, wishes: list[tuple[bool, bool, int]], chance: Any) -> None:
    root = tmp_path_factory.mktemp("data")
    layout, index = Layout(root), Index(root / "index.duckdb", "JP")
    ids = [put(layout, sidecar(n, hold="kept" if hold else None), parts=parts) for n, (_, hold, parts) in enumerate(wishes)]
    index.add_calls([read(layout.sidecar(i)) for i in ids])
    before = files(layout)
    wanted = [i for i, (wish, _, _) in zip(ids, wishes, strict=True) if wish]
    chance.shuffle(wanted)
    removed = remove_calls(layout, index, wanted + wanted[:1], reason="test")
    stay = {i for i, (wish, hold, _) in zip(ids, wishes, strict=True) if hold or not wish}
    assert removed.calls == len(ids) - len(stay)
    assert set(layout.ids()) == stay == listed(index)
    assert files(layout) == {name: content for name, content in before.items() if any(i in name for i in stay)}
    shutil.rmtree(root)


def test_rows_are_what_a_new_index_would_have(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 40)
    remove_calls(layout, index, ids[5:30], reason="test")
    reindex(Layout(shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("index.duckdb*", "copy"))), "JP")
    dumps = []
    for path in (index.path, tmp_path / "copy" / "index.duckdb"):
        with duckdb.connect(str(path), read_only=True) as db:
            dumps.append(json.dumps([db.execute(f"SELECT * FROM {table} ORDER BY ALL").fetchall()  # noqa: S608
                                     for table in ("calls", "legs", "streams", "events", "annotations")], default=str))
    assert dumps[0] == dumps[1]
