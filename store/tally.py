"""What was seen and not recorded, counted by reason for as long as the archive exists."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping

from rokuon.store.layout import FILE_MODE, Layout, refused
from rokuon.store.sidecar import dump, write_file

__all__ = ["add", "read"]


_REASONS = 200
"""Reasons told apart: some hold the name of a codec, and whoever sends the packets chooses that."""


def read(layout: Layout) -> dict[str, int]:
    """Counts by reason; empty where nothing was counted yet or the file is damaged."""
    try:
        counts = json.loads(layout.not_recorded.read_bytes())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in counts.items() if isinstance(v, int)} if isinstance(counts, dict) else {}


def add(layout: Layout, counts: Mapping[str, int]) -> None:
    """Add to the counts. Raises StoreError where the archive cannot be written to."""
    if not any(counts.values()):
        return
    lock = layout.not_recorded.with_name(f".{layout.not_recorded.name}.lock")
    try:
        with open(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "wb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            total = read(layout)
            for reason, count in counts.items():
                known = reason if reason in total or len(total) < _REASONS else "other"
                total[known] = total.get(known, 0) + count
            write_file(layout.not_recorded, dump({k: total[k] for k in sorted(total)}), sync=False)
    except OSError as error:
        raise refused(error, f"cannot write {layout.not_recorded}") from None
