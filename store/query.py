"""Every question to the index."""

# ruff: noqa: S608 -- statements are put together from the constants in here; what is asked for goes in as a parameter

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

import duckdb

from rokuon.store.database import open_index
from rokuon.store.errors import AmbiguousCallError, NoSuchCallError
from rokuon.store.layout import Layout
from rokuon.store.names import fold, parts_of
from rokuon.store.numbers import Wanted, default_region, wanted
from rokuon.store.suggest import BEGINNING, LAST_PART

__all__ = ["COLUMNS", "SORTS", "CallFilter", "CallRow", "conditions", "each_id", "find", "list_calls", "pages", "resolve",
           "state_counts"]

SORTS = {
    "start": "start_time DESC NULLS LAST", "oldest": "start_time ASC NULLS LAST", "duration": "duration_s DESC NULLS LAST",
    "setup": "setup_s DESC NULLS LAST", "mos": "mos ASC NULLS LAST", "lost": "lost DESC NULLS LAST",
    "caller": "caller_plain ASC NULLS LAST", "callee": "callee_plain ASC NULLS LAST",
}
"""Values of --sort; calls that are equal by it are in the order of `start`, newest first."""


@dataclass(slots=True, frozen=True)
class CallFilter:
    """Which calls; every field that is set must hold."""

    since: datetime | None = None
    until: datetime | None = None
    """Calls that start before this."""
    numbers: Sequence[str] = ()
    """Of the caller or the callee; each of them, as are those below."""
    callers: Sequence[str] = ()
    callees: Sequence[str] = ()
    name: str | None = None
    """Part of the caller's or the callee's name."""
    states: Sequence[str] = ()
    """Any of these."""
    min_duration_s: float | None = None
    codec: str | None = None
    max_mos: float | None = None
    tag: str | None = None
    text: str | None = None
    """Part of any name, number, URI, tag or note."""
    sort: str = "start"
    limit: int | None = None

    @property
    def chosen(self) -> bool:
        """Whether it leaves anything out but by sort and limit."""
        return self != CallFilter(sort=self.sort, limit=self.limit)


class CallRow(NamedTuple):
    """What lists show of a call. Times are UTC, without zone, in seconds and µs as the index has them."""

    id: str
    start: datetime | None
    answer: datetime | None
    end: datetime | None
    state: str
    duration_s: float | None
    setup_s: float | None
    caller_number: str | None
    caller_name: str | None
    caller_uri: str | None
    caller_address: str | None
    callee_number: str | None
    callee_name: str | None
    callee_uri: str | None
    callee_address: str | None
    sip_status: int | None
    end_reason: str | None
    hangup_by: str | None
    codec: str | None
    packets: int | None
    lost: int | None
    mos: float | None
    audio_path: str | None
    audio_duration_s: float | None
    audio_reason: str | None
    tags: list[str]


COLUMNS = CallRow._fields
SELECTED = ", ".join({"start": "start_time", "answer": "answer_time", "end": "end_time"}.get(c, c) for c in COLUMNS[:-1])
TAGS = """SELECT id, list(value ORDER BY annotation) FROM annotations
          WHERE kind = 'tag' AND id IN (SELECT unnest(?::VARCHAR[])) GROUP BY id"""
DAYS = "SELECT CAST(start_time AS DATE) AS day, count(*) FROM calls WHERE {} GROUP BY day ORDER BY day NULLS LAST"
PAGE = 20_000
"""Calls."""
FEW = 1000
TIMED = ("start", "oldest")
"""Orders of time."""
MARKS = {"caller": "<", "callee": ">"}
NAMED = """
    SELECT id FROM calls WHERE {id}
    UNION SELECT id FROM annotations WHERE kind = 'also-known-as' AND ({value})
    ORDER BY id LIMIT 4"""
FOLDED = ("caller_folded", "callee_folded", "words")
RAW = ("caller_number", "callee_number", "caller_uri", "callee_uri", "caller_plain", "callee_plain")


def conditions(which: CallFilter, region: str | None) -> tuple[str, dict[str, Any]]:
    """The filter as a WHERE clause and its parameters. Raises ValueError where a number is none."""
    clauses: list[str] = ["true"]
    given: dict[str, Any] = {}

    def parameter(value: object) -> str:
        name = f"p{len(given)}"
        given[name] = value
        return f"${name}"

    def number(text: str, *sides: str) -> str:
        want = wanted(text, region)
        tests = []
        if want.suffix:
            suffix = parameter(want.suffix)
            compared = "{side}_plain = " + suffix if want.whole else "ends_with({side}_plain, " + suffix + ")"
            if want.e164:
                equal = "{side}_e164 = " + parameter(want.e164)
                compared = f"CASE WHEN {{side}}_e164 IS NULL THEN {compared} ELSE {equal} END"
            tests.append(compared)
        tests += [f"starts_with(coalesce({{side}}_e164, {{side}}_plain), {parameter(begin)})" for begin in want.begins]
        places = [test.format(side=side) for side in sides for test in tests]
        marks = "[<>&]" if len(sides) > 1 else MARKS[sides[0]]
        literal = parameter(" " if want.begins else want.suffix)  # in every line that can match, and quickly looked for
        places.append(f"(contains(words, {literal}) AND regexp_matches(words, {parameter(line_of(want, marks))}))")
        return "(" + " OR ".join(places) + ")"

    def named(text: str) -> str:
        parts = [parameter(part) for part in parts_of(text)]
        return " OR ".join(" AND ".join(f"contains({side}, {part})" for part in parts) or "false"
                           for side in ("caller_folded", "callee_folded"))

    if which.since is not None:
        clauses.append(f"start_time >= {parameter(naive(which.since))}")
    if which.until is not None:
        clauses.append(f"start_time < {parameter(naive(which.until))}")
    clauses += [number(text, "caller", "callee") for text in which.numbers]
    clauses += [number(text, "caller") for text in which.callers]
    clauses += [number(text, "callee") for text in which.callees]
    if which.name is not None:
        clauses.append(f"({named(which.name)})")
    if which.states:
        clauses.append(f"state IN (SELECT unnest({parameter(list(which.states))}::VARCHAR[]))")
    if which.min_duration_s is not None:
        clauses.append(f"duration_s >= {parameter(which.min_duration_s)}")
    if which.codec is not None:
        clauses.append(f"id IN (SELECT id FROM streams WHERE lower(codec) = lower({parameter(which.codec)}))")
    if which.max_mos is not None:
        clauses.append(f"mos <= {parameter(which.max_mos)}")
    if which.tag is not None:
        clauses.append(f"id IN (SELECT id FROM annotations WHERE kind = 'tag' AND value = {parameter(which.tag)})")
    if which.text is not None:
        folded, lower = parameter(fold(which.text)), parameter(which.text.lower())
        places = [f"contains({c}, {folded})" for c in FOLDED] + [f"contains(lower({c}), {lower})" for c in RAW]
        clauses.append("(" + " OR ".join(places) + ")")
    return " AND ".join(clauses), given


def line_of(want: Wanted, marks: str) -> str:
    """A regular expression (RE2) for a line of the column `words`, as `rokuon.store.rows.words` writes them."""
    lines = [re_escaped(want.e164)] if want.e164 else []
    if want.suffix:
        lines.append(("=" if want.whole else "=\\S*" if want.e164 else "[=+]\\S*") + re_escaped(want.suffix))
    lines += [f"=?{re_escaped(begin)}\\S*" for begin in want.begins]
    return f"(?m)^{marks} (?:{'|'.join(lines)})$"


def re_escaped(text: str) -> str:
    return re.sub(r"([!-/:-@\[-^`{-~])", r"\\\1", text)


def naive(time: datetime) -> datetime:
    """The time as the index has it: UTC without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None)


def order(which: CallFilter) -> str:
    limit = f" LIMIT {int(which.limit)}" if which.limit is not None else ""
    return f"ORDER BY {SORTS[which.sort]}, start_time DESC, id DESC{limit}"


def list_calls(layout: Layout, which: CallFilter, region: str | None = None) -> list[CallRow]:
    """Rows of the calls that the filter lets through, in its order. Raises ValueError where a number is none."""
    return [row for page in pages(layout, which, region) for row in page]


def pages(layout: Layout, which: CallFilter, region: str | None = None) -> Iterator[list[CallRow]]:
    """The same some thousands at a time: of any number, in little memory."""
    for rows, tags in asked(layout, which, region, SELECTED):
        yield [CallRow._make([*row, tags.get(row[0], [])]) for row in rows]


def find(layout: Layout, which: CallFilter, region: str | None = None) -> list[str]:
    """Ids of the calls that the filter lets through, in its order. Raises ValueError where a number is none."""
    return list(each_id(layout, which, region))


def each_id(layout: Layout, which: CallFilter, region: str | None = None) -> Iterator[str]:
    """The same one after another: of any number, in little memory."""
    for rows, _ in asked(layout, which, region, "id"):
        yield from (call_id for (call_id,) in rows)


Page = tuple[list[tuple[Any, ...]], dict[str, list[str]]]
Span = tuple[str, dict[str, Any]]


def asked(layout: Layout, which: CallFilter, region: str | None, columns: str) -> Iterator[Page]:
    """Rows that begin with the id, and tags by id. In order of time, spans of days are asked for one after another, and the index
    is closed between them: a sort of all would not fit into memory, and who reads what we write may take hours.
    """
    where, given = conditions(which, region or default_region())
    left = which.limit
    at_once = which.sort not in TIMED or (left is not None and left <= PAGE)
    if at_once:
        spans: list[Span] = [("true", {})]
    else:
        with open_index(layout.index) as db:
            spans = spans_of(db.execute(DAYS.format(where), given).fetchall(), newest_first=which.sort == "start")
    for span, bounds in spans:
        with open_index(layout.index) as db:
            chosen, with_them = first_ones(db, which, where, given) if at_once else (f"{where} AND {span}", given | bounds)
            ordered = f"SELECT {columns} FROM calls WHERE {chosen} {order(replace(which, limit=left))}"
            rows = db.execute(ordered, with_them).fetchall()
            tags = dict(db.execute(TAGS, [[row[0] for row in rows]]).fetchall()) if columns != "id" else {}
        yield rows, tags
        if left is not None:
            left -= len(rows)
            if left <= 0:
                return


def first_ones(db: duckdb.DuckDBPyConnection, which: CallFilter, where: str, given: dict[str, Any]) -> Span:
    """A condition, and its parameters, that lets the first calls in order of time through, if few are wanted, and few others.

    To find out which they are reads no more than what is looked at, and then the archive is not looked through once more: of ten
    million calls a part of a number takes two thirds of the time, a name that nobody has a sixth.
    """
    if which.sort not in TIMED or not which.limit or which.limit > FEW:
        return where, given
    limit = int(which.limit)
    firsts = f"SELECT start_time, rowid FROM calls WHERE {where} ORDER BY {SORTS[which.sort]} LIMIT {limit + 1}"
    found = db.execute(firsts, given).fetchall()
    times = [start for start, _ in found[:limit]]
    if not times:
        return "false", {}
    if None in times:
        return where, given
    if len(found) > limit and found[limit][0] == times[-1]:  # of those that begin in the same moment the id decides
        return f"{where} AND start_time IN (SELECT unnest($times::TIMESTAMP[]))", given | {"times": times}
    return "rowid IN (SELECT unnest($rows::BIGINT[]))", {"rows": [row for _, row in found[:limit]]}


def spans_of(days: list[tuple[date | None, int]], newest_first: bool) -> list[Span]:
    """Conditions for PAGE calls or those of a day each, if that has more; `days`: how many began on each, by time, None last."""
    dated = [(day, calls) for day, calls in days if day is not None]
    made: list[Span] = []
    while dated:
        some: list[date] = []
        calls = 0
        while dated and (not some or calls + dated[-newest_first][1] <= PAGE):
            day, more = dated.pop(-newest_first)
            some.append(day)
            calls += more
        made.append(("start_time BETWEEN $first AND $last", {"first": datetime.combine(min(some), time.min),
                                                             "last": datetime.combine(max(some), time.max)}))
    return made + [("start_time IS NULL", {}) for day, _ in days if day is None]


def resolve(layout: Layout, name: str) -> str:
    """The id of the one call that `name` names: `last`, or the beginning of its id or of the id's last part; also of an id that
    it had before it was made one with another.

    Raises NoSuchCallError or AmbiguousCallError.
    """
    if name == "last":
        newest = find(layout, CallFilter(limit=1))
        if not newest:
            raise NoSuchCallError("no call is recorded yet")
        return newest[0]
    typed = name.lower()
    tests: list[str] = []
    given: dict[str, str] = {}
    if typed and BEGINNING.fullmatch(typed):
        tests.append("({0} >= $beginning AND {0} < $beginning || '~')")  # a range: zone maps leave out most of an archive
        given["beginning"] = typed[:17].upper() + typed[17:]
    if LAST_PART.fullmatch(typed):
        tests.append("contains({0}, '-' || $last_part)")  # an id has one hyphen
        given["last_part"] = typed
    ids: list[str] = []
    if tests:
        with open_index(layout.index) as db:
            asked = NAMED.format(**{column: " OR ".join(tests).format(column) for column in ("id", "value")})
            ids = [i for (i,) in db.execute(asked, given).fetchall()]
    if not ids:
        raise NoSuchCallError(f"no call {name!r:.60}")
    if len(ids) > 1:
        listed = ", ".join(ids[:3]) + (" …" if len(ids) > 3 else "")
        raise AmbiguousCallError(f"several calls begin with {name!r:.60}: {listed}")
    return ids[0]


def state_counts(layout: Layout) -> list[tuple[str, int, float, int]]:
    """(state, calls, seconds of talk, bytes of audio) of each state there is, most frequent first."""
    with open_index(layout.index) as db:
        return db.execute("""SELECT state, count(*), coalesce(sum(duration_s), 0.0), coalesce(sum(audio_bytes), 0)::BIGINT
                             FROM calls GROUP BY state ORDER BY count(*) DESC, state""").fetchall()
