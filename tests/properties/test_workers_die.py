"""Finalise workers are killed in the middle of long calls: the spool has these still, so that nothing of them is missing."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.properties.in_steps import SETTINGS, Clock, Making, Source, archive, small_world
from tests.properties.kinds_of_calls import KINDS, for_long, moved, over_tcp, short, unsignalled_for_long
from tests.properties.test_recovery import check_little_is_left, differences, fed, quietly, runs, traffic

from rokuon.store import correlate, pool
from rokuon.store.jobs import Job
from rokuon.store.layout import Layout

SECOND = 1_000_000_000
STARTS = ((for_long, 0), (moved, 3), (for_long, 5), (unsignalled_for_long, 8), (over_tcp, 9), (short, 20))
CALLS = [(KINDS.index(kind), at) for kind, at in STARTS]


def wait_for_workers(making: Making) -> None:
    until = time.monotonic() + 30
    while making.process._pool.busy and time.monotonic() < until:
        making.step()
        time.sleep(0.002)
    assert not making.process._pool.busy
    making.step()


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_missing(seed: int, tmp_path: Path) -> None:
    """At any moment, with jobs in hand, done and not flushed, and done."""
    rng, clock, layout = random.Random(seed), Clock(), Layout(tmp_path / "live")
    layout.prepare()
    lot = traffic(CALLS)
    with small_world(clock) as patch:
        patch.setattr(pool, "_STRIKES", 1000)  # it is the test that kills, twice in one job by chance; no call is to blame
        wanted = quietly(tmp_path, [lot])
        source = Source(layout, "eth0", clock)
        making = Making(layout, clock, patch, processes=2)
        killed = 0
        try:
            for _ in fed(lot, clock, source, making):
                if rng.random() < 0.3:
                    wait_for_workers(making)
                if rng.random() < 0.05:
                    pid, _ = rng.choice(making.process._pool.workers)
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            for _ in range(20):
                clock.now_ns += 2 * SECOND
                source.beat(clock.now_ns)
                making.until_quiet()
                wait_for_workers(making)
            found = archive(layout.root)
            check_little_is_left(making, layout)
        finally:
            making.close()
            source.close()
    assert killed > 3
    assert not list(layout.quarantine.glob("*.json"))
    assert differences(wanted, found) == []


def test_what_is_handed_out_of_a_lost_call_waits_with_the_rest_of_it(tmp_path: Path) -> None:
    """A worker is found dead when a job is handed out, and more of the same call comes before anybody has seen to it."""
    clock, layout = Clock(), Layout(tmp_path / "live")
    layout.prepare()
    jobs: list[Job] = []
    submit = pool.Pool.submit
    with small_world(clock) as patch:
        patch.setattr(pool.Pool, "submit", lambda _, job: jobs.append(job))
        source = Source(layout, "eth0", clock)
        making = Making(layout, clock, patch, processes=1)
        workers = pool.Pool(layout.root, layout.spool, SETTINGS, 1, sync=False, waits=False, again=True)
        try:
            for _ in fed(traffic([(KINDS.index(for_long), 0)]), clock, source, making):
                pass
            first, *others = [job for job in jobs if job.number == jobs[0].number]
            assert len(others) > 2
            submit(workers, first)
            assert [outcome.job for outcome in workers.outcomes(all_of_them=True)] == [first]
            (pid, _), = workers.workers
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            for job in others:
                submit(workers, job)
            assert workers.outcomes(all_of_them=True) == []
            assert workers.torn == {first.number: others}
        finally:
            workers.close()
            making.close()
            source.close()


def test_what_the_spool_has_no_more_is_said(tmp_path: Path) -> None:
    """A call that is longer than what stays of it: it is begun again where the spool begins."""
    clock, layout = Clock(), Layout(tmp_path / "live")
    layout.prepare()
    with small_world(clock) as patch:
        real = correlate.Correlator.__init__

        def forgetful(self: correlate.Correlator, **options: int) -> None:
            real(self, **{**options, "recover_ns": 5 * SECOND})

        patch.setattr(correlate.Correlator, "__init__", forgetful)
        source = Source(layout, "eth0", clock)
        making = Making(layout, clock, patch, processes=1)
        try:
            for _ in fed(traffic([(KINDS.index(for_long), 0)]), clock, source, making):
                wait_for_workers(making)
                if len(making.recorder._owed._calls) and all(call.shortened for call in making.recorder._owed._calls.values()):
                    os.kill(making.process._pool.workers[0][0], signal.SIGKILL)
                    break
            for at, some in runs(traffic([(KINDS.index(for_long), 0)])):
                if at > clock.now_ns:
                    clock.now_ns = at
                    source.take(some)
                    source.beat(at)
                    making.until_quiet()
                    wait_for_workers(making)
            (call,) = archive(layout.root).values()
        finally:
            making.close()
            source.close()
    assert call["anomalies"]["audio-lost-with-finaliser"] == 1
    assert 10 < sum(duration for _, duration in call["sound"]) < 35
