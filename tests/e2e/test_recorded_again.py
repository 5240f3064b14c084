"""Captures recorded twice, by many commands or by one, as rings that overlap; calls that were deleted, captured once more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.recorded import rokuon
from tests.e2e.scenarios import S as US
from tests.properties.in_steps import Clock, Making, Source, archive, small_world
from tests.properties.kinds_of_calls import KINDS, packets_of, silence
from tests.properties.test_recovery import runs
from tests.sniffer.captures import Packet, pcap

from rokuon.store.layout import Layout
from rokuon.store.sidecar import read
from rokuon.store.tombstones import Tombstones

Json = dict[str, Any]
KIND = {kind.__name__: n for n, kind in enumerate(KINDS)}
PLAN = [("short", 1), ("refused", 4), ("unsignalled", 6), ("early", 12), ("moved", 20), ("short", 30), ("cancelled", 38),
        ("over_tcp", 50)]
"""Kinds of calls, and at which second each begins."""


def traffic() -> list[Packet]:
    packets = [p for n, (kind, at) in enumerate(PLAN) for p in packets_of(KIND[kind], n, at * US)]
    return sorted([*packets, silence(0), silence(100 * US)], key=lambda p: p.time_ns)


PACKETS = traffic()


def part(since: float, until: float) -> list[Packet]:
    begin = PACKETS[0].time_ns
    return [p for p in PACKETS if since <= (p.time_ns - begin) / 1e9 < until]


def written(folder: Path, parts: Sequence[list[Packet]]) -> list[Path]:
    folder.mkdir()
    paths = []
    for n, packets in enumerate(parts):
        paths.append(folder / f"ring-{n:02}.pcap")
        paths[-1].write_bytes(pcap(packets, nano=True))
    return paths


def calls(data: Path) -> list[Json]:
    return sorted(json.loads(rokuon(data, "calls", "--json")), key=lambda call: str(call["id"]))


def content(call: Json) -> Json:
    """All but what tells how often it was recorded."""
    other = ("revision", "audio", "also_known_as", "anomalies", "related")
    told = {key: value for key, value in call.items() if key not in other}
    return {**told, "sound": call["audio"] and call["audio"]["sha256"]}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> list[Json]:
    folder = tmp_path_factory.mktemp("once")
    (whole,) = written(folder / "captures", [PACKETS])
    rokuon(folder / "data", "record", "--jobs", 1, "-r", whole)
    found = calls(folder / "data")
    assert len(found) == 10
    return found


def test_the_same_capture_twice(once: list[Json], tmp_path: Path) -> None:
    (whole,) = written(tmp_path / "captures", [PACKETS])
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", whole)
    said = rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", whole)
    assert f"0 calls recorded, {len(once)} calls known already" in said
    assert [{**call, "recorder": None} for call in calls(tmp_path / "data")] == [{**call, "recorder": None} for call in once]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_ring_whose_files_overlap_by_one_command_or_one_each(jobs: int, once: list[Json], tmp_path: Path) -> None:
    """Each file goes on for longer than a call lasts into the time of the next: whatever is cut in one is whole in another."""
    paths = written(tmp_path / "ring", [part(since, since + 50) for since in range(0, 100, 20)])
    one, each = tmp_path / "one", tmp_path / "each"
    rokuon(one, "record", "--jobs", jobs, "-r", tmp_path / "ring")
    for path in paths:
        rokuon(each, "record", "--jobs", jobs, "-r", path)
    assert list(map(content, calls(one))) == list(map(content, once))
    found = calls(each)
    assert [read(Layout(each).sidecar(rokuon_id(each, call["id"])))["id"] for call in once] == [call["id"] for call in found]
    assert [{**content(call), "id": ""} for call in found] == [{**content(call), "id": ""} for call in once]
    rokuon(each, "record", "--jobs", jobs, "-r", tmp_path / "ring")
    assert calls(each) == found


def rokuon_id(data: Path, name: str) -> str:
    return str(json.loads(rokuon(data, "show", name, "--json"))["id"])


def test_directories_that_overlap_after_pieces(once: list[Json], tmp_path: Path) -> None:
    """Cut anywhere; then two directories of which each has more than half of it, then all of it."""
    written(tmp_path / "left", [part(n * 10, n * 10 + 10) for n in range(6)])
    written(tmp_path / "right", [part(n * 10, n * 10 + 10) for n in range(4, 10)])
    data = tmp_path / "data"
    pieces = sorted((tmp_path / "left").iterdir())
    for path in pieces[:4]:
        rokuon(data, "record", "--jobs", 1, "-r", path)
    older = [call["id"] for call in calls(data)]
    for folders in (["right"], ["left"], ["left", "right"]):
        rokuon(data, "record", "--jobs", 1, "-r", *(tmp_path / name for name in folders))
    assert sorted(json.dumps({**content(call), "id": ""}) for call in calls(data)) == sorted(
        json.dumps({**content(call), "id": ""}) for call in once)
    for name in [*older, *(call["id"] for call in once)]:
        rokuon_id(data, name)  # it keeps resolving
    before = calls(data)
    rokuon(data, "reindex")
    assert calls(data) == before


def test_a_deleted_call_is_not_recorded_live_either(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.prepare()
    clock = Clock()
    lots = [packets_of(KIND["short"], n, (5 + 4 * n) * US) for n in range(3)]
    with small_world(clock) as patch:
        source, making = Source(layout, "eth0", clock), Making(layout, clock, patch)

        def feed(packets: Sequence[Packet]) -> None:
            for at, some in runs(sorted(packets, key=lambda p: p.time_ns)):
                clock.now_ns = at
                source.take(some)
                source.beat(at)
                making.until_quiet()

        try:
            gone = {"id": "", "legs": [{"call_id": "call1.0@x", "from_tag": "t1.0", "to_tag": "f1.0"}]}
            feed([silence(US), silence(2 * US)])
            Tombstones(layout).add([gone])  # while it runs
            feed([*(p for lot in lots for p in lot), silence(200 * US)])
            for _ in range(20):
                clock.now_ns += 2_000_000_000
                source.beat(clock.now_ns)
                making.until_quiet()
            found = archive(layout.root)
            balance = making.recorder.balance
        finally:
            source.close()
            making.close()
    said = {read(layout.sidecar(i))["legs"][0]["call_id"] for i in found}
    assert said == {"call0.0@x", "call2.0@x"}
    assert dict(balance.not_recorded) == {"deleted-before": 1}
    assert balance.unaccounted == 0
