"""Disks that are numbers, and archives on them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.store.sidecars import SECOND, sidecar

from rokuon.store.disk import DiskWatch
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.retention import Removed, Veto
from rokuon.store.settings import DiskSettings
from rokuon.store.sidecar import write

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
SOUND = 256 * 1024
OLDEST, NEWEST = DiskSettings(), DiskSettings(policy="keep-newest")
SMALL = 400 * MIB
"""stop 32 MiB, resume 40 MiB, floor 16 MiB."""


@dataclass
class Disk:
    """A file system, in blocks of 4 KiB, a twentieth of them root's."""

    total: int = 100 * GIB
    free: int = 50 * GIB
    files: int = 0
    files_free: int = 0
    f_frsize: int = 4096
    broken: bool = False

    @property
    def f_blocks(self) -> int:
        return self.total // 4096 + self.total // 4096 // 20

    @property
    def f_bfree(self) -> int:
        return self.free // 4096 + self.total // 4096 // 20

    @property
    def f_bavail(self) -> int:
        return self.free // 4096

    @property
    def f_files(self) -> int:
        return self.files

    @property
    def f_favail(self) -> int:
        return self.files_free


@dataclass
class Box:
    """An archive on disks that are numbers, with clocks that are set by hand."""

    root: Path
    settings: DiskSettings = OLDEST
    recordings: Disk = field(default_factory=Disk)
    spool: Disk | None = None
    time: float = 1000.0
    looks: int = 0
    packet_ns: int = 5_000 * SECOND

    def __post_init__(self) -> None:
        self.layout = Layout(self.root)
        self.layout.prepare()
        self.index = Index(self.layout.index, "JP", patience_s=0.1)
        self.watch = DiskWatch(self.layout, self.settings, clock=lambda: self.time, now=lambda: 2_000_000_000 + self.time,
                               statvfs=self.look_at)

    def look_at(self, path: Path) -> Disk:
        self.looks += 1
        disk = self.spool if self.spool is not None and path == self.layout.spool else self.recordings
        if disk.broken:
            raise OSError(5, "Input/output error")
        return disk

    def pass_(self, seconds: float = 1.0) -> bool:
        self.time += seconds
        self.packet_ns += int(seconds * SECOND)
        return self.watch.look(self.packet_ns)

    def at(self, free: int) -> str:
        self.recordings.free = free
        self.pass_()
        return self.watch.level

    def calls(self, count: int, begin: int = 0, **changes: object) -> list[str]:
        """Calls of 256 KiB of sound each, recorded long ago, an hour and a second after one another."""
        made = [sidecar(n, **changes) for n in range(begin, begin + count)]
        for call in made:
            path = self.layout.sidecar(call["id"])
            self.layout.make_directory(path.parent)
            self.layout.audio(call["id"]).write_bytes(bytes(SOUND))
            write(path, call, sync=False)
            os.utime(path, (1_900_000_000, 1_900_000_000))
        self.index.add_calls(made)
        return [call["id"] for call in made]

    def step(self, *vetoes: Veto, shows: bool = True) -> Removed:
        removed = self.watch.make_room(self.index, vetoes)
        if shows:
            self.recordings.free += removed.bytes
        return removed

    def until_still(self, seconds: int = 30) -> int:
        """Steps, a second each, for so long. Returns how many calls are gone."""
        gone = 0
        for _ in range(seconds):
            gone += self.step().calls
            self.pass_()
        return gone
