"""Silence on the wire is an alarm in business hours, and at no other time."""

from __future__ import annotations

from datetime import datetime

from tests.appliance.alarming import GIB, SETTINGS, SILENCE, Box, tokyo  # noqa: F401 -- tokyo is used by itself
from tests.appliance.states import correlate


def test_silence_in_business_hours() -> None:
    box = Box(SILENCE)
    assert box.told(3600, 10) == []
    box.busy = False
    assert box.told(1780, 10) == []
    assert box.told(40, 10) == [("silence", "raised")]
    box.busy = True
    assert box.told(10, 10) == [("silence", "cleared")]


def test_packets_of_a_long_call_are_no_silence() -> None:
    box = Box(SILENCE)
    box.busy = False
    for n in range(400):
        box.correlate = correlate([{"packets": [50 * n, 0]}])
        assert box.told(10, 10) == []


def test_rtp_counts_where_nothing_correlates() -> None:
    box = Box(SILENCE)
    box.correlate = None
    assert box.capture is not None
    for n in range(400):
        box.capture["rtp_packets"] = n
        assert [i for i, _ in box.told(10, 10) if i == "silence"] == []
    assert [(i, status) for i, status in box.told(1900, 10) if i == "silence"] == [("silence", "raised")]


def test_a_quiet_night_is_no_alarm_and_the_morning_begins_anew() -> None:
    box = Box(SILENCE)
    box.now = datetime(2026, 11, 23, 18, 0, 1).timestamp()
    box.busy = False
    assert box.told(15 * 3600 - 60, 60) == []  # until 8:59
    assert box.told(29 * 60, 10) == []
    assert box.told(3 * 60, 10) == [("silence", "raised")]
    assert 30 <= box.alarms.state()["active"][0]["facts"]["minutes"] <= 33  # not since the evening before


def test_silence_that_lasts_into_the_evening_is_neither_repeated_nor_over() -> None:
    box = Box(SILENCE)
    box.now = datetime(2026, 11, 23, 17, 0).timestamp()
    box.busy = False
    assert box.told(3600, 10) == [("silence", "raised"), ("silence", "repeated")]
    assert box.told(15 * 3600, 60) == []
    box.restart()
    assert box.told(29 * 60, 10) == []
    assert [status for _, status in box.told(120, 10)] == ["repeated"]
    box.busy = True
    assert box.told(10, 10) == [("silence", "cleared")]


def test_nobody_listens_who_was_stopped() -> None:
    box = Box(SILENCE)
    box.busy = False
    assert box.capture is not None
    box.capture["stopped"] = True
    assert box.told(4 * 3600, 10) == []
