"""Telephone events, DTMF above all (RFC 4733): from packets to key presses. They never reach a voice decoder.

A sender repeats the event's state in every packet (all with the RTP timestamp of its beginning, the duration growing),
sends the last one three times, and any of these may be lost. A key cannot be pressed while it is down: whatever overlaps
in time with the same key's press belongs to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.api import Bytes, Lengths, Offsets

__all__ = ["DTMF", "EventRows", "Press", "digits", "parse_events"]

DTMF = "0123456789*#ABCD"
"""The keys of event codes 0 to 15 (RFC 4733 section 3.2, table 3)."""

LONGEST = 0xFFFF
"""The longest duration a packet can tell; a longer press goes on in further segments (RFC 4733 section 2.5.1.3)."""
SHORTEST = 320
"""Ticks between the beginnings of two presses at least: 40 ms at 8 kHz, less than any receiver of tones makes out."""


class EventRows(NamedTuple):
    """Parallel arrays, one row for each packet (RFC 4733 section 2.3)."""

    valid: NDArray[np.bool_]
    """The payload has the 4 bytes of an event; the rest of a row is 0 where it has not."""
    event: NDArray[np.uint8]
    end: NDArray[np.bool_]
    volume: NDArray[np.uint8]
    """Power in -dBm0, 0 to 63."""
    duration: NDArray[np.uint16]
    """In ticks of the RTP clock, since the timestamp of the packet."""


class Press(NamedTuple):
    """One key press."""

    row: int
    """Of its first packet."""
    timestamp: int
    """RTP timestamp at which it begins, modulo 2^32."""
    event: int
    """Event code, 0 to 15; see `DTMF`."""
    duration: int
    """In ticks of the RTP clock; at least that long where the end is lost."""
    ended: bool
    """An end packet was seen."""

    @property
    def key(self) -> str:
        """The key's face: 0-9, *, #, A-D."""
        return DTMF[self.event]


def parse_events(data: Bytes, offsets: Offsets, lengths: Lengths) -> EventRows:
    """Read the payloads `data[offsets[i] : offsets[i] + lengths[i]]` of n packets. Bytes behind the fourth are ignored."""
    valid = lengths >= 4
    rows: Bytes = np.zeros((len(offsets), 4), np.uint8)
    rows[valid] = data[offsets[valid, None] + np.arange(4)]
    duration = rows[:, 2:].copy().view(">u2")[:, 0].astype(np.uint16)
    return EventRows(valid, rows[:, 0], rows[:, 1] >= 0x80, np.bitwise_and(rows[:, 1], 0x3F, dtype=np.uint8), duration)


def digits(timestamps: NDArray[np.integer], rows: EventRows, limit: int = 10_000) -> list[Press]:
    """The key presses in the packets of one stream, in the order of their first packets, at most `limit` of them.

    timestamps: RTP timestamp of each row (32 bits or extended), rows in order of their extended sequence numbers, each
    packet once. Codes above 15 (flash, tones) and payloads that are too short are passed over.
    """
    keep = np.flatnonzero(rows.valid & (rows.event < len(DTMF)))
    if not len(keep):
        return []
    when = timestamps[keep].astype(np.int64) & 0xFFFFFFFF
    event, end, duration = rows.event[keep], rows.end[keep], rows.duration[keep].astype(np.int64)
    # Packets of one (timestamp, event) are one report; but a begin after an end is another press of a sender that
    # forgot to move its timestamp.
    fresh = np.ones(len(keep), np.bool_)
    fresh[1:] = (when[1:] != when[:-1]) | (event[1:] != event[:-1]) | (end[:-1] & ~end[1:] & (duration[1:] < duration[:-1]))
    starts = np.flatnonzero(fresh)
    presses: list[Press] = []
    before, told = 0, 0  # timestamp and duration of the report before
    for row, timestamp, code, lasts, ended in zip(
            keep[starts].tolist(), when[starts].tolist(), event[starts].tolist(),
            np.maximum.reduceat(duration, starts).tolist(), np.logical_or.reduceat(end, starts).tolist(), strict=True):
        last = presses[-1] if presses else None
        moved = (timestamp - before) & 0xFFFFFFFF
        if last is not None and last.event == code and moved:
            since = (timestamp - last.timestamp) & 0xFFFFFFFF
            # A long press goes on in a segment that begins where the one before was full. And some senders move the timestamp
            # with every packet: then the durations grow along with it, or the reports overlap in time.
            segment = moved == told == LONGEST and not last.ended
            if segment or moved <= SHORTEST or since < last.duration or (moved == lasts - told and not last.ended):
                total = max(last.duration, since + lasts if segment else lasts)
                presses[-1] = last._replace(duration=total, ended=last.ended or ended)
                before, told = timestamp, lasts
                continue
        if len(presses) >= limit:
            break
        presses.append(Press(row, timestamp, code, lasts, ended))
        before, told = timestamp, lasts
    return presses
