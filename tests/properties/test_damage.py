"""Damage of any kind to some packets of a capture: counted, never an exception, and the calls beside it stay as they were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.wire import SECOND, START, Phone, merged
from tests.sniffer.captures import Packet, pcap

from rokuon.sniffer.pcap_file import CaptureError, open_capture
from rokuon.store.record_files import record_files
from rokuon.store.settings import RecordSettings, Settings
from rokuon.store.summary import Summary

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT.parent / "shared" / "captures" / "selfmade"
NAMES = sorted(path.name for path in CAPTURES.glob("*.pcap"))
HERE = Settings(record=RecordSettings(segment=1, window=2.0))
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))

WELL = merged(Phone(1, START, 0.5), Phone(2, START + SECOND // 4, 0.5))
ILL = Phone(60_000, START + SECOND // 10, 0.3, call_id=b"zzzzzzzzzzzzzzzzzzzzzz", tag=b"yyyyyyyyyyyyy").packets
"""No byte or two make a packet of this call one of those: their addresses, ports, SSRCs and names differ in several."""


def recorded(octets: bytes) -> tuple[Summary, dict[str, Any]]:
    """The summary, and of each call that came out what must not change."""
    with TemporaryDirectory() as directory:
        (capture := Path(directory) / "c.pcap").write_bytes(octets)
        summary = record_files([str(capture)], Path(directory) / "data", HERE)
        sidecars = [json.loads(path.read_bytes()) for path in (Path(directory) / "data" / "recordings").rglob("*.json")]
        found = {}
        for call in sidecars:
            name = call["legs"][0]["call_id"] if call["legs"] else call["id"]
            name = name if name not in found else f"{name} {call['id']}"  # damaged tags make two of one
            streams = [(s["src"], s["packets"], s["lost"], s["payload_sha256"]) for s in call["streams"]]
            found[name] = (call["id"], call["state"], call["start"], call["end"], (call["audio"] or {}).get("sha256"), streams)
        assert not list(Path(directory).rglob("*.part"))
        return summary, found


@cache
def unharmed() -> dict[str, Any]:
    return recorded(pcap(WELL))[1]


@st.composite
def damaged(draw: st.DrawFn, packets: Sequence[Packet]) -> list[Packet]:
    """These packets with bytes changed, cut off or put in, packets left out, twice, elsewhere."""
    out = list(packets)
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, len(out) - 1))
        packet = out[at]
        what = draw(st.sampled_from(["flip", "flip", "cut", "insert", "swap", "drop", "twice", "move", "time", "splice"]))
        if what == "flip" and packet.data:
            octets = bytearray(packet.data)
            octets[draw(st.integers(0, len(octets) - 1))] = draw(st.integers(0, 255))
            out[at] = packet._replace(data=bytes(octets))
        elif what == "cut":
            out[at] = packet._replace(data=packet.data[:draw(st.integers(0, len(packet.data)))])
        elif what == "insert":
            place = draw(st.integers(0, len(packet.data)))
            data = packet.data[:place] + draw(st.binary(max_size=40)) + packet.data[place:]
            out[at] = packet._replace(data=data, wire=len(data))
        elif what == "swap":
            other = draw(st.integers(0, len(out) - 1))
            out[at], out[other] = out[at]._replace(data=out[other].data), out[other]._replace(data=packet.data)
        elif what == "drop" and len(out) > 1:
            del out[at]
        elif what == "twice":
            out.insert(at, packet)
        elif what == "move":
            out[at] = packet._replace(time_ns=packet.time_ns + draw(st.integers(-SECOND, SECOND)))
        elif what == "time":
            out[at] = packet._replace(wire=draw(st.integers(0, 0xFFFFFFFF)))
        elif what == "splice":
            other_packet = out[draw(st.integers(0, len(out) - 1))]
            place = draw(st.integers(0, len(packet.data)))
            out[at] = packet._replace(data=packet.data[:place] + other_packet.data[place:])
    return sorted(out, key=lambda p: p.time_ns)


def beside(packets: Sequence[Packet]) -> bytes:
    return pcap(sorted([*WELL, *packets], key=lambda p: p.time_ns))


@few
@given(damaged(ILL))
def test_damage_to_one_call_leaves_the_others_alone(packets: list[Packet]) -> None:
    summary, found = recorded(beside(packets))
    assert summary.packets == len(WELL) + len(packets)
    assert not summary.quarantined
    assert {name: found.get(name) for name in unharmed()} == unharmed()


@cache
def of_phones(name: str) -> tuple[Packet, ...]:
    """A capture of real telephones, its first packets moved to where our calls are."""
    with open_capture(CAPTURES / name) as capture:
        packets = [Packet(int(t), bytes(batch.data[o:o + n]), int(n)) for batch in capture
                   for t, o, n in zip(batch.time_ns, batch.offset, batch.captured_length, strict=True)]
    signalling = [p for p in packets if b"SIP/2.0" in p.data or p.data[23:24] == b"\x06"][:60]
    media = [p for p in packets if p not in signalling][:100]
    chosen = sorted([*signalling, *media], key=lambda p: p.time_ns)
    first = chosen[0].time_ns
    return tuple(p._replace(time_ns=START + (p.time_ns - first) % (2 * SECOND)) for p in chosen)


@pytest.mark.skipif(not NAMES, reason="the shared captures are not here")
@few
@given(st.data())
def test_damage_to_calls_of_real_telephones(data: st.DataObject) -> None:
    one, other = (of_phones(data.draw(st.sampled_from(NAMES))) for _ in range(2))
    packets = data.draw(damaged([*one, *other]))
    summary, found = recorded(beside(packets))
    assert summary.packets == len(WELL) + len(packets)
    assert not summary.quarantined
    assert {name: found.get(name) for name in unharmed()} == unharmed()


@few
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=20),
       st.floats(0.3, 1))
def test_damage_anywhere_in_the_file(changes: list[tuple[float, int]], left: float) -> None:
    octets = bytearray(beside(ILL))
    del octets[int(len(octets) * left):]
    for place, value in changes:
        octets[int(place * len(octets))] = value
    try:
        summary, found = recorded(bytes(octets))
    except CaptureError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert not summary.quarantined
    assert len(found) == summary.calls_added


@pytest.mark.parametrize("years", [1, 40])
@pytest.mark.parametrize("count", [1, 30])
def test_signalling_of_another_year_ends_no_call(years: int, count: int) -> None:
    """Time goes by packets; a message that is dated years ahead, amid the calls, is not what it goes by."""
    packets = sorted([*WELL, *ILL], key=lambda p: p.time_ns)
    at = next(n for n, p in enumerate(packets) if n > 30 and p in ILL)
    forged = packets[at]._replace(time_ns=packets[at].time_ns + years * 365 * 86_400 * SECOND, data=ILL[0].data)
    summary, found = recorded(pcap([*packets[:at], *[forged] * count, *packets[at:]]))
    assert [line for line in summary.warnings if f"{count} of {len(packets) + count} packets are dated long after" in line]
    assert {name: found.get(name) for name in unharmed()} == unharmed()


@pytest.mark.skipif(not (ROOT / "bench" / "damage.py").exists(), reason="not in a checkout")
@pytest.mark.parametrize("first", [1_000_000, 2_000_000])
def test_damaged_captures_through_the_command(first: int) -> None:
    """A few of the seeds of docs/testing.md, on the captures of fixtures/pcaps and those shared."""
    command = [sys.executable, ROOT / "bench" / "damage.py", "--seeds", "10", "--first", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_answer_of_1970_is_not_followed_through_all_years_since() -> None:
    packets = sorted([*WELL, *ILL], key=lambda p: p.time_ns)
    early = [p._replace(time_ns=SECOND) if p in ILL and p.data[42:].startswith(b"SIP/2.0 200") else p for p in packets]
    assert early != packets
    _, found = recorded(pcap(early))
    assert {name: found.get(name) for name in unharmed()} == unharmed()
