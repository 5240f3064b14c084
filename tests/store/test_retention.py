"""Deleting calls: which are the oldest, all of a call and nothing else, never one that is on hold."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.store.archives import archive, files, listed, rows
from tests.store.sidecars import NOON, SECOND

from rokuon.store import retention
from rokuon.store.index import Index, reindex
from rokuon.store.layout import Layout
from rokuon.store.retention import Removed, Veto, oldest_calls, remove_calls
from rokuon.store.sidecar import read, write
from rokuon.store.tally import read as counts


# -- which --------------------------------------------------------------------
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


# -- away with them -----------------------------------------------------------
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
