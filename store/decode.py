"""A call's audio made again from its kept packets: with a codec that was not there before, or by other settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rokuon.store.errors import DataError
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.record_files import private_spool, record_files
from rokuon.store.settings import Settings
from rokuon.store.sidecar import Sidecar, read, write

__all__ = ["decode_call"]

_MADE_AGAIN = ("streams", "audio", "parts", "events", "anomalies")


def decode_call(root: Path, call_id: str, settings: Settings) -> Sidecar:
    """Records the call's own packets in a place apart, and puts what comes out where the call's files are.

    Returns the new sidecar, one revision on. Raises DataError where no packets were kept, or no audio comes of them.
    """
    layout = Layout(root)
    packets = layout.packets(call_id)
    if not packets.exists():
        raise DataError(f"no packets of {call_id} were kept; [record] keep_packets = true keeps those of calls to come")
    layout.prepare()
    again = replace(settings, record=replace(settings.record, keep_packets=False))
    with private_spool(layout) as place:
        apart = Layout(place / "again")
        record_files([str(packets)], apart.root, again)
        made = [read(apart.sidecar(found)) for found in apart.ids()]
        sidecar = next((s for s in made if s["id"] == call_id), made[0] if len(made) == 1 else None)
        if sidecar is None or sidecar["audio"] is None:
            raise DataError(f"no audio of {call_id}: {sidecar.get('audio_reason') if sidecar else 'its packets hold no call'}")
        known = read(layout.sidecar(call_id))
        if sidecar["id"] not in (call_id, *(known.get("also_known_as") or [])):
            raise DataError(f"the kept packets of {call_id} hold another call")
        for path in [sidecar["audio"]["path"], *(part["path"] for part in sidecar["parts"])]:
            apart.resolve(path).replace(layout.resolve(path))
    known.pop("audio_reason", None)
    renewed = {**known, **{key: sidecar[key] for key in _MADE_AGAIN}, "revision": known["revision"] + 1}
    write(layout.sidecar(call_id), renewed)
    Index(layout.index, settings.index.region or None).add_calls([renewed])
    return renewed
