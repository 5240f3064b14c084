"""The shape of the source: files short enough to read at a sitting, each saying what it is for."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("sniffer", "decoders", "store", "appliance", "commands")  # commands: where cli.py has outgrown one file
MOST_LINES = 400
REASON = "Over 400 lines:"
"""What the reason for a longer file begins with, among its first 20 lines."""


def source_files() -> list[Path]:
    """Every Python file that is ours, and what else is code."""
    code = [ROOT / "cli.py", ROOT / ".ci" / "run"]
    for room in (*ROOMS, "src", "tests", "bench", "examples", "fixtures", "fuzz", "scripts", "systemd"):
        for folder, folders, names in os.walk(ROOT / room):
            folders[:] = [f for f in folders if f != "__pycache__" and not f.startswith(".")]
            paths = [Path(folder) / name for name in names]
            code += [p for p in paths if not p.is_symlink() and (p.suffix in {".py", ".sql", ".sh"} or room == "scripts")]
    return sorted(code)


def modules() -> list[Path]:
    return [p for p in source_files() if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in {*ROOMS, "cli.py", "src"}]


def test_no_file_is_long_without_a_reason() -> None:
    too_long = []
    for path in source_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MOST_LINES and not any(REASON in line for line in lines[:20]):
            too_long.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
    assert not too_long, f"split them, or say why not near the top ({REASON!r} and the reason)"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no docstring"


def test_rooms_are_linked_into_the_package() -> None:
    """A room that is not linked would be missing from every installation."""
    rooms = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name in ROOMS}
    linked = {p.name for p in (ROOT / "src" / "rokuon").iterdir() if p.is_symlink()} - {"cli.py"}
    assert rooms == linked
