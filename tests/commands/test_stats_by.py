"""`rokuon stats --by`: every count as the sidecars give it, and sums that agree."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click
import pytest
from click.testing import CliRunner
from tests.store.archives import put
from tests.store.sidecars import HOSTILE, party, sidecar

from rokuon.cli import main
from rokuon.commands.stats import stats as stats_command
from rokuon.store import statistics
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.sidecar import nanoseconds, read

Json = dict[str, Any]

ZONES = {"JST-9": "Asia/Tokyo"} | {zone: zone for zone in ("Asia/Tokyo", "America/New_York", "Asia/Kathmandu")}
UNANSWERED = {"cancelled", "busy", "no-answer", "failed"}
CALLS = 200  # eight days: hours of every kind, the end of a month


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls an hour apart from 24 November on, with sidecars and index."""
    layout = Layout(tmp_path_factory.mktemp("archive"))
    index = Index(layout.index, "JP")
    layout.prepare()
    ids = [put(layout, sidecar(n)) for n in range(CALLS)]
    index.add_calls([read(layout.sidecar(i)) for i in ids])
    return layout.root


@pytest.fixture
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ZoneInfo]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield ZoneInfo(ZONES[request.param])
    monkeypatch.undo()
    time.tzset()


def stats(data: Path, *args: str) -> str:
    result = CliRunner().invoke(main, ["--data", str(data), "stats", *args], env={"ROKUON_CONFIG": None})
    assert result.exit_code == 0, result.stderr
    return result.stdout


def sidecars(data: Path) -> list[Json]:
    return [read(path) for path in sorted(data.glob("recordings/*/*/*/*/*.json"))]


def by_hand(calls: list[Json], keys: Any) -> dict[Any, tuple[int, int, int, float]]:
    """Calls, answered, unanswered, and seconds of talk of each key."""
    counts: dict[Any, Counter[str]] = {}
    for call in calls:
        for key in keys(call):
            count = counts.setdefault(key, Counter())
            count["calls"] += 1
            count["answered"] += call["state"] == "answered"
            count["unanswered"] += call["state"] in UNANSWERED
            count["talk_us"] += round(1e6 * (call["duration_s"] or 0))
    return {key: (c["calls"], c["answered"], c["unanswered"], round(c["talk_us"] / 1e6, 3)) for key, c in counts.items()}


def told(counted: Json) -> dict[Any, tuple[int, int, int, float]]:
    return {b[counted["by"]]: (b["calls"], b["answered"], b["unanswered"], b["talk_s"]) for b in counted["buckets"] if b["calls"]}


def agrees(counted: Json) -> None:
    """Every sum is that of what it stands under."""
    lines = [*counted["buckets"], *([counted["others"]] if "others" in counted else [])]
    for key in ("calls", "answered", "unanswered", "audio_bytes"):
        assert sum(line[key] for line in lines) == counted["total"][key]
    assert sum(line["talk_s"] for line in lines) == pytest.approx(counted["total"]["talk_s"], abs=0.001 * len(lines))
    for line in [*lines, counted["total"]]:
        assert sum(line["states"].values()) == line["calls"]
        assert line["answered"] == line["states"].get("answered", 0)
        assert line["unanswered"] == sum(line["states"].get(state, 0) for state in UNANSWERED)
    assert sum((Counter(line["states"]) for line in lines), Counter()) == Counter(counted["total"]["states"])
    assert counted["total"]["calls"] == counted["calls"] * (2 if counted["by"] == "number" else 1)


@pytest.mark.parametrize("zone", ZONES, indirect=True)
def test_hours_and_days_are_local(archive: Path, zone: ZoneInfo) -> None:
    def start(call: Json) -> datetime:
        return datetime.fromtimestamp(nanoseconds(call["start"]) // 10**9, zone)

    calls = sidecars(archive)
    for by, form, kept in (("hour", "%H", 24), ("weekday", "%a", 7), ("day", "%Y-%m-%d", None)):
        counted = json.loads(stats(archive, "--by", by, "--json"))
        want = by_hand(calls, lambda call, form=form: [start(call).strftime(form)])
        assert told(counted) == want
        assert len(counted["buckets"]) == (kept or len(want))
        agrees(counted)
        assert counted["calls"] == CALLS
    days = [bucket["day"] for bucket in counted["buckets"]]
    assert days == sorted(days)


def test_states_and_codecs(archive: Path) -> None:
    calls = sidecars(archive)
    for by, keys in (("state", lambda call: [call["state"]]),
                     ("codec", lambda call: {stream["codec"] for stream in call["streams"]} or [None])):
        counted = json.loads(stats(archive, "--by", by, "--json"))
        assert told(counted) == by_hand(calls, keys)
        agrees(counted)


def test_a_number_is_one_however_it_was_written(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    index = Index(layout.index, "JP")
    layout.prepare()
    written = ["0312345678", "+81312345678", "03-1234-5678", "+81-3-1234-5678"]
    calls = [sidecar(n, caller=party(written[n % 4]), callee=party("200")) for n in range(8)]
    index.add_calls(calls)
    counted = json.loads(stats(tmp_path, "--by", "number", "--json"))
    assert {bucket["number"]: bucket["calls"] for bucket in counted["buckets"]} == {"0312345678": 8, "200": 8}
    agrees(counted)
    for by, number in (("caller", "0312345678"), ("callee", "200")):
        counted = json.loads(stats(tmp_path, "--by", by, "--json"))
        assert [(bucket[by], bucket["calls"]) for bucket in counted["buckets"]] == [(number, 8)]
        agrees(counted)


@pytest.mark.parametrize("by", statistics.KINDS)
@pytest.mark.parametrize("chosen", [(), ("--since", "2026-11-26", "--until", "2026-11-28"), ("--number", "03-1234-5678"),
                                    ("--state", "busy", "--state", "failed")])
def test_sums_agree_with_the_list(archive: Path, by: str, chosen: tuple[str, ...]) -> None:
    listed = CliRunner().invoke(main, ["--data", str(archive), "calls", *chosen, "--json"], env={"ROKUON_CONFIG": None})
    calls = json.loads(listed.stdout)
    for limit in ((), ("--limit", "2")):
        counted = json.loads(stats(archive, "--by", by, *chosen, *limit, "--json"))
        agrees(counted)
        assert counted["calls"] == len(calls) > 0
        assert Counter(call["state"] for call in calls) == (
            Counter({state: n // (2 if by == "number" else 1) for state, n in counted["total"]["states"].items()}))
    assert len(counted["buckets"]) <= 2


def test_table_and_csv_say_the_same(archive: Path) -> None:
    head, *lines, total = stats(archive, "--by", "hour").splitlines()
    titles = head.split()
    assert titles[:4] == ["HOUR", "CALLS", "ANSWERED", "UNANSWERED"]
    table = [dict(zip(titles, line.split(), strict=False)) for line in lines]
    rows = list(csv.DictReader(io.StringIO(stats(archive, "--by", "hour", "--csv"))))
    assert [row["hour"] for row in rows] == [row["HOUR"] for row in table] == [f"{hour:02}" for hour in range(24)]
    for title in titles[1:titles.index("TALK")]:
        assert [row[title.lower()] for row in rows] == [row[title] for row in table]
        assert sum(int(row[title]) for row in table) == int(total.split()[titles.index(title)])


def test_others_are_one_line(archive: Path) -> None:
    whole = json.loads(stats(archive, "--by", "caller", "--json"))
    cut = json.loads(stats(archive, "--by", "caller", "--limit", "1", "--json"))
    assert cut["buckets"] == whole["buckets"][:1]
    assert cut["others"]["calls"] == sum(bucket["calls"] for bucket in whole["buckets"][1:])
    assert "others" in stats(archive, "--by", "caller", "--limit", "1")
    assert "others" not in whole


def test_numbers_are_bounded(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_LINES", 2)
    for limit in ((), ("--limit", "4")):
        counted = json.loads(stats(archive, "--by", "number", *limit, "--json"))
        assert len(counted["buckets"]) == 2
        agrees(counted)
    assert len(json.loads(stats(archive, "--by", "hour", "--json"))["buckets"]) == 24


def test_nothing_to_count(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make_directory(layout.recordings)
    for by in statistics.KINDS:
        counted = json.loads(stats(tmp_path, "--by", by, "--json"))
        assert (counted["calls"], counted["buckets"]) == (0, [])
        agrees(counted)
        assert stats(tmp_path, "--by", by) == ""


def test_hostile_numbers_stay_text(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    index = Index(layout.index, "JP")
    layout.prepare()
    index.add_calls([sidecar(n, caller=party(text)) for n, text in enumerate(HOSTILE) if "\ud800" not in text])
    for line in stats(tmp_path, "--by", "number").splitlines():
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", line)
    for row in csv.reader(io.StringIO(stats(tmp_path, "--by", "caller", "--csv"))):
        assert not re.match("[=@+-](?![0-9]*$)", row[0])


def test_the_help_shows_how_to_count_unanswered_calls_by_hour() -> None:
    text = " ".join(CliRunner().invoke(main, ["stats", "--help"]).stdout.split())
    assert re.search("unanswered[^.]* by hour", text)
    assert "rokuon stats --by hour" in text


def test_the_kinds_are_those_that_can_be_counted() -> None:
    (by,) = [parameter for parameter in stats_command.params if parameter.name == "by"]
    assert isinstance(by.type, click.Choice)
    assert tuple(by.type.choices) == statistics.KINDS


def test_unanswered_stands_for_its_states(archive: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(archive), "calls", "--state", "unanswered", "--json", "--limit", str(CALLS)])
    states = Counter(call["state"] for call in json.loads(result.stdout))
    every = Counter(read(path)["state"] for path in archive.rglob("recordings/**/*.json"))
    assert states == Counter({state: n for state, n in every.items() if state in UNANSWERED})
    assert states
