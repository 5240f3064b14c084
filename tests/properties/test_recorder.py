"""What must not depend on how the packets of a call arrived, nor on how the recorder takes them."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.scenarios import A_RTP, B_RTP, Dialog, Frame, S, Wire, both, sdp

from rokuon.store import record_files as recorder
from rokuon.store import spool, unclaimed
from rokuon.store.settings import Settings

Json = dict[str, Any]


def recorded(data: Path, paths: list[Path], chosen: Settings | None = None, jobs: int = 1) -> dict[str, bytes]:
    """Every file of every recording, by name."""
    recorder.record_files([str(p) for p in paths], data, chosen or Settings(), jobs)
    return {path.name: path.read_bytes() for path in sorted((data / "recordings").rglob("*.*"))}


def a_call() -> tuple[list[Frame], list[Frame], dict[int, str]]:
    """Its signalling, its RTP with a restart, a pause and a change of codec, and the voice's hash by SSRC."""
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    d.bye(9 * S)
    signalling, wire.frames = wire.frames, []
    mine, theirs = both(wire, 1_500_000, 100, sequence=65_500)
    wire.rtp(4 * S, A_RTP, B_RTP, 1, 100, payload_type=8, sequence=65_600, stamp=5_000 + 125 * 160, talk=mine)
    wire.rtp(5 * S, B_RTP, A_RTP, 2, 100, sequence=65_600, stamp=5_000 + 175 * 160, talk=theirs)
    return signalling, wire.frames, {1: mine.sha256, 2: theirs.sha256}


SIGNALLING, VOICE, HASHES = a_call()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32), st.integers(0, 1_000), st.floats(0, 0.5), st.lists(st.integers(0, 500), max_size=3))
def test_order_copies_and_files_do_not_change_what_was_said(seed: int, away_ms: int, copied: float, cuts: list[int]) -> None:
    """Packets up to a second from their place, some of them twice, in any number of files: each once, in order, none lost."""
    rng = random.Random(seed)
    frames = list(SIGNALLING)
    for f in VOICE:
        for _ in range(1 + (rng.random() < copied)):
            frames.append(f._replace(at_us=f.at_us + rng.randrange(away_ms + 1) * 1000 - away_ms * 500))
    frames.sort(key=lambda f: f.at_us)
    places = [0, *sorted(min(c, len(frames)) for c in cuts), len(frames)]
    with tempfile.TemporaryDirectory() as folder:
        parts = [Wire().write(Path(folder) / f"{n}.pcap", frames[low:high])
                 for n, (low, high) in enumerate(pairwise(places)) if high > low]
        rng.shuffle(parts)
        files = recorded(Path(folder) / "data", parts)
    (call,) = (json.loads(data) for name, data in files.items() if name.endswith(".json"))
    assert {s["ssrc"]: s["payload_sha256"] for s in call["streams"]} == HASHES
    assert all((s["packets"], s["lost"]) == (200, 0) for s in call["streams"])
    copies, duplicates = len(frames) - len(SIGNALLING) - len(VOICE), sum(s["duplicates"] for s in call["streams"])
    assert duplicates == copies if len(parts) == 1 else duplicates <= copies  # what two files hold alike is read once


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calls side by side, one that ends in another's time, one without signalling, with packets missing, late and twice."""
    wire, rng = Wire(), random.Random(4)
    for n in range(12):
        a, b, at = (f"10.1.{n}.1", 4000), ("10.2.0.1", 6000 + 2 * (n % 5)), n * 2 * S
        if n % 4 != 3:
            d = Dialog(wire, f"many{n}@x", from_tag=f"f{n}", to_tag=f"t{n}")
            d.answered(at, (sdp(a),), (sdp(b),))
            d.bye(at + 8 * S, by_caller=bool(n % 2))
        for talk in ((a, b, 2 * n + 1), (b, a, 2 * n + 2)):
            wire.rtp(at + S, *talk, 300, payload_type=(0, 8, 9)[n % 3])
    noisy = []
    for f in wire.frames:
        if len(f.data) == 214 and rng.random() < 0.02:
            continue
        delay = rng.randrange(60_000) if len(f.data) == 214 and rng.random() < 0.1 else 0
        noisy += [f._replace(at_us=f.at_us + delay)] * (1 + (len(f.data) == 214 and rng.random() < 0.02))
    wire.frames = noisy
    return wire.write(tmp_path_factory.mktemp("many") / "many.pcap")


@pytest.fixture(scope="module")
def plainly(many: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    files = recorded(tmp_path_factory.mktemp("plainly"), [many])
    assert len(files) == 24
    return files


@pytest.mark.parametrize("chunk", [64 << 10, 100_003, 1 << 20])
def test_size_of_chunks_and_segments(chunk: int, many: Path, plainly: dict[str, bytes], tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "CHUNK", chunk)
    roomy = Settings()
    assert recorded(tmp_path, [many], replace(roomy, record=replace(roomy.record, segment=4))) == plainly


@pytest.mark.parametrize("jobs", [2, 3])
def test_how_many_work_at_it(jobs: int, many: Path, plainly: dict[str, bytes], tmp_path: Path) -> None:
    assert recorded(tmp_path, [many], jobs=jobs) == plainly


def test_streams_in_a_crowd_are_the_calls_all_the_same(many: Path, plainly: dict[str, bytes], tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (spool, unclaimed):
        monkeypatch.setattr(module, "CROWD", 1)
    found = recorded(tmp_path, [many])
    assert found.keys() == plainly.keys()
    assert {name: data for name, data in found.items() if not name.endswith(".pcap")} == {
        name: data for name, data in plainly.items() if not name.endswith(".pcap")}
