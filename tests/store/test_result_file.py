"""Results of SQL as files: the types that DuckDB had, whole or not at all, and nothing else can be reached meanwhile."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.sidecars import HOSTILE, hostile, some

from rokuon.commands.calls import csv_text
from rokuon.store import result_file
from rokuon.store.errors import ExistsError, NotPermittedError, StoreError
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.own_sql import ask
from rokuon.store.result_file import write_result

CALLS = some(30) + [hostile(n) for n in range(30, 30 + len(HOSTILE))]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("archive"))
    Index(made.index, "JP").add_calls(CALLS)
    return made


def written(layout: Layout, statement: str, path: Path, force: bool = False) -> Path:
    write_result(layout, statement, path, force, csv_text)
    return path


def read_back(path: Path) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
    """(name, type) of each column, and the rows, as a DuckDB of its own reads them."""
    with duckdb.connect() as db:
        columns = db.execute("DESCRIBE FROM read_parquet(?)", [str(path)]).fetchall()
        return [(name, kind) for name, kind, *_ in columns], db.execute("FROM read_parquet(?)", [str(path)]).fetchall()


TYPES = [
    ("TIMESTAMP '2026-11-24 03:00:00.123456'", "TIMESTAMP"),
    ("TIMESTAMPTZ '2026-11-24 03:00:00.5+09'", "TIMESTAMP WITH TIME ZONE"),
    ("TIMESTAMP_NS '2026-11-24 03:00:00.123456789'", "TIMESTAMP_NS"), ("DATE '2026-11-24'", "DATE"), ("TIME '10:00:00'", "TIME"),
    ("1::TINYINT", "TINYINT"), ("9223372036854775807", "BIGINT"), ("18446744073709551615::UBIGINT", "UBIGINT"),
    ("1.5::DECIMAL(9,3)", "DECIMAL(9,3)"), ("'nan'::DOUBLE", "DOUBLE"), ("true", "BOOLEAN"), ("'\\x00\\xff'::BLOB", "BLOB"),
    ("[1, NULL, 3]", "INTEGER[]"), ("[['a'], []]", "VARCHAR[][]"), ("{'a': 1, 'b': ['x']}", "STRUCT(a INTEGER, b VARCHAR[])"),
    ("MAP {'a': 1}", "MAP(VARCHAR, INTEGER)"), ("NULL::INTEGER", "INTEGER"),
    ("uuid '97180511-83b9-43a5-b930-b9484ff693ca'", "UUID"),
]


def test_types_are_kept(layout: Layout, tmp_path: Path) -> None:
    statement = "SELECT " + ", ".join(f"{value} AS c{n}" for n, (value, _) in enumerate(TYPES))
    columns, rows = read_back(written(layout, statement, tmp_path / "types.parquet"))
    assert columns == [(f"c{n}", kind) for n, (_, kind) in enumerate(TYPES)]
    with duckdb.connect() as db:
        assert repr(rows) == repr(db.execute(statement).fetchall())  # repr: not a number is not equal to itself


@pytest.mark.parametrize("value", [2**127 - 1, -(2**100)])
def test_sums_stay_whole_numbers(layout: Layout, tmp_path: Path, value: int) -> None:
    """A sum of BIGINT has 128 bits, which Parquet has not; DuckDB would make a DOUBLE of it and lose digits."""
    columns, rows = read_back(written(layout, "SELECT sum(9007199254740993) AS s, sum(1) AS s, 2 AS i", tmp_path / "s.parquet"))
    assert columns == [("s", "DECIMAL(38,0)"), ("s_1", "DECIMAL(38,0)"), ("i", "INTEGER")]
    assert rows == [(9007199254740993, 1, 2)]
    if value > 10**38:
        with pytest.raises(StoreError):
            written(layout, f"SELECT {value}::HUGEINT", tmp_path / "much.parquet")
    else:
        assert int(read_back(written(layout, f"SELECT {value}::HUGEINT", tmp_path / "x.parquet"))[1][0][0]) == value


def test_all_calls_read_back_as_they_are(layout: Layout, tmp_path: Path) -> None:
    for table in ("calls", "legs", "streams", "events", "annotations"):
        columns, rows = read_back(written(layout, f"FROM {table}", tmp_path / f"{table}.parquet"))
        with ask(layout, f"FROM {table}") as result:
            assert columns == list(zip(result.columns, result.types, strict=True))
            assert rows == [row for chunk in result.chunks for row in chunk]
        assert rows
    names = {row[0] for row in read_back(written(layout, "SELECT caller_name FROM calls", tmp_path / "names.parquet"))[1]}
    assert {text.replace("\ud800", "\N{REPLACEMENT CHARACTER}") for text in HOSTILE} <= names


def test_csv_obeys_nobody(layout: Layout, tmp_path: Path) -> None:
    path = written(layout, "SELECT caller_name FROM calls", tmp_path / "names.csv")
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file) if row]
    assert len(cells) > 40 - 10
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]


@pytest.mark.parametrize(("statement", "rows"), [
    ("SELECT 1 WHERE false", 0), ("VALUES (1), (2)", 2), ("SELECT 1;", 1), ("SELECT 1 ; ; -- and no more", 1),
    ("SELECT 1 -- ;", 1), ("SELECT ';' AS \"'); DROP TABLE calls; --\" -- 田中;", 1),
    ("SHOW ALL TABLES", 9), ("DESCRIBE meta", 1), ("SUMMARIZE meta", 1),
    ("WITH x AS (SELECT 1) FROM x", 1), ("SELECT unnest(range(300000)) AS \"a\"\"b\"", 300_000), ("EXPLAIN SELECT 1", 1)])
def test_any_question_has_a_file(layout: Layout, tmp_path: Path, statement: str, rows: int) -> None:
    assert len(read_back(written(layout, statement, tmp_path / "x.parquet"))[1]) == rows
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    assert (tmp_path / "x.parquet").stat().st_mode & 0o777 == 0o640


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12),
                      min_size=1, max_size=4))
def test_columns_may_have_any_name(layout: Layout, tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    path = tmp_path_factory.mktemp("names") / "x.parquet"
    columns, rows = read_back(written(layout, "SELECT " + ", ".join(f"{n} AS {q}" for n, q in enumerate(quoted)), path))
    assert len(columns) == len(names)
    assert columns[0][0] == names[0]
    assert rows == [tuple(range(len(names)))]


HARMFUL = [
    "DELETE FROM calls", "CREATE TABLE x (i INT)", "COPY calls TO '{f}'", "COPY (SELECT 1) TO '{f}' (FORMAT parquet)",
    "ATTACH '{f}'", "EXPORT DATABASE '{f}'",
    "SELECT * FROM read_csv('/etc/hostname')", "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM '/etc/hostname'", "SELECT * FROM glob('/*')", "INSTALL httpfs", "LOAD httpfs", "LOAD '{f}'",
    "SET enable_external_access = true", "SET allowed_paths = ['/etc/hostname']", "SET lock_configuration = false",
    "RESET enable_external_access", "CREATE SECRET s (TYPE s3)", "SELECT getenv('HOME')", "SELECT 1; DELETE FROM calls",
    "SELECT 1) TO '{f}'; --", "SELECT 1 AS x) TO '{f}' (FORMAT csv); SELECT (1", "", ";", "SELEC", "SELECT '\udcff'",
    "SELECT error('x\ny')", "SELECT * FROM no_such_table", "SELECT '1'::UNION(a INT, b VARCHAR)::INT::DATE", "SET threads = 1"]


@pytest.mark.parametrize("statement", HARMFUL)
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_statement_reaches_nothing_else(layout: Layout, tmp_path: Path, statement: str, suffix: str) -> None:
    before = layout.index.read_bytes()
    with pytest.raises(StoreError) as caught:
        written(layout, statement.replace("{f}", str(tmp_path / "y")), tmp_path / f"x{suffix}")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert layout.index.read_bytes() == before


def test_a_file_that_is_there_stays(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it's \"x\".parquet"
    path.write_bytes(b"mine")
    with pytest.raises(ExistsError, match="--force"):
        written(layout, "SELECT 1", path)
    with pytest.raises(StoreError):
        written(layout, "SELECT error('late') FROM calls", path, force=True)
    with monkeypatch.context() as patch:  # one that comes while ours is written
        patch.setattr(Path, "exists", lambda _: False)
        with pytest.raises(ExistsError):
            written(layout, "SELECT 1", path)
    assert path.read_bytes() == b"mine"
    assert read_back(written(layout, "SELECT 1", path, force=True))[1] == [(1,)]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_link_is_replaced_and_not_followed(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "x.parquet").symlink_to(tmp_path / "mine")
    written(layout, "SELECT 1", tmp_path / "x.parquet", force=True)
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "x.parquet").is_symlink()


def test_where_nothing_can_be_written_is_said(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*nowhere"):
        written(layout, "SELECT 1", tmp_path / "nowhere" / "x.parquet")
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(NotPermittedError):
            written(layout, "SELECT 1", tmp_path / "x.parquet")
        tmp_path.chmod(0o700)


def test_an_archive_without_calls_has_files_too(tmp_path: Path) -> None:
    columns, rows = read_back(written(Layout(tmp_path / "none"), "FROM calls", tmp_path / "x.parquet"))
    assert rows == []
    assert columns[0] == ("id", "VARCHAR")


def test_a_file_system_without_links(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(result_file.os, "link", refused)
    assert read_back(written(layout, "SELECT 1", tmp_path / "x.parquet"))[1] == [(1,)]
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
