"""A result of SQL as a file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rokuon.store.errors import ExistsError
from rokuon.store.layout import FILE_MODE, Layout, refused
from rokuon.store.own_sql import ask, save

__all__ = ["SUFFIXES", "appear", "write_result"]

SUFFIXES = (".csv", ".parquet")
CsvText = Callable[[Iterable[str] | None, Iterable[Iterable[object]]], str]


def write_result(layout: Layout, statement: str, path: Path, force: bool, csv_text: CsvText) -> None:
    """Write what a statement gives to a .csv or .parquet file. Of the statement and its result nothing is part of a path.

    `csv_text` makes CSV of columns (None: no heading) and rows. Raises ExistsError unless `force`, and StoreError as `ask` does.
    """
    if path.exists() and not force:
        raise ExistsError(f"{path} is there already; --force writes over it")
    try:
        with hidden(path) as part:
            if path.suffix.lower() == ".csv":
                with ask(layout, statement) as result, open(part, "x", encoding="utf-8", newline="") as file:
                    file.write(csv_text(result.columns, []))
                    for chunk in result.chunks:
                        file.write(csv_text(None, chunk))
            else:
                save(layout, statement, part)
            part.chmod(FILE_MODE)
            appear(part, path, force)
    except OSError as error:
        raise refused(error, f"cannot write {path}") from None


@contextmanager
def hidden(path: Path) -> Iterator[Path]:
    """A name for a file to be written, in a directory beside `path` that nobody else can look into. Raises OSError."""
    folder = Path(tempfile.mkdtemp(prefix=".rokuon-", dir=path.absolute().parent))
    part = folder / f"result{path.suffix.lower()}"
    try:
        yield part
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
            folder.rmdir()


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
