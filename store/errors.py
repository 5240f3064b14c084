"""What can go wrong with an archive, as exceptions whose text is one line for a person to read."""

from __future__ import annotations

__all__ = ["AmbiguousCallError", "ChildFailedError", "DataError", "ExistsError", "IndexBusyError", "NoSuchCallError",
           "NotPermittedError", "StoreError", "why"]


class StoreError(Exception):
    """The work cannot be done; the text says why, on one line."""


class DataError(StoreError):
    """A file or directory is not what it should be."""


class NotPermittedError(StoreError):
    """The operating system refuses access."""


class IndexBusyError(StoreError):
    """Somebody else has held the index for too long."""


class NoSuchCallError(StoreError):
    """No call goes by that name."""


class AmbiguousCallError(StoreError):
    """Several calls go by that name."""


class ExistsError(StoreError):
    """A file that would be written is there already."""


class ChildFailedError(Exception):
    """A process could not begin; it has said why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def why(error: OSError) -> str:
    """What the system says is wrong, as the end of a line."""
    return (error.strerror or str(error)).lower()
