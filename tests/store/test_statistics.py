"""Local time of many calls: the zone's offset, asked for day by day, is that of each second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.sidecars import sidecar

from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.query import CallFilter
from rokuon.store.sidecar import STATES
from rokuon.store.statistics import count_calls, offsets

DAY_S = 86400
ZONES = ("Asia/Tokyo", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "UTC")


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("zone", ZONES, indirect=True)
def test_the_offset_of_a_day_is_that_of_each_of_its_seconds(zone: str) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 30_000 * DAY_S))
    def holds(second: int) -> None:
        change, before, after = offsets(second // DAY_S)
        assert (before if second < change else after) == time.localtime(second).tm_gmtoff

    holds()
    changes = {offsets(day)[0] for day in range(19_000, 19_000 + 730) if len(set(offsets(day)[1:])) == 2}
    for change in changes:
        assert time.localtime(change - 1).tm_gmtoff != time.localtime(change).tm_gmtoff
    assert len(changes) == (4 if zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe") else 0)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"], indirect=True)
def test_calls_at_the_ends_of_the_calendar_are_counted(zone: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    ends = [datetime(1, 1, 1, 1), datetime(1969, 12, 31, 23, 59), datetime(9999, 12, 31, 23)]
    calls = [sidecar(n, start=f"{time.isoformat()}.000000Z") for n, time in enumerate(ends)]
    Index(layout.index, "JP").add_calls(calls)
    for by in ("hour", "day", "weekday"):
        counted = count_calls(layout, CallFilter(), by)
        assert (counted.calls, sum(bucket.calls for bucket in counted.buckets)) == (3, 3)


@pytest.mark.parametrize("zone", ["Europe/Berlin"], indirect=True)
def test_many_calls_are_counted_as_one_by_one(zone: str, tmp_path: Path) -> None:
    """A call every 17 minutes from before one change of the clocks to after it, some without a start."""
    layout = Layout(tmp_path)
    starts = [datetime(2025, 10, 24, 23, 59, 59, 700_000, UTC) + timedelta(minutes=17 * n) for n in range(250)]
    Index(layout.index, "JP").add_calls([sidecar(n) for n in range(len(starts) + 2)])
    with duckdb.connect(str(layout.index)) as db:
        db.execute("UPDATE calls SET start_time = NULL")
        db.execute("""UPDATE calls SET start_time = s.t FROM (SELECT unnest($1::TIMESTAMP[]) AS t, unnest(range($2)) AS n) s
                      WHERE calls.rowid = s.n""", [[start.replace(tzinfo=None) for start in starts], len(starts)])
        states = dict(db.execute("SELECT rowid, state FROM calls").fetchall())
    for by, form in (("hour", "%H"), ("day", "%Y-%m-%d"), ("weekday", "%a")):
        want: dict[tuple[str | None, str], int] = {}
        for n, state in states.items():
            key = starts[n].astimezone().strftime(form) if n < len(starts) else None
            want[key, state] = want.get((key, state), 0) + 1
        counted = count_calls(layout, CallFilter(), by)
        assert {(b.key, s): b.states[s] for b in counted.buckets for s in STATES if b.states[s]} == want
        assert counted.total.calls == len(states)
