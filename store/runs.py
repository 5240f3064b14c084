"""A run: what capture saw in one step, sorted by stream. The unit in which the spool is written, read and checked.

On disk (all little-endian, every section padded to 8 bytes):

    header · streams · first records · payload begins · newest times · fresh streams · packets · their bytes · records · payload

`records` and `payload` of one stream lie together, in order of arrival, so that a stream's part of a run is two reads. What lies
before them is all that correlation needs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["HEADER_SIZE", "PACKET", "RECORD", "RUN_MAGIC", "SLOT", "STREAM", "DamagedRunError", "Run", "RunSizes",
           "argsort_stable", "padded"]

RECORD = np.dtype([("time_ns", "<i8"), ("offset", "<u4"), ("frame_length", "<u4"), ("captured", "<u2"), ("length", "<u2"),
                   ("ip_id", "<u2"), ("ttl", "u1"), ("tos", "u1")])
"""One RTP packet: arrival, where its UDP payload begins within the run's `payload`, bytes of the whole frame on the wire,
bytes of the UDP payload that are there, bytes it had, and what of the IP header differs from packet to packet."""

STREAM = np.dtype([("number", "<u4"), ("ssrc", "<u4"), ("first_ns", "<i8"), ("source", "u1", 16), ("destination", "u1", 16),
                   ("source_port", "<u2"), ("destination_port", "<u2"), ("tags", "<u2", 4), ("tag_count", "u1"), ("v6", "u1"),
                   ("point", "u1"), ("header_length", "u1"), ("link_type", "<u2"), ("network", "<u2"), ("header", "u1", 96)])
"""A stream's number, addresses (IPv4: the first 4 bytes), VLAN tags outermost first, and the link, IP and UDP headers
of its first packet (`network`: where in them the IP header begins), from which its packets can be given back; no header
where they take more than 96 bytes."""

PACKET = np.dtype([("time_ns", "<i8"), ("offset", "<u4"), ("captured", "<u4"), ("wire", "<u4"), ("link_type", "<u2"),
                   ("kind", "u1"), ("point", "u1")])
"""A packet that is kept as it came: `offset` into the packets' bytes."""

SLOT = 8
"""A payload takes a multiple of this many bytes; what is behind it belongs to no one (never another call's voice: the
bytes that follow a captured packet are the next one's headers)."""

RUN_MAGIC = b"RKRUN\x00\x00\x02"
_HEADER = struct.Struct("<8sQQQQQqqIIIIQQQqQ")
HEADER_SIZE = 128
_WORD = np.dtype("<u8")


class DamagedRunError(ValueError):
    """What lies there is no whole run."""


class RunSizes(NamedTuple):
    """What a run's header says first of all."""

    epoch: int
    sequence: int
    head: int
    """Bytes before the records, header included."""
    records: int
    """Bytes of the records, padded."""
    whole: int
    """Bytes of the run."""


def argsort_stable(keys: NDArray[np.uint32]) -> NDArray[np.int64]:
    """A stable argsort of 32-bit keys, by 16 bits at a time: numpy sorts those by radix."""
    low = keys - keys.min() if len(keys) else keys
    order = np.argsort(low.astype(np.uint16), kind="stable")
    if len(keys) and int(low.max()) > 0xFFFF:
        order = order[np.argsort((low >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    return order


def padded(size: int) -> int:
    """What a section of so many bytes takes."""
    return (size + 7) & ~7


def checksum(parts: list[memoryview]) -> int:
    """BLAKE2b (8 bytes, little-endian) of sum and exclusive or of all 64-bit words and of their size in bytes, each as 64 bits,
    little-endian: finds stale, torn and zeroed blocks at memory speed.
    """
    total, mixed, length = 0, 0, 0
    for part in parts:
        whole = len(part) // 8 * 8
        words = np.frombuffer(part[:whole], _WORD)
        total += int(words.sum(dtype=np.uint64))
        mixed ^= int(np.bitwise_xor.reduce(words)) if len(words) else 0
        if whole < len(part):
            last = int.from_bytes(part[whole:], "little")
            total, mixed = total + last, mixed ^ last
        length += len(part)
    summary = struct.pack("<QQQ", total & 0xFFFF_FFFF_FFFF_FFFF, mixed, length)
    return int.from_bytes(blake2b(summary, digest_size=8).digest(), "little")


@dataclass(slots=True, eq=False)
class Run:
    """Times are packet times in nanoseconds."""

    first_ns: int
    last_ns: int
    streams: NDArray[np.uint32]
    """Numbers of the streams in it, ascending, shape (k,)."""
    starts: NDArray[np.uint32]
    """Index of each stream's first record, and their number at the end, shape (k + 1,)."""
    fresh: NDArray[np.void]
    """STREAM rows of the streams that begin here."""
    packets: NDArray[np.void]
    """PACKET rows."""
    packet_bytes: NDArray[np.uint8]
    records: NDArray[np.void] | None
    """RECORD rows sorted by stream; None once the run is on disk and has been let go from memory."""
    payload: NDArray[np.uint8] | None
    payload_starts: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """Where each stream's payload begins, and the payload's size at the end, shape (k + 1,)."""
    sequence: int = 0
    """Running number, in the order in which runs are written."""
    replaces: tuple[int, int] = (0, 0)
    """Sequence numbers (first, last) of the runs that a merged run stands for, and in whose place it is; (0, 0): none."""
    last: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """When the newest packet of each stream in it came, shape (k,)."""
    dropped: int = 0
    """Packets that were lost on the way here since the run before."""
    step_ns: int = 0
    """By how much the clock of packet times was set since the run before; 0: it goes as it should."""
    epoch: int = 0
    """Of the capture that wrote it: the time at which it was started."""
    segment: str = ""
    """Name of the file that holds it, relative to the spool's directory; "": nowhere yet."""
    at: int = 0
    """Its offset in the file, and that of its records."""
    records_at: int = 0
    payload_at: int = 0
    source: str = ""
    """Name of the capture that it came from, as the spool's directory is divided."""
    begun: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """Numbers of the streams that began here, in a spool that outlives its process."""
    announced: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """The same as the capture numbers them."""
    small_bytes: int = 0
    """What it holds beside voice."""
    records_bytes: int = 0
    payload_bytes: int = 0
    """What it holds of records and of voice, once it has been let go."""
    settled: bool = False
    gap_ns: int = 0
    """Nothing was captured from this time until the run begins; 0: it follows the one before."""

    DROPPED: ClassVar[str] = "the run has been let go from memory"

    @classmethod
    def empty(cls, first_ns: int, last_ns: int) -> Self:
        """A run without packets."""
        none = np.zeros(0, np.uint8)
        return cls(first_ns, last_ns, np.zeros(0, np.uint32), np.zeros(1, np.uint32), np.zeros(0, STREAM), np.zeros(0, PACKET),
                   none, np.zeros(0, RECORD), none, np.zeros(1, np.uint32))

    def sections(self) -> list[memoryview]:
        """What follows the header on disk, each padded to 8 bytes."""
        if self.records is None or self.payload is None:
            raise ValueError(self.DROPPED)
        parts: list[memoryview] = []
        for array in (self.streams, self.starts, self.payload_starts, self.last, self.fresh, self.packets, self.packet_bytes,
                      self.records, self.payload):
            parts.append(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
            if len(parts[-1]) % 8:
                parts.append(memoryview(bytes(-len(parts[-1]) % 8)))
        return parts

    @property
    def head_size(self) -> int:
        """Bytes on disk before the records."""
        k = len(self.streams)
        return (HEADER_SIZE + padded(4 * k) + 2 * padded(4 * k + 4) + 8 * k + padded(self.fresh.nbytes)
                + padded(self.packets.nbytes) + padded(self.packet_bytes.nbytes))

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        records = 0 if self.records is None else self.records.nbytes
        payload = 0 if self.payload is None else self.payload.nbytes
        return self.head_size + padded(records) + padded(payload)

    def place(self, segment: str, at: int) -> None:
        """Says where in the spool it will lie."""
        assert self.records is not None
        self.at = at
        self.records_at = at + self.head_size
        self.payload_at = self.records_at + padded(self.records.nbytes)
        self.segment = segment

    def let_go(self, tables: bool = False) -> None:
        """It is on disk: only where its parts lie stays in memory. `tables`: not even that, which `Tables` can read there."""
        self.records = self.payload = None
        # copies, for a view would hold all that it is cut from
        self.packets, self.packet_bytes, self.fresh = np.zeros(0, PACKET), np.zeros(0, np.uint8), np.zeros(0, STREAM)
        self.streams = self.streams.copy()  # stays in any case: the file has the numbers that its writer gave
        self.records_bytes, self.payload_bytes = int(self.starts[-1]) * RECORD.itemsize, int(self.payload_starts[-1])
        if tables:
            self.starts = self.payload_starts = np.zeros(0, np.uint32)
            self.last = np.zeros(0, np.int64)
        else:
            self.starts, self.payload_starts, self.last = self.starts.copy(), self.payload_starts.copy(), self.last.copy()
        self.settled = True

    def header(self, epoch: int, parts: list[memoryview]) -> bytes:
        """The header for `sections()`."""
        assert self.records is not None
        assert self.payload is not None
        fields = (RUN_MAGIC, epoch, self.sequence, *self.replaces, self.size, self.first_ns, self.last_ns, len(self.streams),
                  len(self.fresh), len(self.packets), self.dropped, len(self.packet_bytes), len(self.records), len(self.payload),
                  self.step_ns)
        head = _HEADER.pack(*fields, 0)
        total = checksum([memoryview(head), *parts])
        return _HEADER.pack(*fields, total).ljust(HEADER_SIZE, b"\0")

    @staticmethod
    def sizes(head: bytes | memoryview) -> RunSizes:
        """What a header says of its run. Raises DamagedRunError where it is none."""
        if len(head) < HEADER_SIZE:
            raise DamagedRunError("too short")
        fields = _HEADER.unpack_from(head)
        if fields[0] != RUN_MAGIC:
            raise DamagedRunError("no run")
        widths = [padded(width) for width in _widths(fields)]
        if HEADER_SIZE + sum(widths) != fields[5]:
            raise DamagedRunError("sizes do not add up")
        return RunSizes(fields[1], fields[2], HEADER_SIZE + sum(widths[:-2]), widths[-2], fields[5])

    @classmethod
    def parse(cls, data: memoryview, epoch: int | None = None, whole: bool = True) -> Self:
        """The run that begins at the start of `data`; DamagedRunError: there is none, it is not whole, or of another epoch.

        whole=False: `data` may end before the records, which are left out then; nothing is checked but the sizes.
        """
        its_epoch, _, head_size, _, size = cls.sizes(data)
        if (size if whole else head_size) > len(data) or (epoch is not None and its_epoch != epoch):
            raise DamagedRunError("no run")
        if any(data[_HEADER.size:HEADER_SIZE]):
            raise DamagedRunError("header")
        fields = _HEADER.unpack_from(data)
        if whole and checksum([memoryview(_HEADER.pack(*fields[:-1], 0)), data[HEADER_SIZE:size]]) != fields[-1]:
            raise DamagedRunError("checksum")
        at, cuts, widths = HEADER_SIZE, [], _widths(fields)
        for width in widths if whole else widths[:-2]:
            cuts.append(data[at:at + width])
            at += padded(width)
        kinds: tuple[Any, ...] = ("<u4", "<u4", "<u4", "<i8", STREAM, PACKET, np.uint8, RECORD, np.uint8)
        arrays = [np.frombuffer(cut, kind) for cut, kind in zip(cuts, kinds[:len(cuts)], strict=True)]
        voice = arrays[7:] if whole else (None, None)
        run = cls(fields[6], fields[7], arrays[0], arrays[1], arrays[4], arrays[5], arrays[6], *voice)
        run.payload_starts, run.last = arrays[2], arrays[3]
        run.sequence, run.replaces, run.dropped, run.epoch = fields[2], (fields[3], fields[4]), fields[11], its_epoch
        run.step_ns = fields[15]
        return run


def _widths(fields: tuple[Any, ...]) -> tuple[int, ...]:
    """Bytes of each section, without padding, from a header's fields."""
    k, fresh, packets, _, packet_bytes, records, payload = fields[8:15]
    return (4 * k, 4 * k + 4, 4 * k + 4, 8 * k, fresh * STREAM.itemsize, packets * PACKET.itemsize, packet_bytes,
            records * RECORD.itemsize, payload)
