"""What is wrong, judged from what the processes say of themselves: a look at it, and the rules.

Names in findings come from this machine (interfaces, processes), never from packets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from rokuon.appliance.alarm_texts import TEXTS
from rokuon.appliance.hours import Hours
from rokuon.appliance.shapes import counts, label, number, rows, table, whole
from rokuon.appliance.state import STALE_S
from rokuon.store.settings import Settings

__all__ = ["CRITICAL", "WARNING", "Finding", "Look", "Memory", "judge"]

WARNING, CRITICAL = "warning", "critical"
BEHIND_S = 60.0
_REPLAY_S = 600.0
"""For so long a process that has just begun may be at what the spool had for it."""
_GROWING = 5
"""Minutes on end that the backlog grows before that is an alarm …"""
_MANY_JOBS = 20
"""… if it is that long by then."""
_START_S = 30.0
"""After our own start, the others may still be starting."""
_FEW_FILES = 100_000
_MUTE_BYTES = 4 << 20
"""Free on a disk so full that nobody may be able to write a state file; that is an alarm of its own."""
_FULL = 0.8
"""Share of the spool's bound."""
_MOST_PROCESSES, _MOST_COUNTERS = 64, 256


@dataclass(frozen=True, slots=True)
class Look:
    """All that is known at one moment. `wall`: seconds since 1970; `monotonic`: seconds; `disk`: bytes free and in all."""

    wall: float
    monotonic: float
    captures: Mapping[str, Mapping[str, Any]]
    correlation: Mapping[str, Any] | None
    disk: tuple[int, int] | None
    hook: Mapping[str, int] = field(default_factory=dict)
    """The call hook's counts."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `id`: its kind and what it is about, with slashes; `says`: its text, see alarm_texts.py.

    `how`: "is" (it is so now), "was" (it happened since the last look), "unsure" (it cannot be judged now: where there was an
    alarm it stays). `amount`: how much happened; `of`: the name that it has among the facts, as in "packets".
    """

    id: str
    level: str
    says: str
    facts: Mapping[str, Any]
    how: str = "is"
    amount: int = 0
    of: str = ""

    @property
    def kind(self) -> str:
        return self.id.partition("/")[0]

    def text(self, facts: Mapping[str, Any]) -> str:
        """What it says, with these facts."""
        return TEXTS[self.says].format_map(facts)


class Memory:
    """What the rules have to remember between looks. `saved`: what `state()` gave when we last ran."""

    def __init__(self, saved: Any = None) -> None:
        kept = table(saved)
        self._counters = {process: (str(table(row).get("started")), counts(table(row).get("counts")))
                          for process, row in table(kept.get("counters")).items()}
        self.heard: float | None = number(kept.get("heard"))
        """When there was last a sign of a call, seconds since 1970."""
        self.sign: str | None = None
        """What that was judged by: it changes with each packet of a call."""
        self.backlog: list[int] = []
        """Its length, a minute apart."""
        self.sampled = float("-inf")
        self._replay = ("", 0.0)
        self._seen: dict[str, tuple[object, float, float]] = {}
        self._new: dict[str, tuple[str, dict[str, int]]] = {}

    def since(self, started: str, now: float) -> float:
        """When correlation that started at this time was first seen."""
        if self._replay[0] != started:
            self._replay = (started, now)
        return self._replay[1]

    def state(self) -> dict[str, Any]:
        return {"counters": {process: {"started": started, "counts": counted}
                             for process, (started, counted) in self._counters.items()}, "heard": self.heard}

    def more(self, process: str, started: Any, counter: str, value: Any) -> int:
        """By how much a process's counter grew since the last look. What a process that is new to us counted before is no news;
        one that has started again counts from 0.
        """
        started, count = label(started), whole(value)
        if process in self._new or len(self._new) < _MOST_PROCESSES:
            counted = self._new.setdefault(process, (started, {}))[1]
            if counter in counted or len(counted) < _MOST_COUNTERS:
                counted[counter] = count
        if process not in self._counters:
            return 0
        before, known = self._counters[process]
        return max(0, count - known.get(counter, 0)) if before == started else count

    def silent_s(self, name: str, process: Mapping[str, Any], look: Look) -> tuple[float, float]:
        """Seconds for which a process's state has not changed, and that we have watched it, by our own clock: one that was
        set does not matter.
        """
        said = (process.get("time"), process.get("pid"))
        before = self._seen.get(name)
        if before is None:
            self._seen[name] = (said, look.monotonic, look.monotonic)
        elif before[0] != said:
            self._seen[name] = (said, look.monotonic, before[2])
        _, changed, first = self._seen[name]
        return look.monotonic - changed, look.monotonic - first

    def looked(self) -> None:
        """The look is over: counters that nobody has any more are forgotten."""
        self._counters, self._new = self._new, {}


def judge(look: Look, settings: Settings, hours: Hours, memory: Memory) -> list[Finding]:
    """All that is wrong."""
    running = {name: state for name, state in sorted(look.captures.items()) if _runs(f"capture-{name}", state, look, memory)}
    correlates = look.correlation is not None and _runs("correlate", look.correlation, look, memory)
    found = [*_gone(look, memory, set(running), correlates), *_disk(look, settings, correlates)]
    for name, state in sorted(look.captures.items()):
        found += _capture(label(name), state, name in running, memory)
    if look.correlation is not None:
        found += _correlation(look.correlation, correlates, look, memory)
    found += _silence(look, settings, hours, memory, running, correlates)
    found += _hook(look, memory)
    memory.looked()
    return found


def _runs(name: str, state: Mapping[str, Any], look: Look, memory: Memory) -> bool:
    silent, watched = memory.silent_s(name, state, look)
    if state.get("stopped") is True:
        return False
    if silent != watched:  # it changed since we watch it
        return silent <= STALE_S
    try:
        return abs(look.wall - datetime.fromisoformat(str(state.get("time"))).timestamp()) <= STALE_S
    except (ValueError, OverflowError, OSError):
        return False


def _gone(look: Look, memory: Memory, running: set[str], correlates: bool) -> Iterator[Finding]:
    processes = [("capture", name, state, name in running) for name, state in sorted(look.captures.items())]
    if look.correlation is not None:
        processes.append(("correlate", "", look.correlation, correlates))
    mute = look.disk is not None and look.disk[0] < _MUTE_BYTES
    for what, name, state, runs in processes:
        if runs or state.get("stopped") is True:
            continue
        process = f"capture-{name}" if what == "capture" else what
        silent, watched = memory.silent_s(process, state, look)
        facts = {"process": label(process), "name": label(name), "pid": whole(state.get("pid")),
                 "last": label(state.get("time"))}
        sure = silent > (STALE_S if silent != watched else _START_S) and not mute
        yield Finding(f"process-gone/{label(process)}", CRITICAL, f"process-gone/{what}", facts, "is" if sure else "unsure")
    for what, missing in (("capture", correlates and not look.captures),
                          ("correlate", bool(running) and look.correlation is None)):
        if missing:
            _, watched = memory.silent_s(f"no {what}", {}, look)
            yield Finding(f"process-gone/{what}", CRITICAL, f"never-ran/{what}", {"process": what},
                          "is" if watched > _START_S else "unsure")


def _capture(name: str, state: Mapping[str, Any], runs: bool, memory: Memory) -> Iterator[Finding]:
    process, started, now = f"capture-{name}", state.get("started"), "is" if runs else "unsure"
    for row in rows(state.get("interfaces")):
        facts = {"capture": name, "interface": label(row.get("name"))}
        interface = facts["interface"]
        for cause in ("kernel", "interface"):
            if more := memory.more(process, started, f"{interface}/{cause}", row.get(f"dropped_by_{cause}")):
                yield Finding(f"drops/{interface}/{cause}", WARNING, f"drops/{cause}", {**facts, "cause": cause},
                              "was", more, "packets")
        if row.get("up") is False:
            yield Finding(f"link-down/{interface}", CRITICAL, "link-down", facts, now)
    for reason, count in counts(state.get("not_written")).items():
        shown = label(reason)
        if more := memory.more(process, started, f"not written: {shown}", count):
            says = f"not-written/{reason}" if f"not-written/{reason}" in TEXTS else "not-written"
            yield Finding(f"not-written/{name}/{shown}", CRITICAL, says, {"capture": name, "reason": shown},
                          "was", more, "packets")
    limit, used = whole(state.get("spool_limit")), whole(state.get("spool_bytes"))
    if limit and used > _FULL * limit:
        yield Finding(f"spool/{name}", WARNING, "spool", {"capture": name, "percent": 100 * used // limit, "bytes": used,
                                                         "limit": limit}, now)
    if more := memory.more(process, started, "clock steps", state.get("clock_steps")):
        yield Finding(f"clock-step/{name}", WARNING, "clock-step", {"capture": name}, "was", more, "steps")


def _correlation(state: Mapping[str, Any], runs: bool, look: Look, memory: Memory) -> Iterator[Finding]:
    behind, jobs = number(state.get("behind_s")) or 0.0, whole(table(state.get("backlog")).get("jobs"))
    if look.monotonic - memory.sampled >= 60:
        memory.sampled = look.monotonic
        memory.backlog = [*memory.backlog, jobs][-_GROWING - 1:]
    trend = memory.backlog
    if state.get("replaying") is True and look.monotonic - memory.since(label(state.get("started")), look.monotonic) < _REPLAY_S:
        behind = 0.0  # it has just begun, with what the spool had for it
    grows = len(trend) > _GROWING and trend[-1] >= _MANY_JOBS and all(a < b for a, b in pairwise(trend))
    if behind > BEHIND_S or grows:
        yield Finding("backlog", WARNING, "backlog/behind" if behind > BEHIND_S else "backlog/grows",
                      {"behind_s": round(behind, 1), "jobs": jobs}, "is" if runs else "unsure")
    if more := memory.more("correlate", state.get("started"), "quarantined", table(state.get("totals")).get("quarantined")):
        yield Finding("quarantine", WARNING, "quarantine", {}, "was", more, "calls")


def _disk(look: Look, settings: Settings, correlates: bool) -> Iterator[Finding]:
    """By our own look at the recordings' disk, and by what correlation says: it knows the spool's disk, and what it does."""
    said = table(table(look.correlation).get("disk")) if correlates else {}
    spool = table(said.get("spool"))
    free, total = look.disk or (whole(said.get("free")), whole(said.get("total")))
    share = 100 * free / total if total else 100.0
    ours = "full" if share <= settings.disk.stop else "low" if share <= settings.disk.alarm else "ok"
    level = said.get("level") if said.get("level") in ("ok", "low", "full") else ours
    if level == "ok":
        return
    what = "recordings"
    if ours == "ok" and spool.get("level") in ("low", "full") and whole(spool.get("total")):
        what, share = "spool", 100 * whole(spool.get("free")) / whole(spool.get("total"))
    policy = said.get("policy") if said.get("policy") in ("keep-oldest", "keep-newest") else settings.disk.policy
    acting = said.get("acting") if said.get("acting") in ("refusing", "deleting", "stuck") else \
        "deleting" if policy == "keep-newest" else "refusing"
    left, files = number(said.get("days_left")), number(said.get("files_free"))
    yield Finding("disk", CRITICAL if level == "full" else WARNING, f"disk/{level}/{acting if level == 'full' else policy}", {
        "what": what, "free_bytes": free, "total_bytes": total, "percent_free": round(share, 2), "policy": policy,
        "days_left": left,
        "files": f", room for {files:,.0f} files" if files is not None and files < _FEW_FILES else "",
        "lasts": "" if left is None else f", about {left:.1f} days at the present rate"})


def _silence(look: Look, settings: Settings, hours: Hours, memory: Memory, running: Mapping[str, Mapping[str, Any]],
             correlates: bool) -> Iterator[Finding]:
    sign = _sign(running, look.correlation if correlates else None)
    if memory.heard is None or memory.heard > look.wall or (memory.sign is not None and sign != memory.sign):
        memory.heard = look.wall
    memory.sign = sign
    minutes = settings.hooks.silence
    if not minutes:
        return
    quiet = look.wall - memory.heard
    begun = hours.begun(datetime.fromtimestamp(look.wall))
    if begun is not None:
        quiet = min(quiet, look.wall - begun.timestamp())
    judged = begun is not None and bool(running) and quiet >= 60 * minutes
    if judged or look.wall - memory.heard >= 60 * minutes:
        where = ", ".join(sorted({label(row.get("name")) for state in running.values() for row in rows(state.get("interfaces"))}))
        yield Finding("silence", CRITICAL, "silence", {"minutes": round(quiet / 60, 1), "interfaces": where or "IFACE"},
                      "is" if judged else "unsure")


def _sign(running: Mapping[str, Mapping[str, Any]], correlation: Mapping[str, Any] | None) -> str:
    """What changes with each packet of a call: correlation tells which packets are of calls; without it, all RTP counts."""
    if correlation is None:
        return "rtp " + " ".join(str(whole(state.get("rtp_packets"))) for state in running.values())
    totals = table(correlation.get("totals"))
    packets = sum(whole(n) for call in rows(correlation.get("live")) if isinstance(call.get("packets"), list)
                  for n in call["packets"][:2])
    return " ".join(str(n) for n in ("calls", packets, whole(correlation.get("calls_in_progress")),
                                      *(whole(totals.get(key)) for key in ("seen", "recorded", "known"))))


def _hook(look: Look, memory: Memory) -> Iterator[Finding]:
    for name in ("skipped", "given-up"):
        if more := memory.more("call hook", "", name, look.hook.get(name)):
            yield Finding(f"call-hook/{name}", WARNING, f"call-hook/{name}", {}, "was", more, "calls")
