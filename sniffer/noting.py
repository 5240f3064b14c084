"""The messages of a call as its ladder shows them, each once however often a mirror brings it."""

from __future__ import annotations

from dataclasses import dataclass

from rokuon.sniffer.model import Call, MessageNote, SipMessage
from rokuon.sniffer.packet import Endpoint

__all__ = ["MESSAGES", "Notes", "Sighting"]

MESSAGES = 512
_FIRST_LINE = 256
_COPY_NS = 100_000_000
"""Once more the same between the same ends so soon is a mirror's copy, not sent again (RFC 3261 17.1.1.1: T1 is 500 ms)."""
_NEAR = 16


@dataclass(slots=True, frozen=True)
class Sighting:
    """A message and where it was seen."""

    time_ns: int
    src: Endpoint
    dst: Endpoint
    encap: int
    transport: str
    message: SipMessage


class Notes:
    """What is noted of one call's messages."""

    __slots__ = ("_recent", "count")

    def __init__(self) -> None:
        self.count = 0
        self._recent: dict[tuple[str, str, str, Endpoint, Endpoint], int] = {}  # which were noted last, and when

    def take(self, call: Call, seen: Sighting, room: bool) -> None:
        """Notes a message in `call.messages`, if there is `room`, and in its anomalies what was odd about it."""
        message, time_ns = seen.message, seen.time_ns
        line = MessageNote(time_ns, seen.src, seen.dst, seen.transport, message.call_id, f"{message.cseq} {message.method}",
                           message.first_line[:_FIRST_LINE], message.sdp is not None)
        # Forked responses differ in their To tag alone (RFC 3261 section 16.7).
        key, recent = (line.first_line, line.cseq, message.to.tag, seen.src, seen.dst), self._recent
        if 0 <= time_ns - recent.get(key, -_COPY_NS) < _COPY_NS:
            call.anomalies["message-copies"] += 1
        elif room and self.count < MESSAGES:
            self.count += 1
            call.messages.append(line)
            recent.pop(key, None)
            recent[key] = time_ns
            if len(recent) > _NEAR:
                del recent[next(iter(recent))]
        else:
            call.anomalies["messages-dropped"] += 1
        for name in message.anomalies:
            call.anomalies[name] += 1
