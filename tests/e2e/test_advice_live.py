"""Video on a wire: its packets are counted and not kept, and that shows nowhere but in the spool."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.recorded import record
from tests.e2e.scenarios import A_RTP, B_RTP, Dialog, Frame, S, Wire, both, sdp
from tests.e2e.test_record_live import calls, wait_for
from tests.sniffer.wires import missing, own_network, send, wire

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
ROKUON = Path(sys.executable).with_name("rokuon")
A_VIDEO, B_VIDEO = ("10.0.0.1", 4002), ("10.0.0.2", 6002)
SECONDS = 6


def scenario() -> tuple[Wire, list[bytes], list[bytes]]:
    """A call with video, no two packets with the same payload; the payloads of video and of audio from the 5th second on."""
    made = Wire()
    lines = ["m=video {} RTP/AVP 96", "a=rtpmap:96 H264/90000"]
    dialog = Dialog(made)
    dialog.answered(0, (sdp(A_RTP, more=[x.format(4002) for x in lines]),), (sdp(B_RTP, more=[x.format(6002) for x in lines]),),
                    S // 10)
    count = SECONDS * 50
    both(made, S // 5, count)
    both(made, S // 5, count, A_VIDEO, B_VIDEO, (31, 32), payload_type=96, ticks=1800)
    dialog.bye(S // 5 + SECONDS * S)
    late = [f.data for f in made.sorted() if f.at_us > 5 * S and len(f.data) > 54]
    return made, [d[54:] for d in late if d[43] == 96], [d[54:] for d in late if d[43] == 0]


def streams(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((s["src"], s["dst"], s["ssrc"], s["codec"], s["payload_type"], s["packets"], s["lost"], s["duplicates"],
                   s["reordered"], s["payload_sha256"]) for call in found for s in call["streams"])


def play(interface: str, packets: list[Frame]) -> None:
    """Sends the packets at their pace, those of a twentieth of a second together."""
    begun = time.monotonic()
    for _, some in groupby(packets, lambda f: f.at_us * 20 // S):
        together = list(some)
        time.sleep(max(0, begun + together[0].at_us / S - time.monotonic()))
        send(interface, [f.data for f in together])


def test_video_is_not_kept(tmp_path: Path) -> None:
    made, video, audio = scenario()
    assert len(video) > 100
    data = tmp_path / "live"
    with own_network():
        wire("near", "far")
        with subprocess.Popen([ROKUON, "--data", data, "record", "-i", "near"], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            try:
                wait_for(process, data)
                play("far", made.sorted()[:-2])
                time.sleep(1.5)
                spool = b"".join(path.read_bytes() for path in data.glob("spool/capture-near/*.seg"))
                there = (data / "spool" / "capture-near" / "advice").exists()
                counts = json.loads((data / "state" / "capture-near.json").read_text())["counts"]
                send("far", [f.data for f in made.sorted()[-2:]])
                for _ in range(100):
                    if found := calls(data):
                        break
                    time.sleep(0.1)
                time.sleep(1.5)
                gone = not (data / "spool" / "capture-near" / "advice").exists()
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, err) == (0, "")
    assert there
    assert gone
    assert [payload for payload in audio if payload not in spool] == []
    assert [payload for payload in video if payload in spool] == []
    assert 100 < counts["rtp_headers_only"] <= 2 * SECONDS * 50
    assert not {"advice_damaged", "advice_stale", "rtp_advised_away"} & counts.keys()
    assert streams(found) == streams(record(made, tmp_path))
    assert len(found[0]["streams"]) == 4
    assert not {"truncated-packets"} & found[0]["anomalies"].keys()
