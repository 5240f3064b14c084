"""What must hold of finalised calls whatever the network did to the packets, and however they were handed over."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.decoders.packets import MS, T0, Rtp, event, raw_records, records, talk

from rokuon.decoders.api import PayloadFormat
from rokuon.store.finalize import CallFinalizer, CallPlan, FinalizeSettings, StreamPlan

FORMATS = {0: PayloadFormat("PCMU", 8000, 1, "", 0), 8: PayloadFormat("PCMA", 8000, 1, "", 8),
           13: PayloadFormat("CN", 8000, 1, "", 13), 101: PayloadFormat("telephone-event", 8000, 1, "", 101)}
Json = dict[str, Any]


def plans() -> list[StreamPlan]:
    return [StreamPlan("caller", 0, 0, "10.0.0.1:4000", "10.0.0.2:5000", [], 1, FORMATS, True),
            StreamPlan("callee", 0, 0, "10.0.0.2:5000", "10.0.0.1:4000", [], 2, FORMATS, True)]


def finalize(streams: list[list[Rtp]], cuts: list[int], block_s: int = 2, part_s: int = 4) -> tuple[Json, dict[str, bytes]]:
    """The sidecar and every file's content. `cuts`: times at which the call is handed over in pieces."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        choices = FinalizeSettings(block_s=block_s, part_s=part_s)
        maker = CallFinalizer(data, CallPlan({"id": "x"}, "recordings/x", plans()), choices)
        for low, high in zip([0, *cuts], [*cuts, 1 << 62], strict=True):
            pieces = [records(p for p in stream if low <= p.time_ns < high) for stream in streams]
            maker.add(pieces, high if high < 1 << 62 else None)
            for piece in pieces:  # the buffers are the caller's again
                if high < 1 << 62:
                    piece.data[:] = 0xAA
        call = maker.finish(sync=False)
        return call, {p.name: p.read_bytes() for p in sorted(data.rglob("*.*"))}


def hard(seed: int, seconds: float = 9) -> list[list[Rtp]]:
    """Both directions with loss, jitter, reordering, copies, a hold and a key."""
    rng = random.Random(seed)
    streams = []
    for side in range(2):
        kind = rng.choice((0, 0, 8))
        begin = T0 + side * 7 * MS
        sent = talk(round(seconds * 50), begin, rng.randrange(65_536), rng.randrange(1 << 32), kind, seed=seed + side)
        at = rng.randrange(20, len(sent) - 20)
        keyed = event(sent[at], 7)
        sent[at:at + 8] = keyed
        if rng.random() < 0.5:  # a hold: time goes on, numbers do not
            hold = rng.randrange(50, 200)
            sent = sent[:100] + [Rtp(p.time_ns + hold * 20 * MS, p.sequence, p.timestamp + hold * 160, p.payload, p.payload_type)
                                 for p in sent[100:]]
        came = [p.at(p.time_ns + rng.randrange(15 * MS) + 50 * MS * (rng.random() < 0.02)) for p in sent if rng.random() > 0.02]
        came += [p.at(p.time_ns + 40_000) for p in came if rng.random() < 0.02]
        streams.append(sorted(came, key=lambda p: p.time_ns))
    return streams


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.integers(0, 14_000), max_size=6))
def test_pieces_make_no_difference(seed: int, cuts: list[int]) -> None:
    streams = hard(seed)
    whole = finalize(streams, [])
    parted = finalize(streams, sorted(T0 + ms * MS for ms in cuts))
    assert parted == whole


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 30))
def test_copies_and_order_make_no_difference_to_what_was_sent(seed: int) -> None:
    """Payload hash, packets and losses are those of the packets, once each, in order."""
    rng = random.Random(seed)
    streams = hard(seed)
    for block_s in (2, 120):
        call, _ = finalize(streams, [], block_s)
        for stream, entry in zip(streams, sorted(call["streams"], key=lambda e: e["ssrc"]), strict=True):
            once = {p.sequence: p for p in stream}
            numbers = sorted(once)
            voice = b"".join(once[n].payload for n in numbers if once[n].payload_type in (0, 8))
            assert entry["payload_sha256"] == hashlib.sha256(voice).hexdigest()
            assert (entry["packets"], entry["lost"]) == (len(once), numbers[-1] - numbers[0] + 1 - len(once))
            assert entry["duplicates"] == len(stream) - len(once)
    shuffled = []
    for stream in streams:  # the same times, other packets: anything within two seconds
        order = sorted(range(len(stream)), key=lambda k: k + rng.randrange(80))
        shuffled.append([stream[k].at(slot.time_ns) for k, slot in zip(order, stream, strict=True)])
    other, _ = finalize(shuffled, [], 120)
    for one, two in zip(*(sorted(c["streams"], key=lambda e: e["ssrc"]) for c in (call, other)), strict=True):
        assert all(one[key] == two[key] for key in ("payload_sha256", "packets", "lost", "duplicates", "codec"))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1 << 30))
def test_every_sample_is_at_its_place(seed: int) -> None:
    """Code words of each packet within 20 ms of where it was sent, in its channel; silence everywhere else."""
    rng = random.Random(seed)
    sent = [talk(400, T0 + side * 7 * MS, rng.randrange(65_536), rng.randrange(1 << 32), seed=seed + side) for side in range(2)]
    came = [sorted((p.at(p.time_ns + rng.randrange(20 * MS)) for p in s if rng.random() > 0.03), key=lambda p: p.time_ns)
            for s in sent]
    call, files = finalize(came, [], 120, 3600)
    content = files["x.wav"][58:]
    start = (min(p.time_ns for s in came for p in s) - T0) // 125_000
    for side in range(2):
        channel = content[side::2]
        silent = bytearray(channel)
        for p in came[side]:
            true = next(q.time_ns for q in sent[side] if q.sequence == p.sequence)
            at = channel.find(p.payload)
            assert abs(at + start - (true - T0) // 125_000) <= 160
            silent[at:at + 160] = b"\xff" * 160
        assert set(silent) == {0xFF}
    assert len(call["streams"]) == 2


anything = st.lists(st.tuples(st.integers(0, 3_000), st.binary(max_size=60)), max_size=40)
rtp_like = st.lists(st.tuples(st.integers(0, 3_000), st.builds(
    lambda head, rest: bytes([0x80 | head[0], head[1]]) + rest,
    st.tuples(st.integers(0, 0x3F), st.sampled_from([0, 8, 13, 101, 0x80, 99])), st.binary(min_size=10, max_size=60))),
                    max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(anything, rtp_like), min_size=1, max_size=2), st.sampled_from([2, 120]))
def test_any_bytes(streams: list[list[tuple[int, bytes]]], block_s: int) -> None:
    """No exception, every packet counted once, and no more audio than time went by and packets say."""
    with tempfile.TemporaryDirectory() as folder:
        maker = CallFinalizer(Path(folder), CallPlan({"id": "x"}, "recordings/x", plans()), FinalizeSettings(block_s=block_s))
        given_records, count, passed = [], 0, 0
        for packets in streams:
            now, rows = T0, []
            for wait, octets in packets:
                now += wait * MS
                rows.append((now, octets))
            given_records.append(raw_records(rows))
            count += len(rows)
            passed = max(passed, now - T0)
        maker.add(given_records, None)
        call = maker.finish(sync=False)
        counted = sum(e["packets"] + e["duplicates"] for e in call["streams"])
        lost = sum(call["anomalies"].get(name, 0) for name in ("bad-rtp", "stray-packets", "late-packets"))
        assert counted <= count
        if all(e["packets"] for e in call["streams"]) and len(call["streams"]) == len(streams):
            assert counted + lost == count
        for file in [call["audio"] or {"duration_s": 0}, *call["parts"]]:
            assert file["duration_s"] <= passed / 1e9 + 2.1


@pytest.mark.parametrize("seed", range(3))
def test_the_same_packets_make_the_same_bytes(seed: int) -> None:
    assert finalize(hard(seed), []) == finalize(hard(seed), [])
