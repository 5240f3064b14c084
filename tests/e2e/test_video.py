"""What is said of video does not depend on how much of its packets behind the headers was kept."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
from tests.e2e.recorded import Json, calls_of, only, rokuon, stream
from tests.e2e.scenarios import A_RTP, B_RTP, T0_US, Dialog, S, Wire, both, sdp
from tests.sniffer.captures import Packet, pcap

from rokuon.sniffer.pcap_file import open_capture

A_VIDEO, B_VIDEO = ("10.0.0.1", 4002), ("10.0.0.2", 6002)
UDP_PAYLOAD = 42


def kept_of(payload: bytes) -> int:
    """Fixed header, CSRCs and the first word of an extension (RFC 3550 sections 5.1, 5.3.1)."""
    return 12 + 4 * (payload[0] & 0x0F) + (4 if payload[0] & 0x10 else 0)


def scenario(audio: str = "0") -> Wire:
    """A call with video of every kind of RTP header, of which some come twice, with the same content or another."""
    wire, draw = Wire(), random.Random(5)
    lines = ["m=video {} RTP/AVP 96 97", "a=rtpmap:96 H264/90000", "a=rtpmap:97 telephone-event/90000"]
    dialog = Dialog(wire)
    dialog.answered(0, (sdp(A_RTP, audio, more=[x.format(4002) for x in lines]),),
                    (sdp(B_RTP, audio, more=[x.format(6002) for x in lines]),))
    both(wire, S, 200, payload_type=int(audio))
    for n in range(200):
        first = 0x80 | draw.choice([0, 0, 0x10, 0x20, 0x32, 0x0F])
        body = struct.pack(">BBHII", first, draw.choice([96, 96, 97, 98, 13]), n + n // 50 * 7, n * 1800, 31)
        body += draw.randbytes(4 * (first & 15))
        if first & 0x10:
            words = draw.choice([0, 1, 3, 200])
            body += struct.pack(">HH", 0xBEDE, words) + draw.randbytes(4 * words)
        body += draw.choice([draw.randbytes(draw.choice([4, 100, 900])), bytes([n % 12, 0x8A, 0, 200])])
        wire.udp(S + n * 20_000, A_VIDEO, B_VIDEO, body)
        if n % 9 == 0:
            again = body if n % 2 else body[:-1] + bytes([body[-1] ^ 1])
            wire.udp(S + n * 20_000 + 3_000, A_VIDEO, B_VIDEO, again)
    dialog.bye(6 * S)
    return wire


def record(wire: Wire, data: Path, whole: bool = True, config: str = "") -> Json:
    """Records the call; not `whole`: with no more of video than its headers."""
    rows = []
    for f in wire.sorted():
        is_video = f.data[34:36] == struct.pack(">H", 4002) or f.data[36:38] == struct.pack(">H", 4002)
        size = UDP_PAYLOAD + kept_of(f.data[UDP_PAYLOAD:]) if is_video and not whole else len(f.data)
        rows.append(Packet((T0_US + f.at_us) * 1000, f.data[:size], len(f.data)))
    path = data.with_suffix(".pcap")
    path.write_bytes(pcap(rows, nano=True))
    settings = data.with_suffix(".toml")
    settings.write_text(config)
    rokuon(data, "--config", settings, "record", "--jobs", 1, "-r", path)
    return only(calls_of(data))


def video_in(path: Path) -> list[tuple[bytes, int]]:
    """UDP payload of each packet of video in a capture, and the length it had with its frame on the wire."""
    found = []
    with open_capture(path) as batches:
        for taken in batches:
            for at, size, wire in zip(taken.offset.tolist(), taken.captured_length.tolist(), taken.wire_length.tolist(),
                                      strict=True):
                data = taken.data[at:at + size].tobytes()
                if data[34:36] == struct.pack(">H", 4002):
                    found.append((data[UDP_PAYLOAD:], wire))
    return found


@pytest.mark.parametrize("audio", ["0", "18"])
def test_headers_are_enough(audio: str, tmp_path: Path) -> None:
    wire = scenario(audio)
    one, two = record(wire, tmp_path / "whole"), record(wire, tmp_path / "cut", whole=False)
    seen = stream(one, A_VIDEO, B_VIDEO)
    assert seen["packets"] == 200
    assert seen["lost"] == 3 * 7
    assert seen["payload_sha256"] is None
    assert seen["codec"] == "H264"
    assert not [event for event in one["events"] if event["type"] == "dtmf"]
    for call in (one, two):
        call.pop("recorded", None)
    assert json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    captures = [list((tmp_path / name).rglob("recordings/**/*.pcap")) for name in ("whole", "cut")]
    if audio == "0":
        assert captures == [[], []]
        return
    sent = [f.data for f in wire.sorted() if f.data[34:36] == struct.pack(">H", 4002)]
    for found in captures:  # nothing decodes the audio: the packets stay, of video the headers
        assert video_in(found[0]) == [(data[UDP_PAYLOAD:UDP_PAYLOAD + kept_of(data[UDP_PAYLOAD:])], len(data)) for data in sent]


def test_packets_that_are_wanted_stay_whole(tmp_path: Path) -> None:
    wire = scenario()
    kept = record(wire, tmp_path / "kept", config="[record]\nkeep_packets = true\n")
    sent = [(f.data[UDP_PAYLOAD:], len(f.data)) for f in wire.sorted() if f.data[34:36] == struct.pack(">H", 4002)]
    capture, = (tmp_path / "kept").rglob("recordings/**/*.pcap")
    assert video_in(capture) == sent
    plain = record(wire, tmp_path / "plain")
    assert kept["streams"] == plain["streams"]
    rokuon(tmp_path / "kept", "decode", kept["id"])
    assert only(calls_of(tmp_path / "kept"))["streams"] == plain["streams"]
