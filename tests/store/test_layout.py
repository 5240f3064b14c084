"""Where things are: ids, paths, the data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.store import layout
from rokuon.store.errors import DataError, NotPermittedError
from rokuon.store.layout import Layout, data_directory, identity, is_id, make_id

ID = "20261124T013012Z-k7q2m5x4"
HOUR = "recordings/2026/11/24/01"


def test_paths_of_a_call(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.relative(layout.sidecar(ID)) == f"{HOUR}/{ID}.json"
    assert layout.relative(layout.audio(ID)) == f"{HOUR}/{ID}.wav"
    assert layout.relative(layout.audio(ID, 2, "flac")) == f"{HOUR}/{ID}-2.flac"
    assert layout.relative(layout.packets(ID)) == f"{HOUR}/{ID}.pcap"
    assert layout.relative(layout.journal(1_795_489_200_000_000_000)) == "journal/2026-11.jsonl"


@given(st.text())
def test_nothing_but_an_id_becomes_a_path(text: str) -> None:
    layout = Layout(Path("/data"))
    if is_id(text):
        assert layout.sidecar(text).is_relative_to(layout.recordings)
    else:
        with pytest.raises(ValueError, match="not an id"):
            layout.folder(text)


@given(st.integers(min_value=-(1 << 80), max_value=1 << 80), st.text())
def test_every_call_has_an_id(start_ns: int, call_id: str) -> None:
    made = make_id(start_ns, identity(call_id, "tag"))
    assert is_id(made) or start_ns < -62_135_596_800_000_000_000


def test_id_says_when_it_began() -> None:
    assert make_id(1_795_483_812_999_999_999, "k7q2m5x4") == "20261124T013012Z-k7q2m5x4"


def test_identity_tells_lists_of_parts_apart() -> None:
    assert identity("ab", "c") != identity("a", "bc")
    assert identity("a") != identity("a", "")
    assert len(identity("\ud800")) == 8


@pytest.mark.parametrize("stated", ["/etc/passwd", "recordings/../../x", "../x", "index.duckdb", "", "recordings/a\0b",
                                    "journal/x"])
def test_a_sidecar_cannot_name_files_elsewhere(stated: str) -> None:
    with pytest.raises(DataError, match="outside"):
        Layout(Path("/data")).resolve(stated)


def test_data_directory_is_found_in_order(tmp_path: Path) -> None:
    home = {"HOME": "/home/x"}
    assert data_directory("/given", {"ROKUON_DATA": "/named"}) == Path("/given")
    assert data_directory(None, {"ROKUON_DATA": "/named"}) == Path("/named")
    assert data_directory("here", {}) == Path.cwd() / "here"
    if not Path("/var/lib/rokuon").exists():
        assert data_directory(None, {**home, "XDG_DATA_HOME": "/xdg"}) == Path("/xdg/rokuon")
        assert data_directory(None, {**home, "XDG_DATA_HOME": "relative"}) == Path("/home/x/.local/share/rokuon")
        assert data_directory(None, home) == Path("/home/x/.local/share/rokuon")


def test_who_may_not_read_the_service_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than shown an empty list; recording for oneself goes on as before."""
    (service := tmp_path / "service").mkdir()
    access = os.access
    monkeypatch.setattr(layout, "SERVICE_DATA", service)
    Layout(tmp_path / "own").check()
    monkeypatch.setattr(os, "access", lambda path, mode: path != service and access(path, mode))
    with pytest.raises(NotPermittedError, match="adduser NAME rokuon"):
        Layout(tmp_path / "own").check()
    Layout(tmp_path / "own").prepare()
    Layout(tmp_path / "own").check()


def test_an_empty_directory_becomes_an_archive(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "deep" / "data")
    layout.check()
    layout.prepare()
    layout.prepare()
    assert layout.recordings.is_dir()
    assert layout.recordings.stat().st_mode & 0o777 == 0o750
    assert list(layout.ids()) == []


def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(DataError, match="other things"):
        Layout(tmp_path).prepare()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="not a directory"):
        Layout(tmp_path / "thesis.txt").check()


def test_a_mounted_volume_is_not_foreign(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    Layout(tmp_path).prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(NotPermittedError, match="permission denied"):
        Layout(tmp_path).prepare()


def test_ids_come_in_order_of_time_whatever_else_lies_there(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    ids = ["20251231T235959Z-aaaaaaaa", "20261124T013012Z-k7q2m5x4", "20261124T013012Z-z7q2m5x4", "20261124T020000Z-bbbbbbbb"]
    for call_id in reversed(ids):
        layout.make_directory(layout.folder(call_id))
        layout.sidecar(call_id).touch()
    (layout.folder(ids[1]) / f".{ids[1]}.json.1.part").touch()
    (layout.folder(ids[1]) / "notes.json").touch()
    (layout.recordings / "readme").mkdir()
    (layout.recordings / "2027").touch()
    assert list(layout.ids()) == ids
