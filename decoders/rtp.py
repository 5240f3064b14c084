"""RTP packets of one stream as arrays: the records that come in, and what their headers say (RFC 3550 section 5.1)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.gather import overlapping

__all__ = ["NOTHING", "RtpPackets", "RtpRecords", "gather_rows", "headers_of", "join", "parse", "same_payload", "select"]

Bytes = NDArray[np.uint8]
Rows = NDArray[np.intp]

HEADER = 12
WINDOW = 16
"""Bytes of each packet that are looked at in any case: the fixed header, rounded up so that its columns are aligned."""
CHUNK = 1 << 22
"""Bytes that are compared in one step at most."""


@dataclass(slots=True)
class RtpRecords:
    """RTP packets of one stream (source, destination, VLAN tags, SSRC) in order of arrival; parallel arrays of length n."""

    time_ns: NDArray[np.int64]
    """UTC, nanoseconds since 1970."""
    data: NDArray[np.uint8]
    """Contiguous buffer with the whole UDP payloads, RTP header first, and 64 or more bytes behind the last."""
    offset: NDArray[np.int64]
    """Where each UDP payload begins in `data`."""
    length: NDArray[np.int32]
    """Bytes captured of it."""
    wire_length: NDArray[np.int32]
    """Bytes it had on the wire."""
    _span: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.offset)

    @property
    def span(self) -> tuple[int, int]:
        """Earliest and latest arrival; n ≥ 1."""
        if self._span is None:
            self._span = int(self.time_ns.min()), int(self.time_ns.max())
        return self._span


NOTHING = RtpRecords(np.zeros(0, np.int64), np.zeros(64, np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int32),
                     np.zeros(0, np.int32))


@dataclass(slots=True)
class RtpPackets:
    """What is read of the records that are RTP; parallel arrays of one length, in order of arrival."""

    data: Bytes
    time_ns: NDArray[np.int64]
    sequence: NDArray[np.uint16]
    timestamp: NDArray[np.uint32]
    payload_type: NDArray[np.uint8]
    start: NDArray[np.int64]
    """Where the payload begins in `data`, behind CSRC list and header extension."""
    length: NDArray[np.int32]
    """Bytes of it that are there, padding left out; 0 where the capture was cut before it."""
    record: Rows | None
    """Row of each in the records; None: every record is a packet, in its own row."""
    anomalies: Counter[str]

    def __len__(self) -> int:
        return len(self.start)


def parse(records: RtpRecords) -> RtpPackets:
    """Reads all headers in arrays. What is no RTP version 2, or ends within its header, is left out and counted."""
    if not len(records):
        none = np.zeros(0, np.uint16)
        return RtpPackets(records.data, records.time_ns, none, np.zeros(0, np.uint32), np.zeros(0, np.uint8), records.offset,
                          records.length, None, Counter())
    head = overlapping(records.data, WINDOW)[records.offset]
    octets = head.view(np.uint8).reshape(-1, WINDOW)
    packets = RtpPackets(records.data, records.time_ns, head.view(">u2").reshape(-1, 8)[:, 1].astype(np.uint16),
                         head.view(">u4").reshape(-1, 4)[:, 1].astype(np.uint32),
                         np.bitwise_and(octets[:, 1], 0x7F, dtype=np.uint8), records.offset + HEADER,
                         records.length - np.int32(HEADER), None, Counter())
    first = octets[:, 0]
    if not ((first == 0x80).all() and packets.length.min() >= 0):
        return _odd(packets, records, first)
    if (records.length != records.wire_length).any():
        packets.anomalies["truncated-packets"] = int(np.count_nonzero(records.length < records.wire_length))
    return packets


def _odd(packets: RtpPackets, records: RtpRecords, first: Bytes) -> RtpPackets:
    """The same where some packet has a CSRC list, an extension, padding, or is no RTP at all."""
    data, last = records.data, len(records.data) - 1
    captured, wire = records.length.astype(np.int64), np.maximum(records.wire_length, records.length).astype(np.int64)
    header = HEADER + 4 * (first & 0x0F).astype(np.int64)
    extended = (first & 0x10) != 0
    if extended.any():  # 16 bits of profile, then the extension's length in words (section 5.3.1)
        at = np.minimum(records.offset + header + 2, last - 1)
        words = (data[at].astype(np.int64) << 8) | data[at + 1]
        header = np.where(extended, header + np.where(header + 4 <= captured, 4 + 4 * words, 4), header)
    padding = np.zeros(len(header), np.int64)
    padded = ((first & 0x20) != 0) & (captured == wire) & (captured > header)
    if padded.any():  # the last octet counts itself too, so 0 is wrong; so is more than there is (section 5.1)
        count = data[np.clip(records.offset + captured - 1, 0, last)].astype(np.int64)
        wrong = padded & ((count == 0) | (count > captured - header))
        if wrong.any():
            packets.anomalies["bad-padding"] = int(np.count_nonzero(wrong))
        padding = np.where(padded & ~wrong, count, 0)
    good = ((first & 0xC0) == 0x80) & (captured >= HEADER) & (header <= wire)
    packets.start = records.offset + np.minimum(header, captured)
    packets.length = np.maximum(captured - header - padding, 0).astype(np.int32)
    if (captured < wire).any():
        packets.anomalies["truncated-packets"] = int(np.count_nonzero(good & (captured < wire)))
    if not good.all():
        packets.anomalies["bad-rtp"] = int(len(good) - np.count_nonzero(good))
        rows = np.flatnonzero(good)
        packets.record = rows
        for name in ("time_ns", "sequence", "timestamp", "payload_type", "start", "length"):
            setattr(packets, name, getattr(packets, name)[rows])
    return packets


def gather_rows(data: Bytes, start: NDArray[np.int64], length: NDArray[np.int32]) -> Bytes:
    """The bytes `data[start[i] : start[i] + length[i]]`, end to end, as a fresh array of sum(length) bytes."""
    if not len(start):
        return np.zeros(0, np.uint8)
    width = int(length.max())
    if width == 0:
        return np.zeros(0, np.uint8)
    if length.min() == width:
        return overlapping(data, width)[start].view(np.uint8)
    total = int(length.sum(dtype=np.int64))
    if width * len(start) <= max(4 * total, CHUNK):  # whole windows, then only what counts of each
        rows = overlapping(_roomy(data, start, width), width)[start].view(np.uint8).reshape(-1, width)
        return rows[np.arange(width) < length[:, None]]
    view = data.data  # lengths too different: one long packet among short ones
    stops = (start + length).tolist()
    return np.frombuffer(b"".join([view[a:b] for a, b in zip(start.tolist(), stops, strict=True)]), np.uint8)


def _roomy(data: Bytes, start: NDArray[np.int64], width: int) -> Bytes:
    """`data`, longer where windows of `width` bytes at `start` would leave it."""
    beyond = int(start.max()) + width - len(data)
    return data if beyond <= 0 else np.concatenate([data, np.zeros(beyond, np.uint8)])


def same_payload(packets: RtpPackets, one: Rows, other: Rows) -> NDArray[np.bool_]:
    """Whether the packets in rows `one[i]` and `other[i]` have the same timestamp, payload type and payload."""
    same: NDArray[np.bool_] = packets.length[one] == packets.length[other]
    same &= packets.timestamp[one] == packets.timestamp[other]
    same &= packets.payload_type[one] == packets.payload_type[other]
    rows = np.flatnonzero(same)
    width = int(packets.length[one[rows]].max(initial=0))
    if not width:
        return same
    data = _roomy(packets.data, packets.start, width)
    windows = overlapping(data, width)
    step = max(CHUNK // width, 1)
    for begin in range(0, len(rows), step):
        part = rows[begin:begin + step]
        a = windows[packets.start[one[part]]].view(np.uint8).reshape(-1, width)
        b = windows[packets.start[other[part]]].view(np.uint8).reshape(-1, width)
        equal = a == b
        length = packets.length[one[part]]
        if length.min() < width:
            equal |= np.arange(width) >= length[:, None]
        same[part] = equal.all(axis=1)
    return same


def select(records: RtpRecords, rows: Rows) -> RtpRecords:
    """A copy of some records, in a buffer of their own with 64 bytes to spare."""
    start, length = records.offset[rows], records.length[rows]
    octets = gather_rows(records.data, start, length)
    offset = np.cumsum(length, dtype=np.int64) - length
    return RtpRecords(records.time_ns[rows], np.concatenate([octets, np.zeros(64, np.uint8)]), offset, length,
                      records.wire_length[rows])


def headers_of(records: RtpRecords) -> RtpRecords:
    """The records as if no more had been captured of each than the fixed header, the CSRCs, and of a header extension the length.

    Shares their buffer.
    """
    first = records.data[records.offset].astype(np.int32)
    size = HEADER + 4 * (first & 0x0F) + 4 * (first >> 4 & 1)
    return RtpRecords(records.time_ns, records.data, records.offset, np.minimum(records.length, size), records.wire_length)


def join(one: RtpRecords, other: RtpRecords) -> RtpRecords:
    """Both, one after the other."""
    if not len(one) or not len(other):
        return one if len(one) else other
    return RtpRecords(np.concatenate([one.time_ns, other.time_ns]), np.concatenate([one.data, other.data]),
                      np.concatenate([one.offset, other.offset + len(one.data)]), np.concatenate([one.length, other.length]),
                      np.concatenate([one.wire_length, other.wire_length]))
