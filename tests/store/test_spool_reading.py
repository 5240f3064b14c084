"""What a spool's file says by itself, when the process that wrote it is gone."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.spooling import NEVER, Maker, Record, places

from rokuon.store import spool as spool_module
from rokuon.store.runs import Run
from rokuon.store.spool import Spool, read_segments


@pytest.fixture(autouse=True, scope="module")
def small_segments() -> Iterator[None]:
    """Lets segments be as small as a test asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool_module, "_GRAIN", 64)
        yield


@pytest.fixture
def spool_at(tmp_path: Path) -> Iterator[Callable[..., Spool]]:
    opened: list[Spool] = []

    def make(segment_bytes: int = 4096, **options: int) -> Spool:
        opened.append(Spool(tmp_path, segment_bytes=segment_bytes, **options))
        return opened[-1]

    yield make
    for spool in opened:
        spool.close()


def everything(path: Path, epoch: int) -> tuple[dict[int, list[Record]], set[int]]:
    """What all segments of an epoch say, each read alone; streams of which a segment does not tell the addresses."""
    newest: dict[tuple[int, int], Run] = {}  # by the sequence numbers that a run stands for
    unknown: set[int] = set()
    for its_epoch, table, runs in read_segments(path):
        told = set(table["number"].tolist())
        for run in runs:
            assert its_epoch == epoch
            told |= set(run.fresh["number"].tolist())
            unknown |= set(run.streams.tolist()) - told
            span = run.replaces if any(run.replaces) else (run.sequence, run.sequence)
            if span not in newest or newest[span].sequence < run.sequence:
                newest[span] = run
    result: dict[int, list[Record]] = defaultdict(list)
    for span, run in sorted(newest.items(), key=lambda item: item[0]):
        if any(a <= span[0] and span[1] <= b and (a, b) != span for a, b in newest):
            continue  # merged with others since
        assert run.records is not None
        assert run.payload is not None
        for k, number in enumerate(run.streams.tolist()):
            for r in run.records[int(run.starts[k]):int(run.starts[k + 1])]:
                result[number].append((int(r["time_ns"]), run.payload[int(r["offset"]):][:int(r["captured"])].tobytes()))
    return result, unknown


def test_segments_can_be_read_alone(spool_at: Callable[..., Spool]) -> None:
    spool, maker = spool_at(2048, epoch=5), Maker(14)
    for n in range(40):
        spool.append(maker.run([1, 2 + n % 5, 10 + n]))
    spool.settle()
    found, unknown = everything(spool.path, 5)
    assert found == maker.all
    assert not unknown


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), segment=st.sampled_from([2048, 4096]), uniform=st.booleans())
def test_recycled_places_tell_nothing_old(tmp_path_factory: pytest.TempPathFactory, seed: int, segment: int,
                                          uniform: bool) -> None:
    """At any time the file, read by itself, holds all that is needed, and nothing that was never written or came twice."""
    maker, rng, directory = Maker(seed), random.Random(seed), tmp_path_factory.mktemp("spool")
    spool = Spool(directory, segment_bytes=segment, epoch=3)
    keep_from = np.zeros(64, np.int64)
    try:
        for n in range(1, 60):
            numbers = [1, n + 1] if n % 3 else [n + 1]
            spool.append(maker.run(numbers, most=2 if uniform else 6, width=12 if uniform else 300))
            keep_from[max(2, n - rng.randint(0, 6)):n] = NEVER
            keep_from[2:max(2, n - 6)] = NEVER
            spool.recycle(keep_from, maker.now - 30)
            if n % 10 == 0:
                spool.settle()
                found, unknown = everything(spool.path, 3)
                assert not unknown
                for number, records in maker.all.items():
                    needed = [r for r in records if r[0] >= keep_from[number]]
                    assert [r for r in found[number] if r[0] >= keep_from[number]] == needed
                    wanted = iter(records)
                    assert all(r in wanted for r in found[number])
    finally:
        spool.close()


def test_another_epochs_runs_are_not_read(tmp_path: Path) -> None:
    """Runs fit exactly onto the places of those of a capture that was started before."""
    files = []
    for epoch, count in ((1, 12), (2, 4)):
        spool, maker = Spool(tmp_path, segment_bytes=4096, epoch=epoch), Maker(15)
        for _ in range(count):
            spool.append(maker.run([1], most=1, width=12))
        spool.close(remove=False)
        files.append(spool.path.read_bytes())
    old, new = files
    used = len(new.rstrip(b"\0"))
    spool.path.write_bytes(new[:used] + old[used:])  # as if the place had not been emptied
    (epoch, _, runs), *_ = read_segments(spool.path)
    assert epoch == 2
    assert [run.sequence for run in runs] == [1, 2, 3, 4]


def test_damage_in_the_middle_ends_the_segment(spool_at: Callable[..., Spool]) -> None:
    spool, maker = spool_at(65536), Maker(16)
    for _ in range(10):
        spool.append(maker.run([1]))
    spool.settle()
    data = bytearray(spool.path.read_bytes())
    copy = spool.directory / "copy"
    data[spool.runs[5].payload_at + 3] ^= 0x80
    copy.write_bytes(data)
    assert [run.sequence for _, _, runs in read_segments(copy) for run in runs] == [1, 2, 3, 4, 5]


def test_a_file_cut_anywhere_is_read_as_far_as_it_goes(spool_at: Callable[..., Spool]) -> None:
    spool, maker = spool_at(2048), Maker(17)
    for _ in range(9):
        spool.append(maker.run([1], most=3, width=40))
    spool.settle()
    whole, copy = spool.path.read_bytes(), spool.directory / "copy"
    ends = [place.stop for place in places(spool).values()]
    found: list[int] = []
    for size in [*range(0, ends[-1], 97), *ends]:
        copy.write_bytes(whole[:size])
        found = [run.sequence for _, _, runs in read_segments(copy) for run in runs]
        assert found == list(range(1, len(found) + 1))
    assert len(found) == 9


@pytest.mark.parametrize("data", [b"", b"RKSEG", bytes(4096), b"RKSEG\0\0\x01" + b"\xff" * 100, b"x" * 64,
                                  b"RKSEG\0\0\x01" + bytes(200)])
def test_no_spool(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "packets.spool"
    path.write_bytes(data)
    assert [list(runs) for _, _, runs in read_segments(path)] == []
    with pytest.raises(OSError, match="No such file"):
        list(read_segments(tmp_path / "none"))
