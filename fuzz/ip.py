"""Fuzzes frames: what is read of whole batches in arrays against what is read packet by packet; and runs of the spool."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from fuzz import harness, seeds
from fuzz.harness import Input, split
from fuzz.seeds import LINKS
from tests.sniffer.batches import batch
from tests.sniffer.captures import Packet

with harness.instrumented():
    from rokuon.sniffer import careful
    from rokuon.sniffer.ip import IPv6Addresses, UdpDatagrams, udp_datagrams
    from rokuon.sniffer.link import locate, tags_of
    from rokuon.sniffer.packet import PacketBatch
    from rokuon.store.capture import Capture
    from rokuon.store.runs import DamagedRunError, Run

WORDS = (b"\x08\0\x45\0", b"\x86\xdd\x60", b"\x81\0\0\1", b"\x88\xa8\0\1", b"\x91\0", b"\x45", b"\x4f", b"\x60\0\0\0", b"\x11",
         b"\x06", b"\x2c", b"\0", b"\x3c", b"\x20\0", b"\x13\xc4", b"SIP/2.0", b"\x80\0", b"\x80\xc8", b"\x21\x12\xa4\x42",
         b"\x16\xfe\xff")


def agree(frames: PacketBatch, packets: list[Packet]) -> None:
    """Every UDP datagram that is found in arrays is one, with the same payload and tags, where one looks at its packet alone."""
    alone = [careful.decode(packet.data, packet.link_type) for packet in packets]
    assert all(found is None or len(found.payload) < len(packet.data) for found, packet in zip(alone, packets, strict=True))
    layer = locate(frames)
    groups, others = udp_datagrams(frames, layer, IPv6Addresses())
    seen = set(others.tolist())
    assert len(seen) == len(others)
    for group in groups:
        for row, at, captured, ports, length in zip(group.row.tolist(), group.payload.tolist(), group.captured.tolist(),
                                                    group.ports.tolist(), group.length.tolist(), strict=True):
            assert row not in seen
            seen.add(row)
            begin, size = int(frames.offset[row]), int(frames.captured_length[row])
            assert begin <= at <= begin + size, "a payload that is not the packet's"
            assert at + captured <= begin + size
            assert captured <= length or length < 0
            found = alone[row]
            assert found is not None, "a datagram in a packet that cannot be read"
            assert found.protocol == 17
            assert found.fragment is None
            assert found.tags == tags_of(int(layer.path[row]))
            whole = packets[row].data[at - begin - 8:]
            assert whole[:4] == ports.to_bytes(4, "little")
            if length >= 0 and length + 8 <= len(found.payload):
                assert found.payload[8:8 + captured] == whole[8:8 + captured]
    check_run(frames, groups)


def check_run(frames: PacketBatch, groups: list[UdpDatagrams]) -> None:
    """What capture makes of the batch, written as the spool has it and read again; and cut, and damaged."""
    capture = Capture()
    run = capture.process(frames)
    assert len(run.packets) <= len(frames)
    assert run.payload is not None
    assert run.records is not None
    assert len(run.records) <= sum(map(len, groups))
    assert len(run.packet_bytes) + int(run.records["captured"].sum()) <= int(frames.captured_length.sum()), "more out than in"
    parts = run.sections()
    octets = run.header(7, parts) + b"".join(parts)
    assert len(octets) == run.size
    again = Run.parse(memoryview(octets), 7)
    for name in ("streams", "starts", "payload_starts", "last", "fresh", "packets", "packet_bytes", "records", "payload"):
        assert getattr(again, name).tobytes() == getattr(run, name).tobytes()
    middle = len(octets) // 2
    for broken in (octets[:-1], octets[:middle], octets[:middle] + bytes([octets[middle] ^ 1]) + octets[middle + 1:]):
        try:
            Run.parse(memoryview(broken), 7)
        except DamagedRunError:
            continue
        raise AssertionError("a run that is damaged is taken for one that is whole")


def parsed(data: bytes) -> None:
    """Any bytes taken for a run."""
    for whole in (True, False):
        with suppress(DamagedRunError):
            Run.parse(memoryview(data), whole=whole)


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    kind, mixed = LINKS[given.number(len(LINKS) - 1)], given.number(15)
    parts = split(given.rest)
    packets = [Packet(1_700_000_000_000_000_000 + n * given.number(3), part, len(part) + (n % 5 == mixed),
                      LINKS[(n + kind) % len(LINKS)] if n % 9 == mixed else kind) for n, part in enumerate(parts)]
    frames = batch(packets, noise=given.number(255))
    before = frames.data.copy()
    agree(frames, packets)
    assert np.array_equal(before, frames.data), "the batch was written to"
    parsed(given.rest)


if __name__ == "__main__":
    harness.fuzz(check, seeds.frames, WORDS)
