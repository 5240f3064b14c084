"""A disk of 200 MB: a file with a file system in it, mounted where only the test and what it starts can see it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 1 << 20
CLONE_NEWNS = 0x0002_0000
MS_REC, MS_PRIVATE = 0x4000, 0x4_0000
FIFREEZE, FITHAW = 0xC004_5877, 0xC004_5878
MOUNTS = Path("/proc/thread-self/ns/mnt")
LONGEST_S = 20
"""After which a file system thaws, whatever became of the test."""


def missing() -> str:
    """Why there can be no such disk here; "" where there can."""
    if os.geteuid() != 0:
        return "only root mounts file systems"
    if absent := [tool for tool in ("mkfs.ext4", "mount", "fsfreeze") if shutil.which(tool) is None]:
        return f"no {absent[0]} here"
    if not Path("/dev/loop-control").exists():
        return "no loop devices here"
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "no mount namespaces here"


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), name)


@contextmanager
def small_disk(tmp_path: Path, mib: int = 200) -> Iterator[Path]:
    """An ext4 file system of that size, seen by this thread and what it starts. Frozen or not, it is gone afterwards."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(mib * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True, capture_output=True)
    place.mkdir()
    here, directory = os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC), Path.cwd()
    try:
        _call("unshare", CLONE_NEWNS)
        try:
            _call("mount", b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
            subprocess.run(["mount", "-o", "loop,noatime", image, place], check=True, capture_output=True)
            try:
                yield place
            finally:
                thaw(place)
                subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)
        finally:
            _call("setns", here, CLONE_NEWNS)
            os.chdir(directory)
    finally:
        os.close(here)
        image.unlink()


def free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, leave: int = 0) -> None:
    """Puts something else on the disk, until so many bytes are free (or a block less)."""
    with open(place / "ballast", "ab", buffering=0) as file:
        for size in (MIB, 1 << 16, 4096, 1024):
            with suppress(OSError):
                while free(place) >= leave + size and file.write(bytes(size)) == size:
                    pass
        with suppress(OSError):
            os.fsync(file.fileno())


def empty(place: Path) -> None:
    """Takes it away again."""
    (place / "ballast").unlink()


@contextmanager
def frozen(place: Path) -> Iterator[None]:
    """Whoever writes to the disk waits, for as long as the block lasts. A process of its own sees to it that this has an end."""
    watchdog = subprocess.Popen(["sh", "-c", f"sleep {LONGEST_S}; fsfreeze --unfreeze {place}"], start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    directory = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(directory, FIFREEZE, 0)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.ioctl(directory, FITHAW, 0)
    finally:
        os.close(directory)
        watchdog.kill()
        watchdog.wait()


def thaw(place: Path) -> None:
    """Ends a freeze, if there is one."""
    with suppress(OSError):
        directory = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):
            fcntl.ioctl(directory, FITHAW, 0)
        os.close(directory)
