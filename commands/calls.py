"""`rokuon calls`: the list."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click

from rokuon.commands.common import Context, complain, example, is_terminal, stdout_bytes
from rokuon.commands.filters import chosen_by, filter_options
from rokuon.commands.table import Column, print_table
from rokuon.commands.when import duration, local

__all__ = ["calls", "csv_text", "guarded"]

SORTS = ("start", "oldest", "duration", "setup", "mos", "lost", "caller", "callee")


@click.command(epilog=example("rokuon calls --since today --number 03-1234-5678",
                              "rokuon calls --name 田中 --min-duration 1m --json"))
@filter_options
@click.option("--sort", type=click.Choice(SORTS), default="start", help="Default: start, newest first.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most N calls.  [20 on a terminal, else all]")
@click.option("--json", "form", flag_value="json", help="One array of all that is known of each call, but for SIP messages.")
@click.option("--jsonl", "form", flag_value="jsonl", help="The same, an object a line.")
@click.option("--csv", "form", flag_value="csv", help="A line a call, for spreadsheets.")
@click.pass_obj
def calls(context: Context, /, sort: str, limit: int | None, form: str | None, **options: Any) -> int:
    """List calls of every state, newest first."""
    from rokuon.store.query import COLUMNS, each_id, list_calls, pages

    if limit is None and form is None and is_terminal(sys.stdout):
        limit = 20
    which = chosen_by(options, sort, limit)
    if form in ("json", "jsonl"):
        return write_json(context, each_id(context.layout, which, context.region), array=form == "json")
    if form == "csv":
        stdout_bytes(csv_text(COLUMNS, []).encode())
        for page in pages(context.layout, which, context.region):
            stdout_bytes(csv_text(None, page).encode())
    elif rows := list_calls(context.layout, which, context.region):
        print_calls(rows)
    else:
        print_nothing(context, filtered=which.chosen)
    return 0


def write_json(context: Context, ids: Iterable[str], array: bool) -> int:
    """The sidecars of the calls as JSON on standard output, a call a line; read one by one, so that any number can be
    had. A sidecar that cannot be read is said, left out, and makes the status 1, unless its call was deleted meanwhile.
    """
    from rokuon.store.errors import StoreError
    from rokuon.store.sidecar import dumps, read

    status = 0
    before = "[" if array else ""
    for call_id in ids:
        try:
            call = read(context.layout.sidecar(call_id))
        except StoreError as error:
            from rokuon.store.retention import is_deleted

            if not is_deleted(context.layout, call_id):
                complain(str(error))
                status = 1
            continue
        call.pop("messages", None)
        stdout_bytes(f"{before}{dumps(call)}".encode())
        before = ",\n" if array else "\n"
    stdout_bytes((("[" if before == "[" else "") + "]\n").encode() if array else b"\n" if before else b"")
    return status


FORMULA = re.compile(r"[=+\-@\t\r\n]")
HARMLESS_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def guarded(value: object) -> str:
    """A cell of a CSV file. What a spreadsheet would take for a formula gets an apostrophe in front."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    if isinstance(value, list):
        return guarded(" ".join(map(str, value)))
    text = str(value).replace("\0", "")
    if isinstance(value, str) and FORMULA.match(text) and not HARMLESS_NUMBER.fullmatch(text):
        return "'" + text
    return text


def csv_text(columns: Iterable[str] | None, rows: Iterable[Iterable[object]]) -> str:
    """RFC 4180; a line that names the columns first, unless they are None."""
    file = io.StringIO()
    writer = csv.writer(file)
    if columns is not None:
        writer.writerow(columns)
    writer.writerows(map(guarded, row) for row in rows)
    return file.getvalue()


LISTED = [Column("START", keep=8), Column("CALLER", least=8), Column("CALLEE", least=8), Column("STATE", keep=5, colour=True),
           Column("TALK", keep=6, right=True), Column("CODEC", keep=2), Column("MOS", keep=3, right=True), Column("CALL")]


def print_calls(rows: Iterable[Any]) -> None:
    short = is_terminal(sys.stdout)
    print_table(LISTED, list(cells(rows, short)))


def cells(rows: Iterable[Any], short: bool) -> Iterator[list[object]]:
    for row in rows:
        mos = None if row.mos is None else f"{row.mos:.2f}"
        caller = who(row.caller_number, row.caller_name, row.caller_address)
        yield [local(row.start), caller, who(row.callee_number, row.callee_name, row.callee_address), row.state,
               duration(row.duration_s), (row.codec or "")[:40], mos, row.id[17:] if short else row.id]


def who(number: str | None, name: str | None, address: str | None) -> str:
    """A party for a narrow column: name and number, each cut where it is too long to be one; else where it is."""
    number, name = (number or "")[:40], (name or "")[:40]
    return f"{name} {number}" if name and number and name != number else name or number or address or "?"


def print_nothing(context: Context, filtered: bool) -> None:
    """Say why there is nothing to see; on standard error, so that programs see nothing."""
    if is_terminal(sys.stdout):
        hint = "no such calls" if filtered else f"no calls yet in {context.layout.root}: rokuon record -r FILE"
        complain(hint)
