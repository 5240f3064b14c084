"""What is done at which level, on disks that are numbers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.sidecars import SECOND, sidecar

from rokuon.store.database import sole
from rokuon.store.disk import DiskWatch, Marks
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.retention import Removed, Veto, remove_calls
from rokuon.store.settings import DiskSettings
from rokuon.store.sidecar import read, write

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SOUND = 256 * 1024
OLDEST, NEWEST = DiskSettings(), DiskSettings(policy="keep-newest")


@dataclass
class Disk:
    """A file system, in blocks of 4 KiB, a twentieth of them root's."""

    total: int = 100 * GIB
    free: int = 50 * GIB
    files: int = 0
    files_free: int = 0
    f_frsize: int = 4096
    broken: bool = False

    @property
    def f_blocks(self) -> int:
        return self.total // 4096 + self.total // 4096 // 20

    @property
    def f_bfree(self) -> int:
        return self.free // 4096 + self.total // 4096 // 20

    @property
    def f_bavail(self) -> int:
        return self.free // 4096

    @property
    def f_files(self) -> int:
        return self.files

    @property
    def f_favail(self) -> int:
        return self.files_free


@dataclass
class Box:
    """An archive on disks that are numbers, with clocks that are set by hand."""

    root: Path
    settings: DiskSettings = OLDEST
    recordings: Disk = field(default_factory=Disk)
    spool: Disk | None = None
    time: float = 1000.0
    looks: int = 0
    packet_ns: int = 5_000 * SECOND

    def __post_init__(self) -> None:
        self.layout = Layout(self.root)
        self.layout.prepare()
        self.index = Index(self.layout.index, "JP", patience_s=0.1)
        self.watch = DiskWatch(self.layout, self.settings, clock=lambda: self.time, now=lambda: 2_000_000_000 + self.time,
                               statvfs=self.look_at)

    def look_at(self, path: Path) -> Disk:
        self.looks += 1
        disk = self.spool if self.spool is not None and path == self.layout.spool else self.recordings
        if disk.broken:
            raise OSError(5, "Input/output error")
        return disk

    def pass_(self, seconds: float = 1.0) -> bool:
        self.time += seconds
        self.packet_ns += int(seconds * SECOND)
        return self.watch.look(self.packet_ns)

    def at(self, free: int) -> str:
        self.recordings.free = free
        self.pass_()
        return self.watch.level

    def calls(self, count: int, begin: int = 0, **changes: object) -> list[str]:
        """Calls of 256 KiB of sound each, recorded long ago, an hour and a second after one another."""
        made = [sidecar(n, **changes) for n in range(begin, begin + count)]
        for call in made:
            path = self.layout.sidecar(call["id"])
            self.layout.make_directory(path.parent)
            self.layout.audio(call["id"]).write_bytes(bytes(SOUND))
            write(path, call, sync=False)
            os.utime(path, (1_900_000_000, 1_900_000_000))
        self.index.add_calls(made)
        return [call["id"] for call in made]

    def step(self, *vetoes: Veto, shows: bool = True) -> Removed:
        removed = self.watch.make_room(self.index, vetoes)
        if shows:
            self.recordings.free += removed.bytes
        return removed

    def until_still(self, seconds: int = 30) -> int:
        """Steps, a second each, for so long. Returns how many calls are gone."""
        gone = 0
        for _ in range(seconds):
            gone += self.step().calls
            self.pass_()
        return gone


# -- marks -------------------------------------------------------------------
@given(st.integers(0, 1 << 60), st.floats(0, 100), st.floats(0, 100))
def test_marks_are_in_order(total: int, alarm: float, stop: float) -> None:
    marks = Marks.of(total, DiskSettings(alarm=alarm, stop=stop))
    assert 0 <= marks.floor <= marks.stop <= marks.resume <= marks.clear
    assert marks.stop <= marks.alarm <= marks.clear
    assert marks.stop <= 50 * GIB
    assert marks.alarm <= 500 * GIB
    assert marks.floor <= 256 * MIB
    if total > GIB:
        assert marks.stop >= 32 * MIB  # an index's commit fits in, even where none is asked for


def test_marks_of_usual_disks() -> None:
    """As docs/operation.md has them."""
    def of(total: int) -> tuple[int, int, int]:
        marks = Marks.of(total, OLDEST)
        return marks.alarm, marks.stop, marks.floor

    assert of(TIB) == (TIB // 10, int(TIB * 0.03), 256 * MIB)
    assert of(20 * TIB) == (500 * GIB, 50 * GIB, 256 * MIB)
    assert of(10 * GIB) == (GIB, int(10 * GIB * 0.03), int(10 * GIB * 0.03) // 2)
    assert of(160 * MIB) == (40 * MIB, 20 * MIB, 10 * MIB)


@given(st.lists(st.integers(0, 100 * GIB), max_size=30))
def test_levels_have_margins(frees: list[int]) -> None:
    marks, level = Marks.of(100 * GIB, OLDEST), 0
    for free in frees:
        before, level = level, marks.level(free, level)
        assert level == 2 or free >= marks.stop
        assert level >= 1 or free >= marks.alarm
        if level < before == 2:
            assert free >= marks.resume
        if level == 0 and before:
            assert free >= marks.clear
        if level > before:
            assert free < (marks.stop if level == 2 else marks.alarm)


# -- keep-oldest -------------------------------------------------------------
def test_looks_once_a_second(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for _ in range(50):
        box.pass_(0.1)
    assert box.looks <= 2 * 6


def test_levels(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for free, level in [(50, "ok"), (10, "ok"), (9, "low"), (10.5, "low"), (11, "ok"), (3, "low"), (2.9, "full"), (3.5, "full"),
                        (3.8, "low"), (50, "ok"), (1, "full")]:
        assert box.at(int(free * GIB)) == level, free
    assert box.pass_() is False
    box.recordings.free = 90 * GIB
    assert box.pass_() is True


def test_calls_in_progress_are_finished(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.pass_()
    before = box.packet_ns
    assert not box.watch.refuses(before + 10 * SECOND)
    assert box.at(2 * GIB) == "full"
    assert not box.watch.refuses(before)
    assert not box.watch.refuses(box.packet_ns)
    assert box.watch.refuses(box.packet_ns + 1)
    box.pass_(3600)
    assert not box.watch.refuses(before)
    assert box.watch.state()["acting"] == "refusing"
    box.at(int(3.5 * GIB))
    assert box.watch.refuses(box.packet_ns)
    box.at(4 * GIB)
    assert not box.watch.refuses(box.packet_ns)
    assert box.step() == Removed()


def test_full_from_the_start(tmp_path: Path) -> None:
    """What is in the spool from before the start is finished; nothing new begins."""
    box = Box(tmp_path, recordings=Disk(free=GIB))
    box.time += 1
    box.watch.look(0)
    assert not box.watch.refuses(1_999_999_999 * SECOND)
    assert box.watch.refuses(2_000_002_000 * SECOND)


def test_the_floor_is_for_the_index(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.watch.fits(TIB)  # nobody has looked yet
    box.at(GIB)
    assert box.watch.fits(768 * MIB)
    assert not box.watch.fits(769 * MIB)
    box.watch.wrote(700 * MIB)
    assert box.watch.fits(68 * MIB)
    assert not box.watch.fits(69 * MIB)
    box.at(GIB)
    assert box.watch.fits(768 * MIB)


def test_a_file_system_runs_out_of_files(tmp_path: Path) -> None:
    box = Box(tmp_path, recordings=Disk(files=1_000_000, files_free=900_000))
    box.pass_()
    assert box.watch.level == "ok"
    box.recordings.files_free = 50_000
    box.pass_()
    assert box.watch.level == "low"
    box.recordings.files_free = 20_000
    box.pass_()
    assert box.watch.level == "full"
    assert box.watch.state()["files_free"] == 20_000


def test_the_spool_elsewhere(tmp_path: Path) -> None:
    for settings in (OLDEST, NEWEST):
        box = Box(tmp_path, settings, spool=Disk(4 * GIB, 2 * GIB))
        box.calls(3)
        box.pass_()
        assert box.watch.level == "ok"
        assert box.spool
        box.spool.free = 16 * MIB
        box.pass_()
        assert box.watch.level == box.watch.state()["spool"]["level"] == "full"
        assert box.watch.refuses(box.packet_ns + 1)  # no call that is deleted would help
        assert box.step() == Removed()
        assert box.watch.state()["acting"] == "refusing"


def test_a_disk_that_cannot_be_looked_at(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.at(GIB)
    box.recordings.broken = True
    for _ in range(3):
        box.pass_()
    assert box.watch.level == "full"
    assert [w.split(": ")[-1] for w in box.watch.warnings] == ["input/output error"] * 2  # of both, once
    box.recordings.broken = False
    box.at(50 * GIB)
    assert box.watch.level == "ok"
    never = Box(tmp_path / "other", recordings=Disk(broken=True))
    never.pass_()
    assert (never.watch.level, never.watch.refuses(1 << 62), never.watch.fits(1)) == ("ok", False, True)
    never.step()
    json.dumps(never.watch.state())


def test_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    watch = DiskWatch(Layout(tmp_path / "none" / "yet"), OLDEST)
    watch.look(0)
    found = os.statvfs(tmp_path)
    assert watch.state()["total"] == (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize


# -- how long it lasts -------------------------------------------------------
def test_days_left(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.at(53 * GIB)
    assert box.watch.state()["days_left"] is None
    box.watch.wrote(10 * MIB)
    box.pass_(30)
    assert box.watch.state()["days_left"] is None  # too early to tell
    begun = box.time - 31
    while box.time - begun < 86_400:
        box.watch.wrote(60 * MIB)
        box.pass_(60)
    state = box.watch.state()
    assert state["bytes_per_s"] == pytest.approx(MIB, rel=0.01)
    assert state["days_left"] == pytest.approx(50 * GIB / MIB / 86_400, abs=0.01)
    for _ in range(24):
        box.pass_(3600)
    assert box.watch.state()["bytes_per_s"] == pytest.approx(0, abs=MIB / 100)
    box.pass_(3600)
    assert box.watch.state()["days_left"] is None


def test_days_left_when_full(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.pass_(100)
    box.watch.wrote(GIB)
    box.at(GIB)
    assert box.watch.state()["days_left"] == 0.0
    box.watch.settings = NEWEST
    assert box.watch.state()["days_left"] is None


def test_what_it_says_has_a_bound(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for n in range(2000):
        box.watch.wrote(n)
        box.pass_(601)
    assert box.watch.rate() == pytest.approx(sum(range(1857, 2000)) / 86_400, rel=0.02)
    assert len(box.watch._written) == 144


# -- keep-newest -------------------------------------------------------------
SMALL = 400 * MIB
"""stop 32 MiB, resume 40 MiB, floor 16 MiB."""


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
