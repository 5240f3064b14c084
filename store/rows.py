"""A sidecar as rows of the index's tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rokuon.store.names import fold
from rokuon.store.numbers import WITHHELD, e164, plain
from rokuon.store.sidecar import Sidecar, dumps

__all__ = ["TABLES", "rows_of", "texts_of"]

TABLES = ("calls", "legs", "streams", "events", "annotations")
Row = dict[str, Any]

LONGEST_WORDS = 16_384
MOST_ENTRIES = 64
DIGITS = frozenset("+0123456789０１２３４５６７８９＋")
COPIED = ("id", "revision", "state", "sip_status", "end_reason", "hangup_by", "duration_s", "setup_s", "audio_reason")
OF_STREAM = ("leg", "direction", "src", "dst", "vlan", "ssrc", "payload_type", "codec", "clock_rate", "packets", "lost",
             "duplicates", "reordered", "jitter_ms", "max_jitter_ms", "r_factor", "mos")


def texts_of(sidecars: Iterable[Sidecar], region: str | None) -> dict[str, str]:
    """Rows of each table as one JSON array; tables without any are left out."""
    rows: dict[str, list[Row]] = {table: [] for table in TABLES}
    for sidecar in sidecars:
        for table, more in rows_of(sidecar, region).items():
            rows[table] += more
    return {table: dumps(found) for table, found in rows.items() if found}


def rows_of(sidecar: Sidecar, region: str | None) -> dict[str, list[Row]]:
    """Rows of each table by column name. Keys that a sidecar lacks become NULL."""
    call_id, streams = sidecar["id"], sidecar.get("streams") or []
    return {
        "calls": [call_row(sidecar, streams, region)],
        "legs": [leg_row(call_id, n, leg, sidecar) for n, leg in enumerate(sidecar.get("legs") or [])],
        "streams": [stream_row(call_id, n, stream) for n, stream in enumerate(streams)],
        "events": [{"id": call_id, "event": n, "time": event.get("time"), "type": event.get("type"), "side": event.get("side"),
                    "detail": event.get("detail")} for n, event in enumerate(sidecar.get("events") or [])],
        "annotations": annotation_rows(sidecar),
    }


def call_row(sidecar: Sidecar, streams: list[Row], region: str | None) -> Row:
    row = {key: sidecar.get(key) for key in COPIED}
    row["start_time"], row["answer_time"], row["end_time"] = sidecar.get("start"), sidecar.get("answer"), sidecar.get("end")
    for side in ("caller", "callee"):
        party = sidecar.get(side) or {}
        number, uri = party.get("number") or "", party.get("uri") or ""
        row[f"{side}_number"], row[f"{side}_name"] = party.get("number"), party.get("name")
        row[f"{side}_uri"], row[f"{side}_address"] = party.get("uri"), party.get("address")
        row[f"{side}_e164"] = e164(uri if "phone-context" in uri else number, region)
        row[f"{side}_plain"] = WITHHELD if "@anonymous.invalid" in uri else plain(number)
        row[f"{side}_folded"] = names_of(party) if party.get("also") else fold(party.get("name") or "")
    row["codec"] = ",".join(dict.fromkeys(s["codec"] for s in streams if s.get("codec"))) or None
    row["packets"] = sum(s.get("packets") or 0 for s in streams)
    row["lost"] = sum(s.get("lost") or 0 for s in streams)
    row["mos"] = min(known(streams, "mos"), default=None)
    row["jitter_ms"] = max(known(streams, "jitter_ms"), default=None)
    audio = sidecar.get("audio") or {}
    row["audio_path"], row["audio_format"] = audio.get("path"), audio.get("format")
    row["audio_duration_s"], row["audio_bytes"] = audio.get("duration_s"), audio.get("bytes")
    row["interface"] = (sidecar.get("recorder") or {}).get("interface")
    row["words"] = words(sidecar, row, region)
    return row


def known(streams: list[Row], key: str) -> Iterable[float]:
    return (s[key] for s in streams if s.get(key) is not None)


def words(sidecar: Sidecar, row: Row, region: str | None) -> str | None:
    """What is looked through beyond the columns of the two parties, a line each; None where there is nothing.

    Further numbers, and why one is withheld: "< +81312345678" of the caller, "> =201" of the callee, "& …" of others, in E.164
    or with "=" as `plain` has them. No other line has a space in it: those are texts, folded.
    """
    lines: list[str] = []
    texts: list[str] = []
    for mark, side in (("<", "caller"), (">", "callee")):
        party = sidecar.get(side) or {}
        if party.get("also") or party.get("withheld") or (party.get("name") or "")[:1] in DIGITS:
            has = row[f"{side}_e164"] or f"={row[f'{side}_plain']}"
            lines += [f"{mark} {number}" for number in numbers_of(party, region) if number != has]
            texts += searched_in(*entries(party, "also"))
    if len(sidecar.get("legs") or ()) > 1:
        for party in (leg.get(side) for leg in entries(sidecar, "legs") for side in ("caller", "callee")):
            if isinstance(party, dict) and (party.get("also") or party.get("withheld")):
                lines += [f"& {number}" for number in numbers_of(party, region)]
                texts += searched_in(*entries(party, "also"))
    for party in entries(sidecar, "parties") if sidecar.get("parties") else ():
        lines += [f"& {number}" for number in numbers_of(party, region, own=True)]
        texts += searched_in(party, *entries(party, "also"))
    texts += [fold(said(entry)) for key in ("tags", "notes") for entry in sidecar.get(key) or []]
    return "\n".join(dict.fromkeys(lines + texts))[:LONGEST_WORDS] if lines or texts else None


def entries(holder: Row, key: str) -> list[Row]:
    """The objects in a list; not more of them than rokuon writes."""
    found = holder.get(key)
    return [entry for entry in found[:MOST_ENTRIES] if isinstance(entry, dict)] if isinstance(found, list) else []


def text_of(entry: Row, key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def numbers_of(party: Row, region: str | None, own: bool = False) -> Iterator[str]:
    """Numbers that a party is found by beyond its own, or with it, as they stand in the column `words`.

    A telephone system that calls its lines by names of its own puts the number into the display name.
    """
    also = entries(party, "also")
    for entry in [party, *also] if own else also:
        number, uri = text_of(entry, "number"), text_of(entry, "uri")
        if number and (known := e164(uri if "phone-context" in uri else number, region)) is not None:
            yield known
        elif number and (known := plain(number)):
            yield f"={known}"
    for entry in (party, *also):
        name = text_of(entry, "name")
        if name[:1] in DIGITS and (known := e164(name, region)) is not None:
            yield known
    reason = party.get("withheld")
    if reason:
        yield f"={WITHHELD}"
        yield f"={fold(str(reason))}"


def names_of(party: Row) -> str:
    """All names of a party, folded, a line each."""
    return "\n".join(dict.fromkeys(filter(None, (fold(text_of(p, "name")) for p in (party, *entries(party, "also"))))))


def searched_in(*parties: Row) -> list[str]:
    return [fold(str(value)) for party in parties for value in (party.get("number"), party.get("name")) if value]


def said(entry: object) -> str:
    """The text of a tag, note or hold, which may be a string or an object that says more."""
    if isinstance(entry, dict):
        return str(next((entry[key] for key in ("text", "tag", "note", "reason") if key in entry), ""))
    return str(entry)


def annotation_rows(sidecar: Sidecar) -> list[Row]:
    entries = [("tag", said(entry)) for entry in sidecar.get("tags") or []]
    entries += [("note", said(entry)) for entry in sidecar.get("notes") or []]
    if sidecar.get("hold") is not None:
        entries.append(("hold", said(sidecar["hold"])))
    entries += [("also-known-as", str(name)) for name in sidecar.get("also_known_as") or []]
    return [{"id": sidecar["id"], "annotation": n, "kind": kind, "value": value} for n, (kind, value) in enumerate(entries)]


def stream_row(call_id: str, n: int, stream: Row) -> Row:
    row = {key: stream.get(key) for key in OF_STREAM}
    row["id"], row["stream"], row["first_time"], row["last_time"] = call_id, n, stream.get("first"), stream.get("last")
    return row


def leg_row(call_id: str, n: int, leg: Row, sidecar: Sidecar) -> Row:
    last = leg.get("end") or last_seen(sidecar) or leg.get("start")
    return {
        "id": call_id, "leg": n, "call_id": leg.get("call_id"),
        "from_tag": leg.get("from_tag") or "", "to_tag": leg.get("to_tag") or "",
        "caller_number": number_of(leg.get("caller")), "callee_number": number_of(leg.get("callee")),
        "start_time": leg.get("start"), "answer_time": leg.get("answer"), "end_time": leg.get("end"), "last_time": last,
        "sip_status": leg.get("sip_status"), "linked_by": leg.get("linked_by"),
    }


def number_of(party: object) -> str | None:
    number = party.get("number") if isinstance(party, dict) else party
    return number if isinstance(number, str) else None


def last_seen(sidecar: Sidecar) -> str | None:
    """The newest time in the sidecar that a packet of the call was seen at; times of one form compare as text."""
    times = [sidecar.get("start"), sidecar.get("answer"), sidecar.get("end")]
    times += [s.get("last") for s in sidecar.get("streams") or []] + [m.get("time") for m in sidecar.get("messages") or []]
    return max((t for t in times if t), default=None)
