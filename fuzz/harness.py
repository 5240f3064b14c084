"""What the fuzz targets share: the ways in which a target is run, inputs taken apart, mutation where there is no atheris.

A target is a function of bytes that raises where something is wrong, and a list of seeds. `python fuzz/sip.py` runs one under
atheris (coverage-guided, libFuzzer's options) where that is installed (`pip install atheris`, or the dependency group `fuzz`),
else, or with -plain, mutates its seeds blindly. Both end at the first finding and keep its input.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

__all__ = ["Input", "fuzz", "instrumented", "mutated", "rounds"]

Check = Callable[[bytes], None]
DEFAULTS = {"timeout": "20", "rss_limit_mb": "2048", "max_len": "16384", "print_final_stats": "1"}
EDGES = (0, 1, 2, 4, 7, 8, 9, 10, 13, 16, 31, 32, 63, 64, 100, 127, 128, 192, 200, 223, 254, 255)


def plain() -> bool:
    """Whether mutation is our own: asked for, or atheris is not there."""
    return "-plain" in sys.argv or importlib.util.find_spec("atheris") is None


def instrumented() -> AbstractContextManager[Any]:
    """Around the import of what is fuzzed: so that atheris sees which branches are taken."""
    if os.path.dirname(os.path.abspath(sys.argv[0])) != os.path.dirname(os.path.abspath(__file__)) or plain():
        return nullcontext()
    import atheris  # noqa: PLC0415

    return atheris.instrument_imports(include=["rokuon"], enable_loader_override=False)  # type: ignore[no-any-return]


class Input:
    """An input of parts: its first byte says how many bytes follow that decide how the rest is used."""

    def __init__(self, data: bytes) -> None:
        size = data[0] if data else 0
        self._control = data[1:1 + size]
        self._at = 0
        self.rest = data[1 + size:]

    def number(self, most: int) -> int:
        """The next number, of 0 to `most`; 0 where there are no more."""
        width = (most.bit_length() + 7) // 8
        value = int.from_bytes(self._control[self._at:self._at + width], "big")
        self._at += width
        return value % (most + 1)

    @property
    def over(self) -> bool:
        """No number is left."""
        return self._at >= len(self._control)

    @staticmethod
    def of(control: Iterable[int], rest: bytes) -> bytes:
        """The reverse: bytes that decide, at most 255, and the rest."""
        some = bytes(control)[:255]
        return bytes([len(some)]) + some + rest


def split(data: bytes, most: int = 64) -> list[bytes]:
    """A list of byte strings: each has its length, two bytes, before it; the last may be cut."""
    parts, at = [], 0
    while at + 2 <= len(data) and len(parts) < most:
        size = int.from_bytes(data[at:at + 2], "big")
        parts.append(data[at + 2:at + 2 + size])
        at += 2 + size
    return parts


def joined(parts: Iterable[bytes]) -> bytes:
    """The reverse of `split`."""
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def mutated(chance: random.Random, seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> bytes:
    """One of the seeds with one to eight changes."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 5, 8))):
        at = chance.randrange(len(data) + 1)
        size = min(chance.choice((1, 1, 2, 4, 8, 30, 200)), len(data) - at)
        what = chance.randrange(9 if words else 8)
        if what == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif what == 1 and at < len(data):
            data[at] = chance.choice(EDGES)
        elif what == 2:
            del data[at:at + size]
        elif what == 3:
            data[at:at] = bytes(data[at:at + size]) * chance.choice((1, 1, 3, 40))
        elif what == 4:
            data[at:at + size] = chance.randbytes(size)
        elif what == 5:
            other = chance.choice(seeds)
            data[at:] = other[chance.randrange(len(other) + 1):]
        elif what == 6:
            other_at = chance.randrange(len(data) + 1)
            data[at:at + size], data[other_at:other_at + size] = data[other_at:other_at + size], data[at:at + size]
        elif what == 7 and size >= 2:
            data[at:at + 2] = chance.choice((b"\0\0", b"\xff\xff", b"\0\1", b"\x7f\xff", b"\x80\0"))
        elif what == 8:
            data[at:at + chance.choice((0, size))] = chance.choice(words)
        del data[16_384:]
    return bytes(data)


def rounds(check: Check, seeds: Sequence[bytes], *, runs: int, seed: int = 0, words: Sequence[bytes] = ()) -> None:
    """The seeds as they are, then `runs` mutations drawn by `seed`. What the target raises passes, with the input noted."""
    chance = random.Random(seed)
    for n in range(len(seeds) + runs):
        data = seeds[n] if n < len(seeds) else mutated(chance, seeds, words)
        try:
            check(data)
        except BaseException as error:
            error.add_note(f"input: {data[:4000]!r}")
            raise


def fuzz(check: Check, seeds: Callable[[], list[bytes]], words: Sequence[bytes] = ()) -> None:
    """The target as a program: see `python fuzz/sip.py -help=1`."""
    if "-plain" in sys.argv or plain():
        _by_ourselves(check, seeds(), words)
        return
    import atheris  # noqa: PLC0415

    arguments = [a for a in sys.argv if a != "-plain"]
    folders = [a for a in arguments[1:] if not a.startswith("-")]
    if not folders:
        folders = [tempfile.mkdtemp(prefix=f"rokuon-fuzz-{Path(sys.argv[0]).stem}-")]
        arguments += folders
    os.makedirs(folders[0], exist_ok=True)
    if not os.listdir(folders[0]):
        for data in seeds():
            Path(folders[0], hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    arguments += [f"-{name}={value}" for name, value in DEFAULTS.items()
                  if not any(a.startswith(f"-{name}=") for a in arguments)]
    if not any(a.startswith("-artifact_prefix=") for a in arguments):
        arguments.append(f"-artifact_prefix={tempfile.gettempdir()}/rokuon-fuzz-{Path(sys.argv[0]).stem}-")
    if words:
        with tempfile.NamedTemporaryFile("w", suffix=".dict", delete=False) as file:
            file.writelines('"' + "".join(f"\\x{octet:02x}" for octet in word) + '"\n' for word in words)
        arguments.append(f"-dict={file.name}")
    atheris.Setup(arguments, check)
    atheris.Fuzz()


def _by_ourselves(check: Check, seeds: list[bytes], words: Sequence[bytes]) -> None:
    """Blind mutation with the few of libFuzzer's options that are of use: -runs, -seed, -max_total_time, files to be tried."""
    given = dict(a[1:].partition("=")[::2] for a in sys.argv[1:] if a.startswith("-"))
    files = [Path(a) for a in sys.argv[1:] if not a.startswith("-")]
    for path in files:
        if path.is_file():
            check(path.read_bytes())
            print(f"{path}: no finding")
        elif path.is_dir():
            seeds += [each.read_bytes() for each in sorted(path.iterdir()) if each.is_file()]
    if any(path.is_file() for path in files):
        return
    most, until = int(given.get("runs", 0)), time.monotonic() + float(given.get("max_total_time", 60))
    chance = random.Random(int(given.get("seed", 0)))
    count = 0
    while (count < most) if most else (time.monotonic() < until):
        data = seeds[count] if count < len(seeds) else mutated(chance, seeds, words)
        count += 1
        try:
            check(data)
        except BaseException:
            kept = Path(tempfile.gettempdir(), f"rokuon-fuzz-{Path(sys.argv[0]).stem}-crash-{hashlib.sha256(data).hexdigest()}")
            kept.write_bytes(data)
            traceback.print_exc()
            print(f"after {count:,} inputs: {kept}", file=sys.stderr)
            sys.exit(77)
    print(f"{count:,} inputs, no finding")
