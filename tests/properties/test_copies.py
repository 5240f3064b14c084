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
from rokuon.store.correlate import Correlator
from rokuon.store.layout import Layout
from rokuon.store.query import resolve
from rokuon.store.settings import Settings

Json = dict[str, Any]
PCAPS = Path(__file__).resolve().parents[2] / "fixtures" / "pcaps"
EXAMPLES = int(os.environ.get("ROKUON_EXAMPLES", "6"))
NAMES = [kind.__name__ for kind in KINDS]
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 40)), min_size=1, max_size=4)
"""Kinds of calls, and at which second each begins."""
PIECES = st.lists(st.tuples(st.integers(0, 70), st.integers(3, 40)), min_size=1, max_size=5)
"""Parts of the capture: since when, for how long."""


def traffic(calls: Sequence[tuple[str, int]]) -> list[Packet]:
    packets = [p for n, (kind, at) in enumerate(calls) for p in packets_of(NAMES.index(kind), n, at * US)]
    return sorted([*packets, silence(0), silence(90 * US)], key=lambda p: p.time_ns)


def record(data: Path, capture: bytes) -> None:
    if capture:
        path = data.parent / "now.pcap"
        path.write_bytes(capture)
        summary = record_files.record_files([str(path)], data, Settings())
        assert summary.balance.unaccounted == 0
        assert summary.quarantined == 0


def archive(data: Path) -> list[Json]:
    layout = Layout(data)
    found = [json.loads(layout.sidecar(i).read_text()) for i in layout.ids()]
    named = {f"{call['id']}.json" for call in found}
    named |= {Path(entry["path"]).name for call in found for entry in (call["audio"], *call["parts"]) if entry}
    there = {path.name for path in (data / "recordings").rglob("*") if path.is_file() and path.suffix != ".pcap"}
    assert there == named, there ^ named
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
    parts = [[p for p in packets if since <= (p.time_ns - begin) / 1e9 < since + length] for since, length in pieces]
    compare([pcap(some, nano=True) if some else b"" for some in (packets, *parts)], whole_at,
            not any(kind in SHARED for kind, _ in calls))


def compare(captures: Sequence[bytes], whole_at: int, media: bool = True) -> None:
    """Records the first capture alone, and all of them one after another, the first of them as the so manieth."""
    whole, *pieces = captures
    pieces.insert(min(whole_at, len(pieces)), whole)
    with tempfile.TemporaryDirectory() as folder:
        once, often = Path(folder) / "once", Path(folder) / "often"
        record(once, whole)
        wanted = archive(once)
        ids: set[str] = set()
        for piece in pieces:
            record(often, piece)
            ids.update(Layout(often).ids())
        found = archive(often)
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


def cut(capture: bytes, cuts: Sequence[tuple[float, float]]) -> list[bytes]:
    """A classic pcap and parts of it, from one share of its packets to another."""
    assert capture[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
    places, at = [], 24
    while at < len(capture):
        places.append(at)
        at += 16 + int.from_bytes(capture[at + 8:at + 12], "little")
    places.append(at)
    last = len(places) - 1
    return [capture, *(capture[:24] + capture[places[int(since * last)]:places[int(until * last)]] for since, until in cuts)]


FIXTURES = [name for name in ("office-morning", "softphones-pcma-hold-dtmf", "early-media", "tcp-segments", "hostile-names",
                              "mirror-duplicates", "softphones-cancel", "qinq", "rtp-only")
            if (PCAPS / f"{name}.pcap").read_bytes()[:4] != b"\n\r\r\n"]
SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair))), min_size=1, max_size=4)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FIXTURES), SHARES, st.integers(0, 4))
def test_captures_of_the_corpus_cut_anywhere(name: str, cuts: list[tuple[float, float]], whole_at: int) -> None:
    compare(cut((PCAPS / f"{name}.pcap").read_bytes(), cuts), whole_at)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["for_long", "moved", "rings_for_long", "unsignalled_for_long"]), PIECES, st.integers(0, 5))
def test_long_calls_that_are_given_out_in_pieces(kind: str, pieces: list[tuple[int, int]], whole_at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Correlator.__init__.__kwdefaults__, "piece_ns", 9_000_000_000)
        check([(kind, 0)], pieces, whole_at)
