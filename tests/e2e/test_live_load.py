"""Generated calls sent live, at their own pace: every fact is right, and tcpdump's file of the same packets gives the same."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.sniffer.wires import missing, own_network, wire

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
MAKE_LOAD, FACTS, SENDER = SHARED / "load" / "make_load.py", SHARED / "checks" / "facts.py", ROOT / "bench" / "sender.py"
ROKUON = Path(sys.executable).with_name("rokuon")
REASON = (missing() or next((f"no {path.name} here" for path in (MAKE_LOAD, FACTS, SENDER) if not path.exists()), "")
          or ("" if shutil.which("tcpdump") else "no tcpdump here"))
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
LOADS = {
    "hard": "--calls 20 --seconds 4 --spread 1.5 --mixed --loss 0.01 --duplicate 0.01 --reorder 0.01 --vlan 100 "
            "--ipv6 0.3 --seed 5",
    "legs": "--calls 12 --seconds 5 --spread 1.5 --legs 2 --mixed --loss 0.01 --seed 3"}


def facts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shared_facts", FACTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


def until(holds: Callable[[], object], limit_s: float, what: str) -> None:
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < limit_s, what
        time.sleep(0.05)


def calls(data: Path) -> list[dict[str, Any]]:
    done = subprocess.run([ROKUON, "--data", data, "calls", "--limit", "1000", "--json"], check=True, capture_output=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def essence(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What a call must be, whoever captured its packets; but for times, which differ by microseconds from socket to socket."""
    return {call["id"].rpartition("-")[2]: (
        call["state"], call["sip_status"], call["end_reason"], call["hangup_by"], [e["type"] for e in call["events"]],
        sorted((s["src"], s["dst"], s["ssrc"], s["codec"], s["packets"], s["lost"], s["duplicates"], s["payload_sha256"])
               for s in call["streams"])) for call in found}


@pytest.mark.parametrize("kind", LOADS)
def test_live_and_offline_agree(kind: str, tmp_path: Path) -> None:
    load, beside, data = tmp_path / "load.pcap", tmp_path / "beside.pcap", tmp_path / "data"
    subprocess.run([sys.executable, MAKE_LOAD, load, *LOADS[kind].split()], check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads(load.with_suffix(".json").read_text())
    conversations = len({call["conversation"] for call in manifest["calls"]})
    said = tmp_path / "tcpdump"
    with own_network(), said.open("wb") as errors:
        wire("near", "far")
        tcpdump = subprocess.Popen(["tcpdump", "-i", "far", "-n", "-Z", "root", "-B", "8192", "-s", "65535", "-w", beside],
                                   stderr=errors)
        rokuon = subprocess.Popen([ROKUON, "--data", data, "record", "-i", "far"], text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        try:
            until(lambda: b"listening" in said.read_bytes(), 10, "tcpdump does not listen")
            until(lambda: all((data / "state" / name).exists() for name in ("capture-far.json", "correlate.json")), 20,
                  "rokuon does not run")
            sent = json.loads(subprocess.run([sys.executable, SENDER, "--interface", "near", "--replay", load], check=True,
                                             capture_output=True).stdout)
            assert sent["packets"] == manifest["packets"]
            until(lambda: len(calls(data)) >= conversations, 20, "calls are not found soon after their end")
            tcpdump.send_signal(signal.SIGINT)
            tcpdump.wait(10)
            rokuon.send_signal(signal.SIGTERM)
            out, err = rokuon.communicate(timeout=30)
        finally:
            for process in (rokuon, tcpdump):
                process.kill()
                process.wait()
    assert (rokuon.returncode, err) == (0, ""), out
    live = calls(data)
    judged = facts().against_manifest(manifest, live, live=True)
    assert judged.wrong == []
    assert judged.right > 0

    subprocess.run([ROKUON, "--data", tmp_path / "offline", "record", "-r", beside], check=True, capture_output=True)
    assert essence(calls(tmp_path / "offline")) == essence(live)
