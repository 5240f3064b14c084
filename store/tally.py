"""Counts for as long as the archive exists: what became of each call that was seen, and what else was not recorded, by reason.

Of calls two sides are counted that have to agree, each where it happens: how many were seen is counted where they begin, what
became of them where they end. Those in progress are on neither side, so that a process that dies and sees them again counts
them once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rokuon.store.layout import FILE_MODE, Layout, refused
from rokuon.store.sidecar import dump, write_file

__all__ = ["Balance", "Ledger", "add", "read", "read_balance"]


_REASONS = 200
"""Reasons told apart: some hold the name of a codec, and whoever sends the packets chooses that."""
_LARGEST = 1 << 20


# -- calls -----------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Balance:
    """What became of the calls that are over."""

    seen: int = 0
    """Calls that began, with an INVITE or as RTP that behaves like voice, less those in progress."""
    recorded: int = 0
    known: int = 0
    """The archive had them already."""
    not_recorded: Mapping[str, int] = field(default_factory=dict)
    """Calls by reason."""

    @property
    def unaccounted(self) -> int:
        """Calls of which nobody knows what became; negative: counted twice. Zero, or there is a fault in rokuon."""
        return self.seen - self.recorded - self.known - sum(self.not_recorded.values())


class Ledger:
    """Writes what one process counts into the archive's balance, which others write to as well."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._posted = Balance()

    def post(self, now: Balance) -> None:
        """Adds what was counted since the last time; `now`: all that this process has counted. Raises StoreError where the
        archive cannot be written to; it is added the next time then.
        """
        before = self._posted
        if now == before:
            return
        path = _balance_file(self._layout)
        with _locked(path):
            there = read_balance(self._layout)
            reasons = dict(there.not_recorded)
            for reason, count in now.not_recorded.items():
                _count(reasons, reason, count - before.not_recorded.get(reason, 0))
            total = Balance(there.seen + now.seen - before.seen, there.recorded + now.recorded - before.recorded,
                            there.known + now.known - before.known, reasons)
            write_file(path, dump({"schema": 1, "seen": total.seen, "recorded": total.recorded, "known": total.known,
                                   "not_recorded": {k: reasons[k] for k in sorted(reasons)}}), sync=False)
        self._posted = Balance(now.seen, now.recorded, now.known, dict(now.not_recorded))


def read_balance(layout: Layout) -> Balance:
    """What became of all calls that were ever seen; nothing where the file is missing or damaged."""
    there = _object(_balance_file(layout))
    seen, recorded, known = (there.get(key) for key in ("seen", "recorded", "known"))
    reasons = there.get("not_recorded")
    if not (isinstance(seen, int) and isinstance(recorded, int) and isinstance(known, int) and isinstance(reasons, dict)):
        return Balance()
    return Balance(seen, recorded, known, {k: v for k, v in reasons.items() if isinstance(v, int)})


def _balance_file(layout: Layout) -> Path:
    return layout.root / "balance.json"


# -- what else was lost ------------------------------------------------------------
def read(layout: Layout) -> dict[str, int]:
    """Counts by reason; empty where nothing was counted yet or the file is damaged."""
    return {k: v for k, v in _object(layout.not_recorded).items() if isinstance(v, int)}


def add(layout: Layout, counts: Mapping[str, int]) -> None:
    """Add to the counts. Raises StoreError where the archive cannot be written to."""
    if not any(counts.values()):
        return
    with _locked(layout.not_recorded):
        total = read(layout)
        for reason, count in counts.items():
            _count(total, reason, count)
        write_file(layout.not_recorded, dump({k: total[k] for k in sorted(total)}), sync=False)


# -- files -------------------------------------------------------------------------
def _count(total: dict[str, int], reason: str, count: int) -> None:
    known = reason if reason in total or len(total) < _REASONS else "other"
    total[known] = total.get(known, 0) + count


def _object(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            there = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return there if isinstance(there, dict) else {}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else writes the file meanwhile. OSError becomes StoreError, in here too."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        with open(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise refused(error, f"cannot write {path}") from None
