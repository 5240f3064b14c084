"""Calls counted by hour, day, number and the like, from the index."""

# ruff: noqa: S608 -- statements are put together from the constants in here; what is asked for goes in as a parameter

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb

from rokuon.store.database import open_index
from rokuon.store.layout import Layout
from rokuon.store.numbers import default_region
from rokuon.store.own_sql import told
from rokuon.store.query import CallFilter, conditions
from rokuon.store.sidecar import STATES

__all__ = ["KINDS", "UNANSWERED", "Bucket", "Statistics", "count_calls"]

UNANSWERED = ("cancelled", "busy", "no-answer", "failed")
"""States of calls that rang, or should have, and that nobody took."""

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
DAY_0 = date(1970, 1, 1)
DAY = "date_diff('day', DATE '1970-01-01', CAST({} AS DATE))"
DAY_S = 86400


def day_named(day: int) -> str:
    """A day since 1970 as ISO 8601 has it; at the ends of the calendar the last that it has."""
    return (DAY_0 + timedelta(min(max(day, (date.min - DAY_0).days), (date.max - DAY_0).days))).isoformat()


LOCAL: dict[str, tuple[str, Callable[[int], str], Iterable[str]]] = {
    "hour": ("hour(local)", lambda hour: f"{hour:02}", [f"{hour:02}" for hour in range(24)]),
    "day": (DAY.format("local"), day_named, ()),
    "weekday": ("isodow(local)", lambda day: WEEKDAYS[day - 1], WEEKDAYS),
}
"""What a local time counts for, how that is called, and the buckets that are there also when nothing is in them, in order."""
NUMBER = "coalesce({side}_e164, nullif({side}_plain, ''))"
"""A number however it was signalled."""
SHOWN = "nullif({side}_plain, '')"
CODECS = "nullif(array_to_string(list_sort(list_distinct(string_split(replace(codec, ' ', ''), ','))), ', '), '')"
MOST_LINES = 100_000
"""Numbers, codecs: there may be millions, as anybody can call from any number."""
COUNTED = "state, duration_s, audio_bytes, mos"
SUMS = """count(*) AS calls, coalesce(sum(try_cast(1e6 * duration_s AS BIGINT)), 0), coalesce(sum(audio_bytes), 0),
          coalesce(sum(mos), 0.0), count(mos)"""
STATE_COUNTS = ", ".join(f"count(*) FILTER (state = '{state}')" for state in STATES)

DAYS = f"SELECT DISTINCT {DAY.format('start_time')} FROM calls WHERE start_time IS NOT NULL AND {{where}}"
BY_LOCAL_TIME = f"""
    WITH days AS (SELECT unnest($days::BIGINT[]) AS day, unnest($changes::BIGINT[]) AS change,
                         unnest($befores::BIGINT[]) AS before, unnest($afters::BIGINT[]) AS after),
         placed AS (SELECT start_time + to_seconds(if(epoch(start_time) < change, before, after)) AS local, {COUNTED}
                    FROM calls LEFT JOIN days ON {DAY.format('start_time')} = day WHERE {{where}})
    SELECT {{key}} AS key, state, {SUMS} FROM placed GROUP BY ALL"""


def sides(*names: str) -> str:
    return " UNION ALL ".join(f"SELECT {NUMBER} AS key, {SHOWN} AS shown, {COUNTED} FROM chosen".replace("{side}", side)
                              for side in names)


def each(key: str) -> str:
    return f"SELECT {key} AS key, NULL AS shown, {COUNTED} FROM chosen"


KEYED = {"state": each("state"), "codec": each(CODECS), "number": sides("caller", "callee"), "caller": sides("caller"),
         "callee": sides("callee")}
KINDS = ("hour", "day", "weekday", "number", "caller", "callee", "codec", "state")
"""What calls can be counted by."""


@dataclass(slots=True)
class Bucket:
    """Calls that count for one hour, number …"""

    key: str | None
    """"09", "2026-11-24", "Tue", "0312345678", "G722, PCMA", "answered"; None where the calls have none. From the network."""
    calls: int = 0
    states: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    talk_us: int = 0
    audio_bytes: int = 0
    mos_sum: float = 0.0
    mos_calls: int = 0

    @property
    def answered(self) -> int:
        return self.states["answered"]

    @property
    def unanswered(self) -> int:
        return sum(self.states[state] for state in UNANSWERED)

    @property
    def talk_s(self) -> float:
        return self.talk_us / 1e6

    @property
    def mos(self) -> float | None:
        """Of the calls that have one, the mean; None where none has."""
        return self.mos_sum / self.mos_calls if self.mos_calls else None

    def add(self, other: Bucket, sign: int = 1) -> None:
        """Takes the other's calls in, or with a `sign` of -1 out."""
        self.calls += sign * other.calls
        for state, count in other.states.items():
            self.states[state] += sign * count
        self.talk_us += sign * other.talk_us
        self.audio_bytes += sign * other.audio_bytes
        self.mos_sum += sign * other.mos_sum
        self.mos_calls += sign * other.mos_calls


@dataclass(slots=True, frozen=True)
class Statistics:
    """Buckets, and what they add up to."""

    calls: int
    """How many calls were counted, each once."""
    buckets: list[Bucket]
    """By time or, where the key is none, those with most calls first."""
    others: Bucket | None
    """Those that were left out, as one; None where none was."""
    total: Bucket
    """Of all buckets; by "number", where a call counts for its caller and its callee, of twice the calls."""


def count_calls(layout: Layout, which: CallFilter, by: str, region: str | None = None, most: int | None = None) -> Statistics:
    """The calls that the filter lets through, counted by one of KINDS; hours, days and weekdays are those of the local zone.

    `most`: so many buckets, those with most calls; never more than MOST_LINES but of times. Raises
    ValueError where a number of the filter is none, StoreError.
    """
    where, given = conditions(which, region or default_region())
    with open_index(layout.index) as db, told():
        if by in LOCAL:
            found = by_local_time(db, by, where, given)
            total = Bucket(None)
            for bucket in found:
                total.add(bucket)
            found = chosen(found, most)
            return Statistics(total.calls, found, rest(total, found), total)
        whole, = db.execute(f"SELECT NULL, {SUMS}, {STATE_COUNTS} FROM calls WHERE {where}", given).fetchall()
        keyed = f"WITH chosen AS (SELECT * FROM calls WHERE {where}), keyed AS ({KEYED[by]})"
        rows = db.execute(f"""{keyed} SELECT coalesce(max(shown), key), {SUMS}, {STATE_COUNTS} FROM keyed GROUP BY key
            ORDER BY calls DESC, key LIMIT {min(MOST_LINES if most is None else most, MOST_LINES)}""", given).fetchall()
    counted, total, found = of_row(whole), Bucket(None), list(map(of_row, rows))
    for _ in range(2 if by == "number" else 1):
        total.add(counted)
    return Statistics(counted.calls, found, rest(total, found), total)


def of_row(row: tuple[Any, ...]) -> Bucket:
    key, calls, talk_us, audio_bytes, mos_sum, mos_calls, *counts = row
    return Bucket(key, calls, dict(zip(STATES, counts, strict=True)), int(talk_us), int(audio_bytes), mos_sum, mos_calls)


def by_local_time(db: duckdb.DuckDBPyConnection, by: str, where: str, given: dict[str, Any]) -> list[Bucket]:
    """Buckets by local time, in its order. The zone's offset is asked for each day on which calls began, not for each call."""
    days = [day for (day,) in db.execute(DAYS.format(where=where), given).fetchall()]
    changes, befores, afters = zip(*map(offsets, days), strict=True) if days else ((), (), ())
    zone = {"days": days, "changes": list(changes), "befores": list(befores), "afters": list(afters)}
    key, name, always = LOCAL[by]
    rows = db.execute(BY_LOCAL_TIME.format(where=where, key=key), given | zone).fetchall()
    merged: dict[str | None, Bucket] = {bucket: Bucket(bucket) for bucket in always} if rows else {}
    for value, state, calls, talk_us, audio_bytes, mos_sum, mos_calls in sorted(rows, key=lambda row: (row[0] is None, row[0])):
        named = None if value is None else name(value)
        counts = dict.fromkeys(STATES, 0) | ({state: calls} if state in STATES else {})
        some = Bucket(named, calls, counts, int(talk_us), int(audio_bytes), mos_sum, mos_calls)
        merged.setdefault(named, Bucket(named)).add(some)
    return list(merged.values())


def offsets(day: int) -> tuple[int, int, int]:
    """The second since 1970 at which the local zone's offset from UTC changes on this day since 1970 (UTC), and the offsets, in
    seconds, before it and from it on. A day on which it changes more than once is taken for one on which it does once.
    """
    first, behind = day * DAY_S, (day + 1) * DAY_S
    before, after = offset(first), offset(behind - 1)
    while before != after and behind - first > 1:
        middle = (first + behind) // 2
        first, behind = (middle, behind) if offset(middle) == before else (first, middle)
    return behind, before, after


def offset(seconds: int) -> int:
    """The local zone's offset from UTC, in seconds, that long after 1970; 0 at the ends of the calendar."""
    try:
        local = datetime.fromtimestamp(seconds, UTC).astimezone().utcoffset()
    except (OverflowError, ValueError):
        return 0
    return round(local.total_seconds()) if local else 0


def chosen(buckets: list[Bucket], most: int | None) -> list[Bucket]:
    """Those with most calls, in the order in which they came."""
    if most is None or len(buckets) <= most:
        return buckets
    kept = sorted(range(len(buckets)), key=lambda n: (-buckets[n].calls, n))[:most]
    return [buckets[n] for n in sorted(kept)]


def rest(total: Bucket, shown: list[Bucket]) -> Bucket | None:
    """What the total has beyond the buckets that are shown."""
    others = Bucket(None)
    others.add(total)
    for bucket in shown:
        others.add(bucket, -1)
    return others if others.calls else None
