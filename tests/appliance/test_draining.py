"""`rokuon drain` where nothing makes recordings: it starts the process that does, for as long as it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rokuon.appliance import draining
from rokuon.appliance.correlating import DRAIN
from rokuon.cli import main


def drain(*options: object) -> Result:
    return CliRunner().invoke(main, [*map(str, options[:-1]), "drain", *options[-1:]], env={"ROKUON_CONFIG": None})


def test_the_process_has_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = tmp_path / "a.toml", tmp_path / "data"
    config.write_text("[record]\nkeep_packets = true\n")
    started: list[list[str]] = []
    begin = subprocess.Popen

    def popen(command: list[str]) -> Any:
        started.append(command)
        (data / "spool" / DRAIN).unlink()
        return begin([sys.executable, "-c", "import signal; signal.pause()"])

    monkeypatch.setattr(draining.subprocess, "Popen", popen)
    result = drain("--config", config, "--data", data, "--timeout=30")
    assert result.exit_code == 0
    (command,) = started
    assert command[1:5] == ["-m", "rokuon", "--config", str(config)]
    assert command[-5:-2] == ["--data", str(data), "correlate"]


def test_nothing_is_in_progress(tmp_path: Path) -> None:
    result = drain("--data", tmp_path / "data", "--timeout=60")
    assert (result.exit_code, result.output) == (0, "")
    assert not (tmp_path / "data" / "spool" / DRAIN).exists()


def test_too_little_time_leaves_the_request(tmp_path: Path) -> None:
    result = drain("--data", tmp_path / "data", "--timeout=0.0001")
    assert result.exit_code == 1
    assert "rokuon live" in result.output
    assert (tmp_path / "data" / "spool" / DRAIN).exists()
