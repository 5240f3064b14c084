"""Advice to capture: what is written is read, nothing else is followed, and packets are cut or let go exactly as advised."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sniffer.batches import T0, batch, rtp, udp, voice
from tests.sniffer.captures import Packet
from tests.store.runs_read import Read, Voice, captured

from rokuon.store.advice import ADVICE, ALL_TYPES, MOST, Action, Advice, AdviceReader, AdviceWriter, Entry
from rokuon.store.capture import Capture
from rokuon.store.runs import checksum

S = 1_000_000_000
EPOCH = 1_800_000_000 * S
ENTRIES = st.builds(Entry, st.integers(1, 2**32 - 1), st.sampled_from(Action), st.integers(0, ALL_TYPES))


def read_back(advice: Advice | None) -> list[Entry]:
    assert advice is not None
    return [Entry(int(row["number"]), Action(int(row["action"])), int.from_bytes(row["types"].tobytes(), "little"))
            for row in advice.entries]


# -- the file --------------------------------------------------------------------
@given(st.lists(ENTRIES, min_size=1, unique_by=lambda entry: entry.number))
def test_what_is_written_is_what_is_read(entries: list[Entry]) -> None:
    assert read_back(Advice.parse(Advice.of(EPOCH, entries).pack())) == sorted(entries)


def test_from_one_end_to_the_other(tmp_path: Path) -> None:
    writer, reader = AdviceWriter(tmp_path), AdviceReader(tmp_path, EPOCH)
    assert reader.look(0) is None
    entries = [Entry(7, Action.HEADERS, 1 << 96), Entry(3, Action.DROP)]
    assert writer.put(EPOCH, entries, 5 * S)
    assert read_back(reader.look(5 * S)) == sorted(entries)
    assert not writer.put(EPOCH, entries[::-1], 6 * S)  # says nothing new
    assert writer.put(EPOCH, entries[:1], 6 * S)
    assert read_back(reader.look(6 * S)) == entries[:1]
    assert writer.put(EPOCH, [], 7 * S)
    assert reader.look(7 * S) is None
    assert not writer.put(EPOCH, [], 8 * S)
    assert not reader.counts
    assert os.listdir(tmp_path) == []


def test_what_nobody_renews_is_not_followed(tmp_path: Path) -> None:
    writer, reader = AdviceWriter(tmp_path), AdviceReader(tmp_path, EPOCH)
    for second in range(1, 60):
        writer.put(EPOCH, [Entry(7, Action.HEADERS)], second * S)
        assert reader.look(second * S) is not None
    assert reader.look(61 * S) is not None
    assert [reader.look(second * S) for second in range(80, 90)] == [None] * 10
    assert reader.counts == {"advice_stale": 1}
    writer.put(EPOCH, [Entry(7, Action.HEADERS)], 90 * S)
    assert reader.look(90 * S) is not None


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    AdviceWriter(tmp_path).put(EPOCH, [Entry(7, Action.HEADERS)], S)
    (tmp_path / f".{ADVICE}.part").write_bytes(b"half")
    again = AdviceWriter(tmp_path)
    assert again.put(EPOCH, [], 2 * S)
    assert AdviceReader(tmp_path, EPOCH).look(2 * S) is None
    assert again.put(EPOCH, [Entry(1, Action.DROP)], 3 * S)
    assert read_back(AdviceReader(tmp_path, EPOCH).look(3 * S)) == [Entry(1, Action.DROP)]


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    AdviceWriter(tmp_path).put(EPOCH, [Entry(number, Action.DROP) for number in range(1, MOST + 1001)], S)
    assert os.stat(tmp_path / ADVICE).st_size < 2 << 20
    found = read_back(AdviceReader(tmp_path, EPOCH).look(S))
    assert [entry.number for entry in found] == list(range(1001, MOST + 1001))


def whole() -> bytes:
    return Advice.of(EPOCH, [Entry(3, Action.DROP), Entry(7, Action.HEADERS, 5)], S).pack()


def forged(count: int, rows: bytes) -> bytes:
    """Its size and checksum are right."""
    head = struct.Struct("<8sQqIIQ")
    fields = (b"RKADV\0\0\x01", EPOCH, S, count, 0)
    return head.pack(*fields, checksum([memoryview(head.pack(*fields, 0)), memoryview(rows)])) + rows


ROW = struct.pack("<IB3x16s", 9, Action.DROP, b"\xff" * 16)
DAMAGED = {
    "empty": b"", "short": whole()[:20], "cut": whole()[:-1], "longer": whole() + b"\0",
    "another": b"RKADV\0\0\x02" + whole()[8:],
    "zeroed": bytes(len(whole())), "text": b"drop everything\n" * 10, "flipped": whole()[:-1] + bytes([whole()[-1] ^ 1]),
    "twice": forged(2, ROW + ROW), "unknown": forged(1, ROW[:4] + b"\x09" + ROW[5:]), "endless": whole() + bytes(4 << 20),
    "too-many": forged(MOST + 1, b"".join(struct.pack("<I", n) + ROW[4:] for n in range(1, MOST + 2))),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_not_followed_and_counted_once(what: str, tmp_path: Path) -> None:
    assert read_back(Advice.parse(forged(1, ROW))) == [Entry(9, Action.DROP)]
    (tmp_path / ADVICE).write_bytes(DAMAGED[what])
    reader = AdviceReader(tmp_path, EPOCH)
    assert [reader.look(S) for _ in range(5)] == [None] * 5
    assert reader.counts == {"advice_damaged": 1}
    AdviceWriter(tmp_path).put(EPOCH, [Entry(7, Action.HEADERS)], S)
    assert reader.look(S) is not None


def test_advice_for_another_start_is_not_followed(tmp_path: Path) -> None:
    AdviceWriter(tmp_path).put(EPOCH - S, [Entry(7, Action.HEADERS)], S)
    reader = AdviceReader(tmp_path, EPOCH)
    assert [reader.look(S) for _ in range(5)] == [None] * 5
    assert reader.counts == {"advice_stale": 1}


def test_what_is_no_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    AdviceWriter(tmp_path).put(EPOCH, [Entry(7, Action.HEADERS)], S)
    (tmp_path / ADVICE).rename(other)
    for make in (lambda path: path.symlink_to(other), os.mkfifo, lambda path: path.mkdir()):
        make(tmp_path / ADVICE)
        assert AdviceReader(tmp_path, EPOCH).look(S) is None
        (tmp_path / ADVICE).rmdir() if (tmp_path / ADVICE).is_dir() else (tmp_path / ADVICE).unlink()


# -- what capture makes of it ----------------------------------------------------
def plain_size(payload: bytes) -> int:
    """Of what comes before the payload, but for what an extension holds (RFC 3550 sections 5.1, 5.3.1)."""
    return 12 + 4 * (payload[0] % 16) + (4 if payload[0] & 0x10 else 0)


@given(seed=st.integers(0, 2**32), chosen=st.dictionaries(st.integers(1, 12), st.tuples(st.sampled_from(Action),
                                                                                        st.integers(0, 3)), max_size=12))
def test_packets_are_kept_as_advised(seed: int, chosen: dict[int, tuple[Action, int]]) -> None:
    """Against the same packets captured without advice, whatever other streams, sizes and kinds of header are beside them."""
    draw = random.Random(seed)
    packets = []
    for i in range(200):
        ssrc = draw.randrange(1, 11)
        first = 0x80 | draw.choice([0, 0, 0, 0x10, 0x20, 0x33])
        body = bytes([first, draw.choice([96, 97]) | draw.choice([0, 0x80])]) + struct.pack(">HII", i, i * 160, ssrc)
        body += draw.randbytes(4 * (first & 15)) + (struct.pack(">HHI", 1, 1, 7) if first & 0x10 else b"")
        body += draw.randbytes(draw.choice([20, 20, 160, 1200])) + b"\x04"
        ends = ("10.0.0.1", 4000 + ssrc * 2), ("10.0.0.2" if ssrc % 3 else "10.0.0.3", 5000)
        frame = udp(body, *ends) if ssrc % 4 else udp(body, ("fd00::1", ends[0][1]), ("fd00::2", 5000))
        kept = frame[:draw.choice([len(frame)] * 9 + [len(frame) - len(body) + 13])]
        packets.append(Packet(T0 + i * 1000, kept, len(frame)))
    lots = [packets[:50], packets[50:]]
    types = {0: 0, 1: 1 << 96, 2: 1 << 97, 3: ALL_TYPES}
    capture = Capture()
    before = Read()
    before.add(capture.process(batch(lots[0])))
    capture.advice = Advice.of(EPOCH, [Entry(number, action, types[which]) for number, (action, which) in chosen.items()])
    after = Read()
    after.names.update(before.names)
    after.add(capture.process(batch(lots[1])))
    without = captured(lots)
    assert after.names == without.names
    expected: dict[int, list[Voice]] = {}
    cut = gone = 0
    for number, voices in without.voice.items():
        for record in voices[len(before.voice.get(number, [])):]:
            action, which = chosen.get(number, (None, 0))
            meant = types[which] >> (record.payload[1] & 0x7F) & 1
            if action is Action.DROP and meant:
                gone += 1
                continue
            if action is Action.HEADERS and meant:
                cut += 1
                record = record._replace(payload=record.payload[:plain_size(record.payload)])  # noqa: PLW2901
            expected.setdefault(number, []).append(record)
    assert dict(after.voice) == expected
    assert (capture.counts["rtp_headers_only"], capture.counts["rtp_advised_away"]) == (cut, gone)
    assert capture.counts["rtp"] == len(packets)


def test_nothing_is_left_of_a_run() -> None:
    capture = Capture()
    capture.process(batch([voice(T0, 1)]))
    capture.advice = Advice.of(EPOCH, [Entry(1, Action.DROP)])
    run = capture.process(batch([voice(T0 + i, 1, i) for i in range(1, 5)]))
    assert len(run.streams) == len(run.fresh) == 0
    assert (run.first_ns, run.last_ns) == (T0 + 1, T0 + 4)
    Read().add(run)
    both = capture.process(batch([voice(T0 + 10, 1, 10), Packet(T0 + 11, udp(rtp(1, 11, bytes(30)), ("10.0.0.9", 9)), 90)]))
    assert both.streams.tolist() == [2]
    capture.advice = None
    assert capture.process(batch([voice(T0 + 20, 1, 20)])).streams.tolist() == [1]
