"""Finalising generated calls, held against the generator's manifest and against the packets (../shared/checks/facts.py)."""

from __future__ import annotations

import importlib.util
import json
import random
import struct
import subprocess
import sys
from collections import defaultdict
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rokuon.decoders.api import PayloadFormat
from rokuon.store.finalize import CallFinalizer, CallPlan, FinalizeSettings, RtpRecords, StreamPlan

SHARED = Path(__file__).resolve().parents[3] / "shared"
pytestmark = pytest.mark.skipif(not (SHARED / "load" / "make_load.py").is_file(), reason="../shared is not here")

HARD = "--loss 0.01 --duplicate 0.02 --reorder 0.02 --jitter 8"
LOADS = {
    "clean": "--seconds 6",
    "pcmu": f"--seconds 12 --mixed {HARD} --ipv6 0.25 --vlan 100",
    "pcma-30": f"--seconds 12 --mixed {HARD} --codec pcma --ptime 30",
    "g722": f"--seconds 8 --mixed {HARD} --codec g722",
    "opus": "--seconds 5 --codec opus --duplicate 0.02 --loss 0.01",
    "legs": "--seconds 10 --legs 2 --mixed --loss 0.01",
    "overlap-vlans": "--seconds 6 --overlap-vlans --mixed",
    "early-media": "--seconds 6 --early-media",
    "ssrc-change": "--seconds 8 --ssrc-change 0.5 --trailing-rtp",
}
Key = tuple[str, str, tuple[int, ...], int]
Json = dict[str, Any]


def endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def streams_of(capture: bytes) -> dict[Key, list[tuple[int, bytes]]]:
    """Every RTP packet of a generated capture, by stream: arrival (ns) and UDP payload."""
    found: dict[Key, list[tuple[int, bytes]]] = defaultdict(list)
    at = 24
    while at + 16 <= len(capture):
        seconds, micros, length, _ = struct.unpack_from("<IIII", capture, at)
        frame = capture[at + 16:at + 16 + length]
        at += 16 + length
        ip, tags = 14, []
        while frame[ip - 2:ip] == b"\x81\x00":
            tags.append(int.from_bytes(frame[ip:ip + 2], "big") & 0xFFF)
            ip += 4
        v6 = frame[ip - 2:ip] == b"\x86\xdd"
        udp, (a, b) = (ip + 40, (ip + 8, 16)) if v6 else (ip + 20, (ip + 12, 4))
        source, destination = int.from_bytes(frame[udp:udp + 2], "big"), int.from_bytes(frame[udp + 2:udp + 4], "big")
        payload = frame[udp + 8:]
        if source == 5060 or len(payload) < 12:
            continue
        ends = [endpoint(str(ip_address(frame[a + i * b:a + (i + 1) * b])), port) for i, port in enumerate((source, destination))]
        ssrc = int.from_bytes(payload[8:12], "big")
        found[ends[0], ends[1], tuple(tags), ssrc].append(((seconds * 1_000_000 + micros) * 1000, payload))
    return found


def records(packets: list[tuple[int, bytes]]) -> RtpRecords:
    length = np.array([len(p) for _, p in packets], np.int32)
    data = np.frombuffer(b"".join(p for _, p in packets) + bytes(64), np.uint8)
    return RtpRecords(np.array([t for t, _ in packets], np.int64), data, np.cumsum(length, dtype=np.int64) - length, length,
                      length.copy())


def plan_of(legs: list[Json], codec: str) -> tuple[CallPlan, list[Json]]:
    """A plan as signalling would make it; the first leg is listened to."""
    streams, wanted = [], []
    for number, leg in enumerate(legs):
        for s in leg["streams"]:
            if not s["unique"]:
                continue
            kind, rate, channels = {"pcmu": ("PCMU", 8000, 1), "pcma": ("PCMA", 8000, 1), "g722": ("G722", 8000, 1),
                                    "opus": ("opus", 48000, 2)}[codec]
            formats = {s["payload_type"]: PayloadFormat(kind, rate, channels, "", s["payload_type"])}
            for event in (100, 101):
                formats[event] = PayloadFormat("telephone-event", rate, 1, "", event)
            streams.append(StreamPlan(s["direction"], number, 0, endpoint(*s["src"]), endpoint(*s["dst"]), s["vlan"], s["ssrc"],
                                      formats, voice=number == 0))
            wanted.append(s)
    name = legs[0]["call_id"].partition("@")[0]
    facts = {"id": name, "legs": [{"call_id": leg["call_id"]} for leg in legs], "events": [], "anomalies": {}}
    return CallPlan(facts, f"recordings/2026/01/01/00/{name}", streams), wanted


@pytest.fixture(scope="module")
def facts_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("facts_check", SHARED / "checks" / "facts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["facts_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("block_s", [120, 3])
def test_against_manifest(name: str, block_s: int, tmp_path: Path, facts_check: ModuleType) -> None:
    capture = tmp_path / "load.pcap"
    options = LOADS[name].split()
    subprocess.run([sys.executable, SHARED / "load" / "make_load.py", capture, *options, "--calls", "12", "--spread", "5",
                    "--seed", "7"], check=True, stdout=subprocess.DEVNULL)
    manifest = json.loads(capture.with_suffix(".json").read_text())
    streams = streams_of(capture.read_bytes())
    codec = manifest["options"]["codec"]
    calls, facts = [], facts_check.Facts()
    data = tmp_path / "data"
    rng = random.Random(name)
    for legs in facts_check.conversations(manifest):
        plan, wanted = plan_of(legs, codec)
        keys = [(p.src, p.dst, tuple(p.vlan), p.ssrc) for p in plan.streams]
        maker = CallFinalizer(data, plan, FinalizeSettings(block_s=block_s, show_digits=True))
        if block_s == 120:
            maker.add([records(streams[k]) for k in keys], None)
        else:  # in pieces cut anywhere
            times = sorted(t for k in keys for t, _ in streams[k])
            cuts = sorted(rng.choice(times) for _ in range(4)) if times else []
            for low, high in zip([0, *cuts], [*cuts, 1 << 62], strict=True):
                pieces = [[p for p in streams[k] if low <= p[0] < high] for k in keys]
                maker.add([records(p) if p else None for p in pieces], None if high == 1 << 62 else high)
        call = maker.finish(sync=False)
        calls.append(call)
        assert [json.loads(path.read_text()) for path in data.rglob(f"{call['id']}.json")] == [call]
        facts_check.of_streams(facts, legs, call, False)
        entries = {(s["src"], s["dst"], tuple(s["vlan"]), s["ssrc"]): s for s in call["streams"]}
        for want, key in zip(wanted, keys, strict=True):
            assert entries[key]["duplicates"] == want["duplicates"]
        digits = "".join(e["detail"] for e in call["events"] if e["type"] == "dtmf")
        assert digits == max(("".join(s["dtmf"] for s in leg["streams"]) for leg in legs), key=len)
        assert sum(e["type"] == "ssrc-change" for e in call["events"]) == sum(bool(s["part"]) for s in wanted)
        assert call["anomalies"] == {}
    facts.add(facts_check.against_packets(capture.read_bytes(), manifest, calls, data, random.Random(1)))
    assert facts.wrong == []
    assert facts.total > 100
