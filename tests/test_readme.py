"""The session that the README shows is what the installed command says, and links lead somewhere.

`python tests/test_readme.py` writes the present output into the README.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
ROKUON = Path(sys.executable).with_name("rokuon")
SHOWN_DATA = "/home/you/rokuon/demo-data"
"""What stands in the README for the data directory."""


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "fixtures").rglob("*.md")])


def sessions(text: str) -> Iterator[re.Match[str]]:
    yield from re.finditer(r"```console\n(.*?)```", text, re.DOTALL)


def play(session: str, data: Path, cwd: Path) -> str:
    """The session with the output that its `rokuon` commands have now."""
    played = []
    for line in session.splitlines():
        if line.startswith("$ "):
            played.append(line)
            words = shlex.split(line[2:])
            if words[0] == "rokuon":
                environment = {**os.environ, "ROKUON_DATA": str(data), "TZ": "Asia/Tokyo"}
                environment.pop("ROKUON_CONFIG", None)
                command = [str(ROKUON), *(str(ROOT / w) if w.startswith("fixtures/") else w for w in words[1:])]
                done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                played += done.stdout.replace(str(data), SHOWN_DATA).splitlines()
    return "\n".join(re.sub(r"\s+$", "", line) for line in played) + "\n"


@pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")
def test_sessions_are_real(tmp_path: Path) -> None:
    found = [match.group(1) for match in sessions(README.read_text(encoding="utf-8"))]
    assert found
    for session in found:
        assert play(session, tmp_path / "data", tmp_path) == session, "python tests/test_readme.py writes the present output"


@pytest.mark.parametrize("document", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    for target in targets:
        if target and "://" not in target:
            assert (document.parent / target).exists(), f"{target} is not there"


def update() -> None:
    import tempfile  # noqa: PLC0415  # here only

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)

        def again(match: re.Match[str]) -> str:
            return "```console\n" + play(match.group(1), directory / "data", directory) + "```"

        text = README.read_text(encoding="utf-8")
        README.write_text(re.sub(r"```console\n(.*?)```", again, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    update()
