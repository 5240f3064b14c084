"""What is shown of states: all that matters, and nothing of what cannot be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.appliance.states import ANYTHING, NOW, call, capture, correlate

from rokuon.appliance.live_view import View, view
from rokuon.commands.live_screen import lines


def fresh(state: dict[str, Any], age: float = 0) -> dict[str, Any]:
    return {**state, "time": (datetime.now(UTC) - timedelta(seconds=age)).isoformat()}


def seen(captures: dict[str, dict[str, Any]] | None = None, correlation: dict[str, Any] | None = None) -> View:
    captures = {"eth1": capture()} if captures is None else captures
    return view({name: fresh(state) for name, state in captures.items()}, fresh(correlation or correlate([call(65)])))


def test_a_service_that_is_well() -> None:
    now = seen()
    assert now.running
    assert not now.warnings
    assert (now.in_progress, now.waiting, now.behind_s, now.recorded, now.not_recorded) == (1, 3, 0.5, 1204, 3)
    assert (now.disk_free, now.days_left) == (412e9, 38.2)
    (line,) = now.captures
    assert (line.interfaces, line.packets_s, line.dropped, line.not_written) == ((("eth1", True),), 30_000, 0, 0)
    (shown,) = now.calls
    assert (shown.caller, shown.callee, shown.lasts_s) == ("0300000065 田中 太郎", "200", 63)
    assert shown.packets == (3250, 3185)
    assert shown.lost_percent == (0, 100 * 65 / (65 + 49 * 65))
    assert now.measured


def test_calls_are_in_order_and_counted() -> None:
    now = seen(correlation=correlate([call(n) for n in (30, 10, 20)], live_more=7, calls_in_progress=10))
    assert [c.start for c in now.calls] == [NOW - timedelta(seconds=n) for n in (10, 20, 30)]
    assert now.in_progress == 10


def test_a_call_that_rings_lasts_since_its_start() -> None:
    ringing = call(8, state="ringing", answer=None, lost=[None, None], jitter_ms=[None, None])
    (shown,) = seen(correlation=correlate([ringing])).calls
    assert shown.lasts_s == 8
    assert shown.lost_percent == shown.jitter_ms == (None, None)


@pytest.mark.parametrize(("captures", "correlation", "words"), [
    ({"eth1": capture(dropped_s=12)}, None, ["eth1", "12 packets dropped", "rokuon doctor -i eth1"]),
    ({"eth1": capture(not_written={"spool-full": 5, "disk-slow": 2})}, None, ["eth1", "7 packets", "disk"]),
    ({"eth1": capture(interfaces=[{"name": "eth1", "up": False}])}, None, ["eth1 is down"]),
    ({}, None, ["nothing is captured", "systemctl start rokuon-capture@"]),
    ({"eth1": capture(stopped=True)}, None, ["nothing is captured"]),
    (None, correlate([], stopped=True), ["spool", "systemctl start rokuon.service"]),
    (None, correlate([], behind_s=45), ["45 s late"]),
    (None, correlate([], disk={"level": "low", "policy": "keep-newest"}), ["nearly full", "oldest calls are deleted"]),
    (None, correlate([], disk={"level": "full", "policy": "keep-oldest"}), ["is full", "no new call"]),
])
def test_what_is_wrong_is_said(captures: dict[str, dict[str, Any]] | None, correlation: dict[str, Any] | None,
                               words: list[str]) -> None:
    (warning,) = seen(captures, correlation).warnings
    assert all(word in warning for word in words)


def test_a_process_without_a_word() -> None:
    silent = view({"eth1": fresh(capture(), 40)}, fresh(correlate([call(3)]), 20))
    assert not silent.running
    assert [w.rsplit(": ", 1)[1] for w in silent.warnings] == ["systemctl status rokuon-capture@eth1.service",
                                                              "systemctl status rokuon.service"]
    assert len(silent.calls) == 1
    ended = view({"eth1": fresh(capture(stopped=True), 400)}, fresh(correlate([call(3)], stopped=True), 400))
    assert (ended.running, ended.warnings, ended.calls) == (False, [], [])


def test_under_record_no_unit_is_named() -> None:
    """`record -i` starts its processes itself: what to look at is its terminal."""
    well, told = capture(supervised=True), correlate([], supervised=True)
    assert not seen({"eth1": well}, told).warnings
    for captures, correlation in (({}, told), ({"eth1": well}, {**told, "stopped": True}),
                                  ({"eth1": {**well, "stopped": True}}, told)):
        (warning,) = seen(captures, correlation).warnings
        assert "rokuon record -i" in warning
        assert "systemctl" not in warning
    silent = view({"eth1": fresh(well, 60)}, fresh(told, 60))
    assert len(silent.warnings) == 2
    assert all("rokuon record -i" in warning and "systemctl" not in warning for warning in silent.warnings)


def test_losses_count_from_when_somebody_began_to_watch() -> None:
    """So the percentage is of the packets since then, not of all."""
    (shown,) = seen(correlation=correlate([call(3600, watched=[90, None], lost=[10, None])])).calls
    assert shown.lost_percent == (10, None)


def test_who_has_no_number_has_an_address() -> None:
    unknown = call(5, caller=None, caller_name=None, caller_address="10.0.0.1", callee_address="10.0.0.2")
    (shown,) = seen(correlation=correlate([unknown])).calls
    assert (shown.caller, shown.callee) == ("10.0.0.1", "200")


def test_nothing_ran_ever() -> None:
    assert view({}, None) == View()


def test_lately_warned_of_by_a_capture() -> None:
    told = [f"eth1: line {n}" if n % 2 else f"line {n}" for n in range(20)]
    assert seen({"eth1": capture(warnings=told)}).notices == ["eth1: line 17", "eth1: line 18", "eth1: line 19"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(capture())), ANYTHING),
       st.dictionaries(st.sampled_from(list(correlate([]))), ANYTHING),
       st.dictionaries(st.sampled_from(list(call(1))), ANYTHING), st.booleans())
def test_any_state_can_be_shown(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any], with_time: bool) -> None:
    mine, theirs = {**capture(), **one}, {**correlate([{**call(1), **three}]), **two}
    if with_time:
        mine, theirs = fresh(mine), fresh(theirs)
    now = view({"eth1": mine}, theirs)
    assert len(now.calls) <= now.in_progress
    assert all(len(text) <= 40 for text in lines(now, NOW, 40, 24))
    assert lines(now, NOW)
