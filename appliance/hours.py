"""Business hours: "Mon-Fri 09:00-12:00 13:00-18:00, Sat 09:00-13:00"."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["Hours"]

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Hours:
    """Spans of a week, in local time. The text's form is checked by `rokuon.store.settings`; an empty one means always.

    A span that ends before it begins goes on into the next day: "Fri 22:00-06:00" ends on Saturday.
    """

    def __init__(self, text: str) -> None:
        self._spans: list[tuple[int, int, int]] = []
        """Day of the week (0: Monday), minute of the day it begins, minutes it lasts."""
        for group in filter(None, map(str.strip, text.split(","))):
            days, *times = group.split()
            first, _, last = days.partition("-")
            start, end = DAYS.index(first), DAYS.index(last or first)
            for n in range((end - start) % 7 + 1):
                for span in times:
                    begin, over = map(_minute, span.split("-"))
                    self._spans.append(((start + n) % 7, begin, (over - begin) % 1440 or 1440))

    def begun(self, now: datetime) -> datetime | None:
        """When the span that `now` (with its zone, or local without) lies in began; None: it lies in none.

        Spans that touch are one. Always: some time long ago.
        """
        if not self._spans:
            return now - timedelta(days=7)
        begin = self._begin(now)
        if begin is None:
            return None
        for _ in range(len(self._spans)):
            earlier = self._begin(begin - timedelta(seconds=1))
            if earlier is None or earlier >= begin:
                break
            begin = earlier
        return begin

    def _begin(self, now: datetime) -> datetime | None:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        found = []
        for day, begin, minutes in self._spans:
            for back in (0, 1):
                date = midnight - timedelta(days=back)
                start = date + timedelta(minutes=begin)
                if date.weekday() == day and start <= now < start + timedelta(minutes=minutes):
                    found.append(start)
        return min(found, default=None)


def _minute(text: str) -> int:
    hour, minute = text.split(":")
    return int(hour) * 60 + int(minute)
