"""The call hook: each finished call at least once, and nobody is kept waiting."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.appliance.hooking import Said, append, call_id, line, rotate, script, until

from rokuon.appliance import call_hook
from rokuon.appliance.call_hook import AGAIN_S, CallHook
from rokuon.appliance.hooks import AlarmHook
from rokuon.store.layout import Layout


class Called:
    """A call hook whose command writes down what it gets, by a clock of its own."""

    def __init__(self, folder: Path, body: str = "", saved: Any = None) -> None:
        self.layout, self.got = Layout(folder), folder / "got"
        self.layout.make_directory(self.layout.state)
        self.counts: Counter[str] = Counter()
        self.said = Said()
        self.command = script(folder, body or f"cat >> {self.got}")
        self.hook = CallHook(self.command, 30, self.layout, self.said, self.counts, saved)
        self.now = 100.0

    def finish(self, *numbers: int, sidecars: bool = True) -> None:
        for n in numbers:
            if sidecars:
                path = self.layout.sidecar(call_id(n))
                self.layout.make_directory(path.parent)
                path.write_text(json.dumps({"id": call_id(n), "n": n}) + "\n")
            append(self.layout.state, line(n))

    def settle(self) -> None:
        self.hook.step(self.now)
        until(lambda: not self.hook.busy, lambda: self.hook.step(self.now))

    @property
    def calls(self) -> list[int]:
        return [json.loads(text)["n"] for text in self.got.read_text().splitlines()] if self.got.exists() else []

    def kept(self) -> Any:
        return json.loads(json.dumps(self.hook.state()))


def test_each_finished_call_is_given_with_its_sidecar(tmp_path: Path) -> None:
    box = Called(tmp_path, f"printf '%s %s ' $ROKUON_HOOK $ROKUON_CALL >> {tmp_path}/seen; cat >> {tmp_path}/got")
    box.finish(1)
    box.settle()
    assert (tmp_path / "seen").read_text() == f"call {call_id(1)} "
    box.finish(2, 3, 4)
    box.settle()
    assert sorted(box.calls) == [1, 2, 3, 4]
    assert (box.counts["ok"], box.hook.waiting) == (4, 0)


def test_a_command_that_takes_no_notice_of_a_large_sidecar(tmp_path: Path) -> None:
    box = Called(tmp_path, f"echo '{{\"n\": 0}}' >> {tmp_path}/got")
    box.finish(1)
    box.layout.sidecar(call_id(1)).write_text("x" * 3_000_000)
    box.settle()
    assert (box.calls, box.counts["ok"]) == ([0], 1)


def test_few_run_at_a_time(tmp_path: Path) -> None:
    box = Called(tmp_path, f"echo $$ >> {tmp_path}/pids; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; "
                           f"cat >> {tmp_path}/got")
    box.finish(*range(6))
    until(lambda: (tmp_path / "pids").exists() and len((tmp_path / "pids").read_text().split()) == call_hook.PARALLEL,
          lambda: box.hook.step(box.now))
    assert box.hook.waiting == 6
    (tmp_path / "go").touch()
    box.settle()
    assert sorted(box.calls) == list(range(6))


def test_deleted_calls_are_passed_over(tmp_path: Path) -> None:
    box = Called(tmp_path)
    box.finish(1, 2, sidecars=False)
    box.finish(3)
    box.settle()
    assert (box.calls, box.counts["missing"], box.hook.waiting) == ([3], 2, 0)


def test_nothing_leads_out_of_the_recordings(tmp_path: Path) -> None:
    box = Called(tmp_path)
    (tmp_path / "secret").write_text('{"n": 9}\n')
    path = box.layout.sidecar(call_id(1))
    box.layout.make_directory(path.parent)
    path.symlink_to(tmp_path / "secret")
    box.finish(1, sidecars=False)
    box.settle()
    assert (box.calls, box.counts["failed"]) == ([], 1)


def test_a_call_that_fails_is_tried_again_later_each_time_and_given_up(tmp_path: Path) -> None:
    box = Called(tmp_path, f"cat >> {tmp_path}/got; exit 1")
    box.finish(1)
    box.settle()
    for n, wait in enumerate(AGAIN_S, 1):
        assert len(box.calls) == n
        box.now += wait - 1
        box.settle()
        assert len(box.calls) == n
        box.now += 1 + call_hook._LONGEST_PAUSE_S
        box.settle()
    assert box.calls == [1] * (len(AGAIN_S) + 1)
    assert (box.counts["failed"], box.counts["given-up"], box.hook.waiting) == (len(AGAIN_S) + 1, 1, 0)
    assert "exit status 1; tried again after 10 s" in box.said.lines[0][1]
    assert box.said.lines[-1][1].endswith("exit status 1; given up")


def test_while_everything_fails_calls_wait_and_then_all_are_given(tmp_path: Path) -> None:
    box = Called(tmp_path, f"[ -e {tmp_path}/up ] || exit 1; cat >> {tmp_path}/got")
    box.finish(*range(50))
    for _ in range(120):  # an hour
        box.settle()
        box.now += 30
    assert box.hook.waiting == 50
    assert box.counts["given-up"] == 0
    assert box.counts["failed"] < 60
    (tmp_path / "up").touch()
    for _ in range(300):
        box.settle()
        box.now += 30
    assert sorted(box.calls) == list(range(50))
    assert box.hook.waiting == 0


def test_after_a_restart_it_goes_on_and_what_ran_is_run_again(tmp_path: Path) -> None:
    box = Called(tmp_path)
    box.finish(1)
    box.settle()
    box.hook.command = script(tmp_path, "exec sleep 1000", "slow")
    box.finish(2, 3, 4)
    box.hook.step(box.now)
    assert box.hook.busy
    killed = box.kept()
    box.hook.stop(box.now)
    box.now += 10
    until(lambda: not box.hook.busy, lambda: box.hook.finish(box.now))
    assert (box.counts["ok"], box.counts["timeout"], box.said.lines) == (1, 0, [])
    box.finish(5)
    for kept in (box.kept(), killed):
        again = Called(tmp_path, saved=kept)
        again.settle()
        assert sorted(again.calls) == [1, 2, 3, 4, 5]
        box.got.write_text('{"n": 1}\n')


def test_failures_are_remembered_over_a_restart(tmp_path: Path) -> None:
    box = Called(tmp_path, "exit 1")
    box.finish(1)
    box.settle()
    again = Called(tmp_path, saved=box.kept())
    assert again.hook.waiting == 1
    again.settle()
    assert again.calls == [1]


def test_calls_that_were_never_read_are_counted_and_said(tmp_path: Path) -> None:
    box = Called(tmp_path, "exec sleep 1000")
    box.finish(*range(10))
    box.hook.step(box.now)
    for n in (10, 11):
        rotate(box.layout.state)
        box.finish(n)
    box.hook.step(box.now)
    assert box.counts["skipped"] == 10 - call_hook.PARALLEL
    assert ("call-hook-skipped", "8 finished calls were never given to the call command") in box.said.lines
    box.hook.stop(box.now)
    box.now += 10
    until(lambda: not box.hook.busy, lambda: box.hook.finish(box.now))


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["files", "again", "head", "read", "taken", "counted", "lines", "id",
                                                       "failures"]), inner, max_size=4), max_leaves=12))
def test_any_kept_state_is_gone_on_from(tmp_path_factory: pytest.TempPathFactory, saved: Any) -> None:
    layout = Layout(tmp_path_factory.mktemp("data"))
    layout.make_directory(layout.state)
    hook = CallHook(("/none",), 30, layout, Said(), Counter(), saved)
    append(layout.state, line(1))
    hook.step(0)
    AlarmHook(("/none",), 30, layout.root, Said(), Counter(), saved).step(0)
