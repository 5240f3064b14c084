"""Business hours: what may be written, and when they have begun."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.appliance.hours import Hours
from rokuon.store.settings import SettingsError, parse


def local(text: str) -> datetime:
    return datetime.strptime(text, "%a %H:%M").replace(year=2026, month=11, day=23) + timedelta(
        days=["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].index(text[:3]))


@pytest.mark.parametrize(("hours", "now", "begun"), [
    ("Mon-Fri 09:00-18:00", "Mon 09:00", "Mon 09:00"),
    ("Mon-Fri 09:00-18:00", "Fri 17:59", "Fri 09:00"),
    ("Mon-Fri 09:00-18:00", "Fri 18:00", None),
    ("Mon-Fri 09:00-18:00", "Sun 12:00", None),
    ("Mon-Fri 09:00-12:00 13:00-18:00, Sat 10:00-12:00", "Tue 12:30", None),
    ("Mon-Fri 09:00-12:00 13:00-18:00, Sat 10:00-12:00", "Sat 11:00", "Sat 10:00"),
    ("Mon-Fri 09:00-12:00 12:00-18:00", "Tue 13:00", "Tue 09:00"),
    ("Fri 22:00-06:00", "Sat 05:00", "Fri 22:00"),
    ("Fri 22:00-06:00", "Fri 05:00", None),
    ("Sun 22:00-24:00, Mon 00:00-02:00", "Mon 01:00", "Sun 22:00"),
    ("Sat-Mon 09:00-10:00", "Mon 09:30", "Mon 09:00"),
    ("Sat-Mon 09:00-10:00", "Tue 09:30", None),
])
def test_hours(hours: str, now: str, begun: str | None) -> None:
    assert parse(f"[hooks]\nhours = '{hours}'", "f").hooks.hours == hours
    found = Hours(hours).begun(local(now) + (timedelta(days=7) if begun and begun[:3] == "Sun" else timedelta()))
    assert (None if found is None else f"{found:%a %H:%M}") == begun


@pytest.mark.parametrize("hours", ["Mon", "9-18", "Mon-Fri", "Mon-Fri 9:00-18:00", "Mon-Fri 09:00-25:00", "mon 09:00-18:00",
                                   "Mon 09:00-18:00,", "Mon,Tue 09:00-18:00", "Mon 24:00-02:00", "Mon 09:60-10:00"])
def test_what_are_no_hours(hours: str) -> None:
    with pytest.raises(SettingsError, match=r"^f:2: hooks.hours must be days and times, such as"):
        parse(f"[hooks]\nhours = '{hours}'", "f")


def test_no_hours_are_always() -> None:
    assert Hours("").begun(local("Sun 03:00")) is not None


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439),
       st.integers(1, 1440))
def test_hours_by_counting_minutes(now: datetime, first: int, last: int, begin: int, minutes: int) -> None:
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    end = (begin + minutes) % 1440
    text = f"{days[first]}-{days[last]} {begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    week = set()
    for n in range((last - first) % 7 + 1):
        start = (first + n) % 7 * 1440 + begin
        week |= {(start + m) % 10_080 for m in range(minutes)}
    of_week = now.weekday() * 1440 + now.hour * 60 + now.minute
    begun = Hours(text).begun(now)
    assert (begun is not None) == (of_week in week)
    if begun is not None:
        assert begun <= now
        assert (of_week - int((now - begun).total_seconds() // 60)) % 10_080 in week
