"""What can be wrong with where packets come from, as exceptions whose text is one line for a person to read."""

from __future__ import annotations

__all__ = ["CaptureError", "CapturePermissionError"]


class CaptureError(Exception):
    """A capture cannot be read at all; one line that names the file and what is wrong."""


class CapturePermissionError(CaptureError):
    """The interface is there, and we may not capture from it."""
