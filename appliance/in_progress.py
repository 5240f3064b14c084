"""Calls in progress, as `rokuon live` shows them."""

from __future__ import annotations

from heapq import nlargest
from typing import Any

from rokuon.appliance.intake import Intake
from rokuon.sniffer.model import Call
from rokuon.store.correlate import Correlator
from rokuon.store.sidecar import iso

__all__ = ["calls_in_progress"]

_MOST = 500


def calls_in_progress(correlator: Correlator, intake: Intake) -> tuple[list[dict[str, Any]], int]:
    """The newest calls in progress, and how many there are beside them."""
    live = correlator.tracker.live
    newest = nlargest(_MOST, live.values(), key=lambda call: call.start_ns)
    return [_entry(call, correlator, intake) for call in newest], len(live) - len(newest)


def _entry(call: Call, correlator: Correlator, intake: Intake) -> dict[str, Any]:
    forms = [form.encoding for claim in call.claims[-1:] for form in claim.formats.values()
             if form.encoding.lower() not in ("telephone-event", "cn")]
    return {"start": iso(call.start_ns), "caller": call.caller.number or None, "callee": call.callee.number or None,
            "caller_name": call.caller.name or None, "callee_name": call.callee.name or None,
            "state": "answered" if call.answer_ns is not None else "ringing",
            "answer": iso(call.answer_ns) if call.answer_ns is not None else None, "codec": forms[0] if forms else None,
            "packets": list(intake.sides(call, correlator)), "lost": [None, None], "jitter_ms": [None, None]}
