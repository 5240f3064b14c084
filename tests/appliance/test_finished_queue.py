"""The queue of finished calls: each is taken once, in order, or counted as skipped."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.appliance.hooking import append, call_id, line, rotate

from rokuon.appliance.finished_queue import FinishedQueue


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
