"""Values out of state files, taken with care: another process wrote them, of another version perhaps, about hostile traffic.

Nothing here raises: what is not of the shape that was asked for is taken as nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["counts", "label", "number", "rows", "table", "whole"]

MOST_ROWS = 256
_LARGEST = 2**63
_LONGEST = 64
_UNFIT = re.compile(r"[^A-Za-z0-9 ._:/+()@#=,-]+")


def whole(value: Any) -> int:
    """A count: 0 where it is none, or negative."""
    found = number(value)
    return int(found) if found is not None and found > 0 else 0


def number(value: Any) -> float | None:
    """A finite number, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if -_LARGEST < value < _LARGEST else None
    return value if math.isfinite(value) else None


def table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The objects in a list, at most 256 of them."""
    return [row for row in value[:MOST_ROWS] if isinstance(row, dict)] if isinstance(value, list) else []


def counts(value: Any) -> dict[str, int]:
    """Counts by name, the names as they came."""
    return {name: whole(count) for name, count in table(value).items() if number(count) is not None}


def label(value: Any, longest: int = _LONGEST) -> str:
    """A name that may stand in a metric's label, an alarm and a terminal: printable ASCII, at most `longest` characters, no
    quotes or backslashes; `_` stands for the rest. "unknown" where there is none.
    """
    return (_UNFIT.sub("_", value[:4 * longest])[:longest] if isinstance(value, str) else "") or "unknown"
