"""The command line: its answers, its exit statuses, and that nothing from a packet harms who reads them."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result
from tests.store.sidecars import HOSTILE, hostile, sidecar, some

from rokuon.cli import COMMANDS, main
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.sidecar import write

ROOT = Path(__file__).resolve().parents[1]
MADE = some(40)


def archive(root: Path, made: list[dict[str, Any]]) -> Path:
    layout = Layout(root)
    for call in made:
        layout.make_directory(layout.folder(call["id"]))
        write(layout.sidecar(call["id"]), call, sync=False)
    Index(layout.index, "JP").add_calls(made)
    return root


@pytest.fixture(autouse=True)
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("archive"), MADE)


def rokuon(data: Path | None, *args: object, **environment: str) -> Result:
    """A command in this process."""
    given = [] if data is None else ["--data", str(data)]
    return CliRunner().invoke(main, [*given, *map(str, args)], env={"ROKUON_CONFIG": None, **environment})


def one_line(result: Result) -> str:
    """What a failure says: one line on standard error, nothing else."""
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("rokuon: ")
    return result.stderr


def outside(*args: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "rokuon", *map(str, args)], stderr=subprocess.PIPE, check=False, **options)


# -- help and usage ----------------------------------------------------------
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = rokuon(None, command, "--help")
    assert result.exit_code == 0
    assert f"  rokuon {command}" in result.stdout.partition("Examples:")[2]


def test_help_lists_every_command() -> None:
    result = rokuon(None, "--help")
    assert result.exit_code == 0
    assert "Example: rokuon record" in result.stdout
    assert all(f"  {command} " in result.stdout for command in COMMANDS)


def test_version() -> None:
    assert rokuon(None, "--version").stdout.startswith("rokuon 0.")


@pytest.mark.parametrize("args", ["no-such-command", "calls --no-such-option", "calls --since never", "calls --min-duration x",
                                  "calls --state ringing", "calls --number ''", "show", "record", "export last", "calls --sort x",
                                  "--config /nonexistent/x calls", "sql 'SELECT 1' -o x.txt", "export -o x.wav", "calls extra"])
def test_wrong_usage(data: Path, args: str) -> None:
    result = rokuon(data, *shlex.split(args))
    assert result.exit_code == 2
    one_line(result)


def test_no_such_call(data: Path) -> None:
    for args in (["show", "zzzzzzzz"], ["play", "zzzzzzzz"], ["export", "zzzzzzzz", "-o", "x.wav"], ["decode", "zzzzzzzz"]):
        result = rokuon(data, *args)
        assert result.exit_code == 3
        assert "no call 'zzzzzzzz'" in one_line(result)
    result = rokuon(data, "show", "2026")
    assert result.exit_code == 2
    assert "several calls" in one_line(result)


def test_foreign_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    for args in (["calls"], ["show", "last"], ["reindex"], ["record", "-r", str(tmp_path / "thesis")]):
        result = rokuon(tmp_path, *args)
        assert result.exit_code == 1
        assert "holds other things" in one_line(result)


def test_damaged_index(tmp_path: Path) -> None:
    archive(tmp_path, some(2))
    (tmp_path / "index.duckdb").write_bytes(b"x" * 5000)
    result = rokuon(tmp_path, "calls")
    assert result.exit_code == 1
    assert "rokuon reindex" in one_line(result)
    assert rokuon(tmp_path, "reindex").stdout == "2 calls in the index\n"
    assert len(json.loads(rokuon(tmp_path, "calls", "--json").stdout)) == 2


def test_busy_index(data: Path) -> None:
    import fcntl  # noqa: PLC0415

    from rokuon.store import database  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "READ_PATIENCE_S", 0.05)
        held = os.open(data, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        result = rokuon(data, "calls")
        os.close(held)
    assert result.exit_code == 4
    assert "in use" in one_line(result)


def test_an_unforeseen_failure_is_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rokuon.store import query  # noqa: PLC0415

    def fail(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(query, "list_calls", fail)
    result = rokuon(data, "calls")
    assert result.exit_code == 1
    assert "fault of rokuon" in one_line(result)


# -- calls -------------------------------------------------------------------
def without_messages(call: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in call.items() if key != "messages"}


def test_json_is_the_sidecars_newest_first(data: Path) -> None:
    result = rokuon(data, "calls", "--limit", 1000000, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [without_messages(call) for call in reversed(MADE)]
    assert rokuon(data, "calls", "--json").stdout == result.stdout
    lines = rokuon(data, "calls", "--jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == json.loads(result.stdout)


def test_json_does_not_depend_on_the_order_of_recording(data: Path, tmp_path: Path) -> None:
    other = archive(tmp_path, MADE[::-1])
    assert rokuon(other, "calls", "--json").stdout == rokuon(data, "calls", "--json").stdout


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_archive_answers(tmp_path: Path, exists: bool) -> None:
    data = tmp_path if exists else tmp_path / "none"
    for args, want in ((["--json"], "[]\n"), (["--jsonl"], ""), ([], "")):
        result = rokuon(data, "calls", *args)
        assert (result.exit_code, result.stdout, result.stderr) == (0, want, "")
    assert rokuon(data, "calls", "--csv").stdout.startswith("id,start,")
    assert rokuon(data, "stats").exit_code == 0
    assert rokuon(data, "show", "last").exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_filters_reach_the_query(data: Path) -> None:
    args = ["--since", "2026-11-24", "--until", "2026-11-24", "--number", "03-1234-5678", "--state", "answered", "--limit", "2"]
    found = json.loads(rokuon(data, "calls", *args, "--json").stdout)
    assert [call["id"] for call in found] == [MADE[8]["id"], MADE[0]["id"]]
    assert json.loads(rokuon(data, "calls", "--name", "田中　太郎", "--codec", "PCMU", "--tag", "vip", "--json").stdout)


def test_table_shows_local_time_and_both_parties(data: Path) -> None:
    lines = rokuon(data, "calls", "--sort", "oldest", "--limit", 1).stdout.splitlines()
    assert lines[0].split() == ["START", "CALLER", "CALLEE", "STATE", "TALK", "CODEC", "MOS", "CALL"]
    assert lines[1].split() == ["2026-11-24", "12:00:00", "田中", "太郎", "0312345678", "ﾔﾏﾀﾞ", "ﾊﾅｺ", "100", "answered",
                                "1:00", "PCMU", "4.41", MADE[0]["id"]]


def test_a_sidecar_that_is_gone_is_said(tmp_path: Path) -> None:
    made = some(3)
    archive(tmp_path, made)
    Layout(tmp_path).sidecar(made[1]["id"]).unlink()
    result = rokuon(tmp_path, "calls", "--json")
    assert result.exit_code == 1
    assert [call["id"] for call in json.loads(result.stdout)] == [made[2]["id"], made[0]["id"]]
    assert "no such file" in result.stderr


def test_csv_is_no_program(tmp_path: Path) -> None:
    archive(tmp_path, [*(hostile(n) for n in range(len(HOSTILE))), sidecar(1)])
    rows = list(csv.DictReader(io.StringIO(rokuon(tmp_path, "calls", "--csv").stdout, newline="")))
    assert len(rows) == len(HOSTILE) + 1
    for row in rows:
        for value in row.values():
            assert not value.startswith(("=", "@", "\t", "\r", "-")), value
            assert not value.startswith("+") or value[1:].isdecimal()
    row = next(row for row in rows if row["id"] == sidecar(1)["id"])
    assert (row["caller_number"], row["start"]) == ("+819012345678", sidecar(1)["start"])


# -- one call ----------------------------------------------------------------
def test_show(data: Path) -> None:
    out = rokuon(data, "show", MADE[0]["id"][17:]).stdout
    for text in ("田中 太郎 <0312345678>", "sip:100@pbx.example", "2026-11-24 12:00:00.123", "after 1 min 0 s", "by callee",
                 "PCMU", "100/7", "(masked) 120 ms", "hold", "INVITE sip:100@pbx.example SIP/2.0", "wav/ulaw", "vip",
                 str(data / MADE[0]["audio"]["path"])):
        assert text in out
    assert "none: no media" in rokuon(data, "show", MADE[2]["id"]).stdout
    assert json.loads(rokuon(data, "show", MADE[0]["id"], "--json").stdout) == MADE[0]
    assert json.loads(rokuon(data, "show", "last", "--json").stdout) == MADE[-1]


def test_hostile_calls_are_shown_harmless(tmp_path: Path) -> None:
    archive(tmp_path, [hostile(n) for n in range(len(HOSTILE))])
    for args in (["calls"], ["calls", "--json"], ["calls", "--csv"], *(["show", hostile(n)["id"]] for n in range(len(HOSTILE))),
                 ["show", "last", "--json"], ["sql", "FROM calls"], ["sql", "FROM legs", "--json"]):
        result = rokuon(tmp_path, *args)
        assert result.exit_code == 0
        seen = result.stdout.replace("\n", "").replace("\r", "" if "--csv" in args else "\r")
        if args[-1] != "--csv":  # a file for programs: text as it is, but no formula
            assert "\x1b" not in seen
            assert "\u202e" not in seen
            assert "\x9b" not in seen
        assert "\0" not in seen
    lines = rokuon(tmp_path, "show", hostile(10)["id"]).stdout.splitlines()
    assert max(map(len, lines)) < 1000


def test_play_without_a_sound_card_says_where_the_file_is(data: Path, tmp_path: Path) -> None:
    made = sidecar(0)
    archive(tmp_path, [made])
    (tmp_path / made["audio"]["path"]).write_bytes(b"")
    result = rokuon(tmp_path, "play", "last", PATH="/nonexistent")
    assert result.exit_code == 0
    assert made["audio"]["path"] in result.stdout
    assert "is missing" in one_line(rokuon(data, "play", MADE[0]["id"]))
    assert "no media" in one_line(rokuon(data, "play", MADE[2]["id"]))


# -- export, sql and the rest ------------------------------------------------
@pytest.fixture
def audible(tmp_path: Path) -> Path:
    """An archive of three calls with a file each, the second without."""
    root = archive(tmp_path / "data", some(3))
    (root / sidecar(0)["audio"]["path"]).write_bytes(b"RIFF....WAVE")
    return root


def test_export_needs_valid_audio_and_says_where_it_wrote(audible: Path, tmp_path: Path) -> None:
    import soundfile  # type: ignore[import-untyped] # noqa: PLC0415

    soundfile.write(str(audible / sidecar(0)["audio"]["path"]), [[0.1, 0.2]] * 800, 8000, "PCM_16")
    target = tmp_path / "call.flac"
    result = rokuon(audible, "export", sidecar(0)["id"], "-o", target)
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    assert target.read_bytes()[:4] == b"fLaC"
    assert rokuon(audible, "export", sidecar(0)["id"], "-o", target).exit_code == 1
    assert rokuon(audible, "export", sidecar(0)["id"], "-o", target, "--force").exit_code == 0
    result = rokuon(audible, "export", "--since", "2026-11-01", "-o", tmp_path / "all", "--layout", "split")
    assert result.exit_code == 0
    names = sorted(p.name for p in (tmp_path / "all").iterdir())
    assert names == [f"{sidecar(0)['id']}-callee.wav", f"{sidecar(0)['id']}-caller.wav"]
    result = rokuon(audible, "export", sidecar(1)["id"], "-o", tmp_path / "x.wav")
    assert result.exit_code == 1
    assert "no media" in one_line(result)
    assert rokuon(audible, "export", sidecar(0)["id"], sidecar(1)["id"], "-o", target).exit_code == 2
    assert rokuon(audible, "export", sidecar(0)["id"], "-o", tmp_path / "x.mp3").exit_code == 2
    assert rokuon(audible, "export", "--name", "nobody", "-o", tmp_path / "x").exit_code == 0
    done = outside("--data", audible, "export", sidecar(0)["id"], "-o", "-", stdout=subprocess.PIPE)
    assert done.stdout == (audible / sidecar(0)["audio"]["path"]).read_bytes()


def test_sql(data: Path, tmp_path: Path) -> None:
    query = """SELECT state, count(*) AS calls, [1, NULL] AS l, DATE '2026-11-24' AS d, 1.5::DECIMAL(4,1) AS x
               FROM calls GROUP BY 1 ORDER BY 1"""
    rows = json.loads(rokuon(data, "sql", query, "--json").stdout)
    assert rows[0] == {"state": "answered", "calls": 10, "l": [1, None], "d": "2026-11-24", "x": 1.5}
    assert rokuon(data, "sql", query).stdout.splitlines()[0].split() == ["state", "calls", "l", "d", "x"]
    assert rokuon(data, "sql", query, "--csv").stdout.splitlines()[1] == "answered,10,1 None,2026-11-24,1.5"
    for name in ("r.csv", "r.parquet"):
        assert rokuon(data, "sql", query, "-o", tmp_path / name).exit_code == 0
        assert "is there already" in one_line(rokuon(data, "sql", query, "-o", tmp_path / name))
        assert rokuon(data, "sql", query, "-o", tmp_path / name, "--force").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.csv", "r.parquet"]
    with duckdb.connect() as db:
        assert db.execute("DESCRIBE FROM read_parquet(?)", [str(tmp_path / "r.parquet")]).fetchall()[4][1] == "DECIMAL(4,1)"
        assert db.execute("SELECT sum(calls) FROM read_parquet(?)", [str(tmp_path / "r.parquet")]).fetchone() == (40,)
    result = rokuon(data, "sql", "DELETE FROM calls")
    assert result.exit_code == 1
    one_line(result)


def test_stats(data: Path) -> None:
    found = json.loads(rokuon(data, "stats", "--json").stdout)
    assert found["states"]["answered"]["calls"] == 10
    assert found["not_recorded"] == {}
    assert rokuon(data, "stats").stdout.splitlines()[-1].split()[:2] == ["all", "40"]


def test_plugins_and_config(tmp_path: Path) -> None:
    assert "PCMU" in rokuon(None, "plugins").stdout
    file = tmp_path / "r.toml"
    file.write_text("[record]\nwindow = 2\n")
    assert f"window = 2  # {file}:2" in rokuon(None, "--config", file, "config").stdout
    assert rokuon(None, "--config", file, "config", "--check").stdout == ""
    file.write_text("[record]\nwindo = 2\n")
    result = rokuon(None, "--config", file, "config", "--check")
    assert result.exit_code == 2
    assert "r.toml:2: unknown key [record] 'windo'; nearest is 'window'" in one_line(result)


# -- as a process ------------------------------------------------------------
def test_a_reader_that_goes_away_is_no_error(data: Path) -> None:
    with subprocess.Popen([sys.executable, "-m", "rokuon", "--data", str(data), "calls", "--json"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(data: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = outside("--data", data, "calls", "--json", stdout=full)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"no space left on device" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
from rokuon.cli import main
try: main(["--help"])
except SystemExit: print(sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split("'"))
    assert not loaded & {"duckdb", "numpy", "rich", "phonenumbers", "soundfile", "rokuon.store.index", "rokuon.sniffer"}


def on_a_terminal(columns: int, *args: object) -> str:
    """What a command writes where standard output is a terminal."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen([sys.executable, "-m", "rokuon", *map(str, args)], stdout=theirs, stderr=theirs,
                              env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "LC_ALL": "C.UTF-8"}) as process:
            os.close(theirs)
            theirs = -1
            out = b""
            try:
                while chunk := os.read(ours, 65536):
                    out += chunk
            except OSError:  # how Linux says that the other end is closed
                pass
        assert process.returncode == 0
        return out.decode()
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def test_a_terminal_gets_twenty_calls_in_colour(data: Path, tmp_path: Path) -> None:
    out = on_a_terminal(80, "--data", data, "calls")
    assert len(out.splitlines()) == 21
    assert "\x1b[32manswered" in out
    assert "\x1b" not in rokuon(data, "calls").stdout
    assert "no calls yet" in on_a_terminal(80, "--data", tmp_path / "none", "calls")
