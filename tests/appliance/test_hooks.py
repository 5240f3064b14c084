"""Commands that are run when something happens: how a run ends, and the alarm hook."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.hooking import Said, gone, script, until

from rokuon.appliance import hooks
from rokuon.appliance.hooks import AlarmHook, Outcome, Run


# -- one run -----------------------------------------------------------------
def ended(command: tuple[str, ...], timeout_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> Outcome:
    with open(os.devnull, "rb") as nothing:
        run = Run(command, nothing.fileno(), dict(os.environ), timeout_s, clock())
    found: list[Outcome] = []
    until(lambda: bool(found), lambda: found.extend(filter(None, [run.poll(clock())])))
    return found[0]


@pytest.mark.parametrize(("body", "outcome"), [
    ("exit 0", Outcome("ok")),
    ("exec cat", Outcome("ok")),
    ("exit 3", Outcome("failed", "exit status 3")),
    ("echo ' no  such\nhost' >&2; exit 1", Outcome("failed", "exit status 1: no such host")),
    ("kill -9 $$", Outcome("failed", "was killed by signal 9")),
    ("exec 2>&-; sleep 0.1; exit 4", Outcome("failed", "exit status 4")),
])
def test_how_a_run_ends(tmp_path: Path, body: str, outcome: Outcome) -> None:
    assert ended(script(tmp_path, body)) == outcome


def test_a_command_that_says_too_much_is_heard_to_its_end(tmp_path: Path) -> None:
    found = ended(script(tmp_path, "i=0; while [ $i -lt 3000 ]; do echo 'a line of it, and more of it, and more' >&2; "
                                   "i=$((i+1)); done; echo the end >&2; exit 1"))
    assert found.why.endswith("the end")
    assert len(found.why) < 500


def test_a_command_that_does_not_end_is_killed_with_all_it_began(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = script(tmp_path, f"trap '' TERM; (trap '' TERM; exec sleep 1000) & echo $! $$ > {pids}.part; "
                               f"mv {pids}.part {pids}; while :; do sleep 1000; done")
    with open(os.devnull, "rb") as nothing:
        run = Run(command, nothing.fileno(), dict(os.environ), 5, 0)
    until(pids.exists)
    assert run.poll(4.9) is None
    assert run.poll(5.0) is None  # told to end, which it does not
    assert run.poll(6.9) is None
    found: list[Outcome] = []
    until(lambda: bool(found), lambda: found.extend(filter(None, [run.poll(7.1)])))
    assert found == [Outcome("timeout", "took longer than 5 s and was killed")]
    for pid in pids.read_text().split():
        until(lambda pid=pid: gone(int(pid)))


def test_one_that_ends_when_it_is_told_to_leaves_nobody_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = script(tmp_path, f"(trap '' TERM; exec sleep 1000) & echo $! > {pids}.part; mv {pids}.part {pids}; wait")
    with open(os.devnull, "rb") as nothing:
        run = Run(command, nothing.fileno(), dict(os.environ), 5, 0)
    until(pids.exists)
    found: list[Outcome] = []
    until(lambda: bool(found), lambda: found.extend(filter(None, [run.poll(5.0)])))
    assert found[0].result == "timeout"
    until(lambda: gone(int(pids.read_text())))


def test_a_command_gets_nothing_that_is_for_us_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("LANG", "C.UTF-8")
    found = hooks.environment(tmp_path, "alarm", ROKUON_CALL="x")
    assert "NOTIFY_SOCKET" not in found
    names = ("LANG", "ROKUON_DATA", "ROKUON_HOOK", "ROKUON_CALL")
    assert [found[name] for name in names] == ["C.UTF-8", str(tmp_path), "alarm", "x"]


# -- the alarm hook ----------------------------------------------------------
def notice(name: str, status: str = "raised", **facts: Any) -> dict[str, Any]:
    return {"id": name, "status": status, "text": "録音 \u202e", "facts": facts}


class Alarmed:
    """An alarm hook whose command writes down what it gets, by a clock of its own."""

    def __init__(self, folder: Path, body: str = "", saved: Any = None) -> None:
        self.got = folder / "got"
        self.counts: Counter[str] = Counter()
        self.said = Said()
        command = script(folder, body or f"cat >> {self.got}")
        self.hook = AlarmHook(command, 30, folder, self.said, self.counts, saved)
        self.now = 100.0

    def settle(self) -> None:
        """Until nothing runs that may run now."""
        self.hook.step(self.now)
        until(lambda: not self.hook.busy, lambda: self.hook.step(self.now))

    @property
    def told(self) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in self.got.read_text().splitlines()] if self.got.exists() else []
        return [(line["id"], line["status"]) for line in lines]


def test_alarms_are_told_in_order(tmp_path: Path) -> None:
    box = Alarmed(tmp_path)
    for name in ("a", "b", "c"):
        box.hook.offer(notice(name, value=1))
    box.settle()
    assert box.told == [("a", "raised"), ("b", "raised"), ("c", "raised")]
    assert box.counts == {"ok": 3}
    assert "\\u202e" in box.got.read_text()
    assert "録音" in box.got.read_text()


def test_newer_takes_the_place_of_older(tmp_path: Path) -> None:
    box = Alarmed(tmp_path)
    for name, status in (("a", "raised"), ("b", "raised"), ("b", "cleared"), ("a", "repeated"), ("c", "cleared")):
        box.hook.offer(notice(name, status))
    box.settle()
    assert box.told == [("a", "raised"), ("c", "cleared")]


def test_the_rate_is_bounded(tmp_path: Path) -> None:
    box = Alarmed(tmp_path)
    for n in range(40):
        box.hook.offer(notice(f"a{n}"))
    box.settle()
    assert len(box.told) == hooks.ALARM_BURST
    box.now += 10
    box.settle()
    assert len(box.told) == hooks.ALARM_BURST + 1
    for n in range(1000):
        box.hook.offer(notice(f"b{n}"))
    assert len(box.hook.state()) == hooks.MOST_NOTICES
    assert box.counts["dropped"] == 1000 + 29 - hooks.MOST_NOTICES


def test_a_command_that_fails_is_tried_again_and_never_fatal(tmp_path: Path) -> None:
    box = Alarmed(tmp_path, f"cat >> {tmp_path}/got; echo broken >&2; exit 1")
    box.hook.offer(notice("a"))
    for n in range(1, 6):
        box.settle()
        assert len(box.told) == min(n, 3)
        box.now += 30
    assert box.counts == {"failed": 3, "given-up": 1}
    assert box.said.lines[0] == ("alarm-hook-failed", f"the alarm command {tmp_path}/hook failed: exit status 1: broken")
    for missing, why in ((("/none/there",), "no such file or directory"), ((str(tmp_path),), "permission denied")):
        box.hook.command = missing
        box.hook.offer(notice("b"))
        box.settle()
        assert box.said.lines[-1] == ("alarm-hook-failed", f"the alarm command {missing[0]} failed: cannot be run: {why}")


def test_what_was_not_told_is_told_after_the_next_start(tmp_path: Path) -> None:
    box = Alarmed(tmp_path, "exec sleep 1000")
    box.hook.offer(notice("a"))
    box.hook.offer(notice("b"))
    box.hook.step(box.now)
    assert box.hook.busy
    box.hook.stop(box.now)
    box.now += 10
    until(lambda: not box.hook.busy, lambda: box.hook.finish(box.now))
    kept = json.loads(json.dumps(box.hook.state()))
    assert (box.counts, box.said.lines) == ({}, [])
    again = Alarmed(tmp_path, saved=kept)
    again.settle()
    assert sorted(again.told) == [("a", "raised"), ("b", "raised")]
