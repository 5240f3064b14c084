"""Which calls somebody may mean who has typed the beginning of a name: for completion, which has no time to lose."""

# ruff: noqa: S608 -- statements are put together from the constants in here; what is asked for goes in as a parameter

from __future__ import annotations

import re
import threading
from datetime import datetime
from typing import NamedTuple

import duckdb

from rokuon.store.database import open_index
from rokuon.store.layout import Layout

__all__ = ["BEGINNING", "LAST_PART", "Suggested", "suggest"]

PATIENCE_S = 0.15
"""Longer than a recorder's commit takes, shorter than is felt."""
LIMIT_S = 0.5
"""What looks through an archive of any size gives up then."""
BEGINNING = re.compile(r"[0-9tzTZ]{0,16}(-[a-z2-7]{0,8})?", re.ASCII)
"""What an id may begin with, in small letters or as it is."""
LAST_PART = re.compile(r"[a-z2-7]{1,8}", re.ASCII)
"""What its last part may begin with."""

SHOWN = "id, start_time, state, caller_number, caller_name, callee_number, callee_name"
NEWEST_FIRST = "ORDER BY start_time DESC NULLS LAST, id DESC"
# Ids begin with their time, so that DuckDB's zone maps of them leave out most of an archive; ~ is behind all that is in one.
# An id has one hyphen, and to look for what is behind it takes a third of the time of taking the id apart.
BY_BEGINNING = f"SELECT {SHOWN} FROM calls WHERE id >= $1 AND id < $1 || '~' {NEWEST_FIRST} LIMIT $2"
BY_LAST_PART = f"SELECT {SHOWN} FROM calls WHERE contains(id, '-' || $1) {NEWEST_FIRST} LIMIT $2"
NEWEST = f"SELECT {SHOWN} FROM calls {NEWEST_FIRST} LIMIT $1"


class Suggested(NamedTuple):
    """A call, and what it is known by. Names and numbers are as the network sent them."""

    name: str
    """What `query.resolve` takes: its id, or the id's last part, whichever begins with what was typed."""
    start: datetime | None
    """UTC, without zone."""
    state: str
    caller_number: str | None
    caller_name: str | None
    callee_number: str | None
    callee_name: str | None


def suggest(layout: Layout, typed: str, most: int) -> list[Suggested]:
    """The newest `most` calls whose id, or else whose id's last part, begins with what was typed; newest first.

    None where looking for them takes longer than half a second. Raises StoreError where the index cannot be read, IndexBusyError
    where others keep it for longer than 0.15 s.
    """
    beginning, last_part = BEGINNING.fullmatch(typed), LAST_PART.fullmatch(typed)
    if not beginning and not last_part:
        return []
    with open_index(layout.index, patience_s=PATIENCE_S) as db:
        late = threading.Timer(LIMIT_S, db.interrupt)
        late.daemon = True
        late.start()
        try:
            rows = []
            if beginning:
                first = typed[:17].upper() + typed[17:]
                rows = db.execute(BY_BEGINNING, [first, most]).fetchall() if typed else db.execute(NEWEST, [most]).fetchall()
            cut = 0
            if not rows and last_part:
                rows, cut = db.execute(BY_LAST_PART, [typed, most]).fetchall(), 17
        except duckdb.InterruptException:
            return []
        finally:
            late.cancel()
    return [Suggested(row[0][cut:], *row[1:]) for row in rows]
