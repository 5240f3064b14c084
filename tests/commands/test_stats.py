"""`rokuon stats`: the sums agree, or it is said that they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.appliance.states import call, capture, correlate, published

from rokuon.cli import main
from rokuon.store.layout import Layout
from rokuon.store.tally import Balance, Ledger, add


def stats(data: Path, *args: str) -> str:
    result = CliRunner().invoke(main, ["--data", str(data), "stats", *args], env={"ROKUON_CONFIG": None})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize(("balance", "line"), [
    (Balance(1, 1), "1 call seen = 1 recorded + 0 not recorded"),
    (Balance(1210, 1204, 3, {"disk-full": 2, "rtp-not-voice": 1}),
     "1,210 calls seen = 1,204 recorded + 3 known already + 3 not recorded"),
    (Balance(5, 3), "5 calls seen = 3 recorded + 0 not recorded + 2 of which nobody knows what became (a fault of rokuon)"),
    (Balance(3, 5), "3 calls seen = 5 recorded + 0 not recorded, 2 counted twice (a fault of rokuon)")])
def test_a_sum(tmp_path: Path, balance: Balance, line: str) -> None:
    layout = Layout(tmp_path)
    layout.make_directory(layout.recordings)
    assert "seen" not in stats(tmp_path)
    Ledger(layout).post(balance)
    assert line in stats(tmp_path).splitlines()
    counts = json.loads(stats(tmp_path, "--json"))["calls"]
    assert counts["seen"] == counts["recorded"] + counts["known"] + sum(counts["not_recorded"].values()) + counts["unaccounted"]


def test_calls_in_progress_are_in_the_sum(tmp_path: Path) -> None:
    layout = published(tmp_path, {"eth1": capture()}, correlate([call(1), call(2)]))  # and 3 to be written
    Ledger(layout).post(Balance(7, 7))
    assert "12 calls seen = 7 recorded + 0 not recorded + 5 in progress" in stats(tmp_path)
    counts = json.loads(stats(tmp_path, "--json"))["calls"]
    assert (counts["seen"], counts["in_progress"], counts["unaccounted"]) == (12, 5, 0)
    published(tmp_path, {}, correlate([call(1)], stopped=True))
    assert "7 calls seen = 7 recorded + 0 not recorded" in stats(tmp_path).splitlines()


def test_reasons_are_told_apart_by_what_they_count(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make_directory(layout.recordings)
    Ledger(layout).post(Balance(2, 1, 0, {"disk-full": 1}))
    add(layout, {"packets-dropped-by-kernel": 1234})
    shown = [text.split() for text in stats(tmp_path).splitlines()]
    assert shown.index(["disk-full", "1"]) == shown.index(["CALLS", "NOT", "RECORDED", "COUNT"]) + 1
    assert shown.index(["packets-dropped-by-kernel", "1,234"]) == shown.index(["ALSO", "NOT", "RECORDED", "COUNT"]) + 1
