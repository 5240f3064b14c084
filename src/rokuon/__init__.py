"""Rokuon (録音): records the calls of a phone system from copies of its packets."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
