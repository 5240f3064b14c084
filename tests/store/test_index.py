"""The index: what goes in is found, again and again the same, and it can always be made anew."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tests.store.sidecars import HOSTILE, hostile, sidecar, some

from rokuon.store.database import open_index
from rokuon.store.errors import DataError, IndexBusyError
from rokuon.store.index import Index, LegSpan, reindex
from rokuon.store.layout import Layout
from rokuon.store.rows import TABLES
from rokuon.store.sidecar import Sidecar, nanoseconds, write

SECOND = 1_000_000_000


def dumped(path: Path) -> dict[str, list[Any]]:
    """Every table's rows, in an order of their own."""
    with duckdb.connect(str(path), read_only=True) as db:
        tables = [name for (name,) in db.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
        return {table: sorted(db.execute(f"FROM {table}").fetchall(), key=repr) for table in tables}


def written(layout: Layout, sidecars: list[Sidecar]) -> None:
    for made in sidecars:
        layout.make_directory(layout.folder(made["id"]))
        write(layout.sidecar(made["id"]), made, sync=False)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


def test_every_table_is_filled_from_the_sidecar(layout: Layout) -> None:
    made = sidecar(0)
    Index(layout.index, "JP").add_calls([made])
    with open_index(layout.index) as db:
        assert db.execute("""SELECT id, state, sip_status, CAST(start_time AS VARCHAR), duration_s, caller_number, caller_e164,
                             caller_name, caller_folded, codec, packets, mos, audio_path FROM calls""").fetchall() == [
            (made["id"], "answered", 200, "2026-11-24 03:00:00.123456", 60.0, "0312345678", "+81312345678",
             "田中 太郎", "田中太郎", "PCMU", 6000, 4.41, made["audio"]["path"])]
        assert db.execute("SELECT call_id, from_tag, to_tag, sip_status FROM legs").fetchall() == [
            ("call-0@pbx.example", "from-0", "to-0", 200)]
        assert db.execute("SELECT direction, src, vlan, ssrc, lost FROM streams ORDER BY stream").fetchall() == [
            ("caller", "10.0.0.1:5004", [100, 7], 0, 0), ("callee", "[2001:db8::1]:5006", [100, 7], 1, 0)]
        assert db.execute("SELECT type, detail FROM events ORDER BY event").fetchall() == [
            ("dtmf", None), ("hold", None), ("resume", None)]
        assert db.execute("SELECT kind, value FROM annotations").fetchall() == [("tag", "vip")]


def test_the_same_calls_again_change_nothing(layout: Layout) -> None:
    index = Index(layout.index, "JP")
    index.add_calls(some(30))
    before = dumped(layout.index)
    index.add_calls(some(30))
    index.add_calls([])
    assert dumped(layout.index) == before
    assert len(before["calls"]) == 30


def test_a_revision_takes_the_place_of_what_was(layout: Layout) -> None:
    index = Index(layout.index, "JP")
    index.add_calls(some(3))
    less: dict[str, Any] = {"streams": [], "events": [], "tags": []}
    index.add_calls([sidecar(1, revision=2, **less), sidecar(1, revision=3, **less)])
    other = Index(layout.index.with_name("other.duckdb"), "JP")
    other.add_calls([sidecar(0), sidecar(1, revision=3, **less), sidecar(2)])
    assert dumped(layout.index) == dumped(other.path)


def test_removed_calls_are_gone(layout: Layout) -> None:
    index = Index(layout.index, "JP")
    index.add_calls(some(4))
    index.remove_calls([sidecar(0)["id"], sidecar(3)["id"]])
    other = Index(layout.index.with_name("other.duckdb"), "JP")
    other.add_calls([sidecar(1), sidecar(2)])
    assert dumped(layout.index) == dumped(other.path)


def test_more_calls_than_a_statement_takes(layout: Layout) -> None:
    Index(layout.index).add_calls(some(1200))
    assert len(dumped(layout.index)["calls"]) == 1200


def test_hostile_text_is_text(layout: Layout) -> None:
    made = [hostile(n) for n in range(len(HOSTILE))]
    Index(layout.index, "JP").add_calls(made)
    rows = dumped(layout.index)
    assert len(rows["calls"]) == len(made)
    with open_index(layout.index) as db:
        names = {name for (name,) in db.execute("SELECT caller_name FROM calls").fetchall()}
    assert names == {text.replace("\ud800", "\N{REPLACEMENT CHARACTER}") for text in HOSTILE}


def test_values_of_another_type_become_null(layout: Layout) -> None:
    """A sidecar from another program may be wrong in places."""
    Index(layout.index).add_calls([sidecar(0, sip_status="many", duration_s="long", revision=1e300)])
    with open_index(layout.index) as db:
        assert db.execute("SELECT sip_status, duration_s, revision FROM calls").fetchall() == [(None, None, None)]


# -- made anew ---------------------------------------------------------------
def test_reindex_equals_the_index(layout: Layout) -> None:
    made = some(40) + [hostile(n) for n in range(5, 5 + len(HOSTILE))]
    written(layout, made)
    for n in range(0, len(made), 7):
        Index(layout.index, "JP").add_calls(made[n:n + 7])
    before = dumped(layout.index)
    latest = len({s["id"] for s in made})
    assert reindex(layout, "JP") == (latest, [])
    after = dumped(layout.index)
    assert set(after) == {"meta", *TABLES}
    on_disk = {s["id"]: s for s in made}
    assert len(before["calls"]) == len(on_disk)
    assert after == before


@pytest.mark.parametrize("damage", [None, b"", b"not a database", b"\0" * 20000])
def test_reindex_whatever_the_old_index_is(layout: Layout, damage: bytes | None) -> None:
    written(layout, some(5))
    if damage is not None:
        layout.index.write_bytes(damage)
    assert reindex(layout, "JP") == (5, [])
    assert len(dumped(layout.index)["calls"]) == 5
    assert layout.index.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in layout.root.iterdir()) == ["index.duckdb", "recordings", "spool"]


def test_reindex_says_what_it_leaves_out(layout: Layout) -> None:
    made = some(4)
    written(layout, made)
    layout.sidecar(made[1]["id"]).write_text("{")
    write(layout.sidecar(made[2]["id"]), made[2] | {"state": "?"})
    write(layout.sidecar(made[3]["id"]), made[0])
    count, warnings = reindex(layout, "JP")
    assert count == 1
    assert [w.partition(": ")[2] or w.rpartition(" is ")[2] for w in warnings] == [
        "not a sidecar", "not a sound sidecar: state", "not a sound sidecar: id"]


def test_an_archive_without_an_index_reads_as_empty(layout: Layout) -> None:
    with open_index(layout.index) as db:
        assert db.execute("SELECT count(*) FROM calls").fetchone() == (0,)
    assert not layout.root.exists()
    layout.root.mkdir()
    layout.index.touch()
    with open_index(layout.index) as db:
        assert db.execute("SELECT count(*) FROM call_quality").fetchone() == (0,)
    Index(layout.index).add_calls(some(1))
    assert len(dumped(layout.index)["calls"]) == 1


def test_a_damaged_or_later_index_names_the_remedy(layout: Layout) -> None:
    layout.root.mkdir()
    layout.index.write_bytes(b"x" * 9000)
    for write_it in (True, False):
        with pytest.raises(DataError, match="rokuon reindex"), open_index(layout.index, write=write_it, patience_s=0):
            pass
    layout.index.unlink()
    Index(layout.index).add_calls(some(1))
    with duckdb.connect(str(layout.index)) as db:
        db.execute("UPDATE meta SET schema_version = 99")
    with pytest.raises(DataError, match="another version"), open_index(layout.index):
        pass


# -- others at the same time -------------------------------------------------
FOREIGN = "import duckdb, sys\nwith duckdb.connect(sys.argv[1]): print('open', flush=True); sys.stdin.read()"
OURS = """
import sys
from pathlib import Path
from rokuon.store.database import open_index
with open_index(Path(sys.argv[1]), write=True): print('open', flush=True); sys.stdin.read()
"""


@contextmanager
def held(path: Path, program: str) -> Iterator[None]:
    """The index open in another process."""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        try:
            yield
        finally:
            assert other.stdin is not None
            other.stdin.close()
            other.wait()


@pytest.mark.parametrize("program", [OURS, FOREIGN])
def test_who_finds_it_locked_waits_and_gives_up(layout: Layout, program: str) -> None:
    index = Index(layout.index, patience_s=0.1)
    index.add_calls(some(1))
    with held(layout.index, program):
        with pytest.raises(IndexBusyError, match="in use"):
            index.add_calls(some(2))
        with pytest.raises(IndexBusyError, match="in use"), open_index(layout.index, patience_s=0.1):
            pass
        if program == OURS:
            with pytest.raises(IndexBusyError, match="in use"):
                reindex(layout, patience_s=0.1)
    index.add_calls(some(2))
    assert len(dumped(layout.index)["calls"]) == 2


def test_many_writers_lose_nothing(layout: Layout) -> None:
    program = ("import sys; from pathlib import Path; from rokuon.store.index import Index\n"
               "from tests.store.sidecars import sidecar\n"
               "n = int(sys.argv[2])\nfor k in range(4): Index(Path(sys.argv[1])).add_calls([sidecar(100 * n + k)])")
    root = Path(__file__).resolve().parents[2]
    writers = [subprocess.Popen([sys.executable, "-c", program, str(layout.index), str(n)], cwd=root) for n in range(3)]
    assert [w.wait() for w in writers] == [0, 0, 0]
    assert len(dumped(layout.index)["calls"]) == 12


def test_a_writer_that_was_killed_leaves_what_it_had_committed(layout: Layout) -> None:
    Index(layout.index).add_calls(some(3))
    program = f"""
import os, signal
from pathlib import Path
from rokuon.store.database import open_index
from rokuon.store.index import insert
from tests.store.sidecars import sidecar
with open_index(Path({str(layout.index)!r}), write=True) as db:
    db.execute("SET wal_autocheckpoint = '1GB'")
    db.execute("BEGIN"); insert(db, [sidecar(3)], None); db.execute("COMMIT")
    db.execute("BEGIN"); insert(db, [sidecar(4)], None)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    with open_index(layout.index) as db:
        assert db.execute("SELECT count(*) FROM calls").fetchone() == (4,)
    Index(layout.index).add_calls([sidecar(5)])
    assert len(dumped(layout.index)["calls"]) == 5


# -- known already -----------------------------------------------------------
SPAN = LegSpan("call-0@pbx.example", "from-0", "to-0", nanoseconds("2026-11-24T03:00:00.123456Z"),
               nanoseconds("2026-11-24T03:01:00Z"))


@pytest.mark.parametrize(("leg", "known"), [
    (SPAN, True), (SPAN._replace(from_tag="to-0", to_tag="from-0"), True), (SPAN._replace(to_tag=""), True),
    (SPAN._replace(from_tag="to-0", to_tag=""), True),
    (SPAN._replace(start_ns=SPAN.last_ns, last_ns=SPAN.last_ns + SECOND), True),
    (SPAN._replace(call_id="other"), False), (SPAN._replace(to_tag="to-1"), False), (SPAN._replace(from_tag="to-0"), False),
    (SPAN._replace(start_ns=SPAN.start_ns + 3600 * SECOND, last_ns=SPAN.start_ns + 3700 * SECOND), False),
    (SPAN._replace(start_ns=SPAN.start_ns - 99 * SECOND, last_ns=SPAN.start_ns - 9 * SECOND), False)])
def test_a_leg_is_known_by_call_id_tags_and_time(layout: Layout, leg: LegSpan, known: bool) -> None:
    Index(layout.index).add_calls(some(3))
    assert Index(layout.index).known_calls([leg]) == [sidecar(0)["id"] if known else None]


def test_a_leg_without_to_tag_is_known_by_its_from_tag(layout: Layout) -> None:
    cancelled = sidecar(1)
    Index(layout.index).add_calls([cancelled])
    leg = LegSpan.of(cancelled["legs"][0])
    assert leg.to_tag == ""
    assert Index(layout.index).known_calls([leg, leg._replace(to_tag="x"), leg._replace(from_tag="y", to_tag=leg.from_tag)]) == [
        cancelled["id"], cancelled["id"], cancelled["id"]]


def test_a_leg_whose_end_was_not_seen_lasts_as_long_as_its_call_was(layout: Layout) -> None:
    made = sidecar(0, end=None, end_reason="capture-stopped")
    made["legs"][0]["end"] = None
    Index(layout.index).add_calls([made])
    last = nanoseconds(made["streams"][0]["last"])
    leg = LegSpan.of(made["legs"][0], last)
    assert leg.last_ns == last
    later = leg._replace(start_ns=last + SECOND, last_ns=last + 9 * SECOND)
    assert Index(layout.index).known_calls([leg, leg._replace(start_ns=last), later]) == [made["id"], made["id"], None]


def test_all_of_an_archive_is_known(layout: Layout) -> None:
    made = some(60)
    legs = [LegSpan.of(leg) for s in made for leg in s["legs"]]
    assert Index(layout.index).known_calls(legs) == [None] * len(legs)
    Index(layout.index).add_calls(made)
    assert Index(layout.index).known_calls(legs) == [s["id"] for s in made for _ in s["legs"]]
    loose = [s["id"] for s in made if not s["legs"]]
    assert Index(layout.index).known_ids([*loose, "20261124T030000Z-aaaaaaaa"]) == set(loose)
    assert Index(layout.index).known_calls([]) == []
