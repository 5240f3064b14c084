"""SQL of somebody's own: it can read the index and nothing else, and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from rokuon.store.database import open_index
from rokuon.store.errors import StoreError
from rokuon.store.layout import Layout

__all__ = ["Result", "ask", "save", "told"]


class Result(NamedTuple):
    """What a statement of somebody's own gives."""

    columns: list[str]
    types: list[str]
    """As DuckDB writes them: "VARCHAR", "DECIMAL(18,3)", "INTEGER[]"."""
    chunks: Iterator[list[tuple[Any, ...]]]


@contextmanager
def ask(layout: Layout, statement: str) -> Iterator[Result]:
    """The result of somebody's own SQL; the index stays open for as long as the block lasts.

    It can read the index and nothing else: no file, no network, no extension, no setting, and change nothing. Raises
    StoreError with DuckDB's reason on one line where it refuses or fails.
    """
    with open_index(layout.index) as db, told():
        db.execute("SET lock_configuration = true")
        db.execute(single(statement))
        described = db.description or []
        yield Result(unique([d[0] for d in described]), [str(d[1]) for d in described], chunks(db) if described else iter(()))


def save(layout: Layout, statement: str, path: Path) -> None:
    """Write the result of somebody's own SQL to a Parquet file that is not there yet, row by row, with its types; integers of 128
    bits, which Parquet has not, as DECIMAL(38,0).

    It can read the index and this file, write this file, and nothing else: see `ask`, also for what is raised.
    """
    with open_index(layout.index, beside=path) as db, told():
        db.execute("SET lock_configuration = true")
        found = db.sql(single(statement))
        if found is None:
            raise StoreError("the statement has no result")
        names = ['"' + name.replace('"', '""') + '"' for name in unique(list(found.columns))]
        cells = [f"CAST(#{n} AS DECIMAL(38, 0))" if str(kind) in ("HUGEINT", "UHUGEINT") else f"#{n}"
                 for n, kind in enumerate(found.types, 1)]
        found.project(", ".join(f"{cell} AS {name}" for cell, name in zip(cells, names, strict=True))).write_parquet(
            str(path.absolute()), compression="zstd")


def single(statement: str) -> str:
    """The statement without what is behind its end. Raises StoreError where it is not one."""
    try:
        octets = statement.encode()
    except UnicodeEncodeError:  # bytes of another encoding, as an argument
        raise StoreError("the statement is not UTF-8") from None
    if len(duckdb.extract_statements(statement)) != 1:
        raise StoreError("one statement, please")
    end = len(octets)
    for at, kind in reversed(duckdb.tokenize(statement)):
        if octets[at:at + 1] == b";":
            end = at
        elif kind != duckdb.token_type.comment:
            break
    return octets[:end].decode()


def chunks(db: duckdb.DuckDBPyConnection) -> Iterator[list[tuple[Any, ...]]]:
    with told():
        while rows := db.fetchmany(4096):
            yield rows


@contextmanager
def told() -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, RuntimeError) as error:
        raise StoreError(" ".join(str(error).split("\n\n")[0].split())[:400]) from None


def unique(names: list[str]) -> list[str]:
    """Column names, those that come again with a number behind them."""
    taken: set[str] = set()
    for n, name in enumerate(names):
        again, k = name, 1
        while again in taken:
            again, k = f"{name}_{k}", k + 1
        taken.add(again)
        names[n] = again
    return names
