"""docs/cli.md, the manual pages and the completion scripts are those of the commands that there are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rokuon.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
PAGES = sorted((ROOT / "packaging/man").glob("*.1"))
PROSE, _, REFERENCE = TEXT.partition("<!-- options: begin")
SECTIONS = {name: text for name, text in re.findall(r"(?ms)^## (\S+)\n(.*?)(?=^## |\Z)", PROSE) if name != "Options"}
TOP = click.Context(main, info_name="rokuon", **main.context_settings)


def options(name: str | None) -> set[str]:
    """Every option of a command, of `rokuon` itself where it is None."""
    command = main if name is None else main.get_command(TOP, name)
    assert command is not None
    ctx = TOP if name is None else click.Context(command, info_name=name, parent=TOP)
    return {option for parameter in command.get_params(ctx) if isinstance(parameter, click.Option) and not parameter.hidden
            for option in [*parameter.opts, *parameter.secondary_opts]}


def commands_in(text: str) -> list[str]:
    """What stands in a text as code: lines of blocks, and what is in back quotes."""
    blocks = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))]


def strange(code: str, here: str | None) -> list[str]:
    """Options and commands in a piece of code that do not exist; `here`: the command whose section it is in."""
    found = []
    for piece in re.split(r"\s[|;&]+\s", code):
        try:
            words = shlex.split(piece, comments=True)
        except ValueError:  # a piece of prose or of JSON
            continue
        command = here
        if "rokuon" in words:
            words = words[len(words) - words[::-1].index("rokuon"):]
            names = [word for word in words if re.fullmatch("[a-z]+", word) and word in COMMANDS]
            if words and re.fullmatch("[a-z]+", words[0]) and words[0] not in COMMANDS:
                found.append(f"rokuon {words[0]}")
                continue
            command = names[0] if names else None
        elif words and words[0] in COMMANDS:
            command = words[0]
        elif not words or not words[0].startswith("-"):
            continue
        known = options(command) | options(None)
        if here is None and command is None:  # what is said of all of them
            known |= {option for name in COMMANDS for option in options(name)}
        found += [word for word in words if re.match("--?[a-zA-Z]", word) and word.partition("=")[0] not in known]
    return found


# -- docs/cli.md --------------------------------------------------------------
def test_every_command_has_its_section() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_named(name: str) -> None:
    (block,) = re.findall(rf"```\nUsage: rokuon {name} .*?```", REFERENCE, re.DOTALL)
    assert options(name) <= set(re.findall(r"(?m)(?<=[ ,])--?[\w-]+", block))


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_nothing_is_named_that_does_not_exist(name: str | None) -> None:
    text = PROSE.partition("\n## ")[0] if name is None else SECTIONS[name]
    assert [wrong for code in commands_in(text) for wrong in strange(code, name)] == []


def test_what_does_not_exist_is_found() -> None:
    """The test above looks at what it means to look at."""
    assert strange("rokuon show last --nosuch", "show") == ["--nosuch"]
    assert strange("--duration", "calls") == ["--duration"]
    assert strange("ssh box tcpdump -w - | sudo -u rokuon rokuon record -q -", "record") == ["-q"]
    assert strange("rokuon recrod -r x", "record") == ["rokuon recrod"]
    assert strange("record -i", "capture") == strange("tcpdump -w x", "record") == strange("-i eth1", "record") == []


@pytest.mark.parametrize("script", ["make-man", "make-cli-reference"])
def test_what_is_generated_is_current(script: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- manual pages -------------------------------------------------------------
def test_each_command_has_a_page() -> None:
    assert {path.name for path in PAGES} == {"rokuon.1", *(f"rokuon-{name}.1" for name in COMMANDS)}


@pytest.mark.skipif(not shutil.which("mandoc"), reason="no mandoc here")
def test_mandoc_finds_nothing_wrong() -> None:
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", *PAGES], capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if "missing date" not in line]  # a date would be that of the build
    assert told == []


@pytest.mark.skipif(not shutil.which("man") or not shutil.which("groff"), reason="no man here")
@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_man_shows_it(path: Path) -> None:
    """Without a warning, every option in it, and what can be copied as it is typed."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "120"}
    done = subprocess.run(["man", "--warnings", "-l", path], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(r".\x08|\x1b\[[\d;]*m", "", done.stdout)
    name = path.stem.partition("-")[2] or None
    assert options(name) <= set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", shown))
    command = main if name is None else main.get_command(TOP, name)
    assert command is not None
    for line in (command.epilog or "").splitlines():
        if "rokuon" in line:
            assert line.removeprefix("Example:").strip() in shown
