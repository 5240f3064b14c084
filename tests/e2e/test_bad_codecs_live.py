"""Codecs of others that raise, crash, loop and eat memory, while live recording runs: they cost their own calls at most."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from tests.e2e.bad_codecs import BROKEN, DEADLY, NAMES, STARVES, call_in, install
from tests.e2e.phones import play, recorder, stop
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, leftovers, merged, record, run
from tests.sniffer.wires import missing, own_network, wire

REASON = missing() or ("" if ROKUON.exists() else "rokuon is not installed beside this Python")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
WAIT_S = 60


def wait_until(data: Path, recorded: int, quarantined: int) -> None:
    """Until so many calls can be listed and so many are set aside, while the recorder runs."""
    deadline = time.monotonic() + WAIT_S
    while len(calls(data)) < recorded or len(list((data / "quarantine").glob("*.json"))) < quarantined:
        assert time.monotonic() < deadline, (len(calls(data)), list((data / "quarantine").glob("*")))
        time.sleep(0.3)


def test_bad_codecs_beside_good_calls(tmp_path: Path) -> None:
    data, env = tmp_path / "data", install(tmp_path)
    bad = {name: call_in(name, 20 + n, START + n * SECOND // 20) for n, name in enumerate(NAMES)}
    good = [Phone(n, START + n * SECOND // 20) for n in range(8)]
    later = [Phone(n, START) for n in range(10, 12)]
    with own_network():
        wire("near", "far")
        with recorder(data, "near", env=env) as process:
            play("far", merged(*good, *bad.values()))
            wait_until(data, len(good) + len(BROKEN), len(DEADLY))
            play("far", merged(*later))
            wait_until(data, len(good) + len(BROKEN) + len(later), len(DEADLY))
            status, out, err = stop(process)
    assert status == 1, "some calls could not be finalised"
    assert out.startswith(f"{len(good) + len(BROKEN) + len(later)} calls recorded")
    found = calls(data)
    plain = [call for call in found if call["caller"]["number"] == "alice"]
    assert len(plain) == len(good) + len(later)
    assert all([(s["packets"], s["lost"]) for s in call["streams"]] == [(50, 0)] * 2 for call in plain)
    assert all(round(call["audio"]["duration_s"]) == 1 for call in plain)
    broken = {call["caller"]["number"]: call for call in found if call["caller"]["number"] != "alice"}
    assert set(broken) == {name.lower() for name in BROKEN}
    assert all(call["anomalies"]["broken-payloads"] > 0 for call in broken.values())
    said = dict(re.findall(r"call (\S+) could not be finalised and is in quarantine: ended the finaliser 2 times \((.*)\)", err))
    assert sorted(said.values()) == sorted(DEADLY.values())
    assert err.count("\n") == len(DEADLY), err
    assert re.search(rf"{len(DEADLY)} +quarantined|quarantined\D+{len(DEADLY)}", run(data, "stats").stdout)
    assert {path.stem for path in (data / "quarantine").glob("*.json")} == set(said)
    for name, why in said.items():
        facts = json.loads((data / "quarantine" / f"{name}.json").read_text())
        assert why in facts["quarantine_reason"]
        assert DEADLY[facts["caller"]["number"].title()] == why
        again = tmp_path / name
        assert record(again, data / "quarantine" / f"{name}.pcap").returncode == 0
        assert [sum(s["packets"] for s in call["streams"]) for call in calls(again)] == [100]
    assert [path for path in leftovers(data) if not path.startswith("spool/")] == []


def test_a_codec_that_takes_all_memory_beside_good_calls(tmp_path: Path) -> None:
    """What it took is given back with its process; calls that this process was to make are made by another."""
    data, env = tmp_path / "data", install(tmp_path)
    plain = [Phone(n, START + n * SECOND // 20) for n in range(12)]
    starving = [call_in(STARVES, 20 + n, START + n * SECOND // 7) for n in range(4)]
    with own_network():
        wire("near", "far")
        with recorder(data, "near", env=env) as process:
            play("far", merged(*plain, *starving))
            deadline = time.monotonic() + WAIT_S
            while len([call for call in calls(data) if call["caller"]["number"] == "alice"]) < len(plain):
                assert time.monotonic() < deadline, (len(calls(data)), run(data, "stats").stdout)
                time.sleep(0.3)
            stop(process)
    found = calls(data)
    good = [call for call in found if call["caller"]["number"] == "alice"]
    assert len(good) == len(plain)
    assert all([(s["packets"], s["lost"]) for s in call["streams"]] == [(50, 0)] * 2 for call in good)
    assert all(round(call["audio"]["duration_s"]) == 1 for call in good)
    assert not any("broken-payloads" in call["anomalies"] for call in good)
    assert len(found) - len(good) + len(list((data / "quarantine").glob("*.json"))) == len(starving)
    assert [path for path in leftovers(data) if not path.startswith("spool/")] == []
