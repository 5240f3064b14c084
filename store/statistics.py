"""Calls counted by hour, day, number and the like, from the index."""

# ruff: noqa: S608 -- statements are put together from the constants in here; what is asked for goes in as a parameter

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rokuon.store.database import open_index
from rokuon.store.layout import Layout
from rokuon.store.numbers import default_region
from rokuon.store.query import CallFilter, conditions, told
from rokuon.store.sidecar import STATES

__all__ = ["KINDS", "UNANSWERED", "Bucket", "Statistics", "count_calls"]

UNANSWERED = ("cancelled", "busy", "no-answer", "failed")
"""States of calls that rang, or should have, and that nobody took."""

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LOCAL: dict[str, tuple[Callable[[datetime], str], Iterable[str]]] = {
    "hour": (lambda time: f"{time.hour:02}", [f"{hour:02}" for hour in range(24)]),
    "day": (lambda time: time.date().isoformat(), ()),
    "weekday": (lambda time: WEEKDAYS[time.weekday()], WEEKDAYS),
}
"""What a local time counts for, and the buckets that are there also when nothing is in them, in order."""

QUARTER_S = 900
"""Seconds: no zone's offset from UTC since 1972 is anything but a multiple of this."""
NUMBER = "coalesce({side}_e164, nullif({side}_plain, ''))"
"""A number however it was signalled."""
SHOWN = "nullif({side}_plain, '')"
CODECS = "nullif(array_to_string(list_sort(list_distinct(string_split(replace(codec, ' ', ''), ','))), ', '), '')"
MOST_LINES = 100_000
"""Numbers, codecs: there may be millions, as anybody can call from any number."""
COUNTED = "state, duration_s, audio_bytes, mos"


def sides(*names: str) -> str:
    return " UNION ALL ".join(f"SELECT {NUMBER} AS key, {SHOWN} AS shown, {COUNTED} FROM chosen".replace("{side}", side)
                              for side in names)


def each(key: str) -> str:
    return f"SELECT {key} AS key, NULL AS shown, {COUNTED} FROM chosen"


KEYED = {"state": each("state"), "codec": each(CODECS), "number": sides("caller", "callee"), "caller": sides("caller"),
         "callee": sides("callee")} | dict.fromkeys(LOCAL, each(f"epoch_us(start_time) // {QUARTER_S * 1_000_000}"))
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
    limit = "" if by in LOCAL else f" LIMIT {min(MOST_LINES if most is None else most, MOST_LINES) + 1}"
    states = ", ".join(f"count(*) FILTER (state = '{state}')" for state in STATES)
    with open_index(layout.index) as db, told():
        row = db.execute(f"SELECT count(*) FROM calls WHERE {where}", given).fetchone()
        rows = db.execute(f"""
            WITH chosen AS (SELECT * FROM calls WHERE {where}), keyed AS ({KEYED[by]})
            SELECT grouping(key) = 1, key, max(shown), count(*) AS calls, coalesce(sum(try_cast(1e6 * duration_s AS BIGINT)), 0),
                   coalesce(sum(audio_bytes), 0), coalesce(sum(mos), 0.0), count(mos), {states}
            FROM keyed GROUP BY GROUPING SETS ((key), ())
            ORDER BY grouping(key) DESC, calls DESC, key{limit}""", given).fetchall()
    total, found = Bucket(None), []
    for whole, key, shown, calls, talk_us, audio_bytes, mos_sum, mos_calls, *counts in rows:
        bucket = Bucket(shown or key, calls, dict(zip(STATES, counts, strict=True)), int(talk_us), int(audio_bytes), mos_sum,
                        mos_calls)
        if whole:
            total = bucket
        else:
            found.append(bucket)
    if by in LOCAL:
        found = chosen(local(found, by), most)
    return Statistics(row[0] if row else 0, found, rest(total, found), total)


def local(quarters: list[Bucket], by: str) -> list[Bucket]:
    """Buckets of quarters of an hour since 1970 as those of local time, in its order."""
    name, always = LOCAL[by]
    merged: dict[str | None, Bucket] = {key: Bucket(key) for key in always} if quarters else {}
    for quarter in quarters:
        key = None if quarter.key is None else name(here(int(quarter.key) * QUARTER_S))
        merged.setdefault(key, Bucket(key)).add(quarter)
    if always:
        return list(merged.values())
    return [merged[key] for key in sorted(merged, key=lambda key: key or "")]


def here(seconds: int) -> datetime:
    """Seconds since 1970 as local time; as UTC at the ends of the calendar."""
    time = datetime.fromtimestamp(seconds, UTC)
    try:
        return time.astimezone()
    except (OverflowError, ValueError):
        return time


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
