"""Deleting calls: whole or not at all, never one that is on hold, and nothing dangles wherever it is broken off."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.sidecars import NOON, SECOND, sidecar

from rokuon.store import retention
from rokuon.store.database import open_index, sole
from rokuon.store.errors import IndexBusyError
from rokuon.store.index import Index, reindex
from rokuon.store.layout import Layout
from rokuon.store.retention import Removed, Veto, finish_removals, oldest_calls, remove_calls, removing
from rokuon.store.sidecar import Sidecar, read, write
from rokuon.store.tally import read as counts

HOUR = 3600 * SECOND


def put(layout: Layout, call: Sidecar, *, parts: int = 0, packets: bool = False) -> str:
    """The call's files: a sidecar, and sound where it names some."""
    call_id: str = call["id"]
    layout.make_directory(layout.folder(call_id))
    if call["state"] != "busy":
        call["audio"] = sidecar(0)["audio"] | {"path": layout.relative(layout.audio(call_id))}
        layout.audio(call_id).write_bytes(b"s" * 5000)
        extra = [layout.audio(call_id, number) for number in range(2, parts + 2)]
        for path in extra:
            path.write_bytes(b"p" * 5000)
        call["parts"] = [{"path": layout.relative(path), "start": call["start"], "duration_s": 1.0, "sha256": "", "left": None,
                          "right": None} for path in extra]
    if packets:
        layout.packets(call_id).write_bytes(b"k" * 5000)
    write(layout.sidecar(call_id), call, sync=False)
    return call_id


def archive(root: Path, calls: int) -> tuple[Layout, Index, list[str]]:
    """An archive of so many calls, one an hour; every third has parts, every fourth its packets."""
    layout, index = Layout(root), Index(root / "index.duckdb", "JP", patience_s=0.2)
    layout.prepare()
    ids = [put(layout, sidecar(n), parts=n % 3, packets=n % 4 == 0) for n in range(calls)]
    index.add_calls([read(layout.sidecar(i)) for i in ids])
    return layout, index, ids


def listed(index: Index) -> set[str]:
    with open_index(index.path) as db:
        return {i for (i,) in db.execute("SELECT id FROM calls").fetchall()}


def rows(index: Index) -> dict[str, set[str]]:
    with open_index(index.path) as db:
        return {table: {i for (i,) in db.execute(f"SELECT id FROM {table}").fetchall()}  # noqa: S608 -- constants
                for table in ("calls", "legs", "streams", "events", "annotations")}


def files(layout: Layout) -> dict[str, bytes]:
    return {p.relative_to(layout.root).as_posix(): p.read_bytes() for p in layout.recordings.rglob("*") if p.is_file()}


def dangling(layout: Layout, index: Index) -> list[str]:
    """Rows without sidecar, sidecars whose sound is not there."""
    found = [f"row {i}" for i in listed(index) if not layout.sidecar(i).exists()]
    for call_id in layout.ids():
        call = read(layout.sidecar(call_id))
        found += [f["path"] for f in [call["audio"], *call["parts"]] if f and not (layout.root / f["path"]).exists()]
    return found


# -- which -------------------------------------------------------------------
def test_the_oldest_first(tmp_path: Path) -> None:
    layout, _, ids = archive(tmp_path, 30)
    assert list(oldest_calls(layout)) == ids
    for n in (0, 1, 11, 29):
        start = NOON + n * 3601 * SECOND
        assert list(oldest_calls(layout, before=start)) == ids[:n]
        assert list(oldest_calls(layout, before=start + 2 * SECOND)) == ids[:n + 1]
    assert list(oldest_calls(layout, before=0)) == []


def test_many_of_one_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LISTED", 7)
    layout = Layout(tmp_path)
    folder = layout.recordings / "2026/11/24/03"
    folder.mkdir(parents=True)
    ids = sorted(f"20261124T03{n % 60:02}{n % 59:02}Z-aaaaaa{'abcdefgh'[n % 8]}{'abcdefgh'[n // 8]}" for n in range(64))
    for call_id in ids:
        (folder / f"{call_id}.json").touch()
    for other in (".x.json", "x.json", "20261124T040000Z-aaaaaaaa.json", f"{ids[0]}.wav", f".{ids[0]}.json.12.part"):
        (folder / other).touch()
    assert list(oldest_calls(layout)) == ids


def test_no_more_is_listed_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, _, ids = archive(tmp_path, 200)
    looked: list[str] = []
    listdir, scandir = os.listdir, os.scandir
    monkeypatch.setattr(os, "listdir", lambda path: looked.append(str(path)) or listdir(path))
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(str(path)) or scandir(path))
    walk = oldest_calls(layout)
    assert [next(walk) for _ in range(3)] == ids[:3]
    assert len(looked) <= 4 + 3  # year, months, days, hours of the first day; three hours


def test_folders_that_are_none(tmp_path: Path) -> None:
    layout, _, ids = archive(tmp_path, 3)
    (layout.recordings / "2025").write_text("a file")
    (layout.recordings / "20261").mkdir()
    (layout.recordings / "2026/11/24/99").mkdir()
    (layout.recordings / "2026/11/24/98").symlink_to("99")
    (layout.recordings / "2026/11/24/97").symlink_to("97")
    (layout.recordings / "notes").mkdir()
    assert list(oldest_calls(layout)) == ids
    assert list(oldest_calls(Layout(tmp_path / "nothing"))) == []


# -- away with them ----------------------------------------------------------
def test_all_of_a_call_goes_and_nothing_else(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 26)
    before, gone = files(layout), ids[::3]
    took = sum(p.stat().st_blocks * 512 for i in gone for p in layout.folder(i).glob(f"{i}*"))
    removed = remove_calls(layout, index, gone, reason="test")
    left = {name: content for name, content in before.items() if not any(i in name for i in gone)}
    assert files(layout) == left
    assert (removed.calls, removed.bytes, removed.kept, removed.failed, removed.behind) == (len(gone), took, {}, [], 0)
    assert listed(index) == set(ids) - set(gone)
    assert all(found <= set(ids) - set(gone) for found in rows(index).values())
    assert counts(layout) == {"deleted: test": len(gone)}
    assert not [p for p in layout.recordings.rglob("*") if p.is_dir() and p.name != ".removing" and not any(p.iterdir())]
    count, wrong = reindex(layout)
    assert (count, wrong) == (len(ids) - len(gone), [])


def test_all_calls(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 120)
    assert remove_calls(layout, index, oldest_calls(layout), reason="test").calls == len(ids)
    assert files(layout) == {}
    assert [p.name for p in layout.recordings.iterdir()] == [".removing"]
    assert rows(index) == {table: set() for table in rows(index)}
    assert remove_calls(layout, index, ids[:3], reason="test") == Removed(kept=Counter({"no such call": 3}))


def test_vetoes(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path, 12)
    held: list[Any] = [{"reason": "case 12"}, "", False, 0, [], {}]
    for call_id, hold in zip(ids, held, strict=False):
        write(layout.sidecar(call_id), read(layout.sidecar(call_id)) | {"hold": hold})
    write(layout.sidecar(ids[6]), read(layout.sidecar(ids[6])) | {"state": "in-progress"})
    write(layout.sidecar(ids[7]), read(layout.sidecar(ids[7])) | {"audio": {"pending": True}})
    layout.sidecar(ids[8]).write_bytes(b"{")
    before = files(layout)
    vetoes: list[Veto] = [lambda i, call: "mine" if call["id"] == i == ids[9] else "", lambda *_: ""]
    removed = remove_calls(layout, index, ids, reason="test", vetoes=vetoes)
    assert removed.kept == {"on hold": 6, "in progress": 2, "sidecar cannot be read": 1, "mine": 1}
    assert removed.calls == 2
    assert listed(index) == set(ids[:10])
    assert files(layout) == {name: content for name, content in before.items() if not any(i in name for i in ids[10:])}


def test_a_hold_that_comes_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, index, ids = archive(tmp_path, 3)
    before = files(layout)
    forget = Index.remove_calls

    def slow(self: Index, some: list[str]) -> None:
        forget(self, some)
        write(layout.sidecar(ids[1]), read(layout.sidecar(ids[1])) | {"hold": "wait"})

    monkeypatch.setattr(Index, "remove_calls", slow)
    removed = remove_calls(layout, index, ids, reason="test")
    assert (removed.calls, removed.kept) == (2, {"changed meanwhile": 1})
    assert listed(index) == {ids[1]}
    assert read(layout.sidecar(ids[1]))["hold"] == "wait"
    assert {name for name in files(layout) if ids[1] in name} == {name for name in before if ids[1] in name}


def test_no_path_of_a_sidecar_is_followed(tmp_path: Path) -> None:
    layout, index, ids = archive(tmp_path / "data", 6)
    precious = tmp_path / "precious.wav"
    precious.write_bytes(b"mine")
    call = read(layout.sidecar(ids[0]))
    call["audio"]["path"] = "recordings/../../precious.wav"
    call["parts"] = [{"path": str(precious)}, {"path": read(layout.sidecar(ids[1]))["audio"]["path"]}, None, 7, {"path": None},
                     {"path": f"{ids[0]}.json"}, {"path": "x.wav/../../../../precious"}]
    call["id"] = ids[1]
    write(layout.sidecar(ids[0]), call)
    layout.audio(ids[0]).unlink()
    layout.audio(ids[0]).symlink_to(precious)
    before = files(layout)
    for name in ("", "x", f"../{ids[0]}", f"{ids[1]}/..", ids[1] + "\0", ids[1].upper()):
        assert remove_calls(layout, index, [name], reason="test").kept == {"no such call": 1}
    assert files(layout) == before
    assert remove_calls(layout, index, [ids[0]], reason="test").calls == 1
    assert precious.read_bytes() == b"mine"
    assert files(layout) == {name: content for name, content in before.items() if ids[0] not in name}


def test_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 4)
    layout, index, ids = archive(tmp_path, 20)
    asked = iter([False, False, True])
    left = iter(ids)
    assert remove_calls(layout, index, left, reason="test", stop=lambda: next(asked)).calls == 8
    assert list(left) == ids[8:]
    assert listed(index) == set(ids[8:])


# -- broken off --------------------------------------------------------------
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
