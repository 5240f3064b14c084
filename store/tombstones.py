"""Calls that were deleted and must not come back: DATA/tombstones holds keyed hashes of their legs, and nothing else of them.

A record is 16 octets: the first half of HMAC-SHA-256 (RFC 2104), under the key in DATA/tombstones.key, over what a leg is
recognised by. docs/format.md is the specification.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rokuon.store.errors import DataError
from rokuon.store.layout import FILE_MODE, Layout, refused

__all__ = ["Tombstones"]

_RECORD = 16
_KEY = 32


class Tombstones:
    """The tombstones of an archive."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stamp: tuple[int, int, int] | None = None
        self._hashes: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._key = b""

    # -- asked -------------------------------------------------------------------
    def any(self) -> bool:
        """Whether there are some; looks at the file anew. Raises StoreError where they cannot be read: then nobody knows
        what must not be recorded.
        """
        path = self._layout.tombstones
        try:
            found = os.stat(path)
            stamp = found.st_ino, found.st_size, found.st_mtime_ns
            if stamp != self._stamp:
                self._key = self._layout.tombstones_key.read_bytes()
                with open(path, "rb") as file:
                    content = np.frombuffer(file.read(found.st_size // _RECORD * _RECORD), np.uint64)
                # half of a record tells a million calls from each other: 2^-44 that one is taken for another
                self._hashes = np.unique(content[::2])
                self._stamp = stamp
        except FileNotFoundError as error:
            if error.filename == os.fspath(path):
                self._hashes, self._stamp = np.zeros(0, np.uint64), None
                return False
            raise DataError(f"{self._layout.tombstones_key} is missing: without it nobody knows which calls were deleted for "
                            f"good; bring it back, or delete {path} too") from None
        except OSError as error:
            raise refused(error, f"cannot read {error.filename or path}") from None
        if len(self._key) < _KEY:
            raise DataError(f"{self._layout.tombstones_key} is damaged")
        return len(self._hashes) > 0

    def among(self, calls: Sequence[Mapping[str, Any]]) -> list[bool]:
        """For each call, as facts in the sidecar's shape, whether it was deleted: one of its legs has a tombstone. To be asked
        after `any`.
        """
        if not len(self._hashes):
            return [False] * len(calls)
        hashes = [(n, h) for n, call in enumerate(calls) for text in _sought(call) for h in [self._hash(text)]]
        wanted = np.frombuffer(b"".join(h for _, h in hashes), np.uint64)[::2]
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = {hashes[i][0] for i in np.flatnonzero(self._hashes[at] == wanted).tolist()}
        return [n in found for n in range(len(calls))]

    def _hash(self, text: bytes) -> bytes:
        return hmac.digest(self._key, text, hashlib.sha256)[:_RECORD]

    # -- written -----------------------------------------------------------------
    def add(self, calls: Iterable[Mapping[str, Any]]) -> None:
        """Notes calls, in the sidecar's shape, as deleted. On the disk when this returns. Raises StoreError."""
        path = self._layout.tombstones
        try:
            self._key = self._make_key()
            content = b"".join(self._hash(text) for call in calls for text in _written(call))
            with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                end = file.seek(0, os.SEEK_END) // _RECORD * _RECORD  # a record that was cut short is none
                file.truncate(end)
                file.seek(end)
                left = memoryview(content)
                while left:
                    left = left[file.write(left) or 0:]
                os.fsync(file)
        except OSError as error:
            raise refused(error, f"cannot write {error.filename or path}") from None

    def _make_key(self) -> bytes:
        """The key; a new one where there is none. Raises OSError."""
        path = self._layout.tombstones_key
        with suppress(FileNotFoundError):
            return path.read_bytes()
        temporary = self._layout.temporary(path)
        temporary.unlink(missing_ok=True)
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(os.urandom(_KEY))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # somebody else made one at the same time
            os.link(temporary, path)
        temporary.unlink()
        return path.read_bytes()


def _text(kind: str, *parts: str) -> bytes:
    """The parts with the length of each before it, so that no two lists of parts read the same."""
    texts = [part.encode("utf-8", "surrogatepass") for part in (kind, *parts)]
    return b"".join(len(text).to_bytes(4, "big") + text for text in texts)


def _tags(leg: Mapping[str, Any]) -> list[str]:
    return sorted(tag for tag in (leg.get("from_tag"), leg.get("to_tag")) if tag)


def _written(call: Mapping[str, Any]) -> list[bytes]:
    """What of a deleted call is hashed: of a leg the dialog, and for copies that saw only one of its tags, each tag."""
    texts = [] if call["legs"] else [_text("id", name) for name in (call["id"], *(call.get("also_known_as") or []))]
    for leg in call["legs"]:
        tags = _tags(leg)
        if len(tags) == 2:
            texts += [_text("dialog", leg["call_id"], *tags), *(_text("half", leg["call_id"], tag) for tag in tags)]
        else:
            texts.append(_text("open", leg["call_id"], *tags))
    return texts


def _sought(call: Mapping[str, Any]) -> list[bytes]:
    """What of a call is looked up: a tag that one of two copies never saw fits any."""
    texts = [] if call["legs"] else [_text("id", call["id"])]
    for leg in call["legs"]:
        tags = _tags(leg)
        texts.append(_text("dialog", leg["call_id"], *tags) if len(tags) == 2 else _text("half", leg["call_id"], *tags))
        texts += [_text("open", leg["call_id"], tag) for tag in tags] or [_text("open", leg["call_id"])]
    return texts
