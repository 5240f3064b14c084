"""A machine whose processes run, for tests of alarms."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from tests.appliance.states import capture, correlate

from rokuon.appliance.alarm_rules import Look
from rokuon.appliance.alarms import Alarms
from rokuon.store.settings import HooksSettings, Settings

GIB = 1 << 30
SETTINGS = Settings(hooks=HooksSettings(repeat=900))
SILENCE = replace(SETTINGS, hooks=HooksSettings(repeat=900, silence=30, hours="Mon-Fri 09:00-18:00"))


@pytest.fixture(autouse=True)
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class Box:
    """A machine whose processes run, and alarms that look at it, by a clock of its own."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self.alarms = Alarms(settings, "box", "0.1.0")
        self.now, self.monotonic = datetime(2026, 11, 23, 12, 0).timestamp(), 1000.0  # a Monday
        self.capture: dict[str, Any] | None = capture()
        self.correlate: dict[str, Any] | None = correlate([])
        self.disk: tuple[int, int] | None = (50 * GIB, 100 * GIB)
        self.hook: dict[str, int] = {}
        self.hang: set[str] = set()
        self.calls = 0
        self.busy = True
        self.stamps = {"capture": self.now, "correlate": self.now}

    def look(self, seconds: float = 2.0) -> list[dict[str, Any]]:
        """What is told after so many seconds."""
        self.now, self.monotonic = self.now + seconds, self.monotonic + seconds
        self.calls += self.busy
        for name in ("capture", "correlate"):
            if name not in self.hang:
                self.stamps[name] = self.now
        stamps = {name: datetime.fromtimestamp(stamp).astimezone().isoformat() for name, stamp in self.stamps.items()}
        captures = {} if self.capture is None else {"eth1": {"time": stamps["capture"], **self.capture}}
        correlation = None if self.correlate is None else {"time": stamps["correlate"], **self.correlate}
        if correlation is not None and self.calls:
            correlation["totals"] = {**correlation["totals"], "seen": correlation["totals"]["seen"] + self.calls}
        return self.alarms.look(Look(self.now, self.monotonic, captures, correlation, self.disk, self.hook))

    def told(self, seconds: float, step: float = 2.0) -> list[tuple[str, str]]:
        """Alarm and status of what is told within so many seconds."""
        found: list[tuple[str, str]] = []
        for _ in range(round(seconds / step)):
            found += [(notice["id"], notice["status"]) for notice in self.look(step)]
        return found

    def interface(self, **changes: Any) -> None:
        assert self.capture is not None
        self.capture["interfaces"] = [{**self.capture["interfaces"][0], **changes}]

    def restart(self) -> None:
        """The alarms' own process is started again."""
        kept = json.loads(json.dumps(self.alarms.state()))
        self.alarms = Alarms(self.settings, "box", "0.1.0", kept)
