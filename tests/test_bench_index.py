"""The benchmark of large archives: what it makes is an archive, and it measures all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rokuon.store.database import open_index
from rokuon.store.layout import Layout, is_id
from rokuon.store.names import fold
from rokuon.store.numbers import e164, plain
from rokuon.store.sidecar import STATES, problems

BENCH = Path(__file__).resolve().parents[1] / "bench"
CALLS = 3000


@pytest.fixture(scope="module")
def bench() -> Any:
    sys.path.insert(0, str(BENCH))
    try:
        import archive  # type: ignore[import-not-found]  # noqa: PLC0415 -- beside the benchmarks
    finally:
        sys.path.remove(str(BENCH))
    return archive


def test_an_archive_is_as_its_sidecars_would_have_made_it(bench: Any, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    bench.make(layout, CALLS)
    with open_index(layout.index) as db:
        def one(question: str) -> Any:
            return db.execute(question).fetchall()[0][0]

        assert one("SELECT count(DISTINCT id) FROM calls") == one("SELECT count(*) FROM calls") == CALLS
        assert one("SELECT count(*) FROM (SELECT start_time, lag(start_time) OVER (ORDER BY rowid) AS before FROM calls) "
                   "WHERE start_time < before") == 0
        for call_id, state, start, number, name, known, short, folded in db.execute(
                "SELECT id, state, strftime(start_time, '%Y%m%dT%H%M%SZ'), caller_number, caller_name, caller_e164, "
                "caller_plain, caller_folded FROM calls").fetchall():
            assert is_id(call_id)
            assert call_id.startswith(start)
            assert state in STATES
            assert (known, short, folded) == (e164(number, "JP"), plain(number), fold(name))
        for table in ("legs", "streams", "events", "annotations"):
            rows = len(db.table(table))
            assert rows == len(db.table(table).join(db.table("calls"), "id", "semi")) > 0
        assert one("SELECT count(*) FROM legs WHERE last_time < start_time") == 0


def test_sidecars_are_sound(bench: Any) -> None:
    made = [bench.sidecar(n) for n in range(300)]
    assert [problems(call) for call in made] == [[]] * 300
    assert len({call["id"] for call in made}) == 300


def test_all_is_measured(tmp_path: Path) -> None:
    little = ["--calls", str(CALLS), "--sidecars", "200", "--runs", "1", "--seconds", "0.1", "--work", tmp_path]
    done = subprocess.run([sys.executable, BENCH / "index.py", *little], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert {"newest 20", "--number, whole", "--name 田中", "show, last part of an id", "stats", "completing an id's beginning",
            "command", "processors"} <= set(rows)
