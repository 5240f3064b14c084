"""Runs: what is written is what is read, and nothing else is taken for a run."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.store.runs import HEADER_SIZE, PACKET, RECORD, STREAM, DamagedRunError, Run, argsort_stable, checksum

FIELDS = ("streams", "starts", "payload_starts", "last", "fresh", "packets", "packet_bytes", "records", "payload")


def make_run(counts: list[int], *, seed: int = 0, fresh: int = 0, packets: int = 0, packet_bytes: int = 0, payload: int = 0,
             first_ns: int = 5, last_ns: int = 9) -> Run:
    """A run with so many records of each stream, full of noise."""
    rng = np.random.default_rng(seed)

    def noise(kind: np.dtype[np.void], n: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        return rng.integers(0, 256, n * kind.itemsize, dtype=np.uint8).view(kind)

    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint32)
    edges = np.sort(rng.integers(0, payload + 1, len(counts) + 1)).astype(np.uint32)
    run = Run(first_ns, last_ns, np.arange(1, len(counts) + 1, dtype=np.uint32) * 3, starts, noise(STREAM, fresh),
              noise(PACKET, packets), rng.integers(0, 256, packet_bytes, dtype=np.uint8), noise(RECORD, int(starts[-1])),
              rng.integers(0, 256, payload, dtype=np.uint8), edges)
    run.sequence, run.replaces, run.dropped, run.step_ns = 77, (3, 70), 5, -6
    run.last = rng.integers(0, 1 << 62, len(counts), dtype=np.int64)
    return run


def written(run: Run, epoch: int = 9) -> bytes:
    parts = run.sections()
    return run.header(epoch, parts) + b"".join(parts)


def same(a: Run, b: Run) -> bool:
    numbers = ("first_ns", "last_ns", "sequence", "replaces", "dropped", "step_ns")
    return all(getattr(a, name) == getattr(b, name) for name in numbers) and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes() and getattr(a, name).dtype == getattr(b, name).dtype
        for name in FIELDS)


runs = st.builds(make_run, st.lists(st.integers(0, 5), max_size=6), seed=st.integers(0, 99), fresh=st.integers(0, 3),
                 packets=st.integers(0, 3), packet_bytes=st.integers(0, 40), payload=st.integers(0, 300),
                 first_ns=st.integers(-1, 1 << 62), last_ns=st.integers(-1, 1 << 62))


@settings(max_examples=150, deadline=None)
@given(runs, st.binary(max_size=20), st.integers(0, (1 << 64) - 1))
def test_round_trip(run: Run, behind: bytes, epoch: int) -> None:
    data = written(run, epoch)
    assert len(data) == run.size
    assert run.size % 8 == 0
    for expected in (epoch, None):
        assert same(Run.parse(memoryview(data + behind), expected), run)


@settings(max_examples=60, deadline=None)
@given(runs, st.integers(1, 4))
def test_places(run: Run, eights: int) -> None:
    """`place` says where records and payload lie in the segment."""
    assert run.records is not None
    assert run.payload is not None
    at = 64 * eights
    run.place("12", at)
    file = b"\xee" * at + written(run)
    assert file[run.records_at:run.records_at + run.records.nbytes] == run.records.tobytes()
    assert file[run.payload_at:run.payload_at + len(run.payload)] == run.payload.tobytes()


@settings(max_examples=150, deadline=None)
@given(runs, st.data())
def test_any_changed_byte(run: Run, data: st.DataObject) -> None:
    whole = bytearray(written(run))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedRunError):
        Run.parse(memoryview(whole), 9)


def test_every_flipped_bit() -> None:
    whole = bytearray(written(make_run([2, 1], fresh=1, packets=1, packet_bytes=5, payload=30)))
    for bit in range(len(whole) * 8):
        whole[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(DamagedRunError):
            Run.parse(memoryview(whole), 9)
        whole[bit >> 3] ^= 1 << (bit & 7)
    Run.parse(memoryview(whole), 9)


def test_every_truncation() -> None:
    whole = written(make_run([2, 1], fresh=1, packets=1, packet_bytes=5, payload=30))
    for size in range(len(whole)):
        with pytest.raises(DamagedRunError):
            Run.parse(memoryview(whole[:size]), 9)


@settings(max_examples=100, deadline=None)
@given(runs, st.integers(0, 1 << 32))
def test_torn_writes(run: Run, seed: int) -> None:
    """Any blocks of 512 bytes as they were before: zeros, or another run's."""
    rng = np.random.default_rng(seed)
    whole = np.frombuffer(written(run), np.uint8)
    for before in (np.zeros(len(whole), np.uint8), rng.integers(0, 256, len(whole), dtype=np.uint8)):
        torn = np.repeat(rng.random(len(whole) // 512 + 1) < 0.5, 512)[:len(whole)]
        data = np.where(torn, before, whole)
        if (data != whole).any():
            with pytest.raises(DamagedRunError):
                Run.parse(memoryview(data), 9)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(DamagedRunError):
        Run.parse(memoryview(data), None)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1)), min_size=11, max_size=11))
def test_a_header_that_lies(fields: list[int]) -> None:
    """Sizes that add up by overflow or point beyond the data are no run, whatever their checksum."""
    magic = written(make_run([1]))[:8]
    epoch, sequence, first, last, size, k, fresh, packets, packet_bytes, records, payload = fields
    head = struct.pack("<8sQQQQQqqIIIIQQQQ", magic, epoch, sequence, first, last, size, 0, 0, k & 0xFFFFFFFF, fresh & 0xFFFFFFFF,
                       packets & 0xFFFFFFFF, 0, packet_bytes, records, payload, 0).ljust(HEADER_SIZE + 200, b"\0")
    with pytest.raises(DamagedRunError):
        Run.parse(memoryview(head), None)


def test_another_epoch() -> None:
    data = memoryview(written(make_run([1], payload=9), epoch=4))
    Run.parse(data, 4)
    for epoch in (3, 5, 0):
        with pytest.raises(DamagedRunError):
            Run.parse(data, epoch)


def test_a_run_let_go_cannot_be_written() -> None:
    run = make_run([1])
    run.records = None
    with pytest.raises(ValueError, match="let go"):
        run.sections()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_checksum_sees_no_seams(parts: list[bytes]) -> None:
    """Sections are padded to words, so that their sum is that of the whole."""
    padded = [p + bytes(-len(p) % 8) for p in parts]
    assert checksum([memoryview(p) for p in padded]) == checksum([memoryview(b"".join(padded))])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5), st.integers(0xFFF0, 0x1000F), st.integers(0, 0xFFFFFFFF)), max_size=200))
def test_argsort(keys: list[int]) -> None:
    array = np.array(keys, np.uint32)
    assert argsort_stable(array).tolist() == sorted(range(len(keys)), key=keys.__getitem__)
