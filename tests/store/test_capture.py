"""The capture stage against scapy: what becomes a stream's record, what is kept as it came, and what is let go."""

from __future__ import annotations

import struct
from collections import defaultdict

import pytest
from tests.sniffer.batches import T0, S, batch, rtp, udp, voice
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import Frame, dissect, pool
from tests.store.runs_read import Kept, StreamKey, Voice, captured

from rokuon.sniffer.classify import Kind
from rokuon.store.capture import Capture
from rokuon.store.runs import Run

KEPT = {"sip": Kind.SIP, "rtcp": Kind.RTCP, "stun": Kind.STUN, "dtls": Kind.DTLS, "fragment": Kind.FRAGMENT,
        "sip-port": Kind.TCP, "sip-begin": Kind.TCP}


def expected(packets: list[tuple[Packet, Frame]]) -> tuple[dict[StreamKey, list[Voice]], list[Kept]]:
    """What scapy and the packets' makers say should become of them."""
    streams: dict[StreamKey, list[Voice]] = defaultdict(list)
    kept = []
    for p, f in packets:
        seen = dissect(f.data, f.link_type)
        if f.content == "rtp":
            source, destination, length, _ = struct.unpack_from(">HHHH", f.data, seen.upper)
            payload = f.data[seen.upper + 8:seen.upper + length]
            key = StreamKey(p.point, seen.tags, seen.src, seen.dst, source, destination, int.from_bytes(payload[8:12], "big"))
            streams[key].append(Voice(p.time_ns, payload, len(payload), p.wire, seen.ident, seen.ttl, seen.tos))
        kind = KEPT.get(f.content)
        if seen.protocol == 6 and seen.version == 6 and seen.upper > seen.network + 40:
            kind = Kind.FRAGMENT  # TCP behind extension headers: looked at later
        if kind is not None:
            kept.append(Kept(p.time_ns, kind, p.link_type, p.wire, p.point, p.data))
    return streams, kept


def test_against_scapy() -> None:
    packets = [(Packet(T0 + i * 1_000_000, f.data, len(f.data) + i % 3, f.link_type, i % 2), f)
               for i, f in enumerate(pool(800, 2))]
    streams, kept = expected(packets)
    assert len(streams) > 50
    read = captured([[p for p, _ in packets]])
    assert read.by_name() == sorted(streams.items())
    assert read.kept == kept
    for number, name in read.names.items():
        assert read.first[number] == streams[name][0].time_ns
        frame = next(f for p, f in packets if p.time_ns == read.first[number])
        head = read.headers[number]
        assert frame.data.startswith(head)
        assert frame.data[len(head):].startswith(streams[name][0].payload) or not head  # longer than is kept of it


def test_counts() -> None:
    frames = pool(800, 2)
    capture = Capture()
    captured([[Packet(T0, f.data, len(f.data), f.link_type) for f in frames]], capture)
    contents = [f.content for f in frames]
    assert capture.counts["packets"] == len(frames)
    for name in ("rtp", "rtcp", "stun", "dtls"):
        assert capture.counts[name] == contents.count(name)
    assert capture.counts["other_udp"] == contents.count("junk")
    assert capture.counts["not_ip"] == contents.count("not-ip")


@pytest.mark.parametrize("noise", [0x00, 0x11, 0x45, 0x60, 0x80, 0xFF])
def test_packets_cut_anywhere(noise: int) -> None:
    """Snaplen: what is there is kept, and not a byte more; what is behind a packet does not change what it is taken for."""
    frames = [f for f in pool() if len(f.data) < 200][:60]
    cuts = [(f, size) for f in frames for size in range(len(f.data) + 1)]
    read = captured([[Packet(T0 + i, f.data[:size], len(f.data), f.link_type) for i, (f, size) in enumerate(cuts)]], noise=noise)
    for records in read.voice.values():
        for record in records:
            f, size = cuts[record.time_ns - T0]
            seen = dissect(f.data, f.link_type)
            start = seen.upper + 8
            assert f.content == "rtp"
            assert record.payload == f.data[start:min(size, start + record.length)]
            assert len(record.payload) >= 12
            assert record.frame_length == len(f.data)
    assert all(k.data == cuts[k.time_ns - T0][0].data[:cuts[k.time_ns - T0][1]] for k in read.kept)
    whole = {T0 + i for i, (f, size) in enumerate(cuts) if f.content == "rtp" and size == len(f.data)}
    assert whole <= {r.time_ns for records in read.voice.values() for r in records}


def test_what_lies_between_packets_changes_nothing() -> None:
    frames = [f for f in pool() if len(f.data) < 200][:60]
    packets = [Packet(T0 + i, f.data[:size], len(f.data), f.link_type)
               for i, (f, size) in enumerate((f, size) for f in frames for size in range(0, len(f.data) + 1, 3))]
    results = []
    for noise in (0, 0x45, 0xFF):
        capture = Capture()
        read = captured([packets], capture, noise=noise)
        results.append((read.by_name(), read.kept, +capture.counts))
    assert results[0] == results[1] == results[2]


def test_runs_know_their_times() -> None:
    capture = Capture()
    run = capture.process(batch([voice(T0 + 5, 1), voice(T0 + 2, 1, 1), voice(T0 + 9, 2)]))
    assert (run.first_ns, run.last_ns) == (T0 + 2, T0 + 9)
    assert [r.time_ns for r in captured([[voice(T0 + 5, 1), voice(T0 + 2, 1, 1)]]).voice[1]] == [T0 + 5, T0 + 2]  # as captured


def test_an_empty_batch() -> None:
    capture = Capture()
    run = capture.process(batch([]))
    assert isinstance(run, Run)
    assert len(run.streams) == len(run.packets) == 0
    run.place(0, 64)
    assert Run.parse(memoryview(run.header(1, run.sections()) + b"".join(run.sections())), 1).size == run.size


@pytest.mark.parametrize("sizes", [[160] * 50, [0] * 20, [1, 7, 8, 9, 160, 161], list(range(200)), [160] * 20 + [33],
                                   [1400, 0, 1400]])
def test_payloads_of_all_sizes(sizes: list[int]) -> None:
    payloads = [bytes([i & 255]) * size for i, size in enumerate(sizes)]
    read = captured([[voice(T0 + i, i % 3, i, payload=p) for i, p in enumerate(payloads)]])
    found = {r.time_ns - T0: r.payload for records in read.voice.values() for r in records}
    assert found == {i: rtp(i % 3, i, p) for i, p in enumerate(payloads)}


def test_both_families_in_one_batch_keep_their_order() -> None:
    six = {"src": ("fd00::1", 4000), "dst": ("fd00::2", 5000)}
    packets = [voice(T0 + i, 1, i) if i % 3 else voice(T0 + i, 1, i, **six) for i in range(60)]
    read = captured([packets])
    assert {read.names[n].src: [r.time_ns - T0 for r in records] for n, records in read.voice.items()} == {
        "10.0.0.1": [i for i in range(60) if i % 3], "fd00::1": [i for i in range(60) if not i % 3]}


def test_more_than_16_ssrcs_are_one_stream() -> None:
    """DNS answers pass the RTP test; each has another 'SSRC'."""
    lots = [[voice(T0 + (100 * b + i) * S // 1000, 1000 + 100 * b + i) for i in range(100)] for b in range(5)]
    capture = Capture()
    read = captured(lots, capture)
    assert sorted(map(len, read.voice.values())) == [1] * 16 + [484]
    (many,) = (records for records in read.voice.values() if len(records) > 1)
    assert [int.from_bytes(r.payload[8:12], "big") for r in many] == list(range(1016, 1500))  # the record still has it
    assert capture.counts["streams_of_many_ssrcs"] > 0


def test_the_table_of_streams_is_bounded() -> None:
    capture = Capture(max_streams=200)
    lots = [[voice(T0 + b * S // 10 + i, 7, src=("10.1.0.1", 1024 + 100 * b + i)) for i in range(100)]
            + [voice(T0 + b * S // 10 + 500, 9, b)] for b in range(40)]
    read = captured(lots, capture)
    assert capture.counts["streams_evicted"] > 3000
    mine = [n for n, name in read.names.items() if name.src == "10.0.0.1"]
    assert len(mine) == 1  # a call that goes on is not forgotten
    assert len(read.voice[mine[0]]) == 40
    assert len({*read.names}) == len(read.names) == 4001


def test_side_packets_are_bounded() -> None:
    capture = Capture(side_packets_per_second=10)
    stun = udp(bytes([0, 1, 0, 0]) + b"\x21\x12\xa4\x42" + bytes(12))
    read = captured([[Packet(T0 + i * S // 100, stun, len(stun)) for i in range(300)]], capture)
    assert len(read.kept) == 30
    assert capture.counts["stun"] == 300 + 270  # seen, and what was let go of them
    assert capture.counts["other_udp"] == 270


def test_configured_ports() -> None:
    message = udp(b"hello, this is no method", dst=("10.0.0.2", 5080))
    packet = Packet(T0, message, len(message))
    assert len(captured([[packet]], Capture(sip_ports=(5060, 5080))).kept) == 1
    assert len(captured([[packet]], Capture(sip_ports=())).kept) == 0


def test_capture_points_are_kept_apart() -> None:
    read = captured([[voice(T0 + i, 1, i, point=i % 2) for i in range(10)]])
    assert sorted(len(v) for v in read.voice.values()) == [5, 5]


def test_the_largest_datagram() -> None:
    payload = rtp(1, payload=bytes(65507 - 12))
    frame = udp(payload)
    read = captured([[Packet(T0, frame, len(frame))]])
    ((record,),) = read.voice.values()
    assert record.payload == payload


def test_headers_longer_than_a_template_are_left_out() -> None:
    plain = udp(rtp(1), vlans=[1, 2, 3, 4])
    frame = plain[:30] + b"\x4f" + plain[31:50] + b"\x01" * 40 + plain[50:]
    read = captured([[Packet(T0, frame, len(frame))]])
    assert read.headers == {1: b""}
    assert read.names[1].tags == (1, 2, 3, 4)
