"""How much room there is for recordings, and how fast it is written to: tried with a small file that is removed again."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from rokuon.appliance.doctor.evidence import Disk
from rokuon.store.errors import why

__all__ = ["TRIED_BYTES", "examine_disk"]

TRIED_BYTES = 64 << 20
_PIECE = 1 << 20
_LONGEST_S = 5.0
_LEFT_BYTES = 256 << 20
"""So much stays free: trying must not fill a disk that is nearly full."""


def examine_disk(data: Path) -> Disk:
    """Looks at the disk that DATA lies, or would lie, on; tries it where its spool is there and may be written to.

    Raises nothing.
    """
    spool = place = data / "spool"
    try:
        while not place.is_dir() and place != place.parent:
            place = place.parent
        usage = shutil.disk_usage(place)
    except OSError as error:
        return Disk(str(data), False, f"{place}: {why(error)}")
    if place != spool:
        what = f"there is no recording yet in {data}, free are {usage.free / 1e9:,.0f} GB"
        return Disk(str(data), False, what, usage.free, usage.total)
    if not os.access(spool, os.W_OK | os.X_OK):
        return Disk(str(data), False, f"{spool} may not be written to", usage.free, usage.total)
    speed: float | None = None
    if usage.free > TRIED_BYTES + _LEFT_BYTES:
        try:
            speed = _write(spool / f"doctor-{os.getpid()}.tmp")
        except OSError as error:
            return Disk(str(data), False, f"{spool}: {why(error)}", usage.free, usage.total)
    return Disk(str(data), True, "", usage.free, usage.total, speed)


def _write(path: Path) -> float:
    """Bytes a second that get to the disk. Raises OSError."""
    piece = os.urandom(_PIECE)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        begun = time.monotonic()
        written = 0
        while written < TRIED_BYTES and time.monotonic() - begun < _LONGEST_S:
            written += os.write(fd, piece)
            os.fdatasync(fd)
        return written / max(time.monotonic() - begun, 1e-6)
    finally:
        os.close(fd)
        with suppress(OSError):
            path.unlink()
