"""What is said in the demo's calls is heard in their recordings: by whom, when, and by nobody else.

The lines and their seconds are those of fixtures/pcaps/office-morning.py; the speech itself lies in fixtures/speech.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray

from rokuon.decoders import registry

ROOT = Path(__file__).resolve().parent.parent.parent
ROKUON = Path(sys.executable).with_name("rokuon")
CALLER, CALLEE = 0, 1

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")

HEARD = [  # codec, beginning of the Call-ID, who, what, at which second after the answer
    ("PCMU", "7d1f0b52", CALLEE, "alice-hello", 0.2),
    ("PCMU", "7d1f0b52", CALLER, "bob-order", 3.6),
    ("PCMA", "1c417010", CALLER, "tanaka-hello", 3.9),
    ("PCMA", "1c417010", CALLEE, "reception-back", 16.3),
    ("PCMA", "1c417010", CALLER, "tanaka-thanks", 20.9),
    ("PCMU", "0badc0de", CALLER, "bob-bad-line", 2.9),  # 3 % of it lost
    ("G722", "f00dcafe", CALLER, "carol-meeting", 0.5),
    ("G722", "f00dcafe", CALLEE, "alice-fine", 4.9),
    ("opus", "c0ffee11", CALLER, "suzuki-order", 1.0),
    ("opus", "c0ffee11", CALLEE, "reception-tomorrow", 5.0),
]
CALLER_BEGINS_S = 0.015
"""The callee's first packet comes 5 ms after the answer, the caller's 20 ms after it; recordings begin with the former."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The data directory and the calls by the beginning of their Call-ID."""
    data = tmp_path_factory.mktemp("demo")
    capture = ROOT / "fixtures" / "pcaps" / "office-morning.pcap"
    subprocess.run([str(ROKUON), "--data", str(data), "record", "-r", str(capture)], check=True, capture_output=True)
    out = subprocess.run([str(ROKUON), "--data", str(data), "calls", "--json"], check=True, capture_output=True).stdout
    return data, {call["legs"][0]["call_id"].partition("@")[0]: call for call in json.loads(out)}


def best_match(sound: NDArray[np.float64], spoken: NDArray[np.float64]) -> tuple[int, float]:
    """Where the speech fits best, and how well: the correlation coefficient there."""
    size = 1 << (len(sound) + len(spoken) - 1).bit_length()
    products = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(spoken, size)))[:len(sound)]
    at = int(products.argmax())
    part = sound[at:at + len(spoken)]
    energy = float((part**2).sum() * (spoken[:len(part)]**2).sum())
    return at, float(products[at]) / energy**0.5 if energy else 0.0


@pytest.mark.parametrize(("codec", "call_id", "side", "speech", "at_s"), HEARD, ids=str)
def test_speech_is_at_its_place(recorded: tuple[Path, dict[str, Any]], codec: str, call_id: str, side: int, speech: str,
                                at_s: float) -> None:
    data, calls = recorded
    call = calls[call_id]
    if call["audio"] is None and codec == "opus" and any(p.name == "opus" and p.status != "ok" for p in registry.plugins()):
        pytest.skip("libopus is not installed")
    sound, rate = sf.read(data / call["audio"]["path"], dtype="float64")
    spoken, spoken_rate = sf.read(ROOT / "fixtures" / "speech" / f"{speech}.flac", dtype="float64")
    spoken = np.interp(np.arange(len(spoken) * rate // spoken_rate) * spoken_rate / rate, np.arange(len(spoken)), spoken)
    at, fit = best_match(sound[:, side], spoken)
    assert fit > 0.95
    assert at / rate == pytest.approx(at_s + (CALLER_BEGINS_S if side == CALLER else 0), abs=0.02)
    assert best_match(sound[:, 1 - side], spoken)[1] < 0.5, "heard on the other side as well"
