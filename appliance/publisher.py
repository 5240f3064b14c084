"""Publishing what a process says of itself from a thread of its own: a disk that stalls must not hold up what matters more."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rokuon.appliance.logs import Log
from rokuon.appliance.state import publish
from rokuon.store.errors import why

__all__ = ["Publisher"]

_END_S = 5.0


class Publisher:
    """Puts states in the place of the one before; of those that come while the disk stalls the newest counts."""

    def __init__(self, path: Path, log: Log) -> None:
        self._path, self._log = path, log
        self._changed = threading.Condition()
        self._newest: Mapping[str, Any] | None = None
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="publisher", daemon=True)
        self._thread.start()

    def put(self, state: Mapping[str, Any]) -> None:
        """Takes a state to be published; returns at once."""
        with self._changed:
            self._newest = state
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._newest is None and not self._ending:
                    self._changed.wait()
                state, self._newest = self._newest, None
            if state is None:
                return
            try:
                publish(self._path, state)
            except OSError as error:
                self._log.warning("state", f"cannot write {self._path}: {why(error)}")

    def close(self) -> None:
        """Publishes what is left, unless the disk stalls for long."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join(_END_S)
