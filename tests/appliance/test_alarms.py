"""Alarms: what is wrong is told once, again after a while, and when it is over; what is not wrong is not told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.appliance.states import ANYTHING, capture, correlate

from rokuon.appliance.alarm_rules import Look
from rokuon.appliance.alarm_texts import TEXTS
from rokuon.appliance.alarms import Alarms
from rokuon.appliance.hours import Hours
from rokuon.store.settings import HooksSettings, Settings, SettingsError, parse

MONDAY_NOON = datetime(2026, 11, 23, 12, 0).timestamp()
GIB = 1 << 30
SETTINGS = Settings(hooks=HooksSettings(repeat=900))


@pytest.fixture(autouse=True)
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    global MONDAY_NOON  # noqa: PLW0603 -- in that zone
    MONDAY_NOON = datetime(2026, 11, 23, 12, 0).timestamp()
    yield
    monkeypatch.undo()
    time.tzset()


class Box:
    """A machine whose processes run, and alarms that look at it, by a clock of its own."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.alarms = Alarms(settings, "box", "0.1.0")
        self.now, self.monotonic = MONDAY_NOON, 1000.0
        self.capture: dict[str, Any] | None = capture()
        self.correlate: dict[str, Any] | None = correlate([])
        self.disk: tuple[int, int] | None = (50 * GIB, 100 * GIB)
        self.hook: dict[str, int] = {}
        self.hang: set[str] = set()
        self.calls = 0
        self.busy = True
        self.stamps = {"capture": self.now, "correlate": self.now}

    def look(self, seconds: float = 2.0) -> list[dict[str, Any]]:
        """What is told after so many seconds."""
        self.now, self.monotonic = self.now + seconds, self.monotonic + seconds
        self.calls += self.busy
        for name in ("capture", "correlate"):
            if name not in self.hang:
                self.stamps[name] = self.now
        stamps = {name: datetime.fromtimestamp(stamp).astimezone().isoformat() for name, stamp in self.stamps.items()}
        captures = {} if self.capture is None else {"eth1": {"time": stamps["capture"], **self.capture}}
        correlation = None if self.correlate is None else {"time": stamps["correlate"], **self.correlate}
        if correlation is not None and self.calls:
            correlation["totals"] = {**correlation["totals"], "seen": correlation["totals"]["seen"] + self.calls}
        return self.alarms.look(Look(self.now, self.monotonic, captures, correlation, self.disk, self.hook))

    def told(self, seconds: float, step: float = 2.0) -> list[tuple[str, str]]:
        """Alarm and status of what is told within so many seconds."""
        found: list[tuple[str, str]] = []
        for _ in range(round(seconds / step)):
            found += [(notice["id"], notice["status"]) for notice in self.look(step)]
        return found

    def interface(self, **changes: Any) -> None:
        assert self.capture is not None
        self.capture["interfaces"] = [{**self.capture["interfaces"][0], **changes}]

    def restart(self) -> None:
        """The alarms' own process is started again."""
        kept = json.loads(json.dumps(self.alarms.state()))
        self.alarms = Alarms(self.settings, "box", "0.1.0", kept)


def test_all_is_well() -> None:
    assert Box().told(3600, 10) == []


def test_drops_are_told_once_and_again_while_they_last_and_when_they_are_over() -> None:
    box = Box()
    box.look()
    box.interface(dropped_by_kernel=7)
    notice, = box.look()
    assert (notice["id"], notice["status"], notice["level"]) == ("drops/eth1/kernel", "raised", "warning")
    assert notice["facts"] == {"capture": "eth1", "interface": "eth1", "cause": "kernel", "packets": 7}
    assert "eth1: the kernel dropped 7 packets" in notice["text"]
    assert "[capture] buffer" in notice["text"]
    assert (notice["host"], notice["version"], notice["schema"], notice["kind"]) == ("box", "0.1.0", 1, "drops")
    for n in range(890 // 10):
        box.interface(dropped_by_kernel=8 + n)
        assert box.look(10) == []
    box.interface(dropped_by_kernel=1007)
    again, = box.look(10)
    assert (again["status"], again["facts"]["packets"], again["since"]) == ("repeated", 1000, notice["since"])
    assert box.told(298) == []
    assert box.told(10) == [("drops/eth1/kernel", "cleared")]
    assert box.told(3600, 10) == []


def test_drops_from_before_we_looked_are_no_news_and_those_of_a_process_that_began_again_are() -> None:
    box = Box()
    box.interface(dropped_by_kernel=10**6, dropped_by_interface=5)
    assert box.told(60) == []
    assert box.capture is not None
    box.capture["started"] = "2026-11-24T12:00:01.000000Z"
    box.interface(dropped_by_kernel=3, dropped_by_interface=0)
    notice, = box.look()
    assert notice["facts"]["packets"] == 3


def test_drops_while_we_did_not_run_are_told() -> None:
    box = Box()
    box.look()
    box.restart()
    box.interface(dropped_by_interface=4)
    notice, = box.look(600)
    assert (notice["id"], notice["facts"]["packets"]) == ("drops/eth1/interface", 4)


def test_packets_not_kept() -> None:
    box = Box()
    box.look()
    assert box.capture is not None
    box.capture["not_written"] = {"spool-full": 12}
    notice, = box.look()
    assert (notice["id"], notice["level"], notice["facts"]["packets"]) == ("not-written/eth1/spool-full", "critical", 12)
    box.capture["not_written"] = {"spool-full": 12, "other {reason}\x1b": 1}
    notice, = box.look()
    assert notice["text"] == "eth1: 1 packets were captured and not kept: other _reason_."


@pytest.mark.parametrize(("process", "id"), [("capture", "process-gone/capture-eth1"), ("correlate", "process-gone/correlate")])
def test_a_process_that_is_gone_is_told_and_one_that_was_stopped_is_not(process: str, id: str) -> None:
    box = Box()
    assert box.told(10) == []
    box.hang.add(process)
    assert box.told(10) == []
    assert box.told(4) == [(id, "raised")]
    box.restart()
    assert box.told(890) == []
    assert box.told(10) == [(id, "repeated")]
    box.hang.clear()
    assert box.told(2) == [(id, "cleared")]
    state = getattr(box, process)
    state["stopped"] = True
    box.hang.add(process)
    assert box.told(600) == []


def test_at_a_boot_processes_have_time_to_start() -> None:
    box = Box()
    box.hang |= {"capture", "correlate"}
    box.now += 3600  # the files are from before
    assert box.told(28) == []
    assert sorted(box.told(6)) == [("process-gone/capture-eth1", "raised"), ("process-gone/correlate", "raised")]


def test_a_clock_that_is_set_makes_no_process_gone_nor_alarms_that_stay() -> None:
    box = Box()
    box.look()
    box.now -= 7200
    assert box.told(60) == []
    box.now += 86_400
    assert box.told(60) == []
    box.interface(dropped_by_kernel=7)
    assert box.told(2) == [("drops/eth1/kernel", "raised")]
    box.now -= 86_400
    assert box.told(310) == [("drops/eth1/kernel", "cleared")]
    box.now += 7200
    box.hang.add("capture")
    box.now -= 3600  # a state that seems to be of the future is no life
    assert box.told(60) == [("process-gone/capture-eth1", "raised")]


def test_on_a_full_disk_nobody_can_say_that_he_is_there() -> None:
    box = Box()
    assert box.told(10) == []
    box.hang |= {"capture", "correlate"}
    box.disk = (0, 100 * GIB)
    assert box.told(600) == [("disk", "raised")]
    box.disk = (50 * GIB, 100 * GIB)
    box.hang.clear()
    assert box.told(60) == [("disk", "cleared")]


def test_one_half_alone_is_told() -> None:
    box = Box()
    box.correlate = None
    assert box.told(60) == [("process-gone/correlate", "raised")]
    box = Box()
    box.capture = None
    assert box.told(60) == [("process-gone/capture", "raised")]
    box.correlate = None
    assert box.told(60) == [("process-gone/capture", "cleared")]  # nothing ever ran here


def test_link() -> None:
    box = Box()
    box.interface(up=False)
    notice, = box.look()
    assert (notice["id"], notice["level"], notice["status"]) == ("link-down/eth1", "critical", "raised")
    assert box.told(600) == []
    box.interface(up=True)
    notice, = box.look()
    assert notice["status"] == "cleared"
    assert notice["text"].startswith("Over: eth1 has no link")


def test_disk_by_our_own_look_and_by_correlation() -> None:
    box = Box()
    box.correlate = correlate([], disk={})
    box.disk = (9 * GIB, 100 * GIB)
    notice, = box.look()
    assert (notice["id"], notice["level"]) == ("disk", "warning")
    assert "9.0 % free); when it is full, no new calls will be recorded" in notice["text"]
    box.disk = (2 * GIB, 100 * GIB)
    notice, = box.look()
    assert (notice["level"], notice["status"]) == ("critical", "raised")  # worse: told at once
    box.disk = (50 * GIB, 100 * GIB)
    assert box.told(2) == [("disk", "cleared")]
    box.correlate = correlate([], disk={"level": "full", "policy": "keep-newest", "days_left": None})
    notice, = box.look()
    assert "the oldest calls are deleted" in notice["text"]
    box.correlate = correlate([], disk={"level": "full", "policy": "keep-newest", "acting": "stuck", "files_free": 12})
    box.look(900)
    notice, = box.look(900)
    assert "% free, room for 12 files), and no call is left that may be deleted" in notice["text"]
    box.correlate = correlate([], disk={"level": "low", "spool": {"free": 5, "total": 100, "level": "low"}})
    box.look(900)
    notice, = box.look(900)
    assert "The disk of the spool fills up (5.0 % free)" in notice["text"]
    box.correlate = correlate([], disk={"level": "low", "policy": "keep-oldest", "days_left": 1.26})
    box.look(900)
    notice, = box.look(900)
    assert "about 1.3 days" in notice["text"]
    box.disk, box.correlate = None, correlate([], disk={})
    assert box.told(2) == [("disk", "cleared")]  # nothing is known


def test_backlog() -> None:
    box = Box()
    assert box.correlate is not None
    box.correlate["behind_s"] = 61
    notice, = box.look()
    assert "61 s behind" in notice["text"]
    box.correlate["behind_s"] = 1
    assert box.told(2) == [("backlog", "cleared")]
    for jobs in range(10, 100, 12):
        box.correlate["backlog"] = {"jobs": jobs}
        found = box.told(60)
    assert found == []
    assert [notice["id"] for notice in box.alarms.state()["active"]] == ["backlog"]
    box.correlate["backlog"] = {"jobs": 3}
    assert box.told(60) == [("backlog", "cleared")]
    for jobs in range(8):  # a few calls more each minute are no backlog
        box.correlate["backlog"] = {"jobs": jobs}
        assert box.told(60) == []


def test_a_spool_that_fills() -> None:
    box = Box()
    assert box.capture is not None
    box.capture.update(spool_bytes=81, spool_limit=100)
    assert box.told(2) == [("spool/eth1", "raised")]
    box.capture.update(spool_bytes=80)
    assert box.told(2) == [("spool/eth1", "cleared")]
    box.capture.update(spool_limit=0)
    assert box.told(2) == []


def test_what_happens_once_is_told_and_never_over() -> None:
    box = Box()
    box.look()
    assert box.correlate is not None
    assert box.capture is not None
    box.correlate["totals"] = {**box.correlate["totals"], "quarantined": 2}
    box.capture["clock_steps"] = 1
    box.hook = {"skipped": 0, "given-up": 1}
    assert sorted(box.told(2)) == [("call-hook/given-up", "raised"), ("clock-step/eth1", "raised"), ("quarantine", "raised")]
    box.correlate["totals"]["quarantined"] = 7
    assert box.told(600) == []
    notice, = [notice for _ in range(200) for notice in box.look(2)]
    assert (notice["id"], notice["status"], notice["facts"]) == ("quarantine", "raised", {"calls": 5})
    assert box.told(3600, 10) == []
    assert box.alarms.state()["active"] == []


# -- silence -----------------------------------------------------------------
SILENCE = replace(SETTINGS, hooks=HooksSettings(repeat=900, silence=30, hours="Mon-Fri 09:00-18:00"))


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


# -- business hours ----------------------------------------------------------
def local(text: str) -> datetime:
    return datetime.strptime(text, "%a %H:%M").replace(year=2026, month=11, day=23) + timedelta(
        days=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index(text[:3]))


@pytest.mark.parametrize(("hours", "now", "begun"), [
    ("Mon-Fri 09:00-18:00", "Mon 09:00", "Mon 09:00"),
    ("Mon-Fri 09:00-18:00", "Fri 17:59", "Fri 09:00"),
    ("Mon-Fri 09:00-18:00", "Fri 18:00", None),
    ("Mon-Fri 09:00-18:00", "Sun 12:00", None),
    ("Mon-Fri 09:00-12:00 13:00-18:00, Sat 10:00-12:00", "Tue 12:30", None),
    ("Mon-Fri 09:00-12:00 13:00-18:00, Sat 10:00-12:00", "Sat 11:00", "Sat 10:00"),
    ("Mon-Fri 09:00-12:00 12:00-18:00", "Tue 13:00", "Tue 09:00"),
    ("Fri 22:00-06:00", "Sat 05:00", "Fri 22:00"),
    ("Fri 22:00-06:00", "Fri 05:00", None),
    ("Sun 22:00-24:00, Mon 00:00-02:00", "Mon 01:00", "Sun 22:00"),
    ("Sat-Mon 09:00-10:00", "Mon 09:30", "Mon 09:00"),
    ("Sat-Mon 09:00-10:00", "Tue 09:30", None),
])
def test_hours(hours: str, now: str, begun: str | None) -> None:
    assert parse(f"[hooks]\nhours = '{hours}'", "f").hooks.hours == hours
    found = Hours(hours).begun(local(now) + (timedelta(days=7) if begun and begun[:3] == "Sun" else timedelta()))
    assert (None if found is None else f"{found:%a %H:%M}") == begun


@pytest.mark.parametrize("hours", ["Mon", "9-18", "Mon-Fri", "Mon-Fri 9:00-18:00", "Mon-Fri 09:00-25:00", "mon 09:00-18:00",
                                   "Mon 09:00-18:00,", "Mon,Tue 09:00-18:00", "Mon 24:00-02:00", "Mon 09:60-10:00"])
def test_what_are_no_hours(hours: str) -> None:
    with pytest.raises(SettingsError, match=r"^f:2: hooks.hours must be days and times, such as"):
        parse(f"[hooks]\nhours = '{hours}'", "f")


def test_no_hours_are_always() -> None:
    assert Hours("").begun(local("Sun 03:00")) is not None


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439),
       st.integers(1, 1440))
def test_hours_by_counting_minutes(now: datetime, first: int, last: int, begin: int, minutes: int) -> None:
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    end = (begin + minutes) % 1440
    text = f"{days[first]}-{days[last]} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    week = set()
    for n in range((last - first) % 7 + 1):
        start = (first + n) % 7 * 1440 + begin
        week |= {(start + m) % 10_080 for m in range(minutes)}
    of_week = now.weekday() * 1440 + now.hour * 60 + now.minute
    begun = Hours(text).begun(now)
    assert (begun is not None) == (of_week in week)
    if begun is not None:
        assert begun <= now
        assert (of_week - int((now - begun).total_seconds() // 60)) % 10_080 in week


# -- whatever happens --------------------------------------------------------
@hypothesis_settings(max_examples=50, deadline=None)
@given(st.data())
def test_any_state_is_judged(data: st.DataObject) -> None:
    box = Box(SILENCE)
    for _ in range(data.draw(st.integers(1, 6))):
        for state in (capture(), correlate([])):
            wrong = data.draw(st.dictionaries(st.sampled_from([*state, "time"]), ANYTHING, max_size=5))
            if "rtp_packets" in state:
                box.capture = {**state, **wrong}
            else:
                box.busy = False
                box.correlate = {**state, **wrong}
        for notice in box.look(data.draw(st.sampled_from([2.0, 61.0, 4000.0, -5000.0]))):
            assert json.loads(json.dumps(notice, allow_nan=False)) == notice
            assert notice["text"].isprintable()
            assert notice["id"].isprintable()
        kept = data.draw(st.sampled_from([None, "memory", "active", "raised"]))
        state = box.alarms.state()
        if kept is not None:
            state[kept] = data.draw(ANYTHING)
        box.alarms = Alarms(SILENCE, "box", "0.1.0", json.loads(json.dumps(state)))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["drop", "link", "full", "hang", "steps", "restart", "none"]),
                          st.sampled_from([2.0, 20.0, 200.0])), max_size=60))
def test_there_is_no_storm(happens: list[tuple[str, float]]) -> None:
    """Of one alarm: raised, repeated, cleared in that order, a cleared one before it is raised again, and repeated no sooner than
    after [hooks] repeat.
    """
    box = Box()
    drops = steps = 0
    state: dict[str, Mapping[str, Any]] = {}
    told: dict[str, float] = {}
    for what, seconds in happens:
        drops, steps = drops + (what == "drop"), steps + (what == "steps")
        box.interface(dropped_by_kernel=drops, up=what != "link")
        assert box.capture is not None
        box.capture["clock_steps"] = steps
        box.hang = {"capture"} if what == "hang" else set()
        box.disk = (GIB if what == "full" else 50 * GIB, 100 * GIB)
        box.correlate = correlate([], disk={})
        if what == "restart":
            box.restart()
        for notice in box.look(seconds):
            name, status = notice["id"], notice["status"]
            last = state.get(name)
            if status == "repeated":
                assert last is not None
                assert last["status"] != "cleared"
            if status == "cleared":
                assert last is not None
                assert last["status"] != "cleared"
            if last is not None and last["status"] != "cleared" and status != "cleared":
                assert box.now - told[name] >= SETTINGS.hooks.repeat
            state[name], told[name] = notice, box.now


def test_every_text_has_what_it_speaks_of() -> None:
    """Facts that texts name are given by the rules: each text is reached in the tests above or here."""
    facts = {"name": "x", "interface": "x", "packets": 1, "capture": "x", "reason": "x", "percent": 1, "behind_s": 1.0, "jobs": 1,
             "calls": 1, "percent_free": 1.0, "lasts": "", "files": "", "what": "x", "minutes": 1.0, "interfaces": "x"}
    for text in TEXTS.values():
        assert "{" not in text.format_map(facts)
