"""What a pcapng file says that its capture lost: Interface Statistics Blocks, which are written behind the packets.

https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/, sections 3.1 and 4.6. Blocks end with their length, so they are
found from the file's end; who writes them in the middle only is not heard.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["FileDrops", "file_drops"]

_SECTION, _STATISTICS, _PACKETS = 0x0A0D0D0A, 5, (2, 3, 6)
_IFRECV, _IFDROP, _OSDROP = 4, 5, 7
_BLOCKS, _LONGEST = 64, 65_536
_FILES = 1000


@dataclass(slots=True)
class FileDrops:
    """Sums over files and interfaces."""

    received: int = 0
    by_interface: int = 0
    by_kernel: int = 0


def file_drops(paths: Sequence[str]) -> FileDrops | None:
    """What the files, or those in directories, say; None: none of them says anything. Raises nothing."""
    found: FileDrops | None = None
    for path in _expand(paths)[:_FILES]:
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                continue
            with open(path, "rb") as file:
                said = _of(file)
        except (OSError, ValueError, struct.error):
            continue
        for received, by_interface, by_kernel in said:
            found = found or FileDrops()
            found.received += received
            found.by_interface += by_interface
            found.by_kernel += by_kernel
    return found


def _expand(paths: Sequence[str]) -> list[str]:
    names = []
    for path in paths:
        if path == "-":
            continue
        try:
            names += sorted(entry.path for entry in os.scandir(path) if entry.is_file()) if os.path.isdir(path) else [path]
        except OSError:
            continue
    return list(dict.fromkeys(map(os.path.realpath, names)))


def _of(file: BinaryIO) -> list[tuple[int, int, int]]:
    """The newest numbers of each interface: received, dropped by interface and by kernel. Raises OSError, struct.error."""
    head = file.read(12)
    order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(head[8:12])
    if head[:4] != b"\x0a\x0d\x0d\x0a" or order is None:
        return []
    end = file.seek(0, os.SEEK_END)
    newest: dict[int, tuple[int, int, int]] = {}
    for _ in range(_BLOCKS):
        if end < 24:
            break
        file.seek(end - 4)
        (size,) = struct.unpack(order + "I", file.read(4))
        if size % 4 or not 12 <= size <= min(end, _LONGEST):
            break
        file.seek(end - size)
        block = file.read(size)
        kind, again = struct.unpack_from(order + "II", block)
        if again != size or kind in _PACKETS or kind == _SECTION:
            break
        if kind == _STATISTICS and size >= 24:
            newest.setdefault(struct.unpack_from(order + "I", block, 8)[0], _numbers(block, order))
        end -= size
    return list(newest.values())


def _numbers(block: bytes, order: str) -> tuple[int, int, int]:
    found: dict[int, int] = {}
    at, end = 20, len(block) - 4
    while at + 4 <= end:
        code, length = struct.unpack_from(order + "HH", block, at)
        at += 4
        if not code or at + length > end:
            break
        if length == 8:
            found[code] = struct.unpack_from(order + "Q", block, at)[0]
        at += length + 3 & ~3
    return found.get(_IFRECV, 0), found.get(_IFDROP, 0), found.get(_OSDROP, 0)
