"""A short run of each fuzz target, the same each time: seeds mutated blindly, and by coverage where atheris is installed."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "fuzz").is_dir() or not (ROOT / "fixtures").is_dir():
    pytest.skip("not in a checkout", allow_module_level=True)

from fuzz import harness, seeds  # noqa: E402

RUNS = {"calls": 30, "ip": 250, "pcap": 250, "pcapng": 250, "rtp": 400}
"""Mutations tried of a target, where not 500: about a second's."""


@pytest.mark.parametrize("name", sorted(seeds.TARGETS))
def test_short_run(name: str) -> None:
    target = importlib.import_module(f"fuzz.{name}")
    harness.rounds(target.check, seeds.TARGETS[name](), runs=RUNS.get(name, 500), seed=1, words=getattr(target, "WORDS", ()))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", sorted(seeds.TARGETS))
def test_short_run_guided_by_coverage(name: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "fuzz" / f"{name}.py", f"-runs={RUNS.get(name, 500)}", "-seed=1",
                           "-close_fd_mask=1", f"-artifact_prefix={tmp_path}/", tmp_path / "corpus"],
                          capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stderr[-4000:]


def test_every_target_has_seeds_and_finds_what_is_wrong() -> None:
    """The loop hands on what a target raises, with the input that raised it."""
    assert set(seeds.TARGETS) == {path.stem for path in (ROOT / "fuzz").glob("*.py")} - {"harness", "seeds", "files"}
    assert all(make() for make in seeds.TARGETS.values())

    def check(data: bytes) -> None:
        assert b"\xff\xff" not in data

    with pytest.raises(AssertionError) as caught:
        harness.rounds(check, [b"abcdefgh"], runs=2_000, seed=1)
    assert any("\\xff\\xff" in note for note in caught.value.__notes__)


def test_inputs_are_taken_apart_as_they_are_made() -> None:
    parts = [b"", b"a", bytes(300)]
    assert harness.split(harness.joined(parts)) == parts
    given = harness.Input(harness.Input.of([7, 1, 2], b"rest"))
    assert (given.number(255), given.number(65_535), given.over, given.number(9), given.rest) == (7, 258, True, 0, b"rest")
    chance = random.Random(3)
    assert all(len(harness.mutated(chance, [bytes(20_000), b""], [b"word"])) <= 16_384 for _ in range(200))
