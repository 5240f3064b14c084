"""What `rokuon live` shows, from what the processes say of themselves: checked, bounded, in order; nothing of terminals.

State files may be of another version, or cut, or anything: a value that is not what it should be is taken as not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from rokuon.appliance.state import STALE_S, age_s

__all__ = ["CallLine", "CaptureLine", "Process", "Sides", "View", "view"]

Sides = tuple[float | None, float | None]
"""From the caller, and from the callee."""
Process = Literal["running", "stale", "stopped"]

LONGEST = 200
"""Characters of a name that are looked at."""
LAGS_S = 10.0
"""Seconds behind the wire from which on people are told."""
NOTICES = 3
WHEN_FULL = {"keep-oldest": "no new call is recorded when it is full", "keep-newest": "the oldest calls are deleted for room"}
THE_TERMINAL = "look at the terminal of rokuon record -i, or start it again"
_LARGEST = 1e18


@dataclass(slots=True, frozen=True)
class CaptureLine:
    """A capture process."""

    name: str
    process: Process
    age_s: float
    interfaces: tuple[tuple[str, bool | None], ...]
    """Name, and whether its link is up."""
    packets_s: float | None
    bytes_s: float | None
    dropped: float | None
    """Packets that kernel and interface dropped since the process began; beside it those of the last second."""
    dropped_s: float | None
    spool_bytes: float | None
    not_written: float
    """Packets that the spool could not take since the process began."""
    notices: tuple[str, ...]
    """What it warned of, newest last."""
    supervised: bool
    """By `rokuon record -i`, and by no service manager."""


@dataclass(slots=True, frozen=True)
class CallLine:
    """A call in progress."""

    start: datetime | None
    lasts_s: float | None
    """Seconds since it was answered, or since it began where it was not; packet time."""
    caller: str
    callee: str
    """Number and name, as far as they are known; else the address."""
    state: str
    codec: str
    packets: Sides
    lost_percent: Sides
    jitter_ms: Sides


@dataclass(slots=True)
class View:
    """All of the screen."""

    running: bool = False
    """Whether any process is there."""
    captures: list[CaptureLine] = field(default_factory=list)
    correlate: Process | None = None
    in_progress: int = 0
    calls: list[CallLine] = field(default_factory=list)
    """Newest first."""
    behind_s: float | None = None
    waiting: float | None = None
    """Calls that wait to be written."""
    spool_bytes: float | None = None
    recorded: float | None = None
    not_recorded: float | None = None
    """Calls, both since the process began."""
    unfinished: float | None = None
    """Calls that are in progress or not in the index yet."""
    disk_free: float | None = None
    days_left: float | None = None
    measured: bool = False
    """Whether any call's loss or jitter is known: it is only while somebody watches."""
    warnings: list[str] = field(default_factory=list)
    """What is wrong and what to do about it, a line each, worst first."""
    notices: list[str] = field(default_factory=list)
    """What captures warned of lately."""


def view(captures: Mapping[str, Mapping[str, Any]], correlate: Mapping[str, Any] | None) -> View:
    """captures: by name, correlate: the states that `rokuon.appliance.state` reads; of any content."""
    result = View()
    result.captures = [_capture(name, state) for name, state in sorted(captures.items())]
    if correlate is not None:
        result.correlate = _process(correlate)
        if result.correlate != "stopped":
            _correlation(result, correlate)
    result.running = result.correlate == "running" or any(c.process == "running" for c in result.captures)
    result.warnings = list(_warnings(result, correlate or {}))
    heard = [notice if notice.startswith(f"{c.name}: ") else f"{c.name}: {notice}"
             for c in result.captures if c.process == "running" for notice in c.notices]
    result.notices = heard[-NOTICES:]
    return result


def _process(state: Mapping[str, Any]) -> Process:
    if state.get("stopped") is True:
        return "stopped"
    return "running" if age_s(state) <= STALE_S else "stale"


def _capture(name: str, state: Mapping[str, Any]) -> CaptureLine:
    interfaces = [entry for entry in _list(state, "interfaces")[:64] if isinstance(entry, dict)]
    drops = [_number(entry, key) for entry in interfaces for key in ("dropped_by_kernel", "dropped_by_interface")]
    known = [count for count in drops if count is not None]
    links = tuple((_text(entry, "name") or name, up if isinstance(up := entry.get("up"), bool) else None) for entry in interfaces)
    notices = tuple(text[:LONGEST] for text in _list(state, "warnings")[-NOTICES:] if isinstance(text, str))
    return CaptureLine(name[:LONGEST], _process(state), age_s(state), links, _number(state, "packets_s"),
                       _number(state, "bytes_s"), sum(known) if known else None, _number(state, "dropped_s"),
                       _number(state, "spool_bytes"), _total(state, "not_written"), notices,
                       state.get("supervised") is True)


def _correlation(result: View, state: Mapping[str, Any]) -> None:
    now = _time(state, "now") or _time(state, "time")
    live = [entry for entry in _list(state, "live") if isinstance(entry, dict)]
    calls = [_call(entry, now) for entry in live]
    first = datetime.min.replace(tzinfo=UTC)
    result.calls = sorted(calls, key=lambda call: call.start or first, reverse=True)
    listed = len(live) + _whole(state, "live_more")
    result.in_progress = max(listed, _whole(state, "calls_in_progress"))
    result.measured = any(side is not None for call in calls for side in (*call.lost_percent, *call.jitter_ms))
    result.behind_s = _number(state, "behind_s")
    backlog, totals, disk = (_object(state, key) for key in ("backlog", "totals", "disk"))
    result.waiting, result.spool_bytes = _number(backlog, "jobs"), _number(backlog, "spool_bytes")
    result.recorded, result.unfinished = _number(totals, "recorded"), _number(totals, "in_progress")
    result.not_recorded = _total(totals, "calls_not_recorded")
    result.disk_free, result.days_left = _number(disk, "free"), _number(disk, "days_left")


def _call(entry: Mapping[str, Any], now: datetime | None) -> CallLine:
    start, answer = _time(entry, "start"), _time(entry, "answer")
    since = answer or start
    lasts = max(0.0, (now - since).total_seconds()) if now and since else None
    packets, lost = _sides(entry, "packets"), _sides(entry, "lost")
    watched = _sides(entry, "watched") if "watched" in entry else packets
    percent = tuple(None if p is None or gone is None else 100 * gone / (p + gone) if p + gone else 0.0
                    for p, gone in zip(watched, lost, strict=True))
    parties = [" ".join(filter(None, (_text(entry, side), _text(entry, f"{side}_name")))) or _text(entry, f"{side}_address") or ""
               for side in ("caller", "callee")]
    return CallLine(start, lasts, parties[0], parties[1], _text(entry, "state") or "", _text(entry, "codec") or "", packets,
                    (percent[0], percent[1]), _sides(entry, "jitter_ms"))


def _warnings(result: View, correlate: Mapping[str, Any]) -> Iterator[str]:
    captured = [c for c in result.captures if c.process == "running"]
    there = [c.supervised for c in result.captures if c.process != "stopped"]
    supervised = correlate.get("supervised") is True if result.correlate in ("running", "stale") else all(there)
    for capture in result.captures:
        if capture.process == "stale":
            where = THE_TERMINAL if capture.supervised else f"systemctl status rokuon-capture@{capture.name}.service"
            yield f"capture of {capture.name}: {_silent(capture.age_s)}: {where}"
    if result.correlate == "stale":
        yield f"the correlating process: {_silent(age_s(correlate))}: " + (
            THE_TERMINAL if supervised else "systemctl status rokuon.service")
    if captured and result.correlate in (None, "stopped"):
        yield "what is captured waits in the spool, for nothing makes calls of it: " + (
            THE_TERMINAL if supervised else "systemctl start rokuon.service")
    if result.correlate == "running" and not captured and not any(c.process == "stale" for c in result.captures):
        yield "nothing is captured: " + (THE_TERMINAL if supervised else "systemctl start rokuon-capture@IFACE.service")
    for capture in captured:
        for interface, up in capture.interfaces:
            if up is False:
                yield f"{interface} is down: look at its cable and at the mirror port; ip link set {interface} up"
        if capture.dropped_s:
            lost = f"{capture.dropped_s:,.0f} packets dropped in the last second"
            yield f"{capture.name}: {lost}: see rokuon doctor -i {capture.name}"
        if capture.not_written:
            yield f"{capture.name}: {capture.not_written:,.0f} packets could not be written: is the disk full or slow?"
    if result.correlate != "running":
        return
    if result.behind_s is not None and result.behind_s > LAGS_S:
        yield f"calls appear {result.behind_s:,.0f} s late: more comes than is worked off"
    disk = _object(correlate, "disk")
    level, policy = disk.get("level"), disk.get("policy")
    if level in ("low", "full"):
        what = "; " + WHEN_FULL[policy] if isinstance(policy, str) and policy in WHEN_FULL else ""
        yield f"the disk is {'full' if level == 'full' else 'nearly full'}{what}: make room"


def _silent(age: float) -> str:
    return f"no word for {age:,.0f} s" if math.isfinite(age) else "no word"


# -- values of whatever is there -----------------------------------------------
def _as_number(value: Any) -> float | None:
    """A finite number of a size that can be; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LARGEST:
        return None
    return float(value)


def _number(state: Mapping[str, Any], key: str) -> float | None:
    return _as_number(state.get(key))


def _whole(state: Mapping[str, Any], key: str) -> int:
    return int(_number(state, key) or 0)


def _text(state: Mapping[str, Any], key: str) -> str | None:
    value = state.get(key)
    return value[:LONGEST] if isinstance(value, str) else None


def _list(state: Mapping[str, Any], key: str) -> list[Any]:
    value = state.get(key)
    return value if isinstance(value, list) else []


def _object(state: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = state.get(key)
    return value if isinstance(value, dict) else {}


def _total(state: Mapping[str, Any], key: str) -> float:
    return sum(number for value in _object(state, key).values() if (number := _as_number(value)) is not None)


def _sides(state: Mapping[str, Any], key: str) -> Sides:
    values = _list(state, key)
    return (_as_number(values[0]), _as_number(values[1])) if len(values) == 2 else (None, None)


def _time(state: Mapping[str, Any], key: str) -> datetime | None:
    value = state.get(key)
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if time is None else time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
