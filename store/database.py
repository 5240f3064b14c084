"""Opening the index: nobody keeps it open, and whoever finds it locked tries again.

DuckDB locks a file of its own accord, but reads its headers before it has the lock and does not look again (2.0.1:
pread of 12,288 bytes, close, open, fcntl). A process that reads the headers just before another one commits, and gets
the lock just after it, goes on from the old state, and the other's commit is lost: one in thirty runs of three writers
that commit four times each. So whoever opens the index holds the data directory's flock first, shared for reading.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from rokuon.store.errors import DataError, IndexBusyError, NotPermittedError
from rokuon.store.layout import FILE_MODE, refused

__all__ = ["READ_PATIENCE_S", "SANDBOX", "SCHEMA_VERSION", "WRITE_PATIENCE_S", "make_index", "open_index", "sole", "unwritable"]

SCHEMA_VERSION = 1
READ_PATIENCE_S = 10.0
WRITE_PATIENCE_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.002, 0.05
MEMORY_LIMIT = "512MB"
"""DuckDB's own default is 80 % of the machine."""

SANDBOX: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": MEMORY_LIMIT, "threads": min(4, os.cpu_count() or 1), "enable_external_access": False,
    "autoinstall_known_extensions": False, "autoload_known_extensions": False, "allow_community_extensions": False,
}


@contextmanager
def open_index(path: Path, write: bool = False, patience_s: float | None = None, *,
               beside: Path | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """The index at `path`, open for as long as the block lasts: keep it short, others wait.

    Neither opening reads or writes any other file or loads an extension; but statements may read and write `beside`. A missing or
    empty index reads as one without calls; for writing it is made. Raises IndexBusyError where it stays locked for `patience_s`
    seconds, NotPermittedError, and DataError where it is damaged or of another version.
    """
    patience = patience_s if patience_s is not None else WRITE_PATIENCE_S if write else READ_PATIENCE_S
    if not write and not filled(path):
        with empty(beside) as connection:
            yield connection
        return
    with sole(path, write, patience):
        if write and not filled(path):
            with new_index(path) as connection:
                yield connection
            return
        connection = connect(path, write, patience, beside)
        try:
            yield checked(connection, path)
        finally:
            connection.close()


def filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refused(error, f"cannot read {path}") from None


def empty(beside: Path | None = None) -> duckdb.DuckDBPyConnection:
    connection = confined(":memory:", False, beside)
    connection.execute(schema())
    return connection


def confined(path: str, read_only: bool, beside: Path | None) -> duckdb.DuckDBPyConnection:
    """A database that can reach no other file, or that one alone. Raises duckdb.Error."""
    if beside is None:
        return duckdb.connect(path, read_only=read_only, config=SANDBOX)
    # which files may be reached can be said only of an open database that can still reach all of them
    connection = duckdb.connect(path, read_only=read_only, config=SANDBOX | {"enable_external_access": True})
    reachable = str(beside.absolute()).replace("'", "''")
    connection.execute(f"SET allowed_paths = ['{reachable}']; SET enable_external_access = false")
    return connection


def schema() -> str:
    """The statements that make the tables and views."""
    return Path(__file__).with_name("schema.sql").read_text(encoding="utf-8")


@contextmanager
def sole(path: Path, write: bool, patience_s: float) -> Iterator[None]:
    """The right to open the index for as long as the block lasts: `write`: nobody else has it; else no writer has.

    Raises IndexBusyError, NotPermittedError.
    """
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(error, f"cannot read {path.parent}") from None
    try:
        attempts = waits(path, patience_s)
        while not locked(directory, write):
            next(attempts)
        yield
    finally:
        os.close(directory)


def locked(directory: int, write: bool) -> bool:
    try:
        fcntl.flock(directory, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems lock no directories: DuckDB's own lock has to do there.
        return error.errno in (errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL)
    return True


def waits(path: Path, patience_s: float) -> Iterator[None]:
    """Waits a little longer with each `next`. Raises IndexBusyError when the patience is at its end."""
    wait, deadline = FIRST_WAIT_S, time.monotonic() + patience_s
    while time.monotonic() < deadline:
        time.sleep(wait)
        yield
        wait = min(wait * 1.5, LONGEST_WAIT_S)
    raise IndexBusyError(f"{path} is in use by another program; try again")


def make_index(path: Path) -> None:
    """An index without calls, whole or not at all."""
    with new_index(path):
        pass


@contextmanager
def new_index(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new index, to be filled; it gets its name when the block ends well, else nothing is left of it.

    To open it once more after it was made takes as long as to make it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        part.unlink(missing_ok=True)
        with duckdb.connect(str(part), config=SANDBOX) as db:
            db.execute("BEGIN; " + schema() + "; COMMIT")
            yield db
            db.execute("CHECKPOINT")  # on a full disk, closing leaves half of it in another file and says nothing
        part.chmod(FILE_MODE)
        part.replace(path)
    except OSError as error:
        raise refused(error, f"cannot make {path}") from None
    except duckdb.Error as error:
        raise unwritable(path, error) from None
    finally:
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}.wal").unlink(missing_ok=True)


def connect(path: Path, write: bool, patience_s: float, beside: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open the file; a program that is not ours may have it open."""
    attempts = waits(path, patience_s)
    while True:
        try:
            return confined(str(path), not write, beside)
        except duckdb.IOException as error:
            if "Permission denied" in str(error) or "Read-only file system" in str(error):
                raise NotPermittedError(f"cannot open {path}: permission denied") from None
            if "Could not set lock" not in str(error):
                raise damaged(path) from None
        except duckdb.Error:
            raise damaged(path) from None
        next(attempts)


def checked(connection: duckdb.DuckDBPyConnection, path: Path) -> duckdb.DuckDBPyConnection:
    """The connection; an index of another version is refused."""
    try:
        version = connection.execute("SELECT max(schema_version) FROM meta").fetchone()
    except duckdb.Error:
        raise damaged(path) from None
    if version != (SCHEMA_VERSION,):
        raise DataError(f"{path} is of another version of rokuon: `rokuon reindex` makes it again")
    return connection


def damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged or no index: `rokuon reindex` makes it again")


def unwritable(path: Path, error: Exception) -> DataError | NotPermittedError:
    """Why DuckDB could not write, on one line."""
    reason = str(error).splitlines()[0][:200]
    return (NotPermittedError if "Permission denied" in reason else DataError)(f"cannot write {path}: {reason}")
