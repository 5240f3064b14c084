"""A spool so small and a window so short that segments are merged, used again and handed over: nothing of a call may change."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rokuon.store.record_files import record_files
from rokuon.store.settings import Settings

MAKE_LOAD = Path(__file__).resolve().parents[3] / "shared" / "load" / "make_load.py"
LOADS = {
    "staggered": "--calls 40 --seconds 20 --spread 90 --loss 0.01 --duplicate 0.02 --reorder 0.02 --jitter 8 --mixed",
    "ports used again": "--calls 60 --seconds 6 --reuse-ports 6",
    "opus": "--calls 12 --seconds 20 --spread 60 --codec opus --duplicate 0.02",
}


def calls_in(data: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((data / "recordings").rglob("*.json"))]


@pytest.mark.skipif(not MAKE_LOAD.exists(), reason="no load generator beside the checkout")
@pytest.mark.parametrize("options", LOADS.values(), ids=LOADS.keys())
def test_a_small_spool_changes_nothing(options: str, tmp_path: Path) -> None:
    capture = tmp_path / "load.pcap"
    subprocess.run([sys.executable, MAKE_LOAD, capture, *options.split()], check=True, stdout=subprocess.DEVNULL)
    roomy = Settings()
    tight = replace(roomy, record=replace(roomy.record, segment=1, window=2.0))
    record_files([str(capture)], tmp_path / "roomy", roomy)
    summary = record_files([str(capture)], tmp_path / "tight", tight)
    if "opus" not in options:  # which is small, and is given to a worker that takes its time
        assert summary.counts["spool_segments_reused"] > 0
        assert summary.counts["spool_segments"] < capture.stat().st_size >> 20
    if "--mixed" in options:  # elsewhere whole segments may go at once
        assert summary.counts["spool_bytes_merged"] > 0
    assert calls_in(tmp_path / "tight") == calls_in(tmp_path / "roomy")
    manifest = json.loads(capture.with_suffix(".json").read_text())
    hashes = {(s["ssrc"], s["first_us"]): s["sha256"] for call in manifest["calls"] for s in call["streams"]}
    found = [stream["payload_sha256"] for call in calls_in(tmp_path / "tight") for stream in call["streams"]]
    assert sorted(found) == sorted(hashes.values())
