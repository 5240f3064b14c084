"""What a spool says by itself, to another process while it is written, and when the one that wrote it is gone."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.spooling import NEVER, Maker, OwnSpool, Record, voice

from rokuon.store import segments as segments_module
from rokuon.store.runs import Run
from rokuon.store.segments import HEAD, Head, SpoolWriter
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


def all_of(root: Path, reader: SourceReader | None = None) -> list[Run]:
    reader = reader or SourceReader(root, "")
    runs: list[Run] = []
    while more := reader.read():
        runs += more
    return runs


def said(root: Path, runs: list[Run]) -> tuple[dict[int, list[Record]], set[int]]:
    """What runs say of each stream; and the streams that they told the addresses of."""
    result: dict[int, list[Record]] = defaultdict(list)
    told: set[int] = set()
    for run in runs:
        told |= set(run.fresh["number"].tolist())
        for k, number in enumerate(run.streams.tolist()):
            result[number] += voice(root, run, k)
    return result, told


def test_a_reader_beside_the_writer(tmp_path: Path) -> None:
    """Each run comes once, in order, whenever the reader looks."""
    head = Head(tmp_path / HEAD, write=True)
    writer, maker = SpoolWriter(tmp_path, segment_bytes=2048, epoch=7, head=head), Maker(20)
    reader, rng = SourceReader(tmp_path, ""), random.Random(20)
    got: list[Run] = []
    for n in range(120):
        writer.append(maker.run([1, 2 + n % 5]))
        if rng.random() < 0.4:
            writer.drain()
        if rng.random() < 0.3:
            got += reader.read(rng.randint(1, 20))
    writer.close()
    got += all_of(tmp_path, reader)
    assert [run.sequence for run in got] == list(range(1, 121))
    assert not any(run.gap_ns for run in got)
    found, told = said(tmp_path, got)
    assert found == maker.all
    assert told == set(maker.all)
    assert reader.head() is not None
    reader.close()
    head.close()


def test_another_start_of_capture(tmp_path: Path) -> None:
    reader = SourceReader(tmp_path, "")
    got: list[Run] = []
    ends = [0]
    for epoch in (5, 6, 9):
        head = Head(tmp_path / HEAD, write=True)
        writer, maker = SpoolWriter(tmp_path, segment_bytes=4096, epoch=epoch, head=head), Maker(epoch)
        maker.now = epoch * 10_000
        for _ in range(7):
            writer.append(maker.run([1]))
        writer.drain()
        got += all_of(tmp_path, reader)
        ends.append(got[-1].last_ns)
        writer.close()
        head.close()
    assert [(run.epoch, run.sequence) for run in got] == [(e, s) for e in (5, 6, 9) for s in range(1, 8)]
    assert [run.gap_ns for run in got if run.sequence == 1] == ends[:-1]
    assert [(run.epoch, run.sequence) for run in all_of(tmp_path)] == [(run.epoch, run.sequence) for run in got]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), segment=st.sampled_from([2048, 4096]), uniform=st.booleans())
def test_what_is_left_is_enough(tmp_path_factory: pytest.TempPathFactory, seed: int, segment: int, uniform: bool) -> None:
    """At any time, however much was merged and given back: the files hold all that is needed, the addresses of all streams that
    are, and nothing that was never written or came twice.
    """
    maker, rng, directory = Maker(seed), random.Random(seed), tmp_path_factory.mktemp("spool")
    spool = OwnSpool(directory, segment_bytes=segment, epoch=3, lasting=True)
    keep_from = np.zeros(64, np.int64)
    try:
        for n in range(1, 60):
            numbers = [1, n + 1] if n % 3 else [n + 1]
            spool.put(maker.run(numbers, most=2 if uniform else 6, width=12 if uniform else 300))
            over = [*range(max(2, n - rng.randint(0, 6)), n), *range(2, max(2, n - 6))]
            keep_from[over] = NEVER
            spool.forget(over)
            spool.drop(keep_from, maker.now - 30)
            if n % 10 == 0:
                spool.settle()
                found, told = said(directory, all_of(directory))
                for number, records in maker.all.items():
                    needed = [r for r in records if r[0] >= keep_from[number]]
                    assert [r for r in found[number] if r[0] >= keep_from[number]] == needed
                    assert not needed or number in told
                    wanted = iter(records)
                    assert all(r in wanted for r in found[number])
    finally:
        spool.close()


def test_another_epochs_runs_are_not_read(tmp_path: Path) -> None:
    """Runs fit exactly onto the places of those of a capture that was started before."""
    for epoch, count in ((1, 12), (2, 4)):
        writer, maker = SpoolWriter(tmp_path, segment_bytes=4096, epoch=epoch), Maker(15)
        for _ in range(count):
            writer.append(maker.run([1], most=1, width=12))
        writer.close()
        for path in tmp_path.glob("0*.seg") if epoch == 1 else ():
            path.rename(path.with_name(f"free-{path.name}"))
    assert writer.recycled
    assert [(run.epoch, run.sequence) for run in all_of(tmp_path)] == [(2, 1), (2, 2), (2, 3), (2, 4)]


def test_damage_costs_what_is_damaged(spool_at: Callable[..., OwnSpool]) -> None:
    spool, maker = spool_at(65536), Maker(16)
    for _ in range(10):
        spool.put(maker.run([1]))
    spool.settle()
    (path,) = spool.root.glob("*.seg")
    data = bytearray(path.read_bytes())
    data[spool.runs[5].payload_at + 3] ^= 0x80
    path.write_bytes(data)
    reader = SourceReader(spool.root, "")
    assert [run.sequence for run in all_of(spool.root, reader)] == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert reader.anomalies == {"spool-damaged": 1}


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    """Whatever they are called: what is written beside them, before or after, is read."""
    maker = Maker(18)
    for part, strange in enumerate(["", "00000000", "00000003", "99999999", "999999999999"]):
        if strange:
            (tmp_path / f"{strange}.seg").write_bytes(b"precious" * 100)
        (tmp_path / f"free-{part + 50:08}.seg").mkdir()
        writer = SpoolWriter(tmp_path, segment_bytes=4096, epoch=part + 1, patient=False)
        for _ in range(9):
            writer.append(maker.run([1], most=3, width=40))
        writer.close()
        assert not writer.not_written
    reader = SourceReader(tmp_path, "")
    assert [(run.epoch, run.sequence) for run in all_of(tmp_path, reader)] == [(e, n) for e in range(1, 6) for n in range(1, 10)]
    writer = SpoolWriter(tmp_path, segment_bytes=4096, epoch=7)
    writer.append(maker.run([1], most=3, width=40))
    writer.close()
    (tmp_path / "200000000000.seg").write_bytes(b"precious" * 100)
    assert [(run.epoch, run.sequence) for run in all_of(tmp_path, reader)] == [(7, 1)]
    assert (tmp_path / "99999999.seg").read_bytes() == b"precious" * 100


def test_a_file_cut_anywhere_is_read_as_far_as_it_goes(spool_at: Callable[..., OwnSpool],
                                                       tmp_path_factory: pytest.TempPathFactory) -> None:
    spool, maker = spool_at(65536), Maker(17)
    for _ in range(9):
        spool.put(maker.run([1], most=3, width=40))
    spool.settle()
    (path,) = spool.root.glob("*.seg")
    whole, other = path.read_bytes(), tmp_path_factory.mktemp("cut")
    found: list[int] = []
    for size in [*range(0, len(whole.rstrip(b"\0")), 97), len(whole)]:
        (other / path.name).write_bytes(whole[:size])
        found = [run.sequence for run in all_of(other)]
        assert found == list(range(1, len(found) + 1))
    assert len(found) == 9


@pytest.mark.parametrize("data", [b"", b"RKSEG", bytes(4096), b"RKSEG\0\0\x02" + b"\xff" * 100, b"x" * 64,
                                  b"RKSEG\0\0\x02" + bytes(200)])
def test_no_spool(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "00000001.seg").write_bytes(data)
    (tmp_path / "00000002.seg.txt").write_bytes(data)
    assert all_of(tmp_path) == []
    assert all_of(tmp_path / "none") == []


# -- a writer that must not wait -----------------------------------------------------
def test_what_the_disk_refuses_is_counted_and_signalling_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for a while: voice is counted by reason, new streams are told of later, and what comes then is whole."""
    monkeypatch.setattr(segments_module, "_RETRY_S", 0.01)
    room = True
    writer = SpoolWriter(tmp_path, segment_bytes=1024, epoch=4, patient=False, room=lambda _: room)
    maker, lost = Maker(21), 0
    for n in range(30):
        room = not 10 <= n < 20
        run = maker.run([1, 100 + n])
        assert run.records is not None
        writer.append(run)
        writer.drain()
        if n == 19:
            lost = writer.not_written["spool-full"]
        if n == 20:
            while writer._owed:
                os.sched_yield()
    writer.append(maker.run([2]))
    writer.close()
    runs = all_of(tmp_path)
    found, told = said(tmp_path, runs)
    assert told == {1, 2, *range(100, 130)}
    assert lost > 0
    assert sum(map(len, maker.all.values())) - sum(map(len, found.values())) == writer.not_written["spool-full"]
    assert sum(run.dropped for run in runs) == writer.not_written["spool-full"]


def test_a_queue_that_is_full_loses_voice_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled = segments_module.threading.Event()
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda *a: (stalled.wait(), real(*a))[1])
    writer, maker = SpoolWriter(tmp_path, segment_bytes=65536, epoch=4, patient=False, queue_bytes=16384), Maker(22)
    for n in range(40):
        writer.append(maker.run([1, 50 + n]))  # does not wait
    stalled.set()
    writer.close()
    runs = all_of(tmp_path)
    found, told = said(tmp_path, runs)
    assert writer.not_written["disk-slow"] > 0
    assert sum(map(len, maker.all.values())) - sum(map(len, found.values())) == writer.not_written["disk-slow"]
    assert told == {1, *range(50, 90)}
