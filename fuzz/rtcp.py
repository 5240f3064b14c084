"""Fuzzes RTCP: report blocks against a second reading of RFC 3550 section 6.4."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import harness, seeds

with harness.instrumented():
    from rokuon.appliance.doctor.rtcp import Block, blocks

WORDS = (b"\x81\xc8\0\x0c", b"\x81\xc9\0\x07", b"\x80\xc9\0\1", b"\x9f\xc9\xff\xff", b"\x81\xca\0\2", b"\0\xff\xff\xff",
         b"\0\x80\0\0")


def by_the_book(data: bytes) -> list[Block]:
    """The blocks of all sender and receiver reports up to where the compound packet breaks off."""
    found: list[Block] = []
    while len(data) >= 4 and data[0] & 0xC0 == 0x80:
        size = 4 * (int.from_bytes(data[2:4], "big") + 1)
        if size > len(data):
            break
        packet, data = data[:size], data[size:]
        if packet[1] in (200, 201):
            reports = packet[28 if packet[1] == 200 else 8:]
            for n in range(min(packet[0] & 31, len(reports) // 24)):
                each = reports[24 * n:24 * n + 24]
                found.append(Block(int.from_bytes(each[:4], "big"), int.from_bytes(each[5:8], "big", signed=True),
                                   int.from_bytes(each[8:12], "big")))
    return found


def check(data: bytes) -> None:
    """The target."""
    found = list(blocks(data))
    assert found == by_the_book(data)
    assert 24 * len(found) <= len(data)


if __name__ == "__main__":
    harness.fuzz(check, seeds.rtcp, WORDS)
