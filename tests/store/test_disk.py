"""What is done at which level, on disks that are numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.disks import GIB, MIB, NEWEST, OLDEST, TIB, Box, Disk
from tests.store.sidecars import SECOND

from rokuon.store.disk import DiskWatch, Marks
from rokuon.store.layout import Layout
from rokuon.store.retention import Removed
from rokuon.store.settings import DiskSettings


# -- marks --------------------------------------------------------------------
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


# -- keep-oldest --------------------------------------------------------------
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


# -- how long it lasts --------------------------------------------------------
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
