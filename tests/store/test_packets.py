"""Packets given back from the spool's records, against the frames that scapy made."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.sniffer.batches import T0, batch, rtp, udp
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import (
    ETHERNET,
    IP,
    LINKS,
    UDP,
    Dot1Q,
    Ether,
    IPOption_NOP,
    IPv6,
    IPv6ExtHdrHopByHop,
    Layer,
    Raw,
    Seen,
    dissect,
    pool,
)

from rokuon.decoders.rtp import RtpRecords
from rokuon.store.capture import Capture
from rokuon.store.packets import PacketsInPieces, write_packets
from rokuon.store.runs import Run
from rokuon.store.signalling import Frame


class Loaded(NamedTuple):
    rtp: RtpRecords
    records: NDArray[np.void]


def loaded(run: Run, known: dict[int, bytes] | None = None) -> list[tuple[bytes, Loaded]]:
    """Every stream of a run: its template (`known` or the run's own) and its packets, as a worker has them."""
    assert run.records is not None
    assert run.payload is not None
    templates = known or {int(row["number"]): row.tobytes() for row in run.fresh}
    streams = []
    for k, number in enumerate(run.streams.tolist()):
        rows = run.records[int(run.starts[k]):int(run.starts[k + 1])]
        packets = RtpRecords(rows["time_ns"].copy(), run.payload, rows["offset"].astype(np.int64),
                             rows["captured"].astype(np.int32), rows["length"].astype(np.int32))
        streams.append((templates[number], Loaded(packets, rows)))
    return streams


def read(path: Path) -> tuple[int, list[tuple[int, int, bytes]]]:
    """Link type; time, wire length and bytes of each packet."""
    data = path.read_bytes()
    magic, _, _, _, _, _, link = struct.unpack_from("<IHHiIII", data)
    assert magic == 0xA1B23C4D
    at, packets = 24, []
    while at < len(data):
        seconds, nanoseconds, size, wire = struct.unpack_from("<IIII", data, at)
        packets.append((seconds * 1_000_000_000 + nanoseconds, wire, data[at + 16:at + 16 + size]))
        at += 16 + size
    return link, packets


def shape(data: bytes, seen: Seen) -> bytes:
    """The headers below UDP without what the records keep of each packet."""
    head = bytearray(data[:seen.upper])
    at = seen.network
    for i in (1, 2, 3, 4, 5, 8, 10, 11) if seen.version == 4 else (0, 4, 5, 7):
        head[at + i] = 0
    if seen.version == 6:
        head[at + 1] &= 0x0F
    return bytes(head)


@pytest.mark.parametrize("link_type", sorted(set(LINKS)))
def test_against_the_frames(link_type: int, tmp_path: Path) -> None:
    """Byte for byte, padding aside, where the other headers are those of the stream's first packet."""
    firsts: dict[tuple[object, ...], bytes] = {}
    frames = []
    for f in pool(2500, 3):
        if f.content == "rtp" and f.link_type == link_type:
            seen = dissect(f.data, f.link_type)
            if b"\x11\x02\x00\x01" in f.data or b"\x11\x04\x00\x02" in f.data or b"\x3c\x02\x00\x01" in f.data:
                continue  # behind a routing header the checksum is that of another destination
            key = (seen.src, seen.dst, seen.tags, f.data[seen.upper:seen.upper + 4], f.data[seen.upper + 16:seen.upper + 20])
            if firsts.setdefault(key, shape(f.data, seen)) == shape(f.data, seen):
                frames.append((f, seen))
    assert len(frames) >= 30
    run = Capture().process(batch([Packet(T0 + i, f.data, len(f.data), f.link_type) for i, (f, _) in enumerate(frames)]))
    write_packets(tmp_path / "a.pcap", [], loaded(run), sync=False)
    link, packets = read(tmp_path / "a.pcap")
    assert link == link_type
    found = {time_ns - T0: (wire, data) for time_ns, wire, data in packets}
    for i, (f, seen) in enumerate(frames):
        if seen.upper + 8 <= 96:  # headers too long to be kept
            assert found.pop(i) == (len(f.data), f.data[:seen.end])
    assert not found


@pytest.mark.parametrize("below", [IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_NOP()] * 8),
                                   IP(src="10.0.0.1", dst="10.0.0.2", flags="DF"), IPv6(src="fd00::1", dst="fd00::2", fl=77),
                                   IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrHopByHop()])
def test_what_differs_from_packet_to_packet(below: Layer, tmp_path: Path) -> None:
    frames = []
    for n in range(40):
        head = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q(vlan=7) / below.copy()
        if IP in head:
            head[IP].id, head[IP].ttl, head[IP].tos = n * 1000, 255 - n, n
        else:
            head[IPv6].hlim, head[IPv6].tc = 255 - n, n * 5
        frames.append(bytes(head / UDP(sport=4000, dport=5000) / Raw(rtp(1, n, bytes([n]) * (n * 7 % 50)))))
    run = Capture().process(batch([Packet(T0 + i, f, len(f)) for i, f in enumerate(frames)]))
    write_packets(tmp_path / "a.pcap", [], loaded(run), sync=False)
    _, packets = read(tmp_path / "a.pcap")
    assert [data for _, _, data in packets] == frames


def test_signalling_and_media_in_order_of_time(tmp_path: Path) -> None:
    frame = udp(rtp(1))
    run = Capture().process(batch([Packet(T0 + 10 * i, frame, len(frame)) for i in range(3)]))
    sip = Frame(T0 + 15, ETHERNET, 99, b"sip" * 20)
    write_packets(tmp_path / "a.pcap", [sip], loaded(run))
    _, packets = read(tmp_path / "a.pcap")
    assert [t - T0 for t, _, _ in packets] == [0, 10, 15, 20]
    assert packets[2] == (T0 + 15, 99, sip.data)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pcap"]


def test_pieces_make_no_difference(tmp_path: Path) -> None:
    frames = [Packet(T0 + 10 * i, f := udp(rtp(1 + i % 2, i, bytes([i] * 20))), len(f)) for i in range(60)]
    sip = Frame(T0 + 155, ETHERNET, 99, b"sip" * 20)
    write_packets(tmp_path / "whole.pcap", [sip], loaded(Capture().process(batch(frames))))
    pieces, capture = PacketsInPieces(tmp_path / "deep" / "parted.pcap"), Capture()
    templates: dict[int, bytes] = {}
    for begin in (0, 25, 40):
        run = capture.process(batch(frames[begin:begin + 25 if begin == 0 else begin + 15 if begin == 25 else 60]))
        templates.update({int(row["number"]): row.tobytes() for row in run.fresh})
        streams = loaded(run, templates)
        if begin < 40:
            pieces.add(streams)
        else:
            pieces.finish([sip], streams)
    assert (tmp_path / "deep" / "parted.pcap").read_bytes() == (tmp_path / "whole.pcap").read_bytes()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["parted.pcap"]
    pieces.add(streams)
    pieces.discard()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["parted.pcap"]


@pytest.mark.parametrize("length", [0xFFFF, 0xFFF0, 300])
def test_a_length_that_lies(length: int, tmp_path: Path) -> None:
    """What is not there is not made up, and no length is too long for its field."""
    frames = []
    for src, dst, at in ((("10.0.0.1", 1), ("10.0.0.2", 2), 38), (("fd00::1", 1), ("fd00::2", 2), 58)):
        frame = bytearray(udp(rtp(1), src, dst))
        struct.pack_into(">HH", frame, at, length, 7)
        frames.append(bytes(frame))
    extended = frames[1][:20] + b"\x3c" + frames[1][21:54] + b"\x11\x00" + bytes(6) + frames[1][54:]
    run = Capture().process(batch([Packet(T0 + i, f, len(f)) for i, f in enumerate([*frames, extended])]))
    write_packets(tmp_path / "a.pcap", [], loaded(run), sync=False)
    _, packets = read(tmp_path / "a.pcap")
    assert [data[-32:] for _, _, data in packets] == [rtp(1)] * 3
