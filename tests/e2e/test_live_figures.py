"""`rokuon live` beside `rokuon record -i`, on a wire of the test's own: what is lost on it is seen while the call goes on."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_record_live import ROKUON, play, wait_for
from tests.e2e.wire import Phone, rtp
from tests.sniffer.wires import missing, own_network, wire

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


def test_losses_are_seen_at_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    phone = Phone(1, start_ns=time.time_ns(), seconds=7, ends=False)
    gone = {rtp(n, 4, phone.voice_of(True, n)) for n in range(280, 310)}
    packets = [(p.time_ns, p.data) for p in phone.packets if p.data[42:] not in gone]
    assert len(phone.packets) - len(packets) == 30
    reports: list[dict[str, Any]] = []
    with own_network():
        wire("near", "far")
        with subprocess.Popen([ROKUON, "--data", data, "record", "-i", "near"], text=True, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as recorder:
            wait_for(recorder, data)
            with subprocess.Popen([ROKUON, "--data", data, "live", "--jsonl"], stdout=subprocess.PIPE, text=True) as live:
                try:
                    play("far", packets)
                    assert live.stdout
                    for line in live.stdout:
                        reports.append(json.loads(line))
                        if len(reports) > 30 or any(call["lost"][0] for call in reports[-1]["correlate"]["live"]):
                            break
                finally:
                    live.kill()
                    recorder.terminate()
                    recorder.communicate(timeout=30)
    (call,) = reports[-1]["correlate"]["live"]
    assert call["lost"] == [30, 0]
    assert call["state"] == "answered"
    assert all(0 <= jitter < 1000 for jitter in call["jitter_ms"])
    assert all(side > 50 for side in call["watched"])
    assert reports[-1]["correlate"]["supervised"] is True
    assert [state["supervised"] for state in reports[-1]["captures"].values()] == [True]
