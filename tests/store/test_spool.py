"""The spool with segments so small that merging and recycling happen all the time."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.store.spooling import NEVER, Maker, OwnSpool, read

from rokuon.store import segments as segments_module
from rokuon.store.runs import RECORD
from rokuon.store.spool_reader import SourceReader


@pytest.fixture(autouse=True, scope="module")
def small_segments() -> Iterator[None]:
    """Lets segments be as small as a test asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments_module, "_GRAIN", 64)
        yield


@pytest.fixture
def spool_at(tmp_path: Path) -> Iterator[Callable[..., OwnSpool]]:
    opened: list[OwnSpool] = []

    def make(segment_bytes: int = 4096, **options: int) -> OwnSpool:
        opened.append(OwnSpool(tmp_path, segment_bytes=segment_bytes, **options))
        return opened[-1]

    yield make
    for spool in opened:
        spool.close()


def test_slices_give_back_what_was_appended(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(), Maker(1)
    for _ in range(30):
        spool.put(maker.run(maker.rng.sample(range(1, 9), 3)))
    spool.settle()
    assert spool.segment_count > 5
    for number, records in maker.all.items():
        assert read(spool, number) == records
    assert read(spool, 99) == []
    assert spool.slices(np.array([], np.uint32), 0, 1 << 60) == []


def test_slices_between_two_times(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(), Maker(2)
    for _ in range(20):
        spool.put(maker.run([1, 2]))
    spool.settle()
    for since, until in ((1000, 1009), (1050, 1059), (1000, 1200), (900, 999), (1200, 1300), (1015, 1033)):
        found = read(spool, 1, since, until)
        assert [r for r in found if since <= r[0] <= until] == [r for r in maker.all[1] if since <= r[0] <= until]
        assert all(since - 10 < r[0] < until + 10 for r in found)  # whole runs, no more


def there(spool: OwnSpool, slices: NDArray[np.void]) -> list[bytes]:
    """The bytes that slices speak of."""
    found = []
    for piece in slices:
        number = int(piece["segment"])
        data = (spool.root / spool.files([number])[number]).read_bytes()
        for at, size in ((piece["records_at"], piece["records"] * RECORD.itemsize), (piece["payload_at"], piece["payload"])):
            found.append(data[int(at):int(at + size)])
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), steps=st.lists(st.sampled_from(["append", "append", "append", "recycle", "settle", "hold",
                                                                     "release"]), min_size=5, max_size=70),
       segment=st.sampled_from([1024, 4096, 65536]), lag=st.integers(0, 60))
def test_nothing_that_is_needed_is_lost(tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[str], segment: int,
                                        lag: int) -> None:
    """Whatever is kept from when on, merged and recycled: each needed packet once, untouched, in order of arrival."""
    maker, rng = Maker(seed), random.Random(seed)
    spool = OwnSpool(tmp_path_factory.mktemp("spool"), segment_bytes=segment)
    keep_from = np.zeros(16, np.int64)
    held: list[tuple[list[int], NDArray[np.void], list[bytes]]] = []
    try:
        for step in steps:
            if step == "append":
                spool.put(maker.run(rng.sample(range(1, 16), rng.randint(0, 5))))
            elif step == "settle":
                spool.settle()
            elif step == "hold":
                spool.settle()
                number = rng.randint(1, 15)
                (slices,) = spool.slices(np.array([number], np.uint32), 0, 1 << 60)
                segments = sorted(set(slices["segment"].tolist()))
                spool.hold(segments)
                held.append((segments, slices, there(spool, slices)))
            elif step == "release" and held:
                segments, slices, before = held.pop()
                assert there(spool, slices) == before  # nobody wrote over what a reader holds
                spool.release(segments)
            else:
                for number in range(1, 16):  # needed from later and later on, or no more
                    choice = rng.random()
                    if choice < 0.15:
                        keep_from[number] = NEVER
                    elif choice < 0.6 and keep_from[number] != NEVER:
                        keep_from[number] = max(int(keep_from[number]), maker.now - rng.randint(0, 120))
                    if keep_from[number] == NEVER and choice > 0.9:
                        keep_from[number] = maker.now
                spool.drop(keep_from, maker.now - lag)
            spool.settle()
            for number in range(1, 16):
                needed = [r for r in maker.all[number] if r[0] >= keep_from[number]]
                found = read(spool, number)
                assert [r for r in found if r[0] >= keep_from[number]] == needed
                wanted = iter(maker.all[number])
                assert all(r in wanted for r in found)  # nothing else, nothing twice, in order
    finally:
        spool.close()


def test_space_is_used_again(spool_at: Callable[..., OwnSpool]) -> None:
    """A spool of short calls stays small, however many there are."""
    spool, maker = spool_at(8192), Maker(3)
    keep_from = np.zeros(2001, np.int64)
    for n in range(1, 1000):
        spool.put(maker.run([n, n + 1]))
        if n > 5:
            keep_from[n - 5] = NEVER
            spool.forget([n - 5])
        spool.drop(keep_from, maker.now - 20)
    assert spool.segment_count < 8
    assert spool.writer.recycled > 50
    assert spool.bytes_used() <= 10 * 8192 + (1 << 17)
    assert len(spool.runs) < 60


def test_one_long_call_among_short_ones_is_merged(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(16384), Maker(4)
    keep_from = np.zeros(1000, np.int64)
    for n in range(2, 900):
        spool.put(maker.run([1, n], most=1, width=40) if n % 10 == 0 else maker.run([n]))
        keep_from[n] = NEVER
        spool.forget([n])
        spool.drop(keep_from, maker.now - 50)
    spool.settle()
    assert spool.merged_bytes > 0
    assert read(spool, 1) == maker.all[1]
    assert spool.segment_count < 12


def test_runs_larger_than_a_segment(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(1024), Maker(5)
    keep_from = np.zeros(100, np.int64)
    for n in range(1, 60):
        spool.put(maker.run([n], most=20))
        keep_from[n - 1] = NEVER
        spool.settle()
        assert read(spool, n) == maker.all[n]
        spool.forget([n - 1])
        spool.drop(keep_from, maker.now)
    assert spool.segment_count < 10
    assert spool.bytes_used() < 1 << 20


def test_runs_of_the_same_time(spool_at: Callable[..., OwnSpool]) -> None:
    """Clocks may be coarse."""
    spool, maker = spool_at(2048), Maker(6)
    keep_from = np.zeros(10, np.int64)
    keep_from[2:] = NEVER
    for _ in range(40):
        run = maker.run([1, 2, 3, 4])
        run.first_ns = run.last_ns = 5000
        spool.put(run)
        spool.drop(keep_from, 6000)
    spool.settle()
    assert read(spool, 1) == maker.all[1]


def test_memory_is_let_go(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(2048), Maker(7)
    keep_from = np.zeros(20, np.int64)
    for n in range(30):
        spool.put(maker.run([1 + n % 15, 16]))
        keep_from[1:16] = NEVER
        if n % 7 == 6:
            spool.drop(keep_from, maker.now)
    spool.settle()
    assert all(run.records is None and run.payload is None and not len(run.fresh) for run in spool.runs)


# -- the disk's own troubles ---------------------------------------------------------
def test_a_full_disk_is_said(spool_at: Callable[..., OwnSpool], monkeypatch: pytest.MonkeyPatch) -> None:
    spool, maker = spool_at(4096), Maker(8)
    spool.put(maker.run([1]))
    spool.settle()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    spool.put(maker.run([1]))
    with pytest.raises(OSError, match="No space left"):
        spool.settle()
    monkeypatch.undo()
    with pytest.raises(OSError, match="No space left"):  # what was lost stays lost
        spool.settle()
    with pytest.raises(OSError, match="No space left"):
        spool.put(maker.run([1]))


@pytest.mark.parametrize("also", ["append", "settle", "recycle"])
def test_an_error_is_not_lost_between_calls(spool_at: Callable[..., OwnSpool], monkeypatch: pytest.MonkeyPatch,
                                            also: str) -> None:
    spool, maker = spool_at(4096), Maker(9)
    for _ in range(9):
        spool.put(maker.run([1]))
    spool.settle()
    monkeypatch.setattr(os, "pwritev", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    spool.put(maker.run([1]))
    while spool.writer.error is None:
        time.sleep(0.001)
    acts = {"append": lambda: spool.put(maker.run([1])), "settle": spool.settle,
            "recycle": lambda: spool.drop(np.zeros(10, np.int64), 0)}
    with pytest.raises(OSError, match="Input/output"):
        acts[also]()


def test_a_writer_that_fails_oddly_does_not_hang(spool_at: Callable[..., OwnSpool], monkeypatch: pytest.MonkeyPatch) -> None:
    spool, maker = spool_at(4096), Maker(10)

    def odd(*_: object) -> int:
        raise MemoryError

    monkeypatch.setattr(os, "pwritev", odd)
    spool.put(maker.run([1]))
    with pytest.raises(OSError, match="MemoryError"):
        spool.settle()


def test_no_room_for_a_segment(spool_at: Callable[..., OwnSpool], monkeypatch: pytest.MonkeyPatch) -> None:
    spool, maker = spool_at(4096), Maker(11)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    spool.put(maker.run([1]))
    with pytest.raises(OSError, match="No space left"):
        spool.settle()


@pytest.mark.parametrize("step", [1, 7, 100, 1000])
def test_short_writes_are_completed(spool_at: Callable[..., OwnSpool], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = os.pwritev, os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda fd, parts, at: real[1](fd, b"".join(parts)[:step], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real[1](fd, data[:max(step, 50)], at))
    spool, maker = spool_at(4096), Maker(12)
    for _ in range(12):
        spool.put(maker.run([1, 2]))
    spool.settle()
    assert read(spool, 1) == maker.all[1]
    assert read(spool, 2) == maker.all[2]
    assert len(SourceReader(spool.root, "").read()) == 12


def test_slices_of_several_streams_at_once(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(), Maker(18)
    for _ in range(20):
        spool.put(maker.run(maker.rng.sample(range(1, 30), 4)))
    numbers = np.array([0, 1, 2, 5, 17, 29, 30, 99], np.uint32)
    for since, until in ((0, 1 << 60), (1050, 1090)):
        together = spool.slices(numbers, since, until)
        assert len(together) == len(numbers)
        for number, mine in zip(numbers, together, strict=True):
            (alone,) = spool.slices(np.array([number], np.uint32), since, until)
            assert mine.tolist() == alone.tolist()
