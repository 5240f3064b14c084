"""Completion: what shells are answered, that they are never answered with an error, and that bash, zsh and fish take it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import click
import pytest
from tests.store.sidecars import HOSTILE, hostile, some

from rokuon.cli import COMMANDS, main
from rokuon.commands.completion import MOST, Offered, offer
from rokuon.store import suggest as suggestions
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.suggest import suggest

SCRIPTS = Path(__file__).resolve().parents[2] / "packaging/completion"
MADE = some(70)
NEWEST = [call["id"] for call in sorted(MADE, key=lambda call: str(call["start"]), reverse=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    Index(Layout(root).index, "JP").add_calls(MADE)
    return root


def asked(data: Path | str, words: str, shell: str = "zsh", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell's script runs it; the last word, which may be empty, is to be completed."""
    given = words.split(" ")
    return subprocess.run([sys.executable, "-m", "rokuon"], capture_output=True, text=True, check=False, env={
        **os.environ, "ROKUON_DATA": str(data), "_ROKUON_COMPLETE": f"{shell}_complete", "COMP_WORDS": words,
        "COMP_CWORD": given[-1] if shell == "fish" else str(len(given) - 1), **environment})


def answers(data: Path | str, words: str, **environment: str) -> list[tuple[str, str, str]]:
    """Type, value and help of each thing that zsh is offered."""
    done = asked(data, words, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) % 3 == 0
    return list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))


def values(data: Path | str, words: str, **environment: str) -> list[str]:
    return [value for _, value, _ in answers(data, words, **environment)]


# -- calls --------------------------------------------------------------------
@pytest.mark.parametrize("command", ["show", "play", "export", "decode"])
def test_calls_are_offered_newest_first(data: Path, command: str) -> None:
    assert values(data, f"rokuon {command} ") == ["last", *NEWEST[:MOST]]


def test_beginnings_of_ids(data: Path) -> None:
    newest = NEWEST[0]
    for typed in (newest[:15], newest[:15].lower(), newest[:20], newest):
        assert values(data, f"rokuon show {typed}") == [newest]
    day = NEWEST[5][:8]
    assert values(data, f"rokuon show {day}") == [call for call in NEWEST if call.startswith(day)][:MOST]


def test_beginnings_of_last_parts(data: Path) -> None:
    letter = next(call[17] for call in NEWEST if call[17].isalpha() and call[17] not in "lt")
    assert values(data, f"rokuon show {letter}") == [call[17:] for call in NEWEST if call[17] == letter]
    assert values(data, f"rokuon show {NEWEST[3][17:21]}") == [NEWEST[3][17:]]


@pytest.mark.parametrize("typed", ["zz!", "x" * 5000, "%", "2026;", "\udcff", "9" * 400])
def test_what_can_be_no_call_has_no_answer(data: Path, typed: str) -> None:
    assert values(data, f"rokuon show {typed}") == []


def test_an_open_quotation_is_none(data: Path) -> None:
    assert values(data, f"rokuon show '{NEWEST[0]}") == [NEWEST[0]]


def test_calls_that_are_named_already_are_not_offered_again(data: Path) -> None:
    assert values(data, f"rokuon export {NEWEST[0]} last ")[:2] == NEWEST[1:3]


def test_help_says_which_call_it_is(data: Path) -> None:
    _, value, text = answers(data, f"rokuon show {NEWEST[0]}", TZ="Asia/Tokyo")[0]
    call = MADE[-1]
    assert value == call["id"]
    assert (call["caller"]["name"] or call["caller"]["number"]) in text
    assert (call["callee"]["name"] or call["callee"]["number"]) in text
    assert call["state"] in text


def test_the_archive_is_the_one_that_is_named(data: Path, tmp_path: Path) -> None:
    assert values(tmp_path, f"rokuon --data {data} show ")[1] == NEWEST[0]
    assert values(data, f"rokuon --data {tmp_path} show ") == []


def test_hostile_text_is_made_harmless(tmp_path: Path) -> None:
    made: list[dict[str, Any]] = [hostile(n) for n in range(len(HOSTILE))]
    Index(Layout(tmp_path).index, "JP").add_calls(made)
    offered = answers(tmp_path, "rokuon show ")
    assert {value for _, value, _ in offered} == {"last", *(call["id"] for call in made)}
    for _, _, text in offered:
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in text)
        assert len(text) < 100


# -- silence ------------------------------------------------------------------
def test_silent_without_an_index(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        assert values(place, "rokuon show ") == []
    assert list(tmp_path.iterdir()) == []  # and nothing is made


def test_silent_where_the_index_is_busy(data: Path) -> None:
    directory = os.open(data, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        done = asked(data, "rokuon show ")
    finally:
        os.close(directory)
    assert (done.stdout, done.stderr) == ("", "")
    assert values(data, "rokuon show ")


def test_silent_where_it_takes_long(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "SELECT count(*) FROM range(1_000_000_000) a, range(1_000_000_000) b WHERE (a.range + b.range) % $1 = 1"
    monkeypatch.setattr(suggestions, "NEWEST", endless)
    assert suggest(Layout(data), "", 50) == []


@pytest.mark.parametrize("content", [b"no index", b"\0" * 20_000])
def test_silent_where_the_index_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.duckdb").write_bytes(content)
    done = asked(tmp_path, "rokuon show ")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("environment", [
    {"COMP_CWORD": "x"}, {"COMP_CWORD": "-5"}, {"COMP_CWORD": "99"}, {"COMP_WORDS": "rokuon 'show"}, {"COMP_WORDS": ""},
    {"COMP_WORDS": "rokuon nosuch "}, {"COMP_WORDS": "rokuon --nosuch show "}, {"_ROKUON_COMPLETE": "nosuch_complete"},
    {"_ROKUON_COMPLETE": "zsh_nosuch"}, {"_ROKUON_COMPLETE": "zsh"}, {"ROKUON_DATA": "/dev/null"}])
def test_silent_whatever_is_asked(data: Path, environment: dict[str, str]) -> None:
    done = asked(data, "rokuon show ", **environment)
    assert done.stderr == ""
    assert "Traceback" not in done.stdout


# -- what else is offered -----------------------------------------------------
def test_commands_with_what_they_do(data: Path) -> None:
    offered = answers(data, "rokuon ")
    assert [(value, text) for _, value, text in offered if not value.startswith("-")] == list(COMMANDS.items())
    assert values(data, "rokuon re") == ["record", "reindex"]
    assert "--data" in values(data, "rokuon --")


@pytest.mark.parametrize(("words", "kind"), [
    ("rokuon record -r ", "file"), ("rokuon record -r a.pcap b", "file"), ("rokuon doctor -r ", "file"),
    ("rokuon sql -o ", "file"), ("rokuon export last -o ca", "file"), ("rokuon --config ", "file"),
    ("rokuon metrics --textfile ", "file"), ("rokuon --data ", "dir")])
def test_files(data: Path, words: str, kind: str) -> None:
    assert answers(data, words) == [(kind, words.rpartition(" ")[2], "_")]


def test_interfaces_and_choices(data: Path) -> None:
    there = {line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}
    assert set(values(data, "rokuon record -i ")) <= there
    assert ("lo" in there) == (values(data, "rokuon capture -i lo") == ["lo"])
    assert values(data, "rokuon export last --format o") == ["opus"]
    assert "--since" in values(data, "rokuon calls --s")


def test_every_call_and_file_can_be_completed() -> None:
    """Of commands that come later, too."""
    top = click.Context(main, info_name="rokuon")
    for name in COMMANDS:
        command = main.get_command(top, name)
        assert command is not None
        for parameter in command.params:
            offer(parameter)
            if isinstance(parameter, click.Argument) and parameter.name in ("call", "calls"):
                assert isinstance(parameter.type, Offered), f"{name}: metavar CALL"


def test_only_as_many_as_can_be_looked_at(data: Path) -> None:
    assert [call.name for call in suggest(Layout(data), "", 3)] == NEWEST[:3]
    assert suggest(Layout(data), "no call", 3) == []


def test_no_command_is_imported_to_name_them() -> None:
    """Nor DuckDB: each press of the key is a start-up."""
    code = """if True:
        import os, sys
        os.environ.update({"_ROKUON_COMPLETE": "bash_complete", "COMP_WORDS": "rokuon ", "COMP_CWORD": "1"})
        from rokuon.cli import COMMANDS, main
        try:
            main()
        except SystemExit:
            pass
        commands = {f"rokuon.commands.{name}" for name in COMMANDS}
        print(sorted(sys.modules.keys() & {*commands, "duckdb", "numpy", "rich"}))
        """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


# -- shells -------------------------------------------------------------------
@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH on which `rokuon` is this one."""
    program = tmp_path / "rokuon"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rokuon "$@"\n')
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def in_shell(command: list[str], script: str, path: str, data: Path, cwd: Path) -> list[str]:
    done = subprocess.run([*command, script], cwd=cwd, capture_output=True, text=True, check=False,
                          env={"PATH": path, "ROKUON_DATA": str(data), "HOME": str(cwd), "LC_ALL": "C.UTF-8"})
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash(data: Path, path: str, tmp_path: Path) -> None:
    script = f"""
        source {SCRIPTS}/rokuon.bash
        compopt() {{ echo "compopt $1 $2"; }}  # there is no line to be edited
        ask() {{
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _rokuon_completion rokuon
            printf '%s\\n' "${{COMPREPLY[@]}}"
        }}
        complete -p rokuon
        ask rokuon show {NEWEST[0][:15]}
        ask rokuon rec
        ask rokuon export -o x
    """
    assert in_shell(["bash", "--norc", "-c"], script, path, data, tmp_path) == [
        "complete -o nosort -F _rokuon_completion rokuon", NEWEST[0], "record", "compopt -o default", ""]


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh here")
def test_zsh(data: Path, path: str, tmp_path: Path) -> None:
    script = f"""
        compdef() {{ echo compdef $*; }}
        source {SCRIPTS}/rokuon.zsh
        _describe() {{ print -rl -- $completions_with_descriptions; }}
        compadd() {{ print -rl -- $completions; }}
        _path_files() {{ echo _path_files $*; }}
        ask() {{ words=("$@"); CURRENT=$#; _rokuon_completion; }}
        ask rokuon show {NEWEST[0][:15]}
        ask rokuon rec
        ask rokuon export -o x
    """
    first, call, record, files = in_shell(["zsh", "-f", "-c"], script, path, data, tmp_path)
    assert (first, files) == ("compdef _rokuon_completion rokuon", "_path_files -f")
    assert call.startswith(f"{NEWEST[0]}:20")
    assert record == f"record:{COMMANDS['record']}"


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish here")
def test_fish(data: Path, path: str, tmp_path: Path) -> None:
    (tmp_path / "xy.wav").touch()
    script = f"""
        source {SCRIPTS}/rokuon.fish
        complete -C "rokuon show {NEWEST[0][:15]}"
        complete -C "rokuon rec"
        complete -C "rokuon --da"
        complete -C "rokuon export -o x"
    """
    call, record, option, file = in_shell(["fish", "--no-config", "-c"], script, path, data, tmp_path)
    assert call.startswith(f"{NEWEST[0]}\t20")
    assert record == f"record\t{COMMANDS['record']}"  # with a comma
    assert option == "--data\tWhere recordings are.  [$ROKUON_DATA, /var/lib/rokuon, $XDG_DATA_HOME/rokuon]"
    assert file == "xy.wav"
