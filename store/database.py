"""Opening the index: nobody keeps it open, and whoever finds it locked tries again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from rokuon.store.errors import DataError, IndexBusyError, NotPermittedError

__all__ = ["READ_PATIENCE_S", "SCHEMA_VERSION", "WRITE_PATIENCE_S", "open_index", "schema"]

SCHEMA_VERSION = 1
READ_PATIENCE_S = 10.0
WRITE_PATIENCE_S = 60.0
MEMORY_LIMIT = "512MB"
"""DuckDB's own default is 80 % of the machine."""

SANDBOX: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": MEMORY_LIMIT, "threads": min(4, os.cpu_count() or 1), "enable_external_access": False,
    "autoinstall_known_extensions": False, "autoload_known_extensions": False, "allow_community_extensions": False,
}


def schema() -> str:
    """The statements that make the tables and views."""
    return Path(__file__).with_name("schema.sql").read_text()


@contextmanager
def open_index(path: Path, write: bool = False, patience_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """The index at `path`, open for as long as the block lasts: keep it short, others wait.

    Neither opening reads or writes any other file or loads an extension. A missing or empty index reads as one without
    calls; for writing it is made. Raises IndexBusyError where it stays locked for `patience_s` seconds, NotPermittedError, and
    DataError where it is damaged or of another version.
    """
    patience = patience_s if patience_s is not None else WRITE_PATIENCE_S if write else READ_PATIENCE_S
    connection = connect(path, write, patience) if write or filled(path) else empty()
    try:
        yield checked(connection, path, write)
    finally:
        connection.close()


def filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except PermissionError:
        raise NotPermittedError(f"cannot read {path}: permission denied") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def empty() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:", config=SANDBOX)
    connection.execute(schema())
    return connection


def connect(path: Path, write: bool, patience_s: float) -> duckdb.DuckDBPyConnection:
    wait, deadline = 0.01, time.monotonic() + patience_s
    while True:
        try:
            return duckdb.connect(str(path), read_only=not write, config=SANDBOX)
        except duckdb.IOException as error:
            reason = str(error)
            if "Permission denied" in reason or "Read-only file system" in reason:
                raise NotPermittedError(f"cannot open {path}: permission denied") from None
            if "lock" not in reason:
                raise DataError(f"{path} is damaged or no index: `rokuon reindex` makes it again") from None
        except duckdb.Error:
            raise DataError(f"{path} is damaged or no index: `rokuon reindex` makes it again") from None
        if time.monotonic() > deadline:
            raise IndexBusyError(f"{path} is in use by another program; try again")
        time.sleep(wait)
        wait = min(wait * 1.5, 0.1)


def checked(connection: duckdb.DuckDBPyConnection, path: Path, write: bool) -> duckdb.DuckDBPyConnection:
    """The connection, its tables made if there are none; an index of another version is refused."""
    try:
        tables = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'meta'").fetchone()
        if tables == (0,):
            if not write:
                connection.close()
                return empty()
            connection.execute("BEGIN; " + schema() + "; COMMIT")
        version = connection.execute("SELECT max(schema_version) FROM meta").fetchone()
    except duckdb.Error:
        raise DataError(f"{path} is damaged or no index: `rokuon reindex` makes it again") from None
    if version != (SCHEMA_VERSION,):
        raise DataError(f"{path} is of another version of rokuon: `rokuon reindex` makes it again")
    return connection
