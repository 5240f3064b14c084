"""What runs say, read row by row in the plainest way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple

from tests.sniffer.batches import batch
from tests.sniffer.captures import Packet

from rokuon.store.capture import Capture
from rokuon.store.runs import SLOT, Run


class StreamKey(NamedTuple):
    """What a STREAM row says of a stream."""

    point: int
    tags: tuple[int, ...]
    src: str
    dst: str
    source_port: int
    destination_port: int
    ssrc: int


class Voice(NamedTuple):
    """An RTP packet as a run gives it back."""

    time_ns: int
    payload: bytes
    length: int
    frame_length: int
    ip_id: int
    ttl: int
    tos: int


class Kept(NamedTuple):
    """A packet that was kept whole."""

    time_ns: int
    kind: int
    link_type: int
    wire: int
    point: int
    data: bytes


class Read:
    """Everything that some runs hold."""

    def __init__(self) -> None:
        self.names: dict[int, StreamKey] = {}
        self.headers: dict[int, bytes] = {}
        self.first: dict[int, int] = {}
        self.voice: dict[int, list[Voice]] = defaultdict(list)
        self.kept: list[Kept] = []

    def add(self, run: Run) -> None:
        """Takes a run, which must be consistent in itself."""
        for row in run.fresh:
            number, size = int(row["number"]), 16 if row["v6"] else 4
            assert number not in self.names
            ends = [str(ip_address(row[end][:size].tobytes())) for end in ("source", "destination")]
            self.names[number] = StreamKey(int(row["point"]), tuple(row["tags"][:row["tag_count"]].tolist()), *ends,
                                           int(row["source_port"]), int(row["destination_port"]), int(row["ssrc"]))
            self.headers[number] = row["header"][:row["header_length"]].tobytes()
            self.first[number] = int(row["first_ns"])
        assert run.records is not None
        assert run.payload is not None
        streams, starts, edges = run.streams.tolist(), run.starts.tolist(), run.payload_starts.tolist()
        assert streams == sorted(set(streams))
        assert len(starts) == len(edges) == len(streams) + 1
        assert (starts[0], starts[-1], edges[0], edges[-1]) == (0, len(run.records), 0, len(run.payload))
        payload = run.payload.tobytes()
        for k, number in enumerate(streams):
            assert starts[k] < starts[k + 1]
            at = edges[k]
            for row in run.records[starts[k]:starts[k + 1]].tolist():
                time_ns, offset, frame_length, captured, length, ip_id, ttl, tos = row
                assert offset == at
                assert run.first_ns <= time_ns <= run.last_ns
                self.voice[number].append(Voice(time_ns, payload[at:at + captured], length, frame_length, ip_id, ttl, tos))
                at += -(-captured // SLOT) * SLOT
            assert at == edges[k + 1]
        data = run.packet_bytes.tobytes()
        for time_ns, offset, captured, wire, link_type, kind, point in run.packets.tolist():
            assert offset + captured <= len(data)
            self.kept.append(Kept(time_ns, kind, link_type, wire, point, data[offset:offset + captured]))

    def by_name(self) -> list[tuple[StreamKey, list[Voice]]]:
        """Streams with their packets, whatever their numbers."""
        return sorted((self.names[number], voice) for number, voice in self.voice.items())


def captured(lots: Sequence[Sequence[Packet]], capture: Capture | None = None, *, noise: int = 0x5A) -> Read:
    """What capture makes of packets that come in so many batches."""
    capture = capture or Capture()
    read = Read()
    for lot in lots:
        taken = batch(lot, noise=noise)
        run = capture.process(taken)
        taken.data.fill(0xCC)  # a source uses its buffer again
        read.add(run)
    return read
