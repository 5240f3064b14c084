"""Which streams of a call are heard: one talk path, even where the capture saw the same voice at several places."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from rokuon.decoders.rtp import RtpRecords
from rokuon.store.finalize import StreamPlan

__all__ = ["assign_paths", "audible", "voice_like"]

_VOICE_PACKETS = 10
_OVERLAP_NS = 1_000_000_000
"""Two talks of one call are heard together for so long while one is handed over to the other."""


def audible(plans: Sequence[StreamPlan], records: Sequence[RtpRecords], before: Sequence[bool | None] = ()) -> list[bool]:
    """For each stream whether it takes part in the audio.

    Each talk of the call is looked at alone. Streams between the same two endpoints make a path. Behind a relay that was
    mirrored on both sides the same voice runs on two paths at once: that with the most packets is heard, and of the others what
    does not overlap it by half in its direction (media that a re-INVITE moved, a NAT's other face). `before`: whether a stream
    was heard in an earlier part of the call (None: it is new); what was is heard on, and what was not comes last.
    """
    before = before or [None] * len(plans)
    paths: dict[frozenset[str], list[int]] = {}
    for i, plan in enumerate(plans):
        if plan.voice and len(records[i]):
            paths.setdefault(frozenset((plan.src, plan.dst)), []).append(i)
    heard = [False] * len(plans)
    spans: dict[tuple[int, str], list[tuple[int, int]]] = defaultdict(list)
    def turn(path: list[int]) -> tuple[int, int, int]:
        was = {before[i] for i in path}
        return (0 if True in was else 1 if None in was else 2, -sum(len(records[i]) for i in path),
                min(int(records[i].time_ns[0]) for i in path))
    order = sorted(paths.values(), key=turn)
    for path in order:
        mine = [(i, *records[i].span) for i in path]
        for i, first, last in mine:
            there = spans[plans[i].talk, plans[i].direction]
            overlap = sum(max(0, min(last, b) - max(first, a)) for a, b in there)
            heard[i] = before[i] is True or overlap * 2 <= last - first
        for i, first, last in mine:
            if heard[i]:
                spans[plans[i].talk, plans[i].direction].append((first, last))
    return heard


def assign_paths(plans: Sequence[StreamPlan], records: Sequence[RtpRecords], known: Sequence[StreamPlan]) -> None:
    """Gives each stream that is heard its `path`: talks that follow on one another share the call's own files, one that goes
    on at the same time as the call's has files of its own. `known`: streams of earlier parts of the call.
    """
    if not any(plan.talk for plan in plans):
        return
    chosen = {plan.talk: plan.path for plan in known if plan.voice}
    taken: list[tuple[int, int]] = []
    spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for plan, mine in zip(plans, records, strict=True):
        if plan.voice and len(mine):
            spans[plan.talk].append(mine.span)
    for talk in sorted(spans, key=lambda t: (chosen.get(t, 0 if t == 0 else -1) != 0, t)):
        path = chosen.get(talk)
        if path is None:
            overlap = sum(max(0, min(last, b) - max(first, a)) for first, last in spans[talk] for a, b in taken)
            path = talk if overlap > _OVERLAP_NS else 0
        chosen[talk] = path
        if path == 0:
            taken += spans[talk]
    for plan in plans:
        plan.path = chosen.get(plan.talk, 0)


def voice_like(records: RtpRecords) -> bool:
    """Whether RTP that no signalling speaks of behaves like a stream: numbers that go on one by one."""
    if len(records) < _VOICE_PACKETS:
        return False
    at = records.offset
    sequence = records.data[at + 2].astype(np.int32) << 8 | records.data[at + 3]
    step = np.diff(sequence) & 0xFFFF
    near = np.count_nonzero((step <= 4) | (step >= 0xFFFC))
    if len(np.unique(sequence)) * 2 < _VOICE_PACKETS:  # the same one over and over; a digit's last comes three times
        return False
    kinds = records.data[at + 1] & 0x7F
    return bool(near * 10 >= len(step) * 8 and np.count_nonzero(np.bincount(kinds)) <= 4)
