from __future__ import annotations

import struct

import numpy as np
import pytest
from scapy.layers.rtp import RTP, RTPExtension
from scapy.packet import Raw
from tests.decoders.packets import T0, raw_records, records, talk

from rokuon.decoders.rtp import NOTHING, RtpRecords, gather_rows, join, parse, select


def payloads(given: RtpRecords) -> list[bytes]:
    packets = parse(given)
    return [bytes(packets.data[a:a + n]) for a, n in zip(packets.start.tolist(), packets.length.tolist(), strict=True)]


def test_plain_headers() -> None:
    sent = talk(50)
    packets = parse(records(sent))
    assert packets.sequence.tolist() == [p.sequence & 0xFFFF for p in sent]
    assert packets.timestamp.tolist() == [p.timestamp & 0xFFFFFFFF for p in sent]
    assert set(packets.payload_type.tolist()) == {0}
    assert payloads(records(sent)) == [p.payload for p in sent]
    assert not packets.anomalies
    assert packets.record is None


def test_csrc_extension_and_padding_as_scapy_builds_them() -> None:
    plain = RTP(sequence=7, timestamp=1600, payload_type=8, sourcesync=5) / Raw(b"plain")
    sources = RTP(sequence=8, timestamp=1760, payload_type=8, sourcesync=5, numsync=2, sync=[1, 2]) / Raw(b"sources")
    extended = RTP(sequence=9, timestamp=1920, payload_type=8, sourcesync=5, extension=1) / RTPExtension(
        header_id=0xBEDE, header=[1, 2, 3]) / Raw(b"extended")
    padded = bytes(RTP(sequence=10, timestamp=2080, payload_type=8, sourcesync=5, padding=1) / Raw(b"padded")) + b"\0\0\0\4"
    given = raw_records((T0, bytes(p)) for p in (plain, sources, extended, padded))
    assert payloads(given) == [b"plain", b"sources", b"extended", b"padded"]
    assert parse(given).sequence.tolist() == [7, 8, 9, 10]


@pytest.mark.parametrize("octets", [b"", b"\x80", bytes(12), struct.pack(">BBHII", 0x40, 0, 1, 1, 1) + bytes(160),
                                    struct.pack(">BBHII", 0x8F, 0, 1, 1, 1) + bytes(10),
                                    struct.pack(">BBHII", 0x90, 0, 1, 1, 1) + b"\0\0\xff\xff" + bytes(10)])
def test_what_is_no_rtp_is_counted(octets: bytes) -> None:
    good = talk(1)[0].octets()
    given = raw_records([(T0, good), (T0 + 1, octets), (T0 + 2, good)])
    packets = parse(given)
    assert len(packets) == 2
    assert packets.anomalies == {"bad-rtp": 1}
    assert packets.record is not None
    assert packets.record.tolist() == [0, 2]


@pytest.mark.parametrize("count", [0, 161])
def test_wrong_padding_is_left_in(count: int) -> None:
    octets = struct.pack(">BBHII", 0xA0, 0, 1, 1, 1) + bytes(159) + bytes([count])
    packets = parse(raw_records([(T0, octets)]))
    assert packets.length.tolist() == [160]
    assert packets.anomalies == {"bad-padding": 1}


def test_packets_cut_by_the_capture() -> None:
    given = records(talk(3))
    given.length = np.array([172, 100, 8], np.int32)
    packets = parse(given)
    assert packets.length.tolist() == [160, 88]  # of the third not even the header is there
    assert packets.anomalies == {"truncated-packets": 1, "bad-rtp": 1}


def test_rows_of_any_length() -> None:
    data = np.arange(256, dtype=np.uint8)
    for lengths in ([], [0, 0], [3, 3, 3], [1, 0, 5, 200], [1] * 5 + [56]):
        start = np.arange(len(lengths), dtype=np.int64) * 7
        wanted = b"".join(bytes(data[a:a + n]) for a, n in zip(start, lengths, strict=True))
        assert gather_rows(data, start, np.array(lengths, np.int32)).tobytes() == wanted
    # one row of 6 MB beside many short ones takes the way without windows
    big = np.zeros(6_000_000, np.uint8)
    start, length = np.arange(1000, dtype=np.int64), np.full(1000, 9, np.int32)
    length[0] = 5_000_000
    assert len(gather_rows(big, start, length)) == 5_000_000 + 999 * 9


def test_select_and_join() -> None:
    given = records(talk(5))
    some = select(given, np.array([4, 1]))
    assert payloads(some) == [payloads(given)[4], payloads(given)[1]]
    both = join(some, given)
    assert payloads(both) == payloads(some) + payloads(given)
    assert join(NOTHING, given) is given
    assert len(parse(NOTHING)) == 0
