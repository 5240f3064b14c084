"""Every capture of fixtures/pcaps, recorded by the installed command, gives the calls that its scenario says.

What the expectation holds and how it comes about: fixtures/pcaps/README.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PCAPS = ROOT / "fixtures" / "pcaps"
ROKUON = Path(sys.executable).with_name("rokuon")
NAMES = sorted(path.stem for path in PCAPS.glob("*.pcap"))
GENERATED = sorted(path.stem for path in PCAPS.glob("*.py"))
SHOWN = [name for name in NAMES if name.startswith(("doctor", "softphones"))] + ["office-morning", "port-reuse", "rtp-only"]
TOGETHER = [name for name in NAMES if name not in SHOWN][::3]
"""Recorded by one process, to save its starts; all others by the command itself, each for itself."""
ONE_PROCESS = """
import sys
from rokuon.cli import main
data, pcaps, *names = sys.argv[1:]
for name in names:
    try:
        status = main(["--data", f"{data}/{name}", "record", "-r", f"{pcaps}/{name}.pcap"])
    except SystemExit as end:
        status = end.code
    assert not status, name
"""
OF_LIBOPUS = {"office-morning", "codec-opus"}
"""Another libopus makes other bytes."""

Json = dict[str, Any]

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")


def rokuon(data: Path, *arguments: object) -> str:
    """Standard output of a command, which has to succeed."""
    command = [str(ROKUON), "--data", str(data), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


STREAM_KEYS = ("direction", "src", "dst", "vlan", "codec", "packets", "lost", "duplicates")


def chosen(stream: Json, keys: set[str]) -> tuple[object, ...]:
    return tuple(json.dumps(stream[key]) if key in keys else None for key in STREAM_KEYS)


def facts(call: Json) -> Json:
    """Of a recorded call all that an expectation may speak of, in its shape."""
    events = Counter(event["type"] for event in call["events"])
    audio = call["audio"]
    return {
        "call_id": call["legs"][0]["call_id"] if call["legs"] else None, "state": call["state"], "sip_status": call["sip_status"],
        "hangup_by": call["hangup_by"], "end_reason": call["end_reason"], "legs": len(call["legs"]),
        "dtmf": events["dtmf"], "holds": events["hold"], "caller": call["caller"], "callee": call["callee"],
        "events": [[event["type"], event["side"]] for event in call["events"] if event["type"] != "dtmf"],
        "audio": None if audio is None else {"format": audio["format"], "sample_rate": audio["sample_rate"]},
        "audio_s": None if audio is None else pytest.approx(audio["duration_s"], abs=0.1),
        "audio_reason": call.get("audio_reason"), "anomalies": call["anomalies"], "streams": call["streams"]}


def check(wanted: list[Json], calls: list[Json]) -> None:
    """Each call is as wanted, and there is no other."""
    got = sorted(map(facts, calls), key=lambda call: str(call["call_id"]))  # those of one Call-ID stay in order of time
    assert [call["call_id"] for call in got] == sorted((want["call_id"] for want in wanted), key=str)
    for want, call in zip(sorted(wanted, key=lambda want: str(want["call_id"])), got, strict=True):
        keys = {key for stream in want.get("streams", ()) for key in stream}
        told = {key: call[key] for key in want}
        for part in {"caller", "callee", "anomalies"} & set(want):
            told[part] = {key: call[part].get(key) for key in want[part]}
        if "streams" in want:
            told["streams"] = sorted(chosen(stream, keys) for stream in call["streams"])
            want["streams"] = sorted(chosen(stream, keys) for stream in want["streams"])
        assert told == want


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The captures `TOGETHER`, recorded one after the other by one process: a directory with the data of each."""
    directory = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-c", ONE_PROCESS, str(directory), str(PCAPS), *TOGETHER]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_those_of_the_scenario(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    wanted = json.loads((PCAPS / f"{name}.expected.json").read_text(encoding="utf-8"))["calls"]
    data = request.getfixturevalue("together") / name if name in TOGETHER else tmp_path
    if name not in TOGETHER:
        rokuon(data, "record", "-r", PCAPS / f"{name}.pcap")
    if name in SHOWN:
        calls = json.loads(rokuon(data, "calls", "--json"))
    else:  # the sidecars say the same, and a start of the command is saved
        calls = [json.loads(path.read_text(encoding="utf-8")) for path in (data / "recordings").rglob("*.json")]
    check(wanted, sorted(calls, key=lambda call: str(call["start"])))


def test_hostile_names_come_out_harmless(tmp_path: Path) -> None:
    """Nothing that a terminal acts on, nothing that leaves the data directory, in any form of output."""
    data = tmp_path / "inside" / "data"
    rokuon(data, "record", "-r", PCAPS / "hostile-names.pcap")
    for arguments in (["calls"], ["calls", "--json"], ["calls", "--csv"], ["show", "last"], ["show", "last", "--json"]):
        shown = rokuon(data, *arguments)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown), arguments
    csv = rokuon(data, "calls", "--csv")
    assert not re.search(r'(?m)(^|[,;\t])"?[=@]', csv), "a cell that a spreadsheet takes for a formula"
    outside = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert outside == {"inside"}
    names = [path.name for path in (data / "recordings").rglob("*")]
    assert all(re.fullmatch(r"[0-9A-Za-z.-]+", name) for name in names)


@pytest.fixture(scope="session")
def made_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg, which encodes the voices of the fixtures, is not installed")
    pytest.importorskip("scapy", reason="scapy, which makes the fixtures, is not installed")
    directory = tmp_path_factory.mktemp("fixtures")
    names = [name for name in GENERATED if name not in OF_LIBOPUS]
    make = [sys.executable, str(ROOT / "fixtures" / "make.py"), "-o", str(directory), *names]
    subprocess.run(make, check=True, capture_output=True)
    return directory


@pytest.mark.parametrize("name", [name for name in GENERATED if name not in OF_LIBOPUS])
def test_capture_is_what_its_generator_makes(name: str, made_again: Path) -> None:
    for suffix in (".pcap", ".expected.json"):
        assert (made_again / (name + suffix)).read_bytes() == (PCAPS / (name + suffix)).read_bytes()


def test_every_capture_has_an_expectation_and_an_origin() -> None:
    for name in NAMES:
        assert (PCAPS / f"{name}.expected.json").is_file()
        assert name in GENERATED or name.startswith("softphones-")
    assert set(GENERATED) <= set(NAMES)


@pytest.mark.skipif(not (ROOT / "scripts").is_dir(), reason="scripts are not part of this copy")
def test_coverage_is_written_anew() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "make-coverage"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
