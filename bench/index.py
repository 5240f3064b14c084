"""An archive of ten million calls: what the commands that look something up take, beside the same questions in plain SQL; commits
beside queries; and how fast the index is made again from sidecars.

    python bench/index.py [--calls N] [--sidecars N] [--work DIR] [--write]

Wall time from the start of the command to its end, Python's start included. An archive that --work has is taken again.
"""

# ruff: noqa: S608 -- statements are put together from constants and from what this benchmark has made

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
from archive import BEGIN, DAYS, FIRST_DAY, SECOND, folder_of, make, sidecar
from measure import machine, spread, table, write_section

from rokuon.store.database import open_index
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.sidecar import write

ROKUON = Path(sys.executable).with_name("rokuon")
SELECTED = ("SELECT id, start_time, state, duration_s, caller_number, caller_name, callee_number, callee_name, codec, mos "
            "FROM calls")
NEWEST = "ORDER BY start_time DESC LIMIT 20"
BATCH = 20
"""Calls a commit."""


@dataclass(frozen=True)
class Question:
    """Something to look up: by the command, and by plain SQL."""

    name: str
    arguments: Sequence[str]
    statement: str
    promised_s: float | None = None
    """Of the command as a whole."""
    environment: dict[str, str] | None = None
    says: bool = True
    """Whether something is found."""


def questions(layout: Layout) -> Iterator[Question]:
    """All that is looked up; the numbers are those of a call in the middle of the archive."""
    with open_index(layout.index) as db:
        caller, e164, shown, last, day = db.execute(f"""
            SELECT caller_number, caller_e164, callee_plain, id[18:], CAST(start_time + INTERVAL 9 HOUR AS DATE) FROM calls
            WHERE caller_e164 IS NOT NULL AND start_time < '{FIRST_DAY.replace(year=2025)}' AND state = 'answered'
              AND codec = 'PCMU'
            ORDER BY start_time DESC LIMIT 1""").fetchall()[0]
    newest = f"{SELECTED} {NEWEST}"
    ends = shown[-4:]
    yield Question("newest 20", ["calls", "--limit", "20"], newest, 0.3)
    yield Question("--number, whole", ["calls", "--limit", "20", "--number", caller],
                   f"{SELECTED} WHERE caller_e164 = '{e164}' OR callee_e164 = '{e164}' {NEWEST}", 0.5)
    yield Question("--number, last four digits", ["calls", "--limit", "20", "--number", ends],
                   f"{SELECTED} WHERE caller_plain LIKE '%{ends}' OR callee_plain LIKE '%{ends}' {NEWEST}", 0.5)
    yield Question("--number that nobody has", ["calls", "--limit", "20", "--number", "0312349999"],
                   f"{SELECTED} WHERE caller_e164 = '+81312349999' OR callee_e164 = '+81312349999' {NEWEST}", 0.5, says=False)
    yield Question("--name 田中", ["calls", "--limit", "20", "--name", "田中"],
                   f"{SELECTED} WHERE caller_folded LIKE '%田中%' OR callee_folded LIKE '%田中%' {NEWEST}", 0.7)
    yield Question("--name that nobody has", ["calls", "--limit", "20", "--name", "nobody"],
                   f"{SELECTED} WHERE caller_folded LIKE '%nobody%' OR callee_folded LIKE '%nobody%' {NEWEST}", 0.7, says=False)
    yield Question("a day, answered, codec",
                   ["calls", "--limit", "20", "--since", str(day), "--until", str(day), "--state", "answered", "--codec", "PCMU"],
                   f"{SELECTED} WHERE start_time >= TIMESTAMP '{day}' - INTERVAL 9 HOUR "
                   f"AND start_time < TIMESTAMP '{day}' + INTERVAL 15 HOUR AND state = 'answered' AND codec = 'PCMU' {NEWEST}")
    yield Question("--text", ["calls", "--limit", "20", "--text", "折り返し"],
                   f"{SELECTED} WHERE concat_ws(' ', words, caller_folded, callee_folded) LIKE '%折り返し%' {NEWEST}")
    yield Question("show, last part of an id", ["show", last], f"SELECT id FROM calls WHERE contains(id, '-{last}')")
    yield Question("show last", ["show", "last"], "SELECT id FROM calls ORDER BY start_time DESC LIMIT 1")
    yield Question("stats", ["stats"], "SELECT state, count(*), sum(duration_s), sum(audio_bytes) FROM calls GROUP BY state")
    yield Question("stats --by hour", ["stats", "--by", "hour"],
                   "SELECT hour(start_time), count(*), sum(duration_s), avg(mos) FROM calls GROUP BY 1")
    yield Question("stats --by number", ["stats", "--by", "number", "--limit", "20"],
                   "SELECT key, count(*) FROM (SELECT caller_plain AS key FROM calls UNION ALL SELECT callee_plain FROM calls) "
                   "GROUP BY 1 ORDER BY 2 DESC LIMIT 20")
    for typed, what in ((last[:3], "last part"), (f"{day:%Y%m%dT}", "beginning")):
        yield Question(f"completing an id's {what}", [], f"SELECT id FROM calls WHERE contains(id, '-{typed}') LIMIT 50"
                       if what == "last part" else f"SELECT id FROM calls WHERE id >= '{typed}' AND id < '{typed}~' LIMIT 50",
                       environment={"_ROKUON_COMPLETE": "bash_complete", "COMP_WORDS": f"rokuon show {typed}", "COMP_CWORD": "2"})


def asked(layout: Layout, question: Question) -> tuple[float, float]:
    """Wall and CPU seconds of the command. Ends the benchmark where it says nothing, or fails."""
    environment = {**os.environ, "ROKUON_DATA": str(layout.root), "TZ": "Asia/Tokyo", **(question.environment or {})}
    begun = time.perf_counter()
    command = [ROKUON, *question.arguments]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begun
    if process.returncode or bool(said.strip()) != question.says:
        sys.exit(f"{question.name}: status {process.returncode}, said {said[:200]!r}")
    return wall, used.ru_utime + used.ru_stime


def plain_sql(layout: Layout, statement: str, runs: int) -> list[float]:
    """Seconds of the statement in DuckDB as it comes, the file open already."""
    taken = []
    with duckdb.connect(str(layout.index), read_only=True) as db:
        for _ in range(runs + 1):
            begun = time.perf_counter()
            db.execute(statement).fetchall()
            taken.append(time.perf_counter() - begun)
    return taken[1:]


def lookups(layout: Layout, runs: int) -> str:
    """The table of what is looked up."""
    rows = []
    nothing = Question("--version (start-up alone)", ["--version"], "SELECT 1")
    for question in (nothing, *questions(layout)):
        if runs > 1:
            asked(layout, question)  # what it reads is in the page cache then
        walls, cpus = zip(*(asked(layout, question) for _ in range(runs)), strict=True)
        promised = "" if question.promised_s is None else f"{question.promised_s:.1f}"
        rows.append([question.name, spread(walls), f"{statistics.median(cpus):.3g}",
                     spread(plain_sql(layout, question.statement, runs)), promised])
        print(*rows[-1], sep=" | ", file=sys.stderr)
    return table(["looked up", "command, s", "CPU s", "plain SQL, s", "promised: command, s"], rows)


# -- commits beside queries ----------------------------------------------------
def commit(layout: Layout, rate: float, seconds: float, begin: int) -> None:
    """Commits batches of BATCH new calls at this rate (0: none); prints how long each took as a JSON list."""
    index, taken, n = Index(layout.index, "JP"), [], 0
    begun = due = time.monotonic()
    while rate and time.monotonic() - begun < seconds:
        batch = [sidecar(n + k, begin) for k in range(BATCH)]
        n += BATCH
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        at = time.perf_counter()
        index.add_calls(batch)
        taken.append(time.perf_counter() - at)
    print(json.dumps(taken))


def free(layout: Layout) -> int:
    """Nanoseconds since 1970 behind the newest call's start."""
    with open_index(layout.index) as db:
        (newest,), = db.execute("SELECT epoch_ns(max(start_time)) FROM calls").fetchall()
    return max(BEGIN, newest // SECOND * SECOND + 60 * SECOND)


def beside(layout: Layout, seconds: float, rates: Sequence[float]) -> str:
    """The table of commits beside queries."""
    found = {question.name: question for question in questions(layout)}
    rows = []
    for rate in rates:
        for name in ("newest 20", "--number, whole"):
            writing = [sys.executable, __file__, "--work", layout.root, "--commit", f"{rate}", "--seconds", f"{seconds}"]
            with subprocess.Popen([*writing, "--begin", f"{free(layout)}"], stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                walls, until = [], time.monotonic() + seconds
                while time.monotonic() < until:
                    walls.append(asked(layout, found[name])[0])
                    time.sleep(0.05)
                commits = json.loads(writer.stdout.read())
            held = f"{1000 * statistics.median(commits):.0f} / {1000 * max(commits):.0f}" if commits else "–"
            rows.append([name, f"{rate:g}", f"{len(commits) / seconds:.1f}", held,
                         f"{1000 * statistics.median(walls):.0f} / {1000 * max(walls):.0f}", f"{len(walls)}"])
            print(*rows[-1], sep=" | ", file=sys.stderr)
    return table(["command", "commits a second, wanted", "made", f"commit of {BATCH} calls: median / most, ms",
                  "command: median / most, ms", "times"], rows)


# -- the index again from sidecars ----------------------------------------------
def sidecars(layout: Layout, count: int) -> float:
    """An archive of so many real sidecars, without audio. Returns their size in bytes in the mean."""
    whole, made = 0, set()
    for n in range(count):
        call = sidecar(n)
        path = layout.sidecar(call["id"])
        if path.parent not in made:
            layout.make_directory(path.parent)
            made.add(path.parent)
        write(path, call, sync=False)
        whole += path.stat().st_size
    return whole / count


def again(layout: Layout, count: int) -> str:
    """A sentence on `rokuon reindex` of so many sidecars; with one processor and with all."""
    layout.prepare()
    size = sidecars(layout, count)
    rows = []
    for cores in sorted({1, os.cpu_count() or 1}):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(before)[:cores])
        try:
            wall, cpu = asked(layout, Question("reindex", ["reindex"], ""))
        finally:
            os.sched_setaffinity(0, before)
        with open_index(layout.index) as db:
            assert db.execute("SELECT count(*) FROM calls").fetchone() == (count,)
        rows.append([f"{cores}", f"{count:,} of {size:,.0f} bytes", f"{wall:.1f}", f"{cpu:.1f}", f"{count / wall:,.0f}"])
        print(*rows[-1], sep=" | ", file=sys.stderr)
    return table(["processors", "sidecars", "wall s", "CPU s", "calls a second"], rows)


@contextmanager
def place(given: str | None) -> Iterator[Path]:
    """Where archives are made; what is named stays."""
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="rokuon-index-") as made:
        yield Path(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000_000)
    parser.add_argument("--sidecars", type=int, default=100_000, help="of which the index is made again")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20, help="of each row of commits beside queries")
    parser.add_argument("--work", metavar="DIR", help="where archives are made, and stay")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--commit", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.commit is not None:
        commit(folder_of(options.work), options.commit, options.seconds, options.begin)
        return
    with place(options.work) as work:
        layout = folder_of(work / f"index-{options.calls}")
        if not layout.index.exists():
            print(f"making an index of {options.calls:,} calls in {layout.root}", file=sys.stderr)
            make(layout, options.calls)
        size = layout.index.stat().st_size
        for question in questions(layout):  # those that `show` names need their sidecar
            if question.arguments[:1] == ["show"]:
                with open_index(layout.index) as db:
                    (call_id,), = db.execute(question.statement).fetchall()
                layout.make_directory(layout.folder(call_id))
                write(layout.sidecar(call_id), sidecar(0) | {"id": call_id}, sync=False)
        parts = [f"{machine()}; {options.calls:,} calls of {DAYS} days, {size / 2**20:,.0f} MiB",
                 lookups(layout, options.runs), beside(layout, options.seconds, (0, 2, 10))]
        if options.sidecars:
            with tempfile.TemporaryDirectory(prefix="sidecars-", dir=work) as made:
                parts.append(again(folder_of(made), options.sidecars))
    text = "\n\n".join(parts)
    print(text)
    if options.write:
        write_section("index", text)


if __name__ == "__main__":
    main()
