"""Sidecars: what goes in comes out, appears whole, and hurts nobody who looks at it."""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.store.sidecars import HOSTILE, hostile, sidecar

from rokuon.store.errors import DataError
from rokuon.store.sidecar import dump, dumps, iso, nanoseconds, problems, read, write

TEXTS = st.text(st.characters())  # surrogates too
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
                    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


def without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [without_surrogates(v) for v in value]
    if isinstance(value, dict):
        return {without_surrogates(k): without_surrogates(v) for k, v in value.items()}
    return value


@given(st.dictionaries(TEXTS, JSON))
def test_what_is_written_is_read(value: dict[str, Any]) -> None:
    clean = without_surrogates(value)
    assert json.loads(dump(value)) == clean
    assert json.loads(dumps(value)) == clean


@given(st.dictionaries(TEXTS, JSON))
def test_text_obeys_no_terminal(value: dict[str, Any]) -> None:
    for character in dumps(value) + dump(value).decode().replace("\n", ""):
        assert unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(character) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@given(st.integers(min_value=-62_135_596_800_000_000, max_value=253_402_300_799_999_999))
def test_times_keep_their_microseconds(microseconds: int) -> None:
    text = iso(microseconds * 1000)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
    assert nanoseconds(text) == microseconds * 1000
    assert datetime.fromisoformat(text) - datetime.fromisoformat("1970-01-01T00:00:00Z") == timedelta(microseconds=microseconds)


def test_nanoseconds_are_cut() -> None:
    assert iso(1_795_489_200_123_456_999) == "2026-11-24T03:00:00.123456Z"


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, sidecar(1))
    assert read(path) == sidecar(1)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write(path, sidecar(1))
    with pytest.raises(ValueError, match="JSON"):
        write(path, {"duration_s": float("nan")})
    assert read(path) == sidecar(1)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write(tmp_path / "folder.json", sidecar(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.json", "x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"null", b"[" * 100_000, b'{"a":1}{'])
def test_what_is_no_sidecar_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a sidecar"):
        read(path)


def test_a_missing_one_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "x.json")


def test_made_sidecars_are_sound() -> None:
    assert not any(problems(sidecar(n)) for n in range(24))
    assert not any(problems(hostile(n)) for n in range(len(HOSTILE)))


@pytest.mark.parametrize(("key", "value"), [
    ("id", "../../etc/passwd"), ("schema", 2), ("state", "ringing"), ("start", "2026-11-24 03:00"), ("start", None),
    ("legs", None), ("streams", [{}]), ("audio", {}), ("hangup_by", "both"), ("anomalies", []),
    ("revision", True), ("caller", None)])
def test_what_is_wrong_is_named(key: str, value: Any) -> None:
    assert problems(sidecar(0, **{key: value})) == [key]


def test_a_missing_key_is_named_and_more_keys_are_welcome() -> None:
    made = sidecar(0, colour="green")
    assert problems(made) == []
    del made["events"]
    assert problems(made) == ["events"]
    assert problems(sidecar(0, audio=None)) == ["audio_reason"]
    assert problems(sidecar(0, audio={"pending": True})) == []
