"""The signalling of calls as it was captured, until they are finalised; bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from rokuon.sniffer.model import Call
from rokuon.store.signalling import Frame

__all__ = ["CallFrames"]

_FRAMES_PER_CALL = 600
_FRAME_BYTES = 64 << 20


class CallFrames:
    """Packets by Call-ID. Where there are too many bytes, the Call-ID that was silent longest loses its own."""

    def __init__(self) -> None:
        self._frames: OrderedDict[str, list[Frame]] = OrderedDict()
        self._bytes = 0

    def keep(self, call_id: str, frames: list[Frame]) -> None:
        """These packets carried a message of this Call-ID."""
        mine = self._frames.setdefault(call_id, [])
        mine += frames
        self._bytes += sum(len(f.data) for f in frames)
        while len(mine) > _FRAMES_PER_CALL:  # how it began, and what was agreed on last
            self._bytes -= len(mine.pop(_FRAMES_PER_CALL // 2).data)
        self._frames.move_to_end(call_id)
        while self._bytes > _FRAME_BYTES and len(self._frames) > 1:
            self._drop(next(iter(self._frames)))

    def take(self, call: Call) -> list[Frame]:
        """The packets of a call that is over."""
        frames: list[Frame] = []
        for call_id in dict.fromkeys(leg.call_id for leg in call.legs):
            frames += self._drop(call_id)
        return frames

    def _drop(self, call_id: str) -> list[Frame]:
        frames = self._frames.pop(call_id, [])
        self._bytes -= sum(len(f.data) for f in frames)
        return frames

    def of(self, calls: Iterable[Call], since_ns: int) -> list[Frame]:
        """The packets of these calls. Those of no call that are older than `since_ns` are forgotten."""
        live = {leg.call_id for call in calls for leg in call.legs}
        for call_id in [c for c, frames in self._frames.items() if c not in live and frames and frames[-1].time_ns < since_ns]:
            self._drop(call_id)
        return [frame for call_id in live for frame in self._frames.get(call_id, ())]
