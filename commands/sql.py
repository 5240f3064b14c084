"""`rokuon sql`: questions that no option asks."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from rokuon.commands.calls import csv_text
from rokuon.commands.common import Context, example, is_terminal, stdout_bytes
from rokuon.commands.table import Column, print_table

__all__ = ["sql"]

ON_TERMINAL = 1000
"""Rows of a table on a terminal; more are for programs."""


@click.command(epilog=example("rokuon sql 'SELECT callee_number, count(*) FROM calls GROUP BY 1 ORDER BY 2 DESC'",
                              "rokuon sql 'FROM call_quality WHERE lost_percent > 1' -o bad.parquet"))
@click.argument("query")
@click.option("-o", "output", metavar="FILE", help="Write the result to FILE.csv or FILE.parquet.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--json", "form", flag_value="json", help="One array, an object a row.")
@click.option("--jsonl", "form", flag_value="jsonl", help="An object a line.")
@click.option("--csv", "form", flag_value="csv", help="For spreadsheets.")
@click.pass_obj
def sql(context: Context, /, query: str, output: str | None, force: bool, form: str | None) -> None:
    """Ask the index in DuckDB's SQL. It can be read and nothing else: no file, no network, no change.

    Tables: calls, legs, streams, events, annotations; views: call_numbers, call_quality, calls_per_day. Times are UTC.
    """
    from rokuon.store.own_sql import ask
    from rokuon.store.result_file import SUFFIXES, write_result

    if output is not None and Path(output).suffix.lower() not in SUFFIXES:
        raise click.UsageError(f"-o writes {' and '.join(SUFFIXES)}, not {output!r:.80}", click.get_current_context())
    if output is not None:
        write_result(context.layout, query, Path(output), force, csv_text)
        return
    with ask(context.layout, query) as result:
        if form in ("json", "jsonl"):
            write_objects(result, array=form == "json")
        elif form == "csv":
            stdout_bytes(csv_text(result.columns, []).encode())
            for chunk in result.chunks:
                stdout_bytes(csv_text(None, chunk).encode())
        else:
            print_result(result)


def print_result(result: Any) -> None:
    rows: list[tuple[object, ...]] = []
    for chunk in result.chunks:
        rows += chunk
        if is_terminal(sys.stdout) and len(rows) > ON_TERMINAL:
            break
    shown = rows[:ON_TERMINAL] if is_terminal(sys.stdout) else rows
    numeric = ("INT", "DOUBLE", "DECIMAL", "FLOAT", "HUGEINT", "BIGINT")
    columns = [Column(name[:60], least=6, right=kind.startswith(numeric) or kind.endswith("INT"))
               for name, kind in zip(result.columns, result.types, strict=True)]
    print_table(columns, [[None if value is None else str(value)[:200] for value in row] for row in shown])
    if len(shown) < len(rows):
        click.echo("… and more: --json, --csv, -o FILE.parquet", err=True)


def write_objects(result: Any, array: bool) -> None:
    from rokuon.store.sidecar import dumps

    before = "[" if array else ""
    for line in objects(result, dumps):
        stdout_bytes(f"{before}{line}".encode())
        before = ",\n" if array else "\n"
    stdout_bytes((("[" if before == "[" else "") + "]\n").encode() if array else b"\n" if before else b"")


def objects(result: Any, dumps: Any) -> Iterator[str]:
    for chunk in result.chunks:
        for row in chunk:
            yield dumps({name: plain(value) for name, value in zip(result.columns, row, strict=True)})


def plain(value: Any) -> Any:
    """A value of DuckDB's as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="microseconds") + ("Z" if value.tzinfo is None else "")
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float):
        return value if value - value == 0 else None  # JSON has no NaN and no infinity
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, date | time) or not isinstance(value, int | str | bool | None):
        return value.hex() if isinstance(value, bytes) else str(value)
    return value
