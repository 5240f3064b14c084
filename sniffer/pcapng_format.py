"""pcapng: blocks of many kinds, in sections that may differ in byte order, of interfaces that differ in link type and clock.

https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/, sections 3 and 4; the obsolete Packet Block is appendix A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_format import PACKET_MAX, RECORD_MAX, Parsed
from rokuon.sniffer.pcap_walk import Chain, RecordShape, headers_at

__all__ = ["PcapngFormat", "nanoseconds"]

SECTION, INTERFACE, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
BLOCK_MAX = 1 << 24
"""Longer blocks are not believed (Wireshark draws the same line); those that hold no packet are skipped unread."""
INTERFACES_MAX = 4096
FLIPS_MAX = 1000
"""Changes of byte order in one file; each costs more than the section that brings it, so a file must not be made of them."""
WINDOW = 4096
"""What is looked at first where nothing is known yet; after that 16 times as much, and so on."""
IF_TSRESOL, IF_TSOFFSET = 9, 14
INT64_MAX = 0x7FFF_FFFF_FFFF_FFFF
INT32_MAX = 0x7FFF_FFFF


@dataclass(frozen=True, slots=True)
class Interface:
    """What an Interface Description Block says of its packets."""

    link_type: int
    snaplen: int
    resolution: int
    """The option if_tsresol: 10^-n s a tick, or, with the upper bit, 2^-n."""
    offset_ns: int


class Marks:
    """What kinds of block are where, and how long each may be."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        """`words`: the first three words of each block at least, shape (n, blocks)."""
        kind = words[0]
        enhanced = kind == ENHANCED_PACKET
        self.only_packets = bool(enhanced.all())
        """As it is nearly everywhere in a file; then all of the rest is simple."""
        self.stamped = enhanced
        self.simple = self.control = self.flipped = np.zeros(len(kind), np.bool_)
        self.least: NDArray[np.uint32] | np.uint32 = np.uint32(32)
        self.most: NDArray[np.uint32] | np.uint32 = np.uint32(RECORD_MAX)
        if not self.only_packets:
            self.stamped = enhanced | (kind == OLD_PACKET)
            self.simple = kind == SIMPLE_PACKET
            section = kind == SECTION
            self.control = section | (kind == INTERFACE)
            self.flipped = section & (words[2] != BYTE_ORDER_MAGIC)
            choices = [self.stamped, self.simple, section, self.control]
            self.least = np.select(choices, [32, 16, 28, 20], 12).astype(np.uint32)
            self.most = np.where(self.stamped | self.simple | self.control, RECORD_MAX, BLOCK_MAX).astype(np.uint32)


def nanoseconds(ticks: NDArray[np.uint64], resolution: int) -> NDArray[np.int64]:
    """Times in ticks of if_tsresol `resolution` (one byte, section 4.2) as nanoseconds, at most 2^63 - 1."""
    power = resolution & 0x7F
    time: NDArray[np.uint64]
    if not resolution & 0x80:
        if power <= 9:
            unit = 10 ** (9 - power)
            time = np.minimum(ticks, np.uint64(INT64_MAX // unit + 1)) * np.uint64(unit)
        else:
            part = 10 ** (power - 9)
            time = ticks // np.uint64(part) if part < 1 << 64 else ticks * np.uint64(0)
        return np.minimum(time, np.uint64(INT64_MAX)).astype(np.int64)
    if power > 34:  # nobody's clock; the fraction times 10^9 would leave 64 bits
        return np.array([tick * 1_000_000_000 >> power for tick in ticks.tolist()], np.int64)
    seconds = np.minimum(ticks >> np.uint64(power), np.uint64(INT64_MAX // 1_000_000_000 + 1))
    fraction = (ticks & np.uint64((1 << power) - 1)) * np.uint64(1_000_000_000) >> np.uint64(power)
    time = seconds * np.uint64(1_000_000_000) + fraction
    return np.minimum(time, np.uint64(INT64_MAX)).astype(np.int64)


class PcapngFormat:
    """Reads Enhanced, Simple and obsolete Packet Blocks; knows sections and interfaces; other blocks are skipped."""

    header = 0

    def __init__(self, lanes: int | None = None) -> None:
        """`lanes`: see `Chain`."""
        self._lanes = lanes
        self._order = ""
        self._interfaces: list[Interface] = []
        self._needle: dict[int, int] | None = None
        self._last_ns = 0
        self._window = WINDOW
        self._stray = 0
        self._flips = 0

    @property
    def notes(self) -> list[str]:
        """See `Format`."""
        return [f"{self._stray:,} packets of interfaces that are not described are left out"] if self._stray else []

    def parse(self, data: NDArray[np.uint8], begin: int, end: int) -> Parsed:
        """See `Format`."""
        if end - begin < 12:
            return Parsed(None, begin)
        head = data[begin:begin + 12].tobytes()
        if head[:4] == b"\x0a\x0d\x0d\x0a":
            order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(head[8:12])
            if order is None:
                return Parsed(None, begin, "section header without byte order")
            if order != self._order:
                self._flips += 1
                if self._flips > FLIPS_MAX:
                    return Parsed(None, begin, f"byte order changed more than {FLIPS_MAX:,} times")
                self._order, self._needle, self._window = order, None, WINDOW
                self._chain = Chain(RecordShape(order, 12, 4, 0, 12, 4), self._lanes)
        while True:
            stop = min(end, begin + self._window)
            parsed = self._blocks(data, begin, stop)
            self._window = min(self._window * 16, 1 << 40)
            if parsed.end > begin or parsed.damage or stop == end:
                return parsed

    def _blocks(self, data: NDArray[np.uint8], begin: int, end: int) -> Parsed:
        """The packets of data[begin:end], which begins with a block in the byte order that is known."""
        at, arrived = self._chain.walk(data, begin, end, self._needle)
        if not len(at):
            return Parsed(None, begin)
        order = self._order
        words = np.ascontiguousarray(headers_at(data, at, 28).view(order + "u4").T).astype(np.uint32, copy=False)
        kind, total = words[:2]
        marks = Marks(words)
        bad = (total < marks.least) | (total > marks.most)
        overfull = marks.stamped & (words[5] > np.minimum(total - np.uint32(32), np.uint32(PACKET_MAX)))
        if arrived > end:
            overfull[-1] = False  # that part of it may not be there yet
        bad |= overfull
        bad |= marks.flipped
        damage = None
        rows = len(at)
        if bad.any():
            rows = int(bad.argmax())
            arrived = int(at[rows])
            if not (marks.flipped & bad)[rows]:
                damage = f"block of type {int(kind[rows])} and {int(total[rows]):,} bytes"
        elif arrived > end:
            rows -= 1
            # A whole block is waited for, unless it is so long that it holds nothing we know.
            if total[rows] <= RECORD_MAX:
                arrived = int(at[rows])
        # The length stands at a block's end once more. (Not where a writer left out the padding, or what was skipped unread.)
        trailer = headers_at(data, at[:rows] + total[:rows] - 4, 4).view(order + "u4")[:, 0]
        wrong = trailer != total[:rows]
        if wrong.any():
            wrong &= (total[:rows] & 3 == 0) & (total[:rows] <= RECORD_MAX)
        if wrong.any():
            rows = int(wrong.argmax())
            arrived, damage = int(at[rows]), f"block of {int(total[rows]):,} bytes that does not end as it began"
        table, starts, counts = list(self._interfaces), [0], [len(self._interfaces)]
        for row in np.flatnonzero(marks.control[:rows]).tolist():
            if kind[row] == INTERFACE and len(self._interfaces) >= INTERFACES_MAX:
                rows, arrived, damage = row, int(at[row]), f"more than {INTERFACES_MAX:,} interfaces"
                break
            place = int(at[row])
            self._control(data[place:place + int(total[row])].tobytes(), table, starts, counts)
        if marks.only_packets:
            at, words, base, count = at[:rows], words[:, :rows], np.zeros(rows, np.int64), np.full(rows, counts[0])
        else:
            packet = np.flatnonzero((marks.stamped | marks.simple)[:rows])
            era = np.cumsum(marks.control)[packet]
            at, words, base, count = at[packet], words[:, packet], np.array(starts)[era], np.array(counts)[era]
        batch = self._packets(data, at, words, table, base=base, count=count) if len(at) else None
        return Parsed(batch, arrived, damage)

    def _control(self, block: bytes, table: list[Interface], starts: list[int], counts: list[int]) -> None:
        """Take in a section header or an interface description.

        `table` gets the interfaces of every section of a stretch, one after the other; `starts` and `counts` say for what
        comes behind each such block where in it those of its section begin, and how many are described so far.
        """
        if struct.unpack_from(self._order + "I", block)[0] == SECTION:
            self._interfaces = []
            starts.append(len(table))
        else:
            found = self._interface(block)
            self._interfaces.append(found)
            table.append(found)
            starts.append(starts[-1])
        counts.append(len(table) - starts[-1])

    def _interface(self, block: bytes) -> Interface:
        """Read an Interface Description Block (section 4.2)."""
        link_type, _, snaplen = struct.unpack_from(self._order + "HHI", block, 8)
        resolution, offset = 6, 0
        at, end = 16, len(block) - 4
        while at + 4 <= end:
            code, length = struct.unpack_from(self._order + "HH", block, at)
            at += 4
            if code == 0 or at + length > end:
                break
            if code == IF_TSRESOL and length >= 1:
                resolution = block[at]
            elif code == IF_TSOFFSET and length >= 8:
                offset = struct.unpack_from(self._order + "q", block, at)[0]
            at += length + 3 & ~3
        return Interface(link_type, snaplen, resolution, max(-INT64_MAX, min(INT64_MAX, offset * 1_000_000_000)))

    def _packets(self, data: NDArray[np.uint8], at: NDArray[np.int64], words: NDArray[np.uint32], table: list[Interface],
                 *, base: NDArray[np.int64], count: NDArray[np.int64]) -> PacketBatch | None:
        """A batch of the packet blocks at `at`; `words`: their first seven words, shape (7, n)."""
        kind, interface = words[0], words[2].astype(np.int64)
        usual = bool((kind == ENHANCED_PACKET).all())
        if not usual:
            # Of the obsolete kind, 16 bits of interface and as many of drop count; the simple kind has neither.
            half = interface & 0xFFFF if self._order == "<" else interface >> 16
            interface = np.where(kind == OLD_PACKET, half, np.where(kind == SIMPLE_PACKET, 0, interface))
        known = interface < count
        if not known.all():
            self._stray += int((~known).sum())
            if not known.any():
                return None
            at, words, kind, interface, base = at[known], words[:, known], kind[known], interface[known], base[known]
        slot = base + interface
        time = self._times(words[3].astype(np.uint64) << np.uint64(32) | words[4], slot, table)
        captured, wire, offset = words[5].astype(np.int64), words[6].astype(np.int64), at + 28
        if not usual and (simple := kind == SIMPLE_PACKET).any():
            snaplen = np.array([i.snaplen or PACKET_MAX for i in table], np.int64)[slot]
            room = np.minimum(np.minimum(snaplen, words[1].astype(np.int64) - 16), PACKET_MAX)
            wire = np.where(simple, words[2], wire)
            captured = np.where(simple, np.minimum(wire, room), captured)
            offset = np.where(simple, at + 12, offset)
            # It has no time: that of the packet before it.
            source = np.maximum.accumulate(np.where(simple, -1, np.arange(len(at))))
            time = np.where(source < 0, self._last_ns, time[source])
        self._last_ns = int(time[-1])
        self._remember(int(kind[-1]), int(words[3, -1]))
        wire = np.minimum(np.maximum(wire, captured), INT32_MAX)
        link_type = np.array([i.link_type for i in table], np.uint16)[slot]
        return PacketBatch(data, offset, captured.astype(np.int32), wire.astype(np.int32), time, link_type,
                           np.minimum(interface, 255).astype(np.uint8))

    def _times(self, ticks: NDArray[np.uint64], slot: NDArray[np.int64], table: list[Interface]) -> NDArray[np.int64]:
        """Nanoseconds of each row, by the clock of its interface."""
        if all(i == table[0] for i in table):
            resolution = np.full(1, table[0].resolution, np.uint8)
        else:
            resolution = np.array([i.resolution for i in table], np.uint8)[slot]
        if resolution[0] == resolution[-1] and (resolution == resolution[0]).all():
            time = nanoseconds(ticks, int(resolution[0]))
        else:
            time = np.empty(len(ticks), np.int64)
            for each in np.unique(resolution).tolist():
                rows = resolution == each
                time[rows] = nanoseconds(ticks[rows], each)
        if any(i.offset_ns for i in table):
            offset = np.array([i.offset_ns for i in table], np.int64)[slot]
            time = np.minimum(time, INT64_MAX - np.maximum(offset, 0)) + offset
        return time

    def _remember(self, kind: int, ticks_high: int) -> None:
        """The next packet blocks begin like this one: kind, a length below 64 KiB, and the upper bytes of the time."""
        low = self._order == "<"
        needle = {0: kind, 1: 0, 6: 0, 7: 0} if low else {3: kind, 2: 0, 4: 0, 5: 0}
        if kind != SIMPLE_PACKET:
            high = ticks_high.to_bytes(4, "little" if low else "big")
            needle[13], needle[14 if low else 12] = high[1], high[2 if low else 0]
        self._needle = needle

