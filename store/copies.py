"""The same packets captured with other VLAN tags: a mirror of several ports, or of a router's two sides, brings them twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.rtp import RtpRecords
from rokuon.store.stream_facts import StreamPlan

__all__ = ["fold_copies"]

_COMPARED = 8
"""Bytes of the RTP header that tell packets of a stream apart: payload type, sequence number, timestamp."""


def fold_copies(plans: Sequence[StreamPlan], records: Sequence[RtpRecords],
                known: Sequence[StreamPlan] = ()) -> list[tuple[int, NDArray[np.intp]] | None]:
    """For each stream (n ≥ 1 packets) that is a copy of another: of which, and its rows that the other lacks; None: it is none.

    Streams of the same ends and SSRC whose tags differ, and of which half the packets at least are the same. The original
    is one that is `known` from an earlier part of the call, else the first.
    """
    found: list[tuple[int, NDArray[np.intp]] | None] = [None] * len(plans)
    groups: dict[tuple[str, str, int], list[int]] = {}
    for i, plan in enumerate(plans):
        groups.setdefault((plan.src, plan.dst, plan.ssrc), []).append(i)
    if len(groups) == len(plans):
        return found
    before = {(p.src, p.dst, p.ssrc, tuple(p.vlan)): at for at, p in enumerate(known)}
    for (src, dst, ssrc), group in groups.items():
        group.sort(key=lambda i: (before.get((src, dst, ssrc, tuple(plans[i].vlan)), len(before)), i))
        originals: list[tuple[int, NDArray[np.uint64]]] = []
        for i in group:
            mine = _names(records[i])
            for at, theirs in originals:
                there = np.isin(mine, theirs)
                if np.count_nonzero(there) * 2 >= min(len(mine), len(theirs)):
                    found[i] = at, np.flatnonzero(~there)
                    break
            else:
                originals.append((i, mine))
    return found


def _names(records: RtpRecords) -> NDArray[np.uint64]:
    octets = records.data[records.offset[:, None] + np.arange(_COMPARED)]
    return np.ascontiguousarray(octets).view(np.uint64).reshape(-1)
