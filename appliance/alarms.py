"""Alarms: what is told of what is wrong, and when. Raised once, again after a while that it persists, and when it is over.

What is so now (a disk that is full) is over when it is no longer so; what happens in bursts (drops) is over when it has not
happened for a while; what happened once (a call was set aside) is told and then forgotten. Alarms survive a restart of ours:
what was told is not told again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rokuon.appliance.alarm_rules import CRITICAL, WARNING, Finding, Look, Memory, judge
from rokuon.appliance.hours import Hours
from rokuon.appliance.shapes import label, number, rows, table, whole
from rokuon.store.settings import Settings

__all__ = ["Alarms"]

MOST_ALARMS, LONGEST_ID = 200, 256
_CALM_S = 300.0
"""What comes in bursts is over after that long without it, or after [hooks] repeat if that is shorter."""
_ONCE = ("clock-step", "quarantine", "call-hook")
"""Kinds of which there is no end to tell."""


@dataclass(slots=True)
class _Alarm:
    id: str
    kind: str
    level: str
    text: str
    since: float
    told: float
    last: float
    facts: dict[str, Any] = field(default_factory=dict)
    untold: int = 0
    """How much happened since it was told."""


class Alarms:
    """The alarms there are. `host`, `version`: stand in each notice; `saved`: what `state()` gave when we last ran."""

    def __init__(self, settings: Settings, host: str, version: str, saved: Any = None) -> None:
        self._host, self._version = host, version
        self.use(settings)
        kept = table(saved)
        self._memory = Memory(kept.get("memory"))
        self._active: dict[str, _Alarm] = {}
        for row in rows(kept.get("active")):
            if isinstance(row.get("id"), str):
                since, told, last = (number(row.get(key)) or 0.0 for key in ("since_s", "told_s", "last_s"))
                name = label(row["id"], LONGEST_ID)
                self._active[name] = _Alarm(name, label(row.get("kind")), label(row.get("level")), str(row.get("text"))[:2000],
                                            since, told, last, dict(table(row.get("facts"))), whole(row.get("untold")))
        self.counts = Counter({kind: whole(n) for kind, n in table(kept.get("raised")).items()})
        """Alarms raised, by kind, as long as the archive exists."""

    def use(self, settings: Settings) -> None:
        """Takes other settings."""
        self._settings = settings
        self._hours = Hours(settings.hooks.hours)
        self._calm_s = min(_CALM_S, settings.hooks.repeat)

    def state(self) -> dict[str, Any]:
        """The alarms as DATA/state/alarms.json has them."""
        return {"active": [{"id": a.id, "kind": a.kind, "level": a.level, "text": a.text, "since": _iso(a.since),
                            "facts": a.facts, "since_s": a.since, "told_s": a.told, "last_s": a.last, "untold": a.untold}
                           for a in self._active.values()],
                "raised": dict(self.counts), "memory": self._memory.state()}

    def look(self, look: Look) -> list[dict[str, Any]]:
        """Judges, and gives the notices that have to be told now, as the alarm command gets them."""
        now, told = look.wall, []
        found: dict[str, Finding] = {}
        for finding in judge(look, self._settings, self._hours, self._memory):
            found.setdefault(finding.id, finding)
        for alarm in self._active.values():  # a clock that was set back would keep alarms for ever
            alarm.since, alarm.told, alarm.last = (min(time, now) for time in (alarm.since, alarm.told, alarm.last))
        for finding in found.values():
            if (notice := self._met(finding, now)) is not None:
                told.append(notice)
        for alarm in list(self._active.values()):
            if alarm.id not in found and (notice := self._missed(alarm, now)) is not None:
                told.append(notice)
        return told

    def _met(self, finding: Finding, now: float) -> dict[str, Any] | None:
        alarm = self._active.get(finding.id)
        if finding.how == "unsure" or (alarm is None and len(self._active) >= MOST_ALARMS):
            return None
        new = alarm is None
        if alarm is None:
            alarm = self._active[finding.id] = _Alarm(finding.id, finding.kind, finding.level, "", now, now, now)
            self.counts[alarm.kind] += 1
        worse = (alarm.level, finding.level) == (WARNING, CRITICAL)
        alarm.untold += finding.amount
        alarm.level, alarm.last = finding.level, now
        alarm.facts = {**finding.facts, finding.of: alarm.untold} if finding.of else dict(finding.facts)
        alarm.text = finding.text(alarm.facts)
        if not (new or worse or now - alarm.told >= self._settings.hooks.repeat):
            return None
        alarm.told, alarm.untold = now, 0
        return self._notice(alarm, "raised" if new or worse or alarm.kind in _ONCE else "repeated", now)

    def _missed(self, alarm: _Alarm, now: float) -> dict[str, Any] | None:
        """What was an alarm and is not found now."""
        if alarm.kind in _ONCE:
            if now - alarm.told < self._settings.hooks.repeat:
                return None
            if alarm.untold:
                alarm.told, alarm.untold = now, 0
                return self._notice(alarm, "raised", now)
            del self._active[alarm.id]
            return None
        if alarm.kind in ("drops", "not-written") and now - alarm.last < self._calm_s:
            return None
        del self._active[alarm.id]
        return self._notice(alarm, "cleared", now)

    def _notice(self, alarm: _Alarm, status: str, now: float) -> dict[str, Any]:
        text = f"Over: {alarm.text}" if status == "cleared" else alarm.text
        return {"schema": 1, "id": alarm.id, "kind": alarm.kind, "status": status, "level": alarm.level, "text": text,
                "since": _iso(alarm.since), "time": _iso(now), "host": self._host, "version": self._version, "facts": alarm.facts}


def _iso(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00.000000Z"
