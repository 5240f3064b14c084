"""What a start-up imports: each press of the completion key and each --help pays for all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.store.sidecars import some

from rokuon.cli import COMMANDS
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.sidecar import write

LEAST = {"rokuon", "rokuon.cli", "rokuon.commands", "rokuon.commands.common", "rokuon.store", "rokuon.store.errors"}
"""Of ours, for anything at all."""
FOR_QUESTIONS = {"click", "duckdb", "_duckdb", "rich"}
"""Of others, for what asks the index and prints tables (rich: the width of characters alone)."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layout, calls = Layout(tmp_path_factory.mktemp("archive")), some(8)
    Index(layout.index, "JP").add_calls(calls)
    for call in calls:
        layout.make_directory(layout.folder(call["id"]))
        write(layout.sidecar(call["id"]), call, sync=False)
    return layout.root


def imported(data: Path, *arguments: str, typed: str | None = None) -> tuple[set[str], set[str]]:
    """Modules of ours, and packages of others, that the command imports; `typed`: that completing this does."""
    asking = {} if typed is None else {"_ROKUON_COMPLETE": "bash_complete", "COMP_WORDS": typed,
                                       "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    # `python -c pass` counts what the interpreter itself begins with: hooks of editable installs, sitecustomize
    nothing, done = (subprocess.run([sys.executable, "-X", "importtime", *what], capture_output=True, text=True, check=True,
                                    env={**os.environ, "ROKUON_DATA": str(data), **asking})
                     for what in (["-c", "pass"], ["-m", "rokuon", *arguments]))
    before, after = ({line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
                     for run in (nothing, done))
    names = after - before - {"imported package"}
    top = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"rokuon", "org"}  # org.python, by copy
    return {name for name in names if name.partition(".")[0] == "rokuon"}, top


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"]])
def test_help_imports_the_least(data: Path, arguments: list[str]) -> None:
    assert imported(data, *arguments) == (LEAST, {"click"})


@pytest.mark.parametrize("typed", ["rokuon ", "rokuon s", "rokuon --"])
def test_completing_commands_imports_none_of_them(data: Path, typed: str) -> None:
    assert imported(data, typed=typed) == (LEAST | {"rokuon.commands.completion"}, {"click"})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_imports_no_more_than_its_options(data: Path, command: str) -> None:
    for ours, others in (imported(data, command, "--help"), imported(data, typed=f"rokuon {command} --")):
        assert others <= {"click", "rich"}
        assert not {name for name in ours if name.split(".")[1:2] in (["sniffer"], ["decoders"], ["appliance"])}
        assert not ours & {"rokuon.store.database", "rokuon.store.index", "rokuon.store.query", "rokuon.store.settings"}


def test_completing_a_call_imports_what_asks_for_it(data: Path) -> None:
    ours, others = imported(data, typed="rokuon show ")
    assert "rokuon.store.suggest" in ours
    assert not {"rokuon.store.query", "rokuon.store.index", "rokuon.store.settings", "rokuon.sniffer"} & ours
    assert others <= FOR_QUESTIONS


@pytest.mark.parametrize("arguments", [
    ["calls"], ["calls", "--json"], ["calls", "--name", "田中", "--since", "today"], ["show", "last"], ["show", "last", "--json"],
    ["stats"], ["stats", "--by", "hour"], ["sql", "SELECT 1"], ["sql", "SELECT TIMESTAMP '2026-11-24', [1]", "--jsonl"]])
def test_questions_need_no_numpy(data: Path, arguments: list[str]) -> None:
    ours, others = imported(data, *arguments)
    assert others <= FOR_QUESTIONS
    assert {name for name in ours if name.startswith("rokuon.sniffer")} <= {"rokuon.sniffer", "rokuon.sniffer.withheld"}
    assert "rokuon.decoders" not in ours
    assert "rokuon.store.index" not in ours
