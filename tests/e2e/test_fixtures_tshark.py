"""The scenarios of fixtures/pcaps beside what tshark counts: packets and losses of each RTP stream.

`test_fixtures` holds rokuon to the scenarios; that the captures show what the scenarios say is for tshark to tell.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

PCAPS = Path(__file__).resolve().parents[2] / "fixtures" / "pcaps"
EXCEPT = {
    "doctor-erspan": "the mirror's copies are packets to tshark",
    "doctor-routed-copies": "copies",
    "doctor-two-vlans": "copies",
    "mirror-duplicates": "copies",
    "mirror-untagged-copies": "copies",
    "rtp-reordered-and-doubled": "copies",
    "doctor-snaplen": "tshark reads no RTP that the capture cut",
    "rtp-restart-same-ssrc": "tshark takes the new sequence for 20,000 lost packets, and so would a phone",
}
NAMES = [name for name in sorted(path.stem for path in PCAPS.glob("*.pcap")) if name not in EXCEPT]
OFTEN = [name for name in NAMES if name.startswith(("rtp", "sdp", "payload", "codec"))]
SOME = sorted({*OFTEN, *NAMES[::4]})
"""Each takes a fifth of a second; all of NAMES were held to it when they were made."""
LINE = re.compile(r" +[\d.]+ +[\d.]+ +(\S+) +(\d+) +(\S+) +(\d+) +(0x[0-9A-F]+) +\S.*? +(\d+) +(-?\d+) \(")

pytestmark = pytest.mark.skipif(not shutil.which("tshark"), reason="tshark is not installed")


def counted(path: Path) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """Packets and losses by source and destination, as tshark has them."""
    command = ["tshark", "-n", "-r", str(path), "--enable-heuristic", "rtp_udp", "-q", "-z", "rtp,streams"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    packets: Counter[tuple[str, str]] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    for src, sport, dst, dport, _, count, missing in LINE.findall(shown):
        ends = tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in ((src, sport), (dst, dport)))
        packets[ends[0], ends[1]] += int(count)
        lost[ends[0], ends[1]] += int(missing)
    return packets, +lost


@pytest.mark.parametrize("name", SOME)
def test_streams_are_those_that_tshark_counts(name: str) -> None:
    packets: Counter[tuple[str, str]] = Counter()
    lost: Counter[tuple[str, str]] = Counter()
    for call in json.loads((PCAPS / f"{name}.expected.json").read_text(encoding="utf-8"))["calls"]:
        for stream in call.get("streams", ()):
            packets[stream["src"], stream["dst"]] += stream["packets"]
            lost[stream["src"], stream["dst"]] += stream["lost"]
    assert counted(PCAPS / f"{name}.pcap") == (packets, +lost)
