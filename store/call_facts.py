"""What signalling says of a call, in the shape of the sidecar (docs/format.md)."""

from __future__ import annotations

import os
from typing import Any

from rokuon import __version__
from rokuon.sniffer.model import Call, Identity, Leg, Party
from rokuon.store.layout import identity, make_id
from rokuon.store.sidecar import SCHEMA, iso

__all__ = ["call_facts", "call_id"]


def call_id(call: Call) -> str:
    """The call's id: of its earliest leg's Call-ID and From tag; without signalling of addresses, SSRC and start."""
    if call.legs:
        earliest = min(call.legs, key=lambda leg: leg.start_ns)
        return make_id(call.start_ns, identity(earliest.call_id, earliest.from_tag))
    return make_id(call.start_ns, identity(*(call.origin or ()), call.start_ns))


def _time(time_ns: int | None) -> str | None:
    return None if time_ns is None else iso(time_ns)


def _seconds(since_ns: int | None, until_ns: int | None) -> float | None:
    if since_ns is None or until_ns is None:
        return None
    return round(max(0, until_ns - since_ns) / 1e9, 6)


def _party(party: Party) -> dict[str, Any]:
    facts: dict[str, Any] = {"number": party.number or None, "name": party.name or None, "uri": party.uri or None,
                             "address": party.address or None}
    if party.withheld:
        facts["withheld"] = party.withheld
    if party.also:
        facts["also"] = [_identity(identity) for identity in party.also]
    return facts


def _identity(identity: Identity) -> dict[str, str | None]:
    facts: dict[str, str | None] = {"header": identity.header, "number": identity.number or None, "name": identity.name or None,
                                    "uri": identity.uri or None}
    if identity.reason:
        facts["reason"] = identity.reason
    return facts


def _leg(leg: Leg) -> dict[str, Any]:
    return {"call_id": leg.call_id, "from_tag": leg.from_tag or None, "to_tag": leg.to_tag or None, "caller": _party(leg.caller),
            "callee": _party(leg.callee), "start": iso(leg.start_ns), "answer": _time(leg.answer_ns), "end": _time(leg.end_ns),
            "sip_status": leg.sip_status, "linked_by": leg.linked_by}


def call_facts(call: Call, identifier: str, interface: str | None = None, dropped: int | None = None) -> dict[str, Any]:
    """Everything of the sidecar but what the finaliser finds out: streams, audio, parts, digits."""
    return {
        "id": identifier, "schema": SCHEMA, "revision": 1, "state": call.state, "sip_status": call.sip_status,
        "end_reason": call.end_reason, "hangup_by": call.hangup_by,
        "start": iso(call.start_ns), "answer": _time(call.answer_ns), "end": _time(call.end_ns),
        "duration_s": _seconds(call.answer_ns, call.end_ns), "setup_s": _seconds(call.start_ns, call.answer_ns),
        "caller": _party(call.caller), "callee": _party(call.callee),
        "parties": [_party(party) for party in call.parties],
        "legs": [_leg(leg) for leg in call.legs], "streams": [],
        "events": [{"time": iso(e.time_ns), "type": e.type, "side": e.side, "detail": e.detail} for e in call.events],
        "messages": [{"time": iso(m.time_ns), "src": str(m.src), "dst": str(m.dst), "transport": m.transport,
                      "call_id": m.call_id, "cseq": m.cseq, "first_line": m.first_line, "sdp": m.sdp} for m in call.messages],
        "audio": None, "parts": [], "related": [{"id": other, "how": how} for other, how in call.related],
        "anomalies": dict(sorted(call.anomalies.items())),
        "recorder": {"version": __version__, "host": os.uname().nodename, "interface": interface, "dropped": dropped},
        "tags": [], "notes": [], "hold": None,
    }
