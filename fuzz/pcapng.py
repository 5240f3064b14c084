"""Fuzzes the pcapng reader: whole, by lanes, piece by piece, and by the plainest code, every file has the same packets."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import files, harness, seeds
from fuzz.harness import Input
from tests.sniffer.captures import read_pcapng

WORDS = (b"\x0a\x0d\x0d\x0a", b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d", b"\1\0\0\0", b"\6\0\0\0", b"\3\0\0\0", b"\2\0\0\0",
         b"\x09\0\1\0", b"\x0e\0\x08\0", b"\x0c\0\0\0", b"\x20\0\0\0", b"\0\0\5\0", b"\xff\xff\xff\xff", bytes(12))


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    lanes = 2 + given.number(40)
    files.compare(given.rest, read_pcapng, lanes, 1024 << given.number(4))


if __name__ == "__main__":
    harness.fuzz(check, seeds.pcapng_files, WORDS)
