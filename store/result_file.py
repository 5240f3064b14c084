"""A result of SQL as a file. Written by us from its rows: the connection that answered can write nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import duckdb

from rokuon.store.errors import ExistsError, StoreError
from rokuon.store.layout import FILE_MODE, refused
from rokuon.store.query import Result

__all__ = ["SUFFIXES", "appear", "write_result"]

SUFFIXES = (".csv", ".parquet")
CsvText = Callable[[Iterable[str] | None, Iterable[Iterable[object]]], str]


def write_result(path: Path, result: Result, force: bool, csv_text: CsvText) -> None:
    """Write a result to a .csv or .parquet file, whole or not at all.

    `csv_text` makes CSV of columns (None: no heading) and rows. Raises ExistsError unless `force`, and StoreError.
    """
    if path.exists() and not force:
        raise ExistsError(f"{path} is there already; --force writes over it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE))
        if path.suffix.lower() == ".csv":
            with open(part, "w", encoding="utf-8", newline="") as file:
                file.write(csv_text(result.columns, []))
                for chunk in result.chunks:
                    file.write(csv_text(None, chunk))
        else:
            write_parquet(part, result)
        appear(part, path, force)
    except OSError as error:
        raise refused(error, f"cannot write {path}") from None
    except duckdb.Error as error:
        raise StoreError(f"cannot write {path}: {str(error).splitlines()[0]:.200}") from None
    finally:
        part.unlink(missing_ok=True)


def write_parquet(path: Path, result: Result) -> None:
    """Through a table in memory, a column a parameter: keeps every type, and needs no further package."""
    if not result.columns:
        raise StoreError("the statement has no result")
    names = ['"' + name.replace('"', '""') + '"' for name in result.columns]
    with duckdb.connect(":memory:", config={"memory_limit": "512MB", "autoinstall_known_extensions": False}) as db:
        db.execute(f"CREATE TABLE result ({', '.join(f'{n} {t}' for n, t in zip(names, result.types, strict=True))})")
        values = ", ".join(f"unnest(?::{kind}[])" for kind in result.types)
        for chunk in result.chunks:
            db.execute(f"INSERT INTO result SELECT {values}", [list(column) for column in zip(*chunk, strict=True)])
        target = str(path.absolute()).replace("'", "''")
        db.execute(f"COPY result TO '{target}' (FORMAT parquet)")


def appear(part: Path, path: Path, force: bool) -> None:
    """Give a file that is whole its name. Raises ExistsError where the name is taken, unless `force`."""
    if force:
        part.replace(path)
        return
    try:
        os.link(part, path)  # unlike a rename this never takes another file's place
    except FileExistsError:
        raise ExistsError(f"{path} is there already; --force writes over it") from None
    except OSError:  # a file system without links
        if path.exists():
            raise ExistsError(f"{path} is there already; --force writes over it") from None
        part.rename(path)
        return
    part.unlink()
