"""Alarms: what is wrong is told once, again after a while, and when it is over; what is not wrong is not told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.appliance.alarming import GIB, SETTINGS, SILENCE, Box, tokyo  # noqa: F401 -- tokyo is used by itself
from tests.appliance.states import ANYTHING, capture, correlate

from rokuon.appliance.alarm_texts import TEXTS
from rokuon.appliance.alarms import Alarms


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
    box.correlate |= {"behind_s": 500, "replaying": True, "started": "2026-10-05T00:00:00Z"}
    assert box.told(300) == []
    assert box.told(299) == []
    assert box.told(2) == [("backlog", "raised")]
    box.correlate |= {"behind_s": 0.1, "replaying": False}
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
