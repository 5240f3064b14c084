"""Commands that are run when something happens: each call at least once, each alarm, and nobody is kept waiting."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.appliance.states import capture, correlate, published

from rokuon.appliance import call_hook, hooks
from rokuon.appliance.call_hook import AGAIN_S, CallHook
from rokuon.appliance.finished_queue import FinishedQueue
from rokuon.appliance.hooks import AlarmHook, Outcome, Run
from rokuon.appliance.state import publish
from rokuon.store.layout import Layout, identity, make_id


class Said:
    """A log that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, event: str, message: str, **fields: Any) -> None:
        self.lines.append((event, message))

    warning = error = info


def script(folder: Path, body: str, name: str = "hook") -> tuple[str, ...]:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return (str(path),)


def until(done: Callable[[], bool], step: Callable[[], object] = lambda: None) -> None:
    """Goes on until something is so; a minute is more than it takes on any machine."""
    over = time.monotonic() + 60
    while not done():
        step()
        assert time.monotonic() < over
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


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


# -- the queue of finished calls ---------------------------------------------
def call_id(n: int) -> str:
    return make_id(1_795_000_000_000_000_000 + n * 1_000_000_000, identity("call", n))


def line(n: int) -> bytes:
    return json.dumps({"time": f"2026-11-24T00:00:00.{n:06}Z", "id": call_id(n)}).encode() + b"\n"


def append(folder: Path, content: bytes) -> None:
    with open(folder / "finished.jsonl", "ab") as file:
        file.write(content)


def rotate(folder: Path) -> None:
    if (folder / "finished.jsonl").exists():
        (folder / "finished.jsonl").rename(folder / "finished.jsonl.1")


def taken(queue: FinishedQueue) -> list[str]:
    queue.refresh()
    return list(iter(queue.take, None))


def test_calls_from_before_are_left_out_and_those_that_come_are_taken(tmp_path: Path) -> None:
    append(tmp_path, line(0) + line(1))
    rotate(tmp_path)
    append(tmp_path, line(2))
    queue = FinishedQueue(tmp_path)
    assert (queue.waiting, taken(queue)) == (0, [])
    append(tmp_path, line(3) + line(4)[:20])
    assert taken(queue) == [call_id(3)]
    append(tmp_path, line(4)[20:])
    assert taken(queue) == [call_id(4)]


def test_what_is_no_line_of_ours_is_counted_and_passed_over(tmp_path: Path) -> None:
    queue = FinishedQueue(tmp_path, [])
    junk = [b"\n", b"{}\n", b"[]\n", b"{\"id\": 3}\n", b"{\"id\": \"../../etc/passwd\"}\n", b"\xff\x00\r\n", b"[" * 3000 + b"\n",
            b"x" * 200_000 + b"\n", b"y" * 65_536 + line(1), b"{\"id\": \"" + call_id(1).encode() + b"/\"}\n"]
    append(tmp_path, line(0) + b"".join(junk) + line(2))
    assert taken(queue) == [call_id(0), call_id(2)]
    assert (queue.unreadable, queue.waiting, queue.skipped) == (len(junk), 0, 0)


def test_a_file_that_begins_with_something_long_is_read(tmp_path: Path) -> None:
    queue = FinishedQueue(tmp_path, [])
    append(tmp_path, b"x" * 10_000)
    assert taken(queue) == []
    append(tmp_path, b"\n" + line(1))
    assert taken(queue) == [call_id(1)]


def test_a_file_that_was_cut_gives_nothing_twice(tmp_path: Path) -> None:
    queue = FinishedQueue(tmp_path, [])
    append(tmp_path, line(0) + line(1) + line(2))
    assert len(taken(queue)) == 3
    os.truncate(tmp_path / "finished.jsonl", 2 * len(line(0)))
    assert taken(queue) == []
    append(tmp_path, line(3))
    assert taken(queue) == [call_id(3)]


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.tuples(st.just("append"), st.integers(1, 5)), st.tuples(st.just("take"), st.integers(1, 7)),
                          st.tuples(st.sampled_from(["rotate", "restart", "part"]), st.just(0))), max_size=60))
def test_each_call_is_taken_once_in_order_or_counted_as_skipped(tmp_path_factory: pytest.TempPathFactory,
                                                                 happens: list[tuple[str, int]]) -> None:
    folder = tmp_path_factory.mktemp("state")
    queue = FinishedQueue(folder)
    written, skipped, half = 0, 0, b""
    found: list[str] = []
    for what, n in happens:
        if what == "append":
            append(folder, half + b"".join(line(written + k) for k in range(bool(half), n + bool(half))))
            written, half = written + n + bool(half), b""
        elif what == "part" and not half:
            append(folder, line(written)[:30])
            half = line(written)[30:]
        elif what == "rotate" and not half:
            rotate(folder)
        elif what == "take":
            found += [c for c in (queue.take() for _ in range(n)) if c is not None]
        elif what == "restart":
            skipped += queue.skipped
            queue = FinishedQueue(folder, json.loads(json.dumps(queue.state())))
        queue.refresh()
        assert len(found) + queue.waiting + skipped + queue.skipped == written
    found += taken(queue)
    skipped += queue.skipped
    assert len(found) + skipped == written
    assert found == sorted(set(found))


def test_more_rotations_than_are_kept_while_nobody_read(tmp_path: Path) -> None:
    queue = FinishedQueue(tmp_path, [])
    append(tmp_path, line(0) + line(1) + line(2))
    queue.refresh()
    assert queue.take() == call_id(0)
    kept = queue.state()
    for n in (3, 4):
        rotate(tmp_path)
        append(tmp_path, line(n))
    queue = FinishedQueue(tmp_path, kept)
    assert (queue.skipped, taken(queue)) == (2, [call_id(3), call_id(4)])


# -- the call hook -----------------------------------------------------------
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


# -- the whole of it ---------------------------------------------------------
@pytest.fixture
def box(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `rokuon metrics` on an archive with hooks that write down what they get, and a port of its own."""
    layout = published(tmp_path / "data", {"eth1": capture()}, correlate([]))
    command = script(tmp_path, f"cat >> {tmp_path}/$ROKUON_HOOK")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "port").write_text(str(port))
    (tmp_path / "rokuon.toml").write_text(f'[hooks]\nalarm = ["{command[0]}"]\ncall = ["{command[0]}"]\n[metrics]\n'
                                          f'listen = "127.0.0.1:{port}"\ntextfile = "{tmp_path}/rokuon.prom"\n')
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "rokuon", "--config", tmp_path / "rokuon.toml", "--data", layout.root,
                                    "metrics"], stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def test_metrics_alarms_and_calls_of_a_process(tmp_path: Path, box: Callable[[], subprocess.Popen[bytes]]) -> None:
    layout = Layout(tmp_path / "data")
    first = box()
    until((layout.state / "hooks.json").exists)
    path = layout.sidecar(call_id(1))
    layout.make_directory(path.parent)
    path.write_text(json.dumps({"id": call_id(1)}) + "\n")
    append(layout.state, line(1))
    until(lambda: told(tmp_path / "call") == [{"id": call_id(1)}])

    dropped = capture(interfaces=[{"name": "eth1", "up": True, "dropped_by_kernel": 9}])
    publish(layout.state / "capture-eth1.json", {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", **dropped})
    until(lambda: [(a["id"], a["facts"]["packets"]) for a in told(tmp_path / "alarm")] == [("drops/eth1/kernel", 9)])
    with socket.create_connection(("127.0.0.1", int((tmp_path / "port").read_text())), timeout=30) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b'rokuon_dropped_packets_total{capture="eth1",cause="kernel",interface="eth1"} 9.0' in answer
    assert b"rokuon_process_up" in (tmp_path / "rokuon.prom").read_bytes()

    second = box()  # beside the first: each alarm would be told twice
    assert second.wait(60) == 4
    assert second.stderr is not None
    assert b"is watched already" in second.stderr.read()

    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 0
    assert b"eth1: the kernel dropped 9 packets" in said

    append(layout.state, line(1))  # the same call once more, while nobody looked: it was revised
    box()
    until(lambda: len(told(tmp_path / "call")) == 2)
    assert [a["id"] for a in told(tmp_path / "alarm")] == ["drops/eth1/kernel"]  # it lasts, and was told


def test_killed_in_the_middle_of_a_call(tmp_path: Path, box: Callable[[], subprocess.Popen[bytes]]) -> None:
    layout = Layout(tmp_path / "data")
    hook = Path(script(tmp_path, f"touch {tmp_path}/running; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; "
                                 f"cat >> {tmp_path}/$ROKUON_HOOK")[0])
    assert hook.exists()
    first = box()
    until((layout.state / "hooks.json").exists)
    path = layout.sidecar(call_id(1))
    layout.make_directory(path.parent)
    path.write_text(json.dumps({"id": call_id(1)}) + "\n")
    append(layout.state, line(1))
    until((tmp_path / "running").exists)
    first.kill()
    first.wait()
    box()
    (tmp_path / "go").touch()  # both runs go on: at least once
    until(lambda: told(tmp_path / "call")[:1] == [{"id": call_id(1)}])
    until(lambda: "waiting" in (state := json.loads((layout.state / "hooks.json").read_text())) and state["waiting"] == 0
          and state["counts"].get("ok") == 1)


def test_settings_are_read_again(tmp_path: Path, box: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = box()
    until((tmp_path / "data" / "state" / "hooks.json").exists)
    settings = (tmp_path / "rokuon.toml").read_text()
    (tmp_path / "rokuon.toml").write_text("[hooks]\nalrm = []\n")
    process.send_signal(signal.SIGHUP)
    (tmp_path / "said").write_bytes(b"")
    assert process.stderr is not None
    while b"the settings that were in force stay" not in process.stderr.readline():
        pass
    (tmp_path / "rokuon.toml").write_text(settings.replace("call = ", "# call = "))
    process.send_signal(signal.SIGHUP)
    until(lambda: not (tmp_path / "data" / "state" / "hooks.json").exists())
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
