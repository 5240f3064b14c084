"""Seeds of the fuzz targets, taken from the captures in fixtures/pcaps and the torture messages: `python fuzz/seeds.py DIR`."""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fuzz.harness import Input, joined  # noqa: E402
from tests.sniffer.captures import Packet, block, enhanced, interface, old, pcap, read_pcap, section, simple  # noqa: E402
from tests.sniffer.torture.messages import read as torture  # noqa: E402

PCAPS = ROOT / "fixtures" / "pcaps"
MOST, LONGEST = 60, 8_000


class Datagram(NamedTuple):
    """A UDP or TCP payload."""

    protocol: int
    ports: tuple[int, int]
    payload: bytes


@cache
def packets() -> tuple[Packet, ...]:
    """Some packets of every capture: its first, and some from its middle and end."""
    found: list[Packet] = []
    for path in sorted(PCAPS.glob("*.pcap")):
        if path.stat().st_size < 400_000:
            mine = read_pcap(path.read_bytes()).packets
            third = len(mine) // 3
            found += [*mine[:24], *mine[third:third + 6], *mine[-12:]]
    return tuple(found)


def datagram(data: bytes, link_type: int) -> Datagram | None:
    """What a frame carries, if it is plain: Ethernet with VLAN tags or raw IP, IPv4 or IPv6, UDP or TCP."""
    at = 0
    if link_type == 1:
        at = 14
        while data[at - 2:at] in (b"\x81\0", b"\x88\xa8"):
            at += 4
    version = data[at] >> 4 if at < len(data) else 0
    if version not in (4, 6) or len(data) < at + 40:
        return None
    protocol, upper = (data[at + 9], at + (data[at] & 15) * 4) if version == 4 else (data[at + 6], at + 40)
    if protocol not in (6, 17) or len(data) < upper + 20:
        return None
    size = 8 if protocol == 17 else (data[upper + 12] >> 4) * 4
    return Datagram(protocol, struct.unpack_from(">HH", data, upper), data[upper + size:])


@cache
def datagrams() -> tuple[Datagram, ...]:
    return tuple(found for p in packets() if (found := datagram(p.data, p.link_type)) is not None)


def _some(of: Iterator[bytes], longest: int = LONGEST) -> list[bytes]:
    """So many different ones, the shorter first."""
    found = {hashlib.sha256(data).digest(): data for data in of if data and len(data) <= longest}
    ordered = sorted(found.values(), key=lambda data: (len(data), data))
    step = max(len(ordered) / MOST, 1)
    return [ordered[int(n * step)] for n in range(min(MOST, len(ordered)))]


def sip() -> list[bytes]:
    names = sorted(path.stem for path in (ROOT / "tests" / "sniffer" / "torture").glob("*.sip"))
    return [*_some(d.payload for d in datagrams() if b"SIP/2.0" in d.payload), *_some(torture(name) for name in names)]


def sdp() -> list[bytes]:
    return _some(message[at:] for message in sip() if (at := message.find(b"v=0")) >= 0)


def rtp_packets() -> list[bytes]:
    return _some(d.payload for d in datagrams() if d.protocol == 17 and d.payload[:1] >= b"\x80" and d.ports[1] % 2 == 0)


def rtp() -> list[bytes]:
    one = rtp_packets()
    events = [struct.pack(">BBHIIBBH", 0x80, 101, n, 160 * (n // 3), 9, n % 18, 0x80 * (n % 3 == 2) | 10, 160 * n)
              for n in range(30)]
    odd = [b"\x91" + one[0][1:12] + b"CSRC" + b"\xbe\xde\0\1" + b"abcd" + one[0][12:], b"\xa0" + one[0][1:-1] + b"\x04"]
    return [Input.of((3, 9, 27), joined(part)) for part in (one[:20], one[20:], events, [*odd, *one[:3]])]


def rtcp() -> list[bytes]:
    report = struct.pack(">IIIIII", 0x12345678, 0x05FFFFFF, 70_000, 33, 1, 2)
    made = [b"\x80\xc9\0\1abcd", b"\x81\xc9\0\x07abcd" + report, b"\x82\xc8\0\x12abcd" + bytes(20) + report * 2,
            b"\x81\xc9\0\x07abcd" + report + b"\x81\xca\0\x03abcd\1\4name\0\0", b"\x81\xcb\0\1abcd"]
    return [*_some(d.payload for d in datagrams() if d.payload[:1] >= b"\x80" and 192 <= d.payload[1] <= 223), *made]


def frames() -> list[bytes]:
    """Lists of frames, each with the number of its link type before it."""
    some: dict[int, list[bytes]] = {}
    for p in packets():
        if p.link_type < 0x10000:
            some.setdefault(p.link_type, []).append(p.data)
    lists = [each[at:at + 8] for each in some.values() for at in range(0, len(each), max(8, len(each) // 12))]
    kinds = [kind for kind, each in some.items() for _ in range(0, len(each), max(8, len(each) // 12))]
    numbers = [LINKS.index(kind) if kind in LINKS else 0 for kind in kinds]
    return [Input.of((number, 7), joined(part)) for number, part in zip(numbers, lists, strict=True)]


LINKS = (1, 101, 0, 108, 113, 228, 229, 276)
"""What the targets of whole frames know by number."""


def calls() -> list[bytes]:
    """The first packets of each capture."""
    out = []
    for path in sorted(PCAPS.glob("*.pcap")):
        if path.stat().st_size < 400_000:
            mine = [p for p in read_pcap(path.read_bytes()).packets if len(p.data) < 2_000]
            telling = [p for p in mine if b"SIP/2.0" in p.data or p.data[23:24] == b"\x06"][:20]
            chosen = sorted([*telling, *mine[:8]], key=lambda p: p.time_ns)
            kind = LINKS.index(chosen[0].link_type) if chosen[0].link_type in LINKS else 0
            out.append(Input.of((kind, 5, 200, 1), joined(p.data for p in chosen)))
    return _some(iter(out), 16_000)


def tcp() -> list[bytes]:
    messages = [message for message in sip() if len(message) < 1500]
    streams = [b"".join(messages[n:n + 3]) for n in range(0, len(messages), 3)]
    frame = b"\x81\x7e" + struct.pack(">H", len(messages[0])) + messages[0]
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    control = ((0, 9, 4, 3, 200, 1), (1, 0, 80, 2, 3, 90, 7), (2, 200, 100, 3, 50, 9, 8))
    return [Input.of(control[n % 3], each) for n, each in enumerate([*streams, upgrade + frame + frame])]


def defrag() -> list[bytes]:
    return [Input.of(control, bytes(range(256)) * 8) for control in (
        (0, 3, 20, 40, 60), (1, 2, 100, 30), (2, 8, 0, 3, 1, 9, 1, 4), (3, 200, 3, 1, 7, 9, 2, 8, 1, 5), (0, 9, *range(40)))]


def pcap_files() -> list[bytes]:
    some = list(packets()[:200:9])
    return [Input.of((n, 9 * n), pcap(some[n:n + 6], order="<>"[n % 2], nano=n > 2, network=(1, 101)[n % 2])) for n in range(6)]


def pcapng_files() -> list[bytes]:
    some = [p.data[:300] for p in packets()[:200:9]]
    out = []
    for n, order in enumerate("<><>"):
        body = b"".join(enhanced(1_700_000_000_000_000 + i, data, order=order) for i, data in enumerate(some[n:n + 4]))
        more = interface(order, resolution=(9, 0x94)[n % 2], offset=n)
        more += old(99, some[0], order=order) + simple(some[1], order=order)
        out.append(Input.of((n, 9 * n), section(order) + interface(order) + body + block(5, b"statistics", order) + more
                            + section("<>"[n % 2]) + interface("<>"[n % 2]) + enhanced(5, some[2], order="<>"[n % 2])))
    return out


def merged() -> list[bytes]:
    """Several files, some of whose packets overlap."""
    each, other = ([Input(data).rest for data in make()] for make in (pcap_files, pcapng_files))
    short = [pcap([p._replace(data=p.data[:60]) for p in packets()[n:n + 5]], nano=True) for n in (0, 2, 90)]
    return [Input.of((n % 4,), joined(files)) for n, files in enumerate((short, short[:2], [each[0][:400], short[0]],
                                                                        [other[0], short[0]], [short[1], short[1]], short[::-1]))]


def decoders() -> list[bytes]:
    return [Input.of((n % 6, 3), joined(p[12:] for p in rtp_packets()[n:n + 9])) for n in range(12)]


def texts() -> list[bytes]:
    return [b'{"id":"x","schema":1,"streams":[],"audio":null}', b'[1,2]', b'{"a":{"b":[1.5,null,true]}}',
            b"caf\xc3\xa9 \x1b[31m\xe2\x80\xae",
            "無効な名前\u200b\ufeff\r\n".encode(), *sip()[:6]]


TARGETS = {"sip": sip, "sdp": sdp, "tcp": tcp, "defrag": defrag, "pcap": pcap_files, "merge": merged, "pcapng": pcapng_files,
           "rtp": rtp, "rtcp": rtcp, "ip": frames, "calls": calls, "decoders": decoders, "stored": texts}


def main() -> None:
    """Writes a folder of seeds for each target."""
    for name, make in TARGETS.items():
        (folder := Path(sys.argv[1]) / name).mkdir(parents=True, exist_ok=True)
        for data in make():
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        print(f"{folder}: {len(list(folder.iterdir()))}")


if __name__ == "__main__":
    main()
