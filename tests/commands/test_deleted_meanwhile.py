"""Calls that are deleted between being listed and being read: as if they had never been listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.store.archives import archive

from rokuon.cli import main
from rokuon.store import query
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.retention import remove_calls

Deleting = Callable[[Layout, Index, str], None]


def whole(layout: Layout, index: Index, call_id: str) -> None:
    assert remove_calls(layout, index, [call_id], reason="disk-full").calls == 1


def files_first(layout: Layout, index: Index, call_id: str) -> None:
    """As it is on a disk so full that the index cannot be written: the rows go later."""
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Index, "remove_calls", fail)
        assert remove_calls(layout, index, [call_id], reason="disk-full").behind == 1


def damaged(layout: Layout, _: Index, call_id: str) -> None:
    """No deletion at all."""
    layout.sidecar(call_id).unlink()


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Deleting], tuple[Path, list[str]]]:
    """An archive one of whose calls goes right after calls were listed: its directory and the calls that stay."""

    def prepare(delete: Deleting) -> tuple[Path, list[str]]:
        layout, index, ids = archive(tmp_path / "data", 5)
        each_id = query.each_id

        def found(*args: Any) -> list[str]:
            listed = list(each_id(*args))
            delete(layout, index, ids[1])
            return listed

        monkeypatch.setattr(query, "find", found)
        monkeypatch.setattr(query, "each_id", found)
        return layout.root, [call_id for call_id in ids[::-1] if call_id != ids[1]]

    return prepare


def rokuon(data: Path, *args: object) -> Result:
    return CliRunner().invoke(main, ["--data", str(data), *map(str, args)], env={"ROKUON_CONFIG": None})


@pytest.mark.parametrize("delete", [whole, files_first])
@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_calls(listing: Callable[[Deleting], tuple[Path, list[str]]], delete: Deleting, form: str) -> None:
    data, ids = listing(delete)
    result = rokuon(data, "calls", form)
    assert (result.exit_code, result.stderr) == (0, "")
    shown = json.loads(result.stdout) if form == "--json" else [json.loads(line) for line in result.stdout.splitlines()]
    assert [call["id"] for call in shown] == ids


@pytest.mark.parametrize("delete", [whole, files_first])
@pytest.mark.parametrize("form", ["wav", "pcap"])
def test_export(listing: Callable[[Deleting], tuple[Path, list[str]]], tmp_path: Path, delete: Deleting, form: str,
                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rokuon.store.export.tracks", lambda stated: [])
    data, ids = listing(delete)
    result = rokuon(data, "export", "--since", "2026-01-01", "-o", tmp_path / "out", "--format", form)
    assert result.exit_code == 0
    assert all(any(call_id in line for call_id in ids) for line in result.stderr.splitlines())


@pytest.mark.parametrize("args", [["calls", "--json"], ["export", "--since", "2026-01-01", "-o", "out", "--format", "wav"]])
def test_damage_is_no_deletion(listing: Callable[[Deleting], tuple[Path, list[str]]], args: list[str], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rokuon.store.export.tracks", lambda stated: [])
    data, _ = listing(damaged)
    result = rokuon(data, *args)
    assert result.exit_code == 1
    assert "no such file" in result.stderr
