"""Fuzzes the pcap reader: whole, by lanes, piece by piece, and by the plainest code, every file has the same packets."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import files, harness, seeds
from fuzz.harness import Input
from tests.sniffer.captures import read_pcap

WORDS = (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\xa1\xb2\x3c\x4d", b"\x1f\x8b\x08\0", b"\0\0\4\0",
         b"\1\0\4\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(16))


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    lanes = 2 + given.number(40)
    files.compare(given.rest, read_pcap, lanes, 1024 << given.number(4))


if __name__ == "__main__":
    harness.fuzz(check, seeds.pcap_files, WORDS)
