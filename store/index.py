"""The index: a DuckDB file with a view of every sidecar. Opened for a batch, then closed, so that others can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from rokuon.store.database import SANDBOX, WRITE_PATIENCE_S, make_index, open_index, sole, unwritable
from rokuon.store.layout import DIRECTORY_MODE, Layout, refused
from rokuon.store.numbers import default_region
from rokuon.store.reindexing import readers
from rokuon.store.rows import TABLES, texts_of
from rokuon.store.sidecar import Sidecar, dumps, iso, nanoseconds

__all__ = ["Copies", "Index", "LegSpan", "MediaSpan", "reindex"]

BATCH = 500
"""Calls a statement: bounds the memory that their text takes."""


class LegSpan(NamedTuple):
    """What a leg is recognised by: a SIP dialog (RFC 3261 section 12) in a span of time."""

    call_id: str
    from_tag: str
    to_tag: str
    """"" where no response gave one."""
    start_ns: int
    last_ns: int
    """Its end, or the last that was seen of it."""

    @classmethod
    def of(cls, leg: Mapping[str, Any], last_ns: int | None = None) -> LegSpan:
        """Of a leg in a sidecar's shape; `last_ns` where its end is not known."""
        start = nanoseconds(leg["start"])
        end = nanoseconds(leg["end"]) if leg.get("end") else last_ns
        return cls(leg["call_id"], leg.get("from_tag") or "", leg.get("to_tag") or "", start, max(start, end or start))


class MediaSpan(NamedTuple):
    """What RTP is recognised by: a stream in a span of time."""

    src: str
    dst: str
    ssrc: int
    start_ns: int
    last_ns: int


class Copies(NamedTuple):
    """Ids of calls that the index has."""

    legs: list[list[str]]
    """Of those that hold each leg."""
    near: list[list[str]]
    """Of those that hold it a while before or after."""
    media: list[list[str]]
    """Of those that hold each stream."""
    ids: set[str]
    """Of those that were asked for by id."""


class Index:
    """The index file of an archive. Every method opens it, does one transaction, and closes it.

    All of them raise IndexBusyError where others keep it locked, NotPermittedError, and DataError where it is damaged or of
    another version; its text names the remedy.
    """

    def __init__(self, path: Path, region: str | None = None, patience_s: float = WRITE_PATIENCE_S) -> None:
        """`region`: of numbers without country code, as ISO 3166 code; None: as `default_region` finds."""
        self.path = path
        self.region = region or default_region()
        self.patience_s = patience_s

    def add_calls(self, sidecars: Sequence[Sidecar], replaces: Sequence[str] = ()) -> None:
        """Add calls, or put them in the place of what is known of their ids, in one transaction. `replaces`: calls that turned
        out to be parts of some of these, and go.
        """
        if not sidecars:
            return
        try:
            self.path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise refused(error, f"cannot make {self.path.parent}") from None
        with open_index(self.path, write=True, patience_s=self.patience_s) as db:
            transact(db, self.path, sidecars, self.region, replaces)

    def remove_calls(self, ids: Iterable[str]) -> None:
        """Forget calls."""
        with open_index(self.path, write=True, patience_s=self.patience_s) as db:
            try:
                db.execute("BEGIN")
                delete(db, list(ids))
                db.execute("COMMIT")
            except duckdb.Error as error:
                raise unwritable(self.path, error) from None

    def known_calls(self, legs: Sequence[LegSpan]) -> list[str | None]:
        """For each leg the id of the call that holds it already, else None; where several do, of the one that started first."""
        return [min(ids, default=None) for ids in self.copies(legs).legs]

    def copies(self, legs: Sequence[LegSpan], media: Sequence[MediaSpan] = (), loose: Sequence[bool] = (),
               ids: Sequence[str] = (), near_s: int = 0) -> Copies:
        """Which calls have these legs and streams already, and which of the ids there are.

        The same leg: the same Call-ID, the same tags in either order (a To tag that one of the two never saw fits any),
        at overlapping times. The same media: addresses, ports and SSRC, at overlapping times; for each stream that is not
        `loose`, only in calls without signalling. `near_s`: how far from the leg's time others are looked for.
        """
        found = Copies([[] for _ in legs], [[] for _ in legs], [[] for _ in media], set())
        if not (legs or media or ids):
            return found
        with open_index(self.path, patience_s=self.patience_s) as db:
            if legs:
                wanted = [{"n": n, "call_id": leg.call_id, "a": leg.from_tag, "b": leg.to_tag, "start": iso(leg.start_ns),
                           "last": iso(leg.last_ns)} for n, leg in enumerate(legs)]
                for n, call_id, same in db.execute(KNOWN_LEGS, [dumps(wanted), *bounds(legs, near_s), near_s, near_s]).fetchall():
                    (found.legs if same else found.near)[n].append(call_id)
            if media:
                wanted = [{"n": n, "src": m.src, "dst": m.dst, "ssrc": m.ssrc, "start": iso(m.start_ns),
                           "last": iso(m.last_ns)} for n, m in enumerate(media)]
                for n, call_id in db.execute(KNOWN_MEDIA, [dumps(wanted), *bounds(media)]).fetchall():
                    found.media[n].append(call_id)
                doubtful = sorted({i for here, free in zip(found.media, loose, strict=True) if not free for i in here})
                if doubtful:
                    given = [doubtful, doubtful[0], doubtful[-1]]
                    ours = {i for (i,) in db.execute(WITHOUT_SIGNALLING, given).fetchall()}
                    for here, free in zip(found.media, loose, strict=True):
                        if not free:
                            here[:] = [i for i in here if i in ours]
            if ids:
                found.ids.update(i for (i,) in db.execute(KNOWN_IDS, [list(ids)]).fetchall())
        return found

    def known_ids(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that the index has; for calls without legs."""
        with open_index(self.path, patience_s=self.patience_s) as db:
            rows = db.execute(KNOWN_IDS, [list(ids)]).fetchall()
        return {call_id for (call_id,) in rows}


KNOWN_IDS = "SELECT id FROM calls WHERE id IN (SELECT unnest(?::VARCHAR[]))"
WITHOUT_SIGNALLING = """SELECT id FROM calls WHERE state = 'rtp-only' AND id IN (SELECT unnest(?::VARCHAR[]))
                        AND id BETWEEN ?::VARCHAR AND ?::VARCHAR"""
# Both begin with what is certain of all that is wanted, so that only the newest of a large archive are looked through.
KNOWN_LEGS = """
    WITH wanted AS (SELECT unnest(from_json(?::JSON, '[{"n": "INTEGER", "call_id": "VARCHAR", "a": "VARCHAR", "b": "VARCHAR",
                                                        "start": "TIMESTAMP", "last": "TIMESTAMP"}]'), max_depth := 2))
    SELECT w.n, l.id, bool_or(l.start_time <= w.last AND l.last_time >= w.start)
    FROM wanted w JOIN (SELECT * FROM legs WHERE start_time <= ?::TIMESTAMP AND last_time >= ?::TIMESTAMP) l
         ON l.call_id = w.call_id
    WHERE ((l.from_tag = w.a AND (l.to_tag = w.b OR l.to_tag = '' OR w.b = ''))
           OR (l.from_tag = w.b AND (l.to_tag = w.a OR l.to_tag = ''))
           OR (w.b = '' AND l.to_tag = w.a))
      AND l.start_time <= w.last + to_seconds(?) AND l.last_time >= w.start - to_seconds(?)
    GROUP BY w.n, l.id ORDER BY w.n, l.id
"""
KNOWN_MEDIA = """
    WITH wanted AS (SELECT unnest(from_json(?::JSON, '[{"n": "INTEGER", "src": "VARCHAR", "dst": "VARCHAR", "ssrc": "BIGINT",
                                                        "start": "TIMESTAMP", "last": "TIMESTAMP"}]'), max_depth := 2))
    SELECT DISTINCT w.n, s.id
    FROM wanted w JOIN (SELECT * FROM streams WHERE first_time <= ?::TIMESTAMP AND last_time >= ?::TIMESTAMP) s
         ON s.ssrc = w.ssrc AND s.src = w.src AND s.dst = w.dst
    WHERE s.first_time < w.last AND s.last_time > w.start
    ORDER BY w.n, s.id
"""


def bounds(spans: Sequence[LegSpan] | Sequence[MediaSpan], near_s: int = 0) -> tuple[str, str]:
    """Until when and since when calls may overlap with any of these."""
    near_ns = near_s * 1_000_000_000
    return iso(max(span.last_ns for span in spans) + near_ns), iso(min(span.start_ns for span in spans) - near_ns)


def transact(db: duckdb.DuckDBPyConnection, path: Path, sidecars: Sequence[Sidecar], region: str | None,
             replaces: Sequence[str] = ()) -> None:
    try:
        db.execute("BEGIN")
        latest = {sidecar["id"]: sidecar for sidecar in sidecars}  # of one id twice in a batch the last is meant
        known = db.execute(KNOWN_IDS, [[*latest, *replaces]]).fetchall()
        if known:
            delete(db, [call_id for (call_id,) in known])
        insert(db, latest.values(), region)
        db.execute("COMMIT")
    except duckdb.Error as error:
        raise unwritable(path, error) from None


def delete(db: duckdb.DuckDBPyConnection, ids: list[str]) -> None:
    for table in TABLES:
        db.execute(f"DELETE FROM {table} WHERE id IN (SELECT unnest(?::VARCHAR[]))", [ids])  # noqa: S608 -- a constant


def insert(db: duckdb.DuckDBPyConnection, sidecars: Iterable[Sidecar], region: str | None) -> None:
    """All rows of a batch as one JSON text a table, which DuckDB takes apart itself: 30 to 40 µs a row. A row at a time
    costs 1,200 µs, arrays of numpy or lists of Python as much as this or more.
    """
    left = iter(sidecars)
    while batch := list(islice(left, BATCH)):
        insert_texts(db, texts_of(batch, region))


def insert_texts(db: duckdb.DuckDBPyConnection, texts: Mapping[str, str]) -> None:
    """Add rows as `texts_of` gives them."""
    shapes = shapes_of(db)
    for table, text in texts.items():
        db.execute(f"INSERT INTO {table} BY NAME SELECT unnest(from_json(?::JSON, ?), max_depth := 2)", [text, shapes[table]])


_shapes: dict[str, str] = {}


def shapes_of(db: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """The columns of each table as from_json wants them; the same for every index of this version, and dear to ask for."""
    if _shapes:
        return _shapes
    shapes: dict[str, dict[str, str | list[str]]] = {table: {} for table in TABLES}
    for table, name, kind in db.execute("SELECT table_name, column_name, data_type FROM duckdb_columns()").fetchall():
        if table in shapes:
            shapes[table][name] = [kind[:-2]] if kind.endswith("[]") else kind
    _shapes.update({table: json.dumps([columns]) for table, columns in shapes.items()})
    return _shapes


# -- all of it again ---------------------------------------------------------
def reindex(layout: Layout, region: str | None = None, patience_s: float = WRITE_PATIENCE_S,
            processes: int | None = None) -> tuple[int, list[str]]:
    """Make the index again from the sidecars; it takes the old one's place when it is whole.

    Returns how many calls are in it, and a line for each sidecar that could not be taken. Writers wait meanwhile, so
    that no call is lost between the two. `processes`: see `readers`.
    """
    layout.prepare()
    warnings: list[str] = []
    new = layout.temporary(layout.index)
    leftovers = (new, new.with_name(f"{new.name}.wal"))
    try:
        with readers(layout, region or default_region(), processes) as reading, sole(layout.index, True, patience_s):
            make_index(new)
            with duckdb.connect(str(new), config=SANDBOX) as db:
                db.execute("BEGIN")
                for batch in reading.batches():
                    insert_texts(db, batch.texts)
                    warnings += batch.warnings
                db.execute("COMMIT")
                count = db.execute("SELECT count(*) FROM calls").fetchone()
                db.execute("CHECKPOINT")  # on a full disk, closing leaves half of it in another file and says nothing
            layout.index.with_name(f"{layout.index.name}.wal").unlink(missing_ok=True)
            new.replace(layout.index)
    except OSError as error:
        raise refused(error, f"cannot write {layout.index}") from None
    except duckdb.Error as error:
        raise unwritable(layout.index, error) from None
    finally:
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
    return (count[0] if count else 0), warnings
