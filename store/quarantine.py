"""Calls that could not be finalised, set aside: the reason, what is known of them, and their packets."""

from __future__ import annotations

from pathlib import Path

from rokuon.store.jobs import Job
from rokuon.store.layout import Layout, refused
from rokuon.store.settings import Settings
from rokuon.store.sidecar import dump, write_file
from rokuon.store.worker import Worker

__all__ = ["Quarantine"]


class Quarantine:
    """DATA/quarantine."""

    def __init__(self, layout: Layout, spool: Path, settings: Settings) -> None:
        """`spool`: the directory in which the segments lie that jobs speak of."""
        self._layout = layout
        self._worker = Worker(layout.root, spool, settings)

    def take(self, job: Job, reason: str) -> None:
        """Sets a call aside, of a long one the part that could not be finalised. Raises StoreError."""
        self._layout.make_directory(self._layout.quarantine)
        path = self._layout.quarantine / f"{job.id}.json"
        try:
            self._worker.set_aside(job, path.with_suffix(".pcap"))
            write_file(path, dump({**job.facts, "quarantine_reason": reason}))
        except OSError as error:
            raise refused(error, f"cannot write {path}") from None

    def close(self) -> None:
        """Lets go of files."""
        self._worker.close()
