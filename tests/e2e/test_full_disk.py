"""A disk of 200 MB that is full, or frozen: nothing is damaged, and there is one line that says so."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.e2e.small_disk import MIB, empty, fill, free, frozen, missing, small_disk, thaw
from tests.e2e.wire import ROKUON, SECOND, START, Phone, identities, leftovers, merged, record, run, write
from tests.store.sidecars import sidecar

from rokuon.store.disk import DiskWatch
from rokuon.store.errors import StoreError
from rokuon.store.index import Index, reindex
from rokuon.store.layout import Layout
from rokuon.store.retention import finish_removals, oldest_calls, remove_calls
from rokuon.store.settings import DiskSettings
from rokuon.store.sidecar import write as write_sidecar

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


class Undisturbed(NamedTuple):
    """A capture, and what comes of it on a disk with room."""

    capture: Path
    calls: dict[str, tuple[Any, ...]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    place = tmp_path_factory.mktemp("whole")
    packets = merged(*[Phone(n, START + n * SECOND, seconds=12) for n in range(40)])
    capture = write(place / "calls.pcap", packets)
    assert record(place / "data", capture).returncode == 0
    return Undisturbed(capture, identities(place / "data"))


def settings(place: Path, text: str) -> Path:
    path = place / "rokuon.toml"
    path.write_text(text)
    return path


# -- from captures -----------------------------------------------------------
@pytest.mark.parametrize("room", [300_000, 6 * MIB, 14 * MIB, 17 * MIB])
def test_full_while_captures_are_read(whole: Undisturbed, tmp_path: Path, room: int) -> None:
    """Where it ends depends on the room: at the spool, at the sound, at the index."""
    env = {"ROKUON_CONFIG": str(settings(tmp_path, "[record]\nsegment = 4\n"))}
    with small_disk(tmp_path) as disk:
        data = disk / "data"
        fill(disk, room)
        first = record(data, whole.capture, env=env)
        assert first.returncode == 1, first.stderr
        assert first.stderr.startswith("rokuon: cannot ")
        assert first.stderr.endswith(": no space left on device\n")
        assert first.stderr.count("\n") == 1
        assert leftovers(data) == []
        assert identities(data).items() <= whole.calls.items()
        empty(disk)
        assert record(data, whole.capture, env=env).returncode == 0
        assert identities(data) == whole.calls
        assert leftovers(data) == []


def test_frozen_while_captures_are_read(whole: Undisturbed, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        data = disk / "data"
        record(data, write(tmp_path / "one.pcap", Phone(900).packets))
        command = [str(ROKUON), "--data", str(data), "record", "-r", str(whole.capture)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(0.4)
            with frozen(disk):
                time.sleep(3)
                assert process.poll() is None or process.returncode == 0
                assert run(data, "stats", "--json").returncode in (0, 4)  # reading goes on, unless the index is being written
            out, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, ""), out
        assert {i: call for i, call in identities(data).items() if i in whole.calls} == whole.calls


# -- making room -------------------------------------------------------------
def archive(data: Path, count: int, size: int = 20_000) -> tuple[Layout, Index, list[str]]:
    layout, index = Layout(data), Index(data / "index.duckdb", "JP", patience_s=0.5)
    layout.prepare()
    made = [sidecar(n) for n in range(count)]
    for call in made:
        layout.make_directory(layout.folder(call["id"]))
        call["audio"] = sidecar(0)["audio"] | {"path": layout.relative(layout.audio(call["id"]))}
        layout.audio(call["id"]).write_bytes(os.urandom(size))
        write_sidecar(layout.sidecar(call["id"]), call, sync=False)
        os.utime(layout.sidecar(call["id"]), (1, 1))
    index.add_calls(made)
    return layout, index, [call["id"] for call in made]


def consistent(layout: Layout, index: Index, ids: list[str]) -> None:
    left = set(layout.ids())
    assert index.known_ids(ids) == left
    for call_id in ids:
        assert layout.audio(call_id).exists() is (call_id in left)
    assert reindex(layout, "JP") == (len(left), [])


def test_deleting_on_a_disk_without_a_free_block(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        layout, index, ids = archive(disk / "data", 200)
        fill(disk)
        assert free(disk) < 4096
        with pytest.raises(StoreError, match="No space left"):
            index.add_calls([sidecar(1000)])
        removed = remove_calls(layout, index, ids[:60], reason="test")
        finish_removals(layout, index)
        assert not removed.failed
        assert list(layout.ids()) == ids[60:]
        assert free(disk) > 60 * 20_000
        empty(disk)
        consistent(layout, index, ids)


def test_the_index_survives_every_degree_of_fullness(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        layout, index, ids = archive(disk / "data", 100, 1000)
        known, refused = set(ids), 0
        for n, left in enumerate(range(0, 600_000, 25_000)):
            fill(disk, left)
            new = sidecar(5000 + n)
            try:
                index.add_calls([new])
                known.add(new["id"])
            except StoreError:
                refused += 1
            if n % 3 == 0:
                gone = next(oldest_calls(layout))
                remove_calls(layout, index, [gone], reason="test")
                finish_removals(layout, index)
                if index.known_ids([gone]) == set():
                    known.discard(gone)
                assert not layout.sidecar(gone).exists()
            assert index.known_ids([*ids, *(sidecar(5000 + k)["id"] for k in range(n + 1))]) == known
            os.truncate(disk / "ballast", max(0, (disk / "ballast").stat().st_size - 2 * MIB))
        assert 0 < refused < n
        assert finish_removals(layout, index).behind == 0


def test_keep_newest_makes_room(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        layout, index, ids = archive(disk / "data", 400, 50_000)
        seconds = 0.0
        watch = DiskWatch(layout, DiskSettings(policy="keep-newest"), clock=lambda: seconds)
        watch.look(0)
        watch.make_room(index)
        assert (watch.level, watch.deleted) == ("ok", 0)
        fill(disk, 20 * MIB)
        for _ in range(60):
            seconds += 1
            watch.look(1)
            watch.make_room(index)
        assert watch.level == "low"
        assert 0 < watch.deleted < 300
        assert list(layout.ids()) == ids[watch.deleted:]
        assert watch.state()["acting"] == "no"
        assert json.loads((layout.not_recorded).read_text()) == {"deleted: disk-full": watch.deleted}
        consistent(layout, index, ids)
        fill(disk)  # somebody else took all of it
        for _ in range(120):
            seconds += 1
            watch.look(2)
            watch.make_room(index)
        assert watch.stuck or watch.level == "low"
        empty(disk)
        consistent(layout, index, ids)


DELETE = """
import sys
from pathlib import Path
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.retention import oldest_calls, remove_calls
layout = Layout(Path(sys.argv[1]))
print(remove_calls(layout, Index(layout.index, "JP"), list(oldest_calls(layout))[:100], reason="x").calls)
"""


def test_frozen_while_room_is_made(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        layout, index, ids = archive(disk / "data", 120)
        command = [ROKUON.with_name("python"), "-c", DELETE, layout.root]
        with frozen(disk), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            time.sleep(2)
            assert process.poll() is None
            thaw(disk)
            assert process.communicate(timeout=30)[0] == "100\n"
        assert list(layout.ids()) == ids[100:]
        consistent(layout, index, ids)
