"""Times and durations: as people type them, as people read them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta
from typing import TypeVar

import click

from rokuon.store.sidecar import nanoseconds

__all__ = ["DURATION", "SINCE", "UNTIL", "duration", "local", "parse_duration", "parse_when", "talk"]

Value = TypeVar("Value")

UNITS = {"": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
AGO = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:s|sec|m|min|h|d|w)\s*)+", re.ASCII)
PIECE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)
CLOCK = re.compile(r"\d+(:[0-5]?\d){1,2}(\.\d+)?", re.ASCII)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds: "90", "90s", "1m30s", "1:30", "1:02:03". Raises ValueError."""
    lower = text.strip().lower()
    if CLOCK.fullmatch(lower):
        seconds = 0.0
        for part in lower.split(":"):
            seconds = seconds * 60 + float(part)
        return seconds
    pieces = PIECE.findall(lower)
    if not pieces or PIECE.sub("", lower).strip() or any(unit not in UNITS for _, unit in pieces) or len(lower) > 60:
        raise ValueError(f"not a duration: {text!r:.60}")
    return sum(float(number) * UNITS[unit] for number, unit in pieces)


def parse_when(text: str, now: datetime, end: bool = False) -> datetime:
    """A time: ISO 8601 (local unless it says otherwise), "today", "yesterday", "now", a weekday ("tuesday", "tue", "火曜": the
    last one that is over), or a duration before `now`.

    A whole day means its beginning, or where `end` its end. Raises ValueError.
    """
    lower = text.strip().lower()
    if lower == "now":
        return now
    if AGO.fullmatch(lower):
        try:
            return now - timedelta(seconds=parse_duration(lower))
        except OverflowError:
            return datetime(1, 1, 2, tzinfo=UTC)
    try:
        today = now.astimezone().date()
        if lower in ("today", "yesterday"):
            day = today - timedelta(days=lower == "yesterday")
        elif (weekday := _weekday(lower)) is not None:
            day = today - timedelta(days=(today.weekday() - weekday - 1) % 7 + 1)
        elif DAY.fullmatch(lower):
            day = datetime.fromisoformat(lower).date()
        else:
            return datetime.fromisoformat(text.strip()).astimezone(UTC)
        return datetime.combine(day + timedelta(days=end), time()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"not a time: {text!r:.60} (2026-11-24T09:30, 2026-11-24, today, yesterday, tuesday, 2h, 30m)") from None


def _weekday(text: str) -> int | None:
    for n, (name, kanji) in enumerate(zip(WEEKDAYS, "月火水木金土日", strict=True)):
        if text in (name, name[:3], f"{kanji}曜", f"{kanji}曜日"):
            return n
    return None


def option(read: Callable[[str], Value]) -> Callable[[click.Context, click.Parameter, str | None], Value | None]:
    """The function as the callback of an option, its ValueError a matter of usage."""
    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> Value | None:
        try:
            return None if value is None else read(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return convert


SINCE = option(lambda text: parse_when(text, datetime.now(UTC)))
UNTIL = option(lambda text: parse_when(text, datetime.now(UTC), end=True))
DURATION = option(parse_duration)


def local(stamp: str | datetime | None, fraction: bool = False) -> str:
    """A time of the sidecar or of the index as a person here reads it; "" for none."""
    if stamp is None:
        return ""
    if isinstance(stamp, str):
        stamp = datetime.fromtimestamp(nanoseconds(stamp) / 1e9, UTC)
    try:
        here = (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).astimezone()
    except (OverflowError, ValueError):
        here = stamp
    return here.strftime("%Y-%m-%d %H:%M:%S") + (f".{here.microsecond // 1000:03}" if fraction else "")


def duration(seconds: float | None) -> str:
    """A duration as m:ss or h:mm:ss; "" for none."""
    if seconds is None:
        return ""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def talk(seconds: float) -> str:
    """A duration in words: "4.0 s", "1 min 4 s", "2 h 3 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
