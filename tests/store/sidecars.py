"""Sidecars made by hand, in the shape of docs/format.md: every state, Japanese names, hostile strings."""

from __future__ import annotations

import hashlib
from typing import Any

from rokuon.store.layout import identity, make_id
from rokuon.store.sidecar import Sidecar, iso

SECOND = 1_000_000_000
NOON = 1_795_489_200 * SECOND  # 2026-11-24T03:00:00Z, noon in Tokyo
STATES = ["answered", "cancelled", "busy", "no-answer", "failed", "rtp-only", "answered", "excluded"]
STATUS = {"answered": 200, "cancelled": 487, "busy": 486, "no-answer": 480, "failed": 503}
NAMES = ["田中 太郎", "Alice Smith", "", "ﾔﾏﾀﾞ ﾊﾅｺ", "株式会社　録音", "Ｂｏｂ", "Jörg Straße", "佐藤"]
HOSTILE = ["\x1b]0;owned\x07\x1b[2J", "=cmd|' /C calc'!A0", "'; DROP TABLE calls; --", "[red]x[/red]", "\u202egnp.exe",
           "a\x00b\r\nc", "../../../etc/passwd", "\ud800\x9b31m", "+1+cmd|x", "<script>alert(1)</script>", "x" * 60_000]


def party(number: str, name: str = "", address: str = "10.0.0.1") -> dict[str, Any]:
    return {"number": number, "name": name, "uri": f"sip:{number}@pbx.example", "address": address}


def stream(direction: str, first_ns: int, last_ns: int, ssrc: int, *, codec: str = "PCMU", lost: int = 0) -> dict[str, Any]:
    src, dst = ("10.0.0.1:5004", "[2001:db8::1]:5006") if direction == "caller" else ("[2001:db8::1]:5006", "10.0.0.1:5004")
    return {"direction": direction, "leg": 0, "src": src, "dst": dst, "vlan": [100, 7], "ssrc": ssrc,
            "payload_type": {"PCMU": 0, "PCMA": 8, "G722": 9}.get(codec, 111), "codec": codec,
            "clock_rate": 48000 if codec == "opus" else 8000, "first": iso(first_ns), "last": iso(last_ns),
            "packets": (last_ns - first_ns) // 20_000_000, "lost": lost, "duplicates": 1, "reordered": 2, "jitter_ms": 1.25,
            "max_jitter_ms": 9.5, "r_factor": 93.2 - lost, "mos": round(4.41 - lost / 20, 2),
            "payload_sha256": hashlib.sha256(f"{ssrc}".encode()).hexdigest()}


def sidecar(n: int = 0, **changes: Any) -> Sidecar:
    """Call number n, an hour and a second after the one before it; `changes` replace keys."""
    state = STATES[n % len(STATES)]
    start = NOON + n * 3601 * SECOND + 123_456_000
    answered = state == "answered"
    answer, end = start + 4 * SECOND, start + (64 + n) * SECOND
    call_id = make_id(start, identity(f"call-{n}@pbx.example", f"from-{n}"))
    caller = party(["0312345678", "+819012345678", "1001", "anonymous"][n % 4], NAMES[n % len(NAMES)])
    callee = party(["100", "03-9876-5432", "tel:+81-6-6111-2222"][n % 3], NAMES[(n + 3) % len(NAMES)], "10.0.0.2")
    legs = [] if state == "rtp-only" else [
        {"call_id": f"call-{n}@pbx.example", "from_tag": f"from-{n}", "to_tag": f"to-{n}" if answered else "", "caller": caller,
         "callee": callee, "start": iso(start), "answer": iso(answer) if answered else None, "end": iso(end),
         "sip_status": STATUS.get(state), "linked_by": None}]
    codec = ["PCMU", "PCMA", "G722", "opus"][n % 4]
    streams = [stream(side, answer, end, 1000 * n + k, codec=codec, lost=n % 7)
               for k, side in enumerate(["caller", "callee"])] if answered or state == "rtp-only" else []
    events = [{"time": iso(answer + SECOND), "type": "dtmf", "side": "caller", "detail": None, "duration_ms": 120},
              {"time": iso(answer + 2 * SECOND), "type": "hold", "side": "callee", "detail": None},
              {"time": iso(answer + 3 * SECOND), "type": "resume", "side": "callee", "detail": None}] if answered else []
    messages = [{"time": iso(start), "src": "10.0.0.1:5060", "dst": "10.0.0.2:5060", "transport": "udp", "cseq": "1 INVITE",
                 "call_id": f"call-{n}@pbx.example", "first_line": "INVITE sip:100@pbx.example SIP/2.0"}] if legs else []
    folder = f"recordings/{call_id[:4]}/{call_id[4:6]}/{call_id[6:8]}/{call_id[9:11]}"
    audio = {"path": f"{folder}/{call_id}.wav", "format": "wav/ulaw",
             "channels": 2, "sample_rate": 8000, "duration_s": (end - answer) / 1e9, "start": iso(answer), "bytes": 1024 * n,
             "sha256": hashlib.sha256(b"").hexdigest(), "corrections": [], "concealed_ms": 0} if streams else None
    made: Sidecar = {
        "id": call_id, "schema": 1, "revision": 1, "state": state, "sip_status": STATUS.get(state),
        "end_reason": "bye" if answered else None, "hangup_by": "callee" if answered else None, "start": iso(start),
        "answer": iso(answer) if answered else None, "end": iso(end), "duration_s": (end - answer) / 1e9 if answered else None,
        "setup_s": 4.0 if answered else None, "caller": caller, "callee": callee, "parties": [], "legs": legs, "streams": streams,
        "events": events, "messages": messages, "audio": audio, **({} if audio else {"audio_reason": "no media"}), "parts": [],
        "related": [], "anomalies": {"no-content-length": 1}, "recorder": {"version": "0.1.0", "host": "box", "interface": None,
                                                                          "dropped": 0},
        "tags": ["vip"] if n % 5 == 0 else [], "notes": [], "hold": None}
    return made | changes


def hostile(n: int) -> Sidecar:
    """A call whose every text from the network is meant to do harm."""
    text = HOSTILE[n % len(HOSTILE)]
    made = sidecar(8 * n)
    bad = {"number": text, "name": text, "uri": f"sip:{text}@x", "address": "10.0.0.1"}
    made["caller"], made["callee"] = bad, dict(bad)
    made["legs"][0] |= {"call_id": text, "from_tag": text, "to_tag": text, "caller": bad, "callee": bad}
    made["messages"][0] |= {"call_id": text, "cseq": text, "first_line": text}
    made["streams"][0]["codec"] = text
    made["anomalies"] = {text: 1}
    return made


def some(count: int) -> list[Sidecar]:
    return [sidecar(n) for n in range(count)]
