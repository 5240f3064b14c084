"""What became of a capture, for people."""

from __future__ import annotations

from dataclasses import dataclass, field

from rokuon.store.tally import Balance

__all__ = ["LOST", "Summary"]

LOST = {"packets-dropped": "packets-lost-before-the-spool",
         "calls-evicted": "calls-given-up-for-room", "streams_evicted": "streams-given-up-for-room",
         "unclaimed-streams-let-go": "rtp-unclaimed", "rtp-after-call": "rtp-after-its-call",
         "rtp-in-fragments": "rtp-in-fragments",
         "sip-cut-by-snaplen": "sip-cut-by-snaplen", "packet-cut-or-unknown": "signalling-cut-by-snaplen"}
"""What is counted elsewhere and left no recording, and the reason that people are told."""


@dataclass(slots=True)
class Summary:
    """What became of a capture."""

    packets: int = 0
    calls_found: int = 0
    calls_added: int = 0
    calls_known: int = 0
    calls_revised: int = 0
    """Those of the known ones of which there is more now than before."""
    recovered: int = 0
    """Calls that ended unseen, while nothing was captured."""
    quarantined: int = 0
    """Calls that could not be finalised and were set aside."""
    warnings: list[str] = field(default_factory=list)
    balance: Balance = field(default_factory=Balance)
    """What became of each call."""
    not_recorded: dict[str, int] = field(default_factory=dict)
    """What else there is no recording of, by reason: streams, packets, messages."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was seen, by kind."""
    anomalies: dict[str, int] = field(default_factory=dict)
