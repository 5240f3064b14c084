"""How much of a call a copy of it has: which of two recordings of the same call takes the other's place.

A copy *covers* another where it has all that the other has: its legs, its signalling and the voices of its sides for at least
as long, sound where the other has sound, and beginning, answer and end where the other has them. Times are compared in steps of
two seconds, so that the last packets before a cut decide nothing. Covering is transitive, so the copies that no other covers are
the same in whatever order copies come. Among copies that cover each other the one with more packets is the fuller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, Literal

from rokuon.store.jobs import Job
from rokuon.store.sidecar import Sidecar, nanoseconds

__all__ = ["Coverage", "Standing", "of_job", "of_sidecar", "standing"]

SECOND = 1_000_000_000
STEP_NS = 2 * SECOND
ENDS = {"bye": 2, "cancel": 2, "reject": 2, "timeout": 1}
"""How well a call's end is known; what is not named here was broken off."""

COMPLETE = 4
"""`told` of a call of which beginning, answer and end are known."""

Span = tuple[int, int]
"""First and last of `STEP_NS` in which there was something."""
Standing = Literal["part", "fuller", "other"]


@dataclass(slots=True, frozen=True)
class Coverage:
    """What of a call there is."""

    legs: tuple[tuple[str, frozenset[str]], ...]
    """Call-ID and tags."""
    signalling: Span | None
    begun: bool
    """It has the call's beginning, so that it is known who is the caller."""
    sides: tuple[tuple[str, Span], ...]
    """From when to when media of each side is there, caller and callee; nothing of a side that is not heard."""
    heard: bool
    """There is sound."""
    told: int
    """How much of its beginning, answer and end is known."""
    packets: int
    lost: int
    stray: int
    """Seconds of media before the INVITE and behind the BYE."""
    messages: int

    def covers(self, other: Coverage) -> bool:
        """Whether this has all of what the other has."""
        heard = self.heard or not other.heard or bool(self.legs and not other.legs)  # without signalling noise may pass for voice
        return (heard and self.told >= other.told
                and (other.signalling is None or (self.signalling is not None and _within(other.signalling, self.signalling)))
                and _all_within(other.sides, self.sides, self.begun and other.begun)
                and all(any(call_id == mine and tags <= my_tags for mine, my_tags in self.legs) for call_id, tags in other.legs))

    @property
    def rank(self) -> tuple[int, ...]:
        """Greater for the fuller of two copies; of two of which one covers the other, for that one, or the same for both."""
        spans = [*(span for _, span in self.sides), *([self.signalling] if self.signalling is not None else [])]
        length = sum(last - first + 1 for first, last in spans)
        media = (-self.stray, -self.lost) if self.told >= COMPLETE else (self.packets,)
        return self.told, length + int(self.heard) + sum(1 + len(tags) for _, tags in set(self.legs)), *media, self.messages

    @property
    def whole(self) -> bool:
        """Whether there is nothing that another copy could have more of."""
        return self.told >= COMPLETE and len(self.sides) == 2 and not self.lost

    def is_enough_for(self, most: Coverage) -> bool:
        """Whether a copy of which `most` is the most that it can have is no fuller."""
        if not self.covers(most):
            return False
        same = most.packets <= self.packets and most.messages <= self.messages and most.stray >= self.stray
        return same or most.rank <= self.rank or not most.covers(self)


def standing(new: Coverage, known: Coverage) -> Standing:
    """What a new copy is beside one that is known: a part of it (or no more than it), the fuller one, or another, in that each
    has something that the other lacks.
    """
    more, less = new.covers(known), known.covers(new)
    if more and less:
        return "fuller" if new.rank > known.rank else "part"
    return "fuller" if more else "part" if less else "other"


def of_sidecar(call: Sidecar) -> Coverage:
    """Of a call that is recorded. Raises KeyError, TypeError, ValueError, AttributeError where the sidecar is damaged."""
    sides: dict[str, list[int]] = {}
    packets = lost = 0
    for stream in call["streams"]:
        sides.setdefault(str(stream["direction"]), []).extend((nanoseconds(stream["first"]), nanoseconds(stream["last"])))
        packets += int(stream["packets"])
        lost += int(stream["lost"])
    return _with_media(_of_facts(call), call, sides, call["audio"] is not None, packets, lost)


def of_job(job: Job) -> Coverage:
    """Of a call that is to be recorded, at the most: no less than what its sidecar will say."""
    sides: dict[str, list[int]] = {}
    packets = 0
    for stream in job.streams:
        if len(stream.slices):
            first = max(int(stream.slices["first_ns"].min()), min(since for since, _ in stream.spans))
            last = min(int(stream.slices["last_ns"].max()), max(until for _, until in stream.spans) - 1)
            sides.setdefault(stream.plan.direction, []).extend((first, max(first, last)))
            packets += int(stream.slices["records"].sum())
    heard = any(stream.plan.voice and not stream.plan.sealed and len(stream.slices) for stream in job.streams)
    return _with_media(_of_facts(job.facts), job.facts, sides, heard, packets, 0)


def _of_facts(call: Mapping[str, Any]) -> Coverage:
    legs = tuple((str(leg["call_id"]), frozenset(str(tag) for tag in (leg["from_tag"], leg["to_tag"]) if tag))
                 for leg in call["legs"])
    times = [m["time"] for m in call["messages"]] + [leg[key] for leg in call["legs"] for key in ("start", "answer", "end")]
    seen = [nanoseconds(time) for time in times if time]
    begun = not call["anomalies"].get("begun-in-mid-call")
    told = int(begun) + int(call["answer"] is not None) + ENDS.get(str(call["end_reason"]), 0)
    if not legs:
        told, begun = 0, False
    return Coverage(legs, _span(seen) if legs and seen else None, begun, (), False, told, 0, 0, 0, len(call["messages"]))


def _with_media(facts: Coverage, call: Mapping[str, Any], sides: Mapping[str, list[int]], heard: bool, packets: int,
                lost: int) -> Coverage:
    spans = {side: _span(times) for side, times in sides.items()}
    stray_ns = 0
    if facts.signalling is not None:
        (first, last), times = facts.signalling, [time for side in sides.values() for time in side]
        if not call["anomalies"].get("begun-in-mid-call"):
            spans = {side: (max(first, begin), max(first, end)) for side, (begin, end) in spans.items()}
            stray_ns += max(0, nanoseconds(call["start"]) - min(times, default=1 << 62))
        if ENDS.get(str(call["end_reason"])) == ENDS["bye"]:
            spans = {side: (min(last, begin), min(last, end)) for side, (begin, end) in spans.items()}
            stray_ns += max(0, max(times, default=0) - nanoseconds(call["end"] or call["start"]))
    return replace(facts, sides=tuple(sorted(spans.items())), packets=packets, lost=lost, stray=stray_ns // SECOND, heard=heard)


def _span(times: Iterable[int]) -> Span:
    steps = [time // STEP_NS for time in times]
    return min(steps), max(steps)


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _all_within(inner: tuple[tuple[str, Span], ...], outer: tuple[tuple[str, Span], ...], named: bool) -> bool:
    """Whether each of `inner` (at most two) lies in one of `outer` of its own; `named`: of the same name, else which side is
    called the caller's depends on the copy.
    """
    if len(inner) > len(outer):
        return False
    return any(all(_within(mine, span) and (side == name or not named)
                   for (side, mine), (name, span) in zip(inner, chosen, strict=True))
               for chosen in permutations(outer, len(inner)))
