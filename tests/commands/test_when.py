"""Times and durations as people type them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.commands.when import duration, local, parse_duration, parse_when, talk

NOW = datetime(2026, 11, 24, 16, 30, tzinfo=UTC)  # 01:30 of the 25th in Tokyo


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(("text", "seconds"), [
    ("90", 90), ("90s", 90), ("1m30s", 90), ("1m 30s", 90), ("1:30", 90), ("1:02:03", 3723), ("2h", 7200), ("1.5h", 5400),
    ("1d", 86400), ("0", 0), ("2 min", 120)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "1x", "-5", "1:75", ":", "1h!", "٣", "1:2:3:4", "9" * 100])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize(("text", "end", "want"), [
    ("today", False, "2026-11-24T15:00:00Z"), ("today", True, "2026-11-25T15:00:00Z"),
    ("yesterday", False, "2026-11-23T15:00:00Z"),
    ("yesterday", True, "2026-11-24T15:00:00Z"), ("2h", False, "2026-11-24T14:30:00Z"), ("30m", True, "2026-11-24T16:00:00Z"),
    ("2026-11-24", False, "2026-11-23T15:00:00Z"), ("2026-11-24", True, "2026-11-24T15:00:00Z"),
    ("2026-11-24T09:30", False, "2026-11-24T00:30:00Z"), ("2026-11-24 09:30", True, "2026-11-24T00:30:00Z"),
    ("2026-11-24T09:30Z", False, "2026-11-24T09:30:00Z"),
    ("2026-11-24T09:30+01:00", False, "2026-11-24T08:30:00Z"),
    ("tuesday", False, "2026-11-23T15:00:00Z"), ("Tue", True, "2026-11-24T15:00:00Z"),
    ("火曜日", False, "2026-11-23T15:00:00Z"),
    ("wednesday", False, "2026-11-17T15:00:00Z"), ("水曜", True, "2026-11-18T15:00:00Z"),
    ("thursday", False, "2026-11-18T15:00:00Z"), ("now", False, "2026-11-24T16:30:00Z"),
    ("1h30m", False, "2026-11-24T15:00:00Z")])
def test_times_are_local(text: str, end: bool, want: str) -> None:
    assert parse_when(text, NOW, end) == datetime.fromisoformat(want)


@given(st.text() | st.text("0123456789-:TZ+dhms ", max_size=30))
def test_any_text_is_a_time_or_none(text: str) -> None:
    try:
        assert parse_when(text, NOW).tzinfo is not None
    except ValueError as error:
        assert str(error).startswith("not a ")  # noqa: PT017


@pytest.mark.usefixtures("tokyo")
def test_times_are_shown_local() -> None:
    assert local("2026-11-24T01:30:12.345678Z") == "2026-11-24 10:30:12"
    assert local("2026-11-24T01:30:12.345678Z", fraction=True) == "2026-11-24 10:30:12.345"
    assert local(datetime(2026, 11, 24, 1, 30)) == "2026-11-24 10:30:00"
    assert local(None) == ""
    assert local("0001-01-01T00:00:00.000000Z")
    assert local("9999-12-31T23:59:59.000000Z")


def test_durations_are_shown() -> None:
    assert [duration(s) for s in (None, 0, 59.9, 61, 3723)] == ["", "0:00", "0:59", "1:01", "1:02:03"]
    assert [talk(s) for s in (4, 64, 7380)] == ["4.0 s", "1 min 4 s", "2 h 3 min"]
    assert timedelta(seconds=parse_duration(duration(3723))) == timedelta(hours=1, minutes=2, seconds=3)
