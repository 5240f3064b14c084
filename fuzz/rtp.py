"""Fuzzes RTP: headers read in arrays against headers read one by one, and telephone events (RFC 3550, RFC 4733)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from fuzz import harness, seeds
from fuzz.harness import Input, split

with harness.instrumented():
    from rokuon.decoders import rtp, telephone_event

FIXED = 12
NOISE = 0xA5
"""What lies between the packets: who reads it as theirs shows it."""


def one(packet: bytes, wire: int) -> tuple[int, int, int, bytes] | None:
    """Sequence number, timestamp, payload type and payload, by RFC 3550 section 5.1; None: no RTP."""
    if len(packet) < FIXED or packet[0] >> 6 != 2:
        return None
    at = FIXED + 4 * (packet[0] & 15)
    if packet[0] & 0x10:
        words = int.from_bytes(packet[at + 2:at + 4], "big") if at + 4 <= len(packet) else 0
        at += 4 + 4 * words
    if at > wire:
        return None
    end = len(packet)
    if packet[0] & 0x20 and len(packet) == wire and at < end and 0 < packet[-1] <= end - at:
        end -= packet[-1]
    return (int.from_bytes(packet[2:4], "big"), int.from_bytes(packet[4:8], "big"), packet[1] & 0x7F, packet[min(at, end):end])


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    gap, lost = given.number(40), given.number(60)
    packets = [part for part in split(given.rest) if part]
    wires = [len(p) + (given.number(200) if n % 3 == 2 else 0) for n, p in enumerate(packets)]
    places, buffer = [], bytearray([NOISE] * gap)
    for p in packets:
        places.append(len(buffer))
        buffer += p + bytes([NOISE] * gap)
    buffer += bytes([NOISE] * 64)
    records = rtp.RtpRecords(np.arange(len(packets), dtype=np.int64), np.frombuffer(bytes(buffer), np.uint8),
                             np.array(places, np.int64), np.array([len(p) for p in packets], np.int32), np.array(wires, np.int32))
    found = rtp.parse(records)
    right = [one(p, wire) for p, wire in zip(packets, wires, strict=True)]
    rows = list(range(len(packets))) if found.record is None else found.record.tolist()
    assert rows == [n for n, each in enumerate(right) if each is not None], "what is RTP"
    octets = found.data.tobytes()
    told = [(s, t, k, octets[at:at + size]) for s, t, k, at, size in zip(
        found.sequence.tolist(), found.timestamp.tolist(), found.payload_type.tolist(), found.start.tolist(),
        found.length.tolist(), strict=True)]
    assert told == [each for each in right if each is not None], "what it says"
    assert found.anomalies["bad-rtp"] == sum(each is None for each in right)
    if not told:
        return
    assert rtp.gather_rows(found.data, found.start, found.length).tobytes() == b"".join(each[3] for each in told)
    some = np.arange(len(packets))[::max(1, lost % 4)]
    again = rtp.parse(rtp.select(records, some))
    assert again.sequence.tolist() == [right[n][0] for n in some.tolist() if right[n] is not None]  # type: ignore[index]
    pairs = np.arange(len(told))
    same = rtp.same_payload(found, pairs, pairs[::-1].copy())
    assert same.tolist() == [a[1:] == b[1:] for a, b in zip(told, told[::-1], strict=True)]
    rtp.parse(rtp.headers_of(records))
    events(found, told)


def events(found: rtp.RtpPackets, told: list[tuple[int, int, int, bytes]]) -> None:
    """All payloads taken for telephone events."""
    rows = telephone_event.parse_events(found.data, found.start, found.length)
    for n, (_, _, _, payload) in enumerate(told):
        right = (0, False, 0, 0)
        if len(payload) >= 4:
            right = (payload[0], payload[1] >> 7 == 1, payload[1] & 63, int.from_bytes(payload[2:4], "big"))
        assert (rows.event[n], rows.end[n], rows.volume[n], rows.duration[n]) == right
        assert rows.valid[n] == (len(payload) >= 4)
    presses = telephone_event.digits(found.timestamp, rows, 20)
    assert len(presses) <= min(20, int(rows.valid.sum()))
    assert [press.row for press in presses] == sorted({press.row for press in presses})
    for press in presses:
        assert press.key == telephone_event.DTMF[rows.event[press.row]]
        assert press.timestamp == told[press.row][1]
        assert 0 <= press.duration < 1 << 33


if __name__ == "__main__":
    harness.fuzz(check, seeds.rtp)
