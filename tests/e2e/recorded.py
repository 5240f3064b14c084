"""Captures recorded by the commands, in this process, and what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from click.testing import CliRunner
from tests.e2e.scenarios import T0_US, Talk, Wire

from rokuon.cli import main
from rokuon.store.sidecar import nanoseconds

Json = dict[str, Any]


def rokuon(data: Path, *arguments: object) -> str:
    """Standard output of a command in this process, which has to succeed."""
    done = CliRunner().invoke(main, ["--data", str(data), *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def calls_of(data: Path) -> list[Json]:
    """All calls, oldest first."""
    return list(reversed(json.loads(rokuon(data, "calls", "--json"))))


def record(wire: Wire, tmp_path: Path, *more: object) -> list[Json]:
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", wire.write(tmp_path / "a.pcap"), *more)
    return calls_of(tmp_path / "data")


def only(calls: list[Json]) -> Json:
    assert len(calls) == 1, [(c["state"], c["start"]) for c in calls]
    return calls[0]


def stream(call: Json, src: tuple[str, int], dst: tuple[str, int], ssrc: int | None = None) -> Json:
    """The one stream between two places."""
    def text(a: tuple[str, int]) -> str:
        return f"[{a[0]}]:{a[1]}" if ":" in a[0] else f"{a[0]}:{a[1]}"
    found = [s for s in call["streams"] if (s["src"], s["dst"]) == (text(src), text(dst)) and ssrc in (None, s["ssrc"])]
    assert len(found) == 1, [(s["src"], s["dst"], s["ssrc"], s["vlan"]) for s in call["streams"]]
    return found[0]


def sent(entry: Json, talk: Talk, side: str, lost: int = 0) -> None:
    assert (entry["direction"], entry["packets"], entry["lost"]) == (side, talk.packets, lost)
    assert entry["payload_sha256"] == talk.sha256


def at(text: str) -> float:
    """Seconds since the capture's beginning."""
    return (nanoseconds(text) - T0_US * 1000) / 1e9


def events(call: Json, kind: str) -> list[tuple[str, float]]:
    return [(e["side"], round(at(e["time"]), 2)) for e in call["events"] if e["type"] == kind]


def sound(data: Path, call: Json) -> tuple[Any, int]:
    """Samples (n, 2) of a call's only audio file, and their rate."""
    assert call["audio"], call.get("audio_reason")
    assert call["parts"] == []
    return sf.read(data / call["audio"]["path"], dtype="int16")


def loud(data: Path, call: Json) -> tuple[list[int], list[int]]:
    """Of both sides, in which tenths of a second of the call's audio they are heard."""
    samples, rate = sound(data, call)
    tenth = rate // 10
    blocks = np.abs(samples[:len(samples) // tenth * tenth].astype(int)).reshape(-1, tenth, 2).mean(1) > 100
    return np.flatnonzero(blocks[:, 0]).tolist(), np.flatnonzero(blocks[:, 1]).tolist()
