"""In whatever pieces a capture is recorded, and however often: the archive ends as if it had been recorded in one go."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.scenarios import S as US
from tests.properties.kinds_of_calls import KINDS, packets_of, silence
from tests.sniffer.captures import Packet, pcap

from rokuon.store import record_files
from rokuon.store.layout import Layout
from rokuon.store.query import resolve
from rokuon.store.settings import Settings

Json = dict[str, Any]
EXAMPLES = int(os.environ.get("ROKUON_EXAMPLES", "6"))
NAMES = [kind.__name__ for kind in KINDS]
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 40)), min_size=1, max_size=4)
"""Kinds of calls, and at which second each begins."""
PIECES = st.lists(st.tuples(st.integers(0, 70), st.integers(3, 40)), min_size=1, max_size=5)
"""Parts of the capture: since when, for how long."""


def traffic(calls: Sequence[tuple[str, int]]) -> list[Packet]:
    packets = [p for n, (kind, at) in enumerate(calls) for p in packets_of(NAMES.index(kind), n, at * US)]
    return sorted([*packets, silence(0), silence(90 * US)], key=lambda p: p.time_ns)


def record(data: Path, packets: Sequence[Packet]) -> None:
    if packets:
        path = data.parent / "now.pcap"
        path.write_bytes(pcap(packets, nano=True))
        summary = record_files.record_files([str(path)], data, Settings())
        assert summary.balance.unaccounted == 0
        assert summary.quarantined == 0


def archive(data: Path) -> list[Json]:
    layout = Layout(data)
    found = [json.loads(layout.sidecar(i).read_text()) for i in layout.ids()]
    named = {f"{call['id']}.json" for call in found}
    named |= {Path(entry["path"]).name for call in found for entry in (call["audio"], *call["parts"]) if entry}
    there = {path.name for path in (data / "recordings").rglob("*") if path.is_file() and path.suffix != ".pcap"}
    assert there == named
    return found


SHARED = {"gateway", "lent"}
"""Kinds in which one call's media goes on where another's begins: whoever did not see the first's signalling cannot tell the two
apart, so what is said of signalling has to do."""


def content(call: Json, media: bool = True) -> str:
    """What is recorded of a call, without under which name."""
    said = {key: call[key] for key in ("state", "end_reason", "start", "answer", "end", "caller", "callee", "legs", "messages")}
    if not media:
        return json.dumps(said, sort_keys=True)
    keys = ("src", "dst", "ssrc", "direction", "packets", "payload_sha256")
    said["streams"] = [[s[key] for key in keys] for s in call["streams"]]
    said["sound"] = [entry["sha256"] for entry in (call["audio"], *call["parts"]) if entry]
    return json.dumps(said, sort_keys=True)


def check(calls: Sequence[tuple[str, int]], pieces: Sequence[tuple[int, int]], whole_at: int) -> None:
    packets = traffic(calls)
    begin = packets[0].time_ns
    with tempfile.TemporaryDirectory() as folder:
        once, often = Path(folder) / "once", Path(folder) / "often"
        record(once, packets)
        wanted = archive(once)
        ids: set[str] = set()
        for n in range(len(pieces) + 1):
            if n == min(whole_at, len(pieces)):
                record(often, packets)
            if n < len(pieces):
                since, length = pieces[n]
                record(often, [p for p in packets if since <= (p.time_ns - begin) / 1e9 < since + length])
            ids.update(Layout(often).ids())
        found = archive(often)
        media = not any(kind in SHARED for kind, _ in calls)
        there = {call["id"]: content(call, media) for call in found}
        same = [call["id"] for call in found if media or call["legs"]]
        assert sorted(there[i] for i in same) == sorted(content(call, media) for call in wanted if media or call["legs"])
        for call in wanted:
            if media or call["legs"]:
                assert there[resolve(Layout(often), call["id"])] == content(call, media)
        for name in ids:
            assert resolve(Layout(often), name) in there


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CALLS, PIECES, st.integers(0, 5))
def test_pieces_and_the_whole_in_any_order_are_the_whole(calls: list[tuple[str, int]], pieces: list[tuple[int, int]],
                                                         whole_at: int) -> None:
    check(calls, pieces, whole_at)
