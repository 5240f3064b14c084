"""A full disk whose oldest calls are deleted for room, on disks that are numbers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tests.store.disks import GIB, MIB, NEWEST, OLDEST, SMALL, SOUND, Box, Disk
from tests.store.sidecars import SECOND

from rokuon.store.database import sole
from rokuon.store.retention import Removed, remove_calls
from rokuon.store.sidecar import read, write


def test_the_oldest_go(tmp_path: Path) -> None:
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    ids = box.calls(64)
    assert box.until_still(3) == 0
    box.at(31 * MIB)
    assert box.watch.state()["acting"] == "deleting"
    assert not box.watch.refuses(box.packet_ns + SECOND)
    gone = box.until_still()
    assert 36 <= gone <= 50  # 9 MiB are lacking, a call has a quarter of one; or a whole batch
    assert list(box.layout.ids()) == ids[gone:]
    assert box.index.known_ids(ids) == set(ids[gone:])
    assert box.watch.level == "low"
    assert box.recordings.free >= 40 * MIB
    assert (box.watch.deleted, box.watch.stuck) == (gone, False)
    assert box.watch.deleted_bytes == box.recordings.free - 31 * MIB
    assert box.watch.state()["deleted"] == gone
    assert box.until_still(10) == 0


def test_no_more_goes_than_must_where_room_shows_late(tmp_path: Path) -> None:
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    box.calls(150)
    box.at(31 * MIB)
    freed = 0
    for _ in range(4):
        freed += box.step(shows=False).bytes
        box.pass_()
    assert freed <= 50 * (SOUND + 8192)
    box.recordings.free += freed
    assert box.until_still(20) == 0
    assert box.watch.level == "low"


def test_somebody_else_fills_it(tmp_path: Path) -> None:
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    box.calls(200)
    box.at(30 * MIB)
    for _ in range(40):
        box.recordings.free -= 512 * 1024
        box.step()
        box.pass_()
        assert box.recordings.free > 16 * MIB
        assert not box.watch.stuck


def test_what_must_stay_stays(tmp_path: Path) -> None:
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    held, young = box.calls(60, hold={"reason": "court"}), box.calls(3, 60)
    for call_id in young:
        os.utime(box.layout.sidecar(call_id), (2_000_001_000, 2_000_001_000))
    box.calls(2, 63)
    box.at(30 * MIB)
    assert box.until_still(20) == 2
    assert list(box.layout.ids()) == held + young
    assert box.watch.stuck
    assert box.watch.state()["acting"] == "stuck"
    assert box.watch.state()["kept"] == {"on hold": 60, "just recorded": 3}
    assert list(box.watch.warnings) == ["the disk is full and no call may be deleted (60 on hold, 3 just recorded): new calls "
                                        "are not recorded"]
    assert box.watch.refuses(box.packet_ns)  # as keep-oldest does
    assert box.step() == Removed()
    for call_id in held[:50]:
        write(box.layout.sidecar(call_id), read(box.layout.sidecar(call_id)) | {"hold": None})
        os.utime(box.layout.sidecar(call_id), (1_900_000_000, 1_900_000_000))
    assert box.until_still(120) >= 50
    assert not box.watch.stuck
    box.at(40 * MIB)
    assert not box.watch.refuses(box.packet_ns)
    assert box.watch.state()["kept"] == {}


def test_vetoes_of_others(tmp_path: Path) -> None:
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    ids = box.calls(4)
    box.at(20 * MIB)
    assert box.step(lambda i, _: "by rule" if i == ids[0] else "").calls == 3
    assert list(box.layout.ids()) == ids[:1]
    assert box.watch.kept == {"by rule": 1}


def test_an_empty_archive(tmp_path: Path) -> None:
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    box.at(20 * MIB)
    assert box.until_still(3) == 0
    assert "(there are none)" in box.watch.warnings[0]
    assert box.watch.refuses(box.packet_ns + 1)


def test_a_step_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls are on hold, and however slow the disk is."""
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    box.calls(230, hold="x")
    box.at(20 * MIB)
    looked = 0

    def slow(*_: object) -> str:
        nonlocal looked
        looked += 1
        box.time += 0.005
        return ""

    def free(call_id: str, call: dict[str, object]) -> str:
        slow()
        return ""

    monkeypatch.setattr("rokuon.store.retention.held", lambda *_: slow() or "on hold")
    begun = box.time
    box.step(free)
    assert looked == 50  # a batch
    assert box.time - begun < 0.5
    for _ in range(4):
        assert not box.watch.stuck
        box.step(free)
    assert box.watch.stuck
    assert looked == 230


def test_while_the_index_is_in_use(tmp_path: Path) -> None:
    """A full disk does not wait for somebody's long query: the files go, the rows follow."""
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    ids = box.calls(40)
    box.at(31 * MIB)
    with sole(box.layout.index, True, 1.0):
        box.until_still(3)
        assert box.watch.level == "low"
        assert box.watch.deleted == 0
    left = set(box.layout.ids())
    assert len(left) < 5
    assert box.index.known_ids(ids) == set(ids)
    box.until_still(8)
    assert box.index.known_ids(ids) == left
    assert box.watch.deleted == 40 - len(left)


def test_what_was_broken_off_is_finished_at_the_start(tmp_path: Path) -> None:
    box = Box(tmp_path)
    ids = box.calls(4)
    with sole(box.layout.index, True, 1.0):
        remove_calls(box.layout, box.index, ids[:2], reason="x")
    again = Box(tmp_path)
    again.pass_()
    assert again.step().calls == 2
    assert again.index.known_ids(ids) == set(ids[2:])
    assert again.step() == Removed()


def test_notes_that_cannot_be_written(tmp_path: Path) -> None:
    """A file system that has gone read-only, say."""
    box = Box(tmp_path, NEWEST, recordings=Disk(SMALL, 100 * MIB))
    box.calls(10)
    (box.layout.recordings / ".removing").write_text("no directory")
    box.pass_()
    assert box.step() == Removed()
    assert not box.watch.stuck
    assert [".removing" in line for line in box.watch.warnings] == [True]
    box.at(20 * MIB)
    assert box.step() == Removed()
    assert box.watch.stuck
    (box.layout.recordings / ".removing").unlink()
    assert box.until_still(90) == 10


def test_the_policy_changes(tmp_path: Path) -> None:
    box = Box(tmp_path, recordings=Disk(SMALL, 100 * MIB))
    box.calls(50)
    box.at(31 * MIB)
    assert box.step() == Removed()
    box.watch.settings = replace(OLDEST, policy="keep-newest")
    assert box.step().calls > 0
    box.watch.settings = replace(OLDEST, stop=0.0)
    box.pass_()


def test_the_state_has_the_shape_that_readers_expect(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.pass_()
    state = json.loads(json.dumps(box.watch.state()))
    assert {"free", "total", "bytes_per_s", "days_left", "level", "policy", "deleted"} <= state.keys()
    assert (state["free"], state["total"]) == (50 * GIB, 100 * GIB)
