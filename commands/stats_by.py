"""`rokuon stats --by`: calls counted by hour, day, number …"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from rokuon.commands.calls import csv_text
from rokuon.commands.common import Context, complain, is_terminal, stdout_bytes
from rokuon.commands.table import Column, print_table
from rokuon.commands.when import duration
from rokuon.store.query import CallFilter
from rokuon.store.sidecar import STATES, dumps
from rokuon.store.statistics import UNANSWERED, Bucket, Statistics, count_calls

__all__ = ["show_counts"]

SHORT = 20
"""Lines of numbers and codecs on a terminal."""
OTHER = tuple(state for state in STATES if state not in ("answered", *UNANSWERED))
KEEP = {"failed": 2, "no-answer": 5, "busy": 4, "cancelled": 3} | dict.fromkeys(OTHER, 6)


def show_counts(context: Context, which: CallFilter, by: str, limit: int | None, form: str | None) -> None:
    """Print the counts; `form`: "json", "csv" or None for people. Raises StoreError."""
    if limit is None and form is None and is_terminal(sys.stdout) and by not in ("hour", "day", "weekday", "state"):
        limit = SHORT
    counted = count_calls(context.layout, which, by, context.region, limit)
    if form == "json":
        stdout_bytes(f"{dumps(as_object(counted, by))}\n".encode())
    elif form == "csv":
        columns = [by, "calls", "answered", "unanswered", *(s for s in STATES if s != "answered"), "talk_s", "audio_bytes", "mos"]
        stdout_bytes(csv_text(columns, csv_rows(counted)).encode())
    elif counted.calls:
        print_counts(counted, by)
    elif is_terminal(sys.stdout):
        complain("no such calls" if which.chosen else f"no calls yet in {context.layout.root}: rokuon record -r FILE")


def as_object(counted: Statistics, by: str) -> dict[str, Any]:
    others = {} if counted.others is None else {"others": numbers(counted.others)}
    return {"by": by, "calls": counted.calls, "buckets": [{by: bucket.key, **numbers(bucket)} for bucket in counted.buckets],
            **others, "total": numbers(counted.total)}


def numbers(bucket: Bucket) -> dict[str, Any]:
    return {"calls": bucket.calls, "answered": bucket.answered, "unanswered": bucket.unanswered,
            "states": {state: count for state, count in bucket.states.items() if count}, "talk_s": round(bucket.talk_s, 3),
            "audio_bytes": bucket.audio_bytes, "mos": None if bucket.mos is None else round(bucket.mos, 2)}


def csv_rows(counted: Statistics) -> Iterator[list[object]]:
    """No line of the total: a spreadsheet's own sum would count it again."""
    others = [] if counted.others is None else [("others", counted.others)]
    for key, bucket in [*((bucket.key, bucket) for bucket in counted.buckets), *others]:
        yield [key, bucket.calls, bucket.answered, bucket.unanswered, *(n for s, n in bucket.states.items() if s != "answered"),
               f"{bucket.talk_s:.3f}", bucket.audio_bytes, None if bucket.mos is None else f"{bucket.mos:.2f}"]


def print_counts(counted: Statistics, by: str) -> None:
    shown = [] if by == "state" else [state for state in (*UNANSWERED, *OTHER) if counted.total.states[state]]
    answers = by != "state"
    columns = [Column(by.upper(), least=8, colour=by == "state"), Column("CALLS", right=True),
               *([Column("ANSWERED", keep=8, right=True), Column("UNANSWERED", right=True)] if answers else []),
               *(Column(state.upper(), keep=KEEP[state], right=True) for state in shown),
               Column("TALK", keep=7, right=True), Column("MOS", keep=1, right=True)]

    def cells(name: object, bucket: Bucket) -> list[object]:
        counts = [bucket.calls, *([bucket.answered, bucket.unanswered] if answers else []), *(bucket.states[s] for s in shown)]
        return [name, *(f"{count:,}" for count in counts), duration(bucket.talk_s),
                None if bucket.mos is None else f"{bucket.mos:.2f}"]

    nameless = "none" if by == "codec" else "unknown"
    rows = [cells(nameless if bucket.key is None else bucket.key[:40], bucket) for bucket in counted.buckets]
    rows += [] if counted.others is None else [cells("others", counted.others)]
    print_table(columns, [*rows, cells("all", counted.total)])
    if by == "number":
        click.echo(f"\n{counted.calls:,} call{'' if counted.calls == 1 else 's'}: each counts for its caller and for its callee")
