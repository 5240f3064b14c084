"""Questions to the index: filters, names of calls, SQL of one's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.sidecars import HOSTILE, hostile, sidecar, some

from rokuon.store import query
from rokuon.store.database import open_index
from rokuon.store.errors import AmbiguousCallError, NoSuchCallError, StoreError
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.own_sql import ask
from rokuon.store.query import SORTS, CallFilter, each_id, find, list_calls, pages, resolve, state_counts

MADE = some(48)
NOON = datetime(2026, 11, 24, 3, tzinfo=UTC)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    made = Layout(tmp_path_factory.mktemp("archive"))
    Index(made.index, "JP").add_calls(MADE)
    return made


def numbers(layout: Layout, **options: Any) -> list[int]:
    """Which of the calls the filter finds, by their number, oldest first."""
    known = {s["id"]: n for n, s in enumerate(MADE)}
    return sorted(known[i] for i in find(layout, CallFilter(**options), "JP"))


@pytest.mark.parametrize(("options", "wanted"), [
    ({}, range(48)),
    ({"numbers": ["03-1234-5678"]}, range(0, 48, 4)), ({"numbers": ["+81312345678"]}, range(0, 48, 4)),
    ({"callers": ["0312345678"]}, range(0, 48, 4)), ({"callees": ["0312345678"]}, []),
    ({"numbers": ["5432"]}, range(1, 48, 3)), ({"callees": ["+81398765432"]}, range(1, 48, 3)),
    ({"numbers": ["0312345678", "0661112222"]}, [n for n in range(48) if n % 4 == 0 and n % 3 == 2]),
    ({"numbers": ["0661112222"]}, range(2, 48, 3)), ({"callers": ["anonymous"]}, range(3, 48, 4)),
    ({"name": "田中　太郎"}, [n for n in range(48) if n % 8 == 0 or (n + 3) % 8 == 0]),
    ({"name": "ヤマダ"}, [n for n in range(48) if n % 8 == 3 or (n + 3) % 8 == 3]),
    ({"name": "STRASSE"}, [n for n in range(48) if n % 8 == 6 or (n + 3) % 8 == 6]), ({"name": "%"}, []),
    ({"name": "nobody"}, []),
    ({"states": ["busy"]}, range(2, 48, 8)), ({"states": ["busy", "failed"]}, [n for n in range(48) if n % 8 in (2, 4)]),
    ({"min_duration_s": 100.0}, [n for n in range(48) if n % 8 in (0, 6) and 60 + n >= 100]),
    ({"codec": "g722"}, [n for n in range(48) if n % 8 == 6]), ({"codec": "nothing"}, []),
    ({"max_mos": 4.2}, [n for n in range(48) if n % 8 in (0, 5, 6) and round(4.41 - n % 7 / 20, 2) <= 4.2]),
    ({"tag": "vip"}, range(0, 48, 5)), ({"tag": "vi"}, []), ({"text": "VIP"}, range(0, 48, 5)),
    ({"text": "9876-5432"}, range(1, 48, 3)), ({"text": "sip:1001@"}, range(2, 48, 4)),
    ({"text": "録音"}, [n for n in range(48) if n % 8 in (4, 1)]),
    ({"since": NOON + timedelta(hours=10)}, range(10, 48)), ({"until": NOON + timedelta(hours=10)}, range(10)),
    ({"since": NOON + timedelta(hours=10), "until": NOON + timedelta(hours=12), "states": ["busy"]}, [10]),
])
def test_filters(layout: Layout, options: dict[str, Any], wanted: Any) -> None:
    assert numbers(layout, **options) == list(wanted)


def test_newest_first_and_limited(layout: Layout) -> None:
    assert find(layout, CallFilter()) == [s["id"] for s in reversed(MADE)]
    assert find(layout, CallFilter(limit=3)) == [s["id"] for s in reversed(MADE[-3:])]
    assert find(layout, CallFilter(limit=0)) == []
    assert find(layout, CallFilter(sort="oldest", limit=2)) == [s["id"] for s in MADE[:2]]


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_is_one_order(layout: Layout, sort: str) -> None:
    order = find(layout, CallFilter(sort=sort))
    assert sorted(order) == sorted(s["id"] for s in MADE)
    assert order == find(layout, CallFilter(sort=sort))


def test_longest_first(layout: Layout) -> None:
    lasted = [row.duration_s for row in list_calls(layout, CallFilter(sort="duration"))]
    known = [d for d in lasted if d is not None]
    assert known == sorted(known, reverse=True)
    assert lasted[len(known):] == [None] * (len(lasted) - len(known))


def test_rows_say_what_the_sidecar_says(layout: Layout) -> None:
    row = list_calls(layout, CallFilter(sort="oldest", limit=1))[0]
    assert (row.id, row.state, row.caller_number, row.caller_name, row.codec, row.tags) == (
        MADE[0]["id"], "answered", "0312345678", "田中 太郎", "PCMU", ["vip"])
    assert row.start == datetime(2026, 11, 24, 3, 0, 0, 123456)


@pytest.mark.parametrize("text", [*HOSTILE[:-1], "%", "_", "\\", "'", "$p0", "{side}"])
def test_filters_take_any_text(layout: Layout, text: str) -> None:
    clean = text.replace("\ud800", "")
    for options in ({"name": clean}, {"text": clean}, {"tag": clean}, {"codec": clean}):
        assert numbers(layout, **options) == []
    try:
        numbers(layout, numbers=[clean])
    except ValueError as error:
        assert "not a number" in str(error)  # noqa: PT017


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_names_of_calls_take_any_text(layout: Layout, text: str) -> None:
    try:
        assert resolve(layout, text).replace("T", "t").replace("Z", "z").find(text.lower()) >= 0
    except (NoSuchCallError, AmbiguousCallError) as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_names_of_calls(layout: Layout) -> None:
    for made in MADE:
        assert resolve(layout, made["id"]) == made["id"]
        assert resolve(layout, made["id"].lower()) == made["id"]
        assert resolve(layout, made["id"][17:]) == made["id"]
    assert resolve(layout, "last") == MADE[-1]["id"]
    assert resolve(layout, "20261124T03") == MADE[0]["id"]
    with pytest.raises(AmbiguousCallError, match="several calls begin with '2026'"):
        resolve(layout, "2026")
    for unknown in ("zzzzzzzz", "", "0261124", "%", MADE[0]["id"] + "x", "LAST"):
        with pytest.raises(NoSuchCallError):
            resolve(layout, unknown)


def test_an_empty_archive_answers(tmp_path: Path) -> None:
    empty = Layout(tmp_path / "none")
    assert find(empty, CallFilter()) == []
    assert list_calls(empty, CallFilter(numbers=["100"])) == []
    assert state_counts(empty) == []
    with pytest.raises(NoSuchCallError, match="no call is recorded yet"):
        resolve(empty, "last")
    with ask(empty, "SELECT count(*) FROM calls") as result:
        assert list(result.chunks) == [[(0,)]]


def test_withheld_by_uri_alone(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    made = sidecar(0)
    made["caller"] = {"number": "x7", "name": None, "uri": "sip:x7@anonymous.invalid", "address": None}
    Index(layout.index).add_calls([made])
    assert find(layout, CallFilter(numbers=["anonymous"])) == [made["id"]]


def test_hostile_calls_are_found_and_counted(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    Index(layout.index).add_calls([hostile(n) for n in range(len(HOSTILE))])
    assert [(state, count) for state, count, _, _ in state_counts(layout)] == [("answered", len(HOSTILE))]
    assert len(find(layout, CallFilter(name="; drop table"))) == 1


# -- SQL of one's own --------------------------------------------------------
def test_sql(layout: Layout) -> None:
    with ask(layout, "SELECT state, count(*) AS n, 1 AS n FROM calls GROUP BY state ORDER BY state LIMIT 1") as result:
        assert result.columns == ["state", "n", "n_1"]
        assert result.types == ["VARCHAR", "BIGINT", "INTEGER"]
        assert list(result.chunks) == [[("answered", 12, 1)]]


@pytest.mark.parametrize("view", ["call_numbers", "call_quality", "calls_per_day"])
def test_views(layout: Layout, view: str) -> None:
    with ask(layout, f"FROM {view}") as result:
        assert len(next(result.chunks)) > 10


@pytest.mark.parametrize("statement", [
    "DELETE FROM calls", "CREATE TABLE x (i INT)", "INSERT INTO meta VALUES (2)", "DROP TABLE calls", "COPY calls TO '{f}'",
    "ATTACH '{f}'", "EXPORT DATABASE '{f}'",
    "SELECT * FROM read_csv('/etc/hostname')", "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM read_blob('/etc/hostname')", "SELECT * FROM '/etc/hostname'", "SELECT * FROM glob('/*')",
    "SELECT * FROM parquet_scan('https://example.com/x')", "INSTALL httpfs", "LOAD httpfs", "LOAD '{f}'",
    "SET enable_external_access = true", "SET lock_configuration = false", "SET memory_limit = '80GB'", "RESET memory_limit",
    "CREATE SECRET s (TYPE s3)", "SELECT getenv('HOME')", "SELECT 1; DELETE FROM calls", "", ";", "SELEC",
    "SELECT error('x\ny')",
    "COPY (SELECT 1) TO '{f}' (FORMAT parquet)", "IMPORT DATABASE '/etc'", "SELECT * FROM no_such_table"])
def test_sql_reads_the_index_and_nothing_else(layout: Layout, tmp_path: Path, statement: str) -> None:
    with pytest.raises(StoreError) as caught, ask(layout, statement.replace("{f}", str(tmp_path / "x"))) as result:
        list(result.chunks)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert len(find(layout, CallFilter())) == 48


# -- any number of them --------------------------------------------------------
@pytest.mark.parametrize("page", [7, 1000])
@pytest.mark.parametrize("sort", ["start", "oldest", "duration"])
def test_pages_are_the_list(layout: Layout, monkeypatch: pytest.MonkeyPatch, page: int, sort: str) -> None:
    by_id = {call["id"]: call for call in MADE}
    ordered = sorted(MADE, key=lambda call: (call["start"], call["id"]), reverse=sort != "oldest")
    if sort == "duration":
        ordered.sort(key=lambda call: -1.0 if call["duration_s"] is None else call["duration_s"], reverse=True)
    monkeypatch.setattr(query, "PAGE", page)
    for chosen in (CallFilter(sort=sort), CallFilter(sort=sort, limit=9), CallFilter(sort=sort, limit=40, states=["answered"])):
        want = [call["id"] for call in ordered if not chosen.states or call["state"] in chosen.states][:chosen.limit]
        found = [row for part in pages(layout, chosen) for row in part]
        assert [row.id for row in found] == want == list(each_id(layout, chosen))
        assert [row.tags for row in found] == [by_id[i]["tags"] for i in want]


def test_pages_of_calls_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last moment of a day, the ends of the calendar, calls at the same time, calls of no time."""
    monkeypatch.setattr(query, "PAGE", 2)
    layout = Layout(tmp_path)
    times = ["0001-01-01T00:00:00.000000Z", "2026-11-24T23:59:59.999999Z", "2026-11-25T00:00:00.000000Z",
             "9999-12-31T23:59:59.999999Z", "2026-11-24T00:00:00.000000Z"]
    made = [sidecar(n, start=times[n % len(times)]) for n in range(20)]
    Index(layout.index).add_calls(made)
    with open_index(layout.index, write=True) as db:
        db.execute("UPDATE calls SET start_time = NULL WHERE start_time = '2026-11-25'")
    for sort, backwards in (("start", True), ("oldest", False)):
        found = [row for page in pages(layout, CallFilter(sort=sort)) for row in page]
        assert {row.id for row in found} == {call["id"] for call in made}
        assert len(found) == len(made)
        dated = [row.start for row in found if row.start is not None]
        assert dated == sorted(dated, reverse=backwards)
        assert [row.start for row in found[len(dated):]] == [None] * (20 - 16)
        for limit in (1, 3, 16, 17, 20, 30):  # few: found by when they start
            assert list_calls(layout, CallFilter(sort=sort, limit=limit)) == found[:limit]
        assert list_calls(layout, CallFilter(sort=sort, name="nobody", limit=5)) == []


def test_the_index_is_closed_between_pages(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PAGE", 5)
    reading = pages(layout, CallFilter())
    next(reading)
    with open_index(layout.index, write=True, patience_s=0.2):
        pass
    assert sum(map(len, reading)) >= 40
