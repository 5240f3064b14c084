"""Ways in which a capture can be damaged, drawn by a seed, and what of it is known to be unharmed all the same.

Nothing here is rokuon's: captures are read and written by the plain code that the tests have for it.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from tests.e2e.wire import SECOND, Phone
from tests.sniffer.captures import Packet, enhanced, interface, pcap, read_pcap, read_pcapng, section

__all__ = ["Damaged", "Needles", "damage", "needles", "packets_of", "witnesses", "written"]

PCAPS = {b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d"}
LINKS = {1: b"", 101: b"", 228: b"", 0: b"\x02\0\0\0", 108: b"\0\0\0\x02", 12: b"",
         113: struct.pack(">HHH8sH", 0, 1, 6, bytes(8), 0x0800), 276: struct.pack(">HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, bytes(8))}
"""What stands before IPv4 at each link type; Ethernet frames stay as they are."""
EDGES = (0, 1, 7, 8, 19, 20, 27, 28, 63, 64, 127, 128, 255, 256, 1499, 1500, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
LATEST = 0xFFFF_FFFF * SECOND
"""The last second that a pcap file can tell."""

Needles = frozenset[bytes]
"""Bytes of which a packet that has to do with a call has one: its addresses, as bytes and as text, and its Call-IDs."""


@dataclass
class Damaged:
    """A capture that was damaged."""

    octets: bytes
    said: str
    """What was done, for people."""
    harmed: list[bytes] = field(default_factory=list)
    """Packets that were changed, before and after, were left out, moved, or put in."""
    unknown: bool = False
    """What of it can be read is not known."""

    def spares(self, call: Needles) -> bool:
        """Whether nothing that has to do with the call was touched."""
        return not self.unknown and not any(needle in packet for packet in self.harmed for needle in call)


def packets_of(octets: bytes) -> list[Packet] | None:
    """The packets of a pcap or pcapng file; None where it is neither."""
    if octets[:4] in PCAPS:
        return read_pcap(octets).packets
    return read_pcapng(octets).packets if octets[:4] == b"\x0a\x0d\x0d\x0a" else None


def needles(addresses: Sequence[str], call_ids: Sequence[str]) -> Needles:
    """Of a call with these addresses (no ports)."""
    found = {call_id.encode() for call_id in call_ids}
    for address in addresses:
        found |= {address.encode(), ip_address(address).packed}
    return frozenset(found - {b""})


def witnesses(packets: Sequence[Packet]) -> list[Packet]:
    """Two calls beside those of a capture, of phones that do not occur in it, amid its time."""
    link = packets[0].link_type if packets[0].link_type in LINKS else 1
    start = packets[len(packets) // 3].time_ns
    calls: list[Phone] = []
    for number in range(60_001, 62_000):
        phone = Phone(number, start + len(calls) * SECOND // 3, 1, call_id=b"witness-%d@damage.example" % number)
        mine = needles([phone.caller, phone.callee], [])
        if not any(needle in p.data for p in packets for needle in mine):
            calls.append(phone)
        if len(calls) == 2:
            break
    cut = 0 if link == 1 else 14
    frames = [(p.time_ns, LINKS[link] + p.data[cut:]) for phone in calls for p in phone.packets]
    return [Packet(time_ns, data, len(data), link) for time_ns, data in frames]


def written(packets: Sequence[Packet], chance: random.Random) -> tuple[bytes, list[int]]:
    """The packets as a file of some format, and where in it the record of each begins."""
    links = sorted({p.link_type for p in packets})
    ng = len(links) > 1 or chance.random() < 0.25
    order = chance.choice("<>")
    pieces = [section(order), *(interface(order, link_type=link, resolution=9) for link in links)] if ng else \
        [pcap([], order=order, nano=True, network=links[0])]
    at, places = sum(map(len, pieces)), []
    for p in packets:
        if ng:
            piece = enhanced(p.time_ns, p.data, number=links.index(p.link_type), wire=p.wire, order=order)
        else:
            seconds, rest = divmod(p.time_ns, SECOND)
            piece = struct.pack(order + "IIII", seconds, rest, len(p.data), p.wire) + p.data
        places.append(at)
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces), places


# -- packets -------------------------------------------------------------------
Change = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 8, 40))):
        out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
    return bytes(out)


def _fill(data: bytes, chance: random.Random) -> bytes:
    at, size = chance.randrange(len(data)), chance.choice((1, 2, 4, 16, 200))
    put = chance.choice((b"\0", b"\xff", b" ", b"\r\n", b"%", chance.randbytes(16)))
    return data[:at] + (put * size)[:len(data) - at][:size] + data[at + size:]


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[:chance.randrange(len(data))]


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.choice((1, 2, 4, 40, 1400))) + data[at:]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    """A line, or any stretch, many times over."""
    lines = data.split(b"\r\n")
    if len(lines) > 3 and chance.random() < 0.7:
        at = chance.randrange(1, len(lines))
        lines[at:at] = [lines[at]] * chance.choice((1, 3, 300))
        return b"\r\n".join(lines)[:65_000]
    at = chance.randrange(len(data))
    return (data[:at] + data[at:at + chance.randrange(1, 40)] * chance.choice((2, 20, 500)) + data[at:])[:65_000]


def _length(data: bytes, chance: random.Random) -> bytes:
    """A field of the headers says what it should not."""
    if len(data) < 2:
        return data
    at = chance.randrange(min(len(data) - 1, 60))
    return data[:at] + struct.pack(">H", chance.choice(EDGES)) + data[at + 2:]


def _number(data: bytes, chance: random.Random) -> bytes:
    """A number in text becomes another."""
    digits = [i for i, octet in enumerate(data) if 48 <= octet <= 57]
    if not digits:
        return _length(data, chance)
    at = chance.choice(digits)
    return data[:at] + chance.choice((b"0", b"-1", b"65536", b"4294967296", b"9" * 30, b"", b"1e9", b"%n")) + data[at + 1:]


CHANGES: tuple[Change, ...] = (_flip, _flip, _flip, _fill, _cut, _insert, _repeat, _length, _length, _number)


def _harm(packets: list[Packet], may: list[int], chance: random.Random, harmed: list[bytes]) -> str:
    """One change to one packet, or some in a row, of those that may be harmed; what was done."""
    place = chance.randrange(len(may))
    at = may[place]
    old = packets[at]
    what = chance.choice(("change", "change", "change", "change", "splice", "drop", "burst", "twice", "move", "time", "wire",
                          "shuffle", "garbage"))
    rows = [at]
    if what in ("burst", "shuffle"):
        rows = may[place:place + chance.choice((2, 5, 20, 100))]
    harmed += [packets[row].data for row in rows]
    if what == "change":
        change = chance.choice(CHANGES)
        packets[at] = old._replace(data=change(old.data, chance) if old.data else chance.randbytes(9))
        what = change.__name__[1:]
    elif what == "splice":
        other = packets[chance.choice(may)].data
        packets[at] = old._replace(data=old.data[:chance.randrange(len(old.data) + 1)] + other[chance.randrange(len(other) + 1):])
    elif what in ("drop", "burst"):
        for row in rows:
            packets[row] = packets[row]._replace(data=b"")
    elif what == "twice":
        packets[at] = old._replace(data=old.data)
        packets += [old] * chance.choice((1, 1, 3, 50))
    elif what == "move":
        packets[at] = old._replace(time_ns=min(max(0, old.time_ns + chance.randrange(-10 * SECOND, 10 * SECOND)), LATEST))
    elif what == "time":
        year = 365 * 86_400 * SECOND
        time_ns = chance.choice((0, LATEST, old.time_ns + year, old.time_ns - year, old.time_ns + 86_400 * SECOND,
                                 chance.randrange(LATEST)))
        packets[at] = old._replace(time_ns=min(max(time_ns, 0), LATEST))
    elif what == "wire":
        packets[at] = old._replace(wire=chance.choice((0, 1, len(old.data) + 1, 0x7FFFFFFF, 0xFFFFFFFF)))
    elif what == "shuffle":
        data = [packets[row] for row in rows]
        chance.shuffle(data)
        for row, new in zip(rows, data, strict=True):
            packets[row] = packets[row]._replace(data=new.data, wire=new.wire)
    elif what == "garbage":
        data2 = chance.randbytes(chance.choice((0, 1, 14, 60, 1500)))
        packets += [old._replace(data=data2[:20] if chance.random() < 0.5 else old.data[:34] + data2)] * chance.choice((1, 30))
        harmed.append(packets[-1].data)
    if packets[at].data and what not in ("wire", "time", "move"):
        harmed.append(packets[at].data)
        if packets[at].wire == old.wire and chance.random() < 0.8:
            packets[at] = packets[at]._replace(wire=len(packets[at].data))
    return what


# -- files ---------------------------------------------------------------------
def _break(octets: bytes, places: list[int], chance: random.Random) -> tuple[bytes, int, str]:
    """The file damaged somewhere; from which packet on nothing is known; what was done."""
    row = chance.randrange(len(places))
    at, what = places[row], chance.choice(("cut", "overwrite", "record", "between", "flip", "hole"))
    out = bytearray(octets)
    if what == "cut":
        del out[at + chance.randrange(40):]
    elif what == "overwrite":
        size = chance.choice((4, 16, 400, 5000))
        out[at:at + size] = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))
    elif what == "record":
        struct.pack_into(chance.choice("<>") + "I", out, at + 4 * chance.randrange(4), chance.choice(
            (0, 1, 15, 16, 31, 65_535, 65_536, 262_144, 262_145, 0x7FFFFFFF, 0xFFFFFFFF, chance.getrandbits(32))))
    elif what == "between":
        out[at:at] = chance.randbytes(chance.choice((1, 3, 16, 4000)))
    elif what == "flip":
        for _ in range(20):
            out[chance.randrange(at, len(out))] ^= 1 << chance.randrange(8)
    elif what == "hole":
        del out[at + chance.randrange(16):at + 16 + chance.randrange(3000)]
    return bytes(out), row, f"file: {what}"


def damage(packets: Sequence[Packet], witness: Sequence[Packet], seed: int) -> Damaged:
    """A capture of these packets, damaged by `seed`, and of witnesses, to which nothing is done but where the file breaks."""
    chance = random.Random(seed)
    mine, harmed, done = list(packets), list[bytes](), list[str]()
    may = [i for i, p in enumerate(mine) if p.data]
    where = chance.randrange(6)
    if where or not may:
        strength = chance.choice((1, 3, 12, 12, max(3, len(may) // 10), max(3, len(may) // 3)))
        for _ in range(min(strength, 2_000) if may else 0):
            done.append(_harm(mine, may, chance, harmed))
    stay = chance.random() < 0.3
    """Packets whose time was forged are where they were before."""
    placed = [(packets[i].time_ns if stay and i < len(packets) else p.time_ns, p) for i, p in enumerate(mine)
              if p.data]
    placed += [(p.time_ns, p) for p in witness]
    together = [p for _, p in sorted(placed, key=lambda pair: pair[0])]
    octets, places = written(together, chance)
    if where < 2 and places:
        octets, row, what = _break(octets, places, chance)
        done.append(what)
        harmed += [p.data for p in together[row:]]
    unknown = False
    if chance.random() < 0.1:
        octets = gzip.compress(octets, 1)
        if chance.random() < 0.5:
            unknown = True
            done.append("file: zipped, then damaged")
            octets = octets[:chance.randrange(20, len(octets))] if chance.random() < 0.5 else _flip(octets, chance)
    short = [f"{what} x{done.count(what)}" for what in dict.fromkeys(done)]
    return Damaged(octets, ", ".join(short), harmed, unknown)
