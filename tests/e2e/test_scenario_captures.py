"""The same call however it was captured: mirrors, interfaces, transports, fragments, files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.recorded import Json, calls_of, only, record, rokuon, sent, stream
from tests.e2e.scenarios import A_RTP, B_RTP, A, B, Dialog, Frame, S, Wire, both, plain, sdp


# -- how it was captured -----------------------------------------------------------
def copied(wire: Wire, how: str) -> Wire:
    """Every packet once more, as a mirror may bring it."""
    again = Wire()
    for f in wire.frames:
        data = f.data
        if how in ("router", "router and tag"):  # another router's side of it: TTL one less, other MACs
            data = bytes.fromhex("020000000050020000000051") + data[12:22] + bytes([data[22] - 1]) + data[23:]
        if how in ("tag", "router and tag"):
            data = data[:12] + b"\x81\x00\x00\x64" + data[12:]
        again.frames += [f, Frame(f.at_us + 30, data)]
    return again


@pytest.mark.parametrize("how", ["same", "router", "tag", "router and tag"])
def test_mirror_that_brings_everything_twice(how: str, tmp_path: Path) -> None:
    wire = Wire()
    d = Dialog(wire)
    d.answered()
    talks = both(wire, S, 150)
    wire.key(4 * S, A_RTP, B_RTP, 1, 5, 250, 5_000 + 150 * 160)
    d.reinvite(2 * S, [sdp(A_RTP, direction="sendonly", version=2)], [sdp(B_RTP, direction="recvonly", version=2)])
    d.bye(5 * S)
    (tmp_path / "one").mkdir()
    once = only(record(wire, tmp_path / "one"))
    call = only(record(copied(wire, how), tmp_path))
    for side, talk in zip((A_RTP, B_RTP), talks, strict=True):
        entry = stream(call, side, B_RTP if side is A_RTP else A_RTP)
        assert (entry["packets"], entry["lost"]) == (talk.packets + 8 * (side is A_RTP), 0)
        assert entry["payload_sha256"] == talk.sha256
        assert entry["vlan"] == []
    assert call["id"] == once["id"]
    assert call["audio"]["sha256"] == once["audio"]["sha256"]
    assert call["events"] == once["events"]
    shown, told = (json.loads(rokuon(where / "data", "show", "--json", "last")) for where in (tmp_path, tmp_path / "one"))
    assert shown["messages"] == told["messages"]
    assert all(call[key] == once[key] for key in ("start", "answer", "end", "legs"))


@pytest.mark.parametrize("first", [0, 1])
def test_mirror_of_a_call_without_signalling(first: int, tmp_path: Path) -> None:
    wire = Wire()
    talks = both(wire, 0, 150)
    wire.frames = copied(wire, "tag").frames
    if first:  # the callee's copies come the other way round
        wire.frames = [f._replace(at_us=f.at_us + 60 * (f.data[26:30] == bytes([10, 0, 0, 2]))) for f in wire.frames]
    call = only(record(wire, tmp_path))
    assert [(s["direction"], s["packets"]) for s in call["streams"]] == [("caller", 150), ("callee", 150)]
    assert [s["payload_sha256"] for s in call["streams"]] == [talk.sha256 for talk in talks]
    assert call["anomalies"]["mirror-copies"] == 300


def test_what_one_copy_lacks_the_other_has(tmp_path: Path) -> None:
    wire = Wire()
    talks = plain(wire)
    rng = random.Random(3)
    frames = copied(wire, "tag").frames
    wire.frames = [f for n, f in enumerate(frames) if len(f.data) > 250 or n % 2 == 0 or rng.random() < 0.9]
    holes = [n for n in rng.sample(range(len(wire.frames)), 60) if len(wire.frames[n].data) == 214]
    wire.frames = [f for n, f in enumerate(wire.frames) if n not in holes or wire.frames[n + 1].at_us != f.at_us + 30]
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")
    assert call["anomalies"]["mirror-copies"] > 300


def test_each_direction_on_its_own_interface(tmp_path: Path) -> None:
    wire = Wire()
    talks = plain(wire)
    wire.frames = [f._replace(interface=int(f.data[26:30] == bytes([10, 0, 0, 2]))) for f in wire.frames]
    assert {f.interface for f in wire.frames} == {0, 1}
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    sent(stream(call, B_RTP, A_RTP), talks[1], "callee")


@pytest.mark.parametrize("size", [1, 7, 400, 100_000])
def test_sip_over_tcp_cut_anywhere(size: int, tmp_path: Path) -> None:
    class Tcp(Dialog):
        def deliver(self, at_us: int, src: tuple[str, int], dst: tuple[str, int], message: bytes) -> None:
            pending.setdefault((src, dst), []).append((at_us, message))
    pending: dict[Any, list[tuple[int, bytes]]] = {}
    wire = Wire()
    d = Tcp(wire)
    d.answered()
    talks = both(wire, S, 100)
    d.bye(4 * S)
    for (src, dst), messages in pending.items():
        number = 0xFFFFFF00  # wraps soon
        for at_us, message in messages:
            for n in range(0, len(message), size):
                part = message[n:n + size]
                wire.tcp(at_us + n // size, src, dst, number & 0xFFFFFFFF, part)
                number += len(part)
    call = only(record(wire, tmp_path))
    assert (call["state"], call["end_reason"], len(call["streams"])) == ("answered", "bye", 2)
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")


A6, B6 = ("2001:db8::1", 5060), ("2001:db8::2", 5060)
A6_RTP, B6_RTP = ("2001:db8::1", 4000), ("2001:db8::2", 6000)


@pytest.mark.parametrize("extended", [False, True])
def test_ipv6(extended: bool, tmp_path: Path) -> None:
    wire = Wire()
    link = {"extended": extended}
    d = Dialog(wire, hops=((A6, B6),), link=link)
    d.answered(0, (sdp(("2001:DB8:0::1", 4000)),), (sdp(B6_RTP),))
    talks = both(wire, S, 100, A6_RTP, B6_RTP, **link)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A6_RTP, B6_RTP), talks[0], "caller")
    sent(stream(call, B6_RTP, A6_RTP), talks[1], "callee")


@pytest.mark.parametrize("ends", [(A, B), (A6, B6)])
def test_fragmented_invite(ends: tuple[Any, Any], tmp_path: Path) -> None:
    class Fragmented(Dialog):
        def deliver(self, at_us: int, src: tuple[str, int], dst: tuple[str, int], message: bytes) -> None:
            self.wire.fragments(at_us, src, dst, message, 1280 if ":" in src[0] else 256)
    wire = Wire()
    d = Fragmented(wire, hops=(ends,))
    padding = [f"a=x-padding:{'p' * 900}"] * 3
    d.answered(0, (sdp(A_RTP, more=padding),))
    talks = both(wire, S, 100)
    d.bye(4 * S)
    call = only(record(wire, tmp_path))
    sent(stream(call, A_RTP, B_RTP), talks[0], "caller")
    assert call["end_reason"] == "bye"


# -- the same packets, told otherwise ------------------------------------------------
def several(wire: Wire) -> None:
    """A few calls beside and behind each other, one without signalling, one over a minute long."""
    for n in range(4):
        a, b = ("10.1.0.1", 4000 + 2 * n), ("10.1.0.2", 6000 + 2 * n)
        d = Dialog(wire, f"several{n}@x", from_tag=f"f{n}", to_tag=f"t{n}")
        d.answered(n * 3 * S, (sdp(a),), (sdp(b),))
        both(wire, n * 3 * S + S, 150 + 50 * n, a, b, (10 * n + 1, 10 * n + 2))
        d.bye((n * 3 + 4 + n) * S + 100_000, by_caller=bool(n % 2))
    both(wire, 2 * S, 100, ("10.2.0.1", 4000), ("10.2.0.2", 6000), (91, 92))


def essence(calls: list[Json], data: Path) -> list[Json]:
    """What must not depend on how the capture came."""
    for call in calls:
        call["audio bytes"] = (data / call["audio"]["path"]).read_bytes()
    return calls


@pytest.fixture(scope="module")
def all_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Wire, list[Json], Path]:
    wire = Wire()
    several(wire)
    base = tmp_path_factory.mktemp("once")
    calls = record(wire, base)
    assert sorted(c["state"] for c in calls) == ["answered"] * 4 + ["rtp-only"]
    return wire, essence(calls, base / "data"), base


def test_split_at_random(all_at_once: tuple[Wire, list[Json], Path], tmp_path: Path) -> None:
    wire, calls, _ = all_at_once
    frames = wire.sorted()
    places = sorted(random.Random(5).sample(range(1, len(frames)), 9))
    parts = [wire.write(tmp_path / f"{n}.pcap", frames[low:high])
             for n, (low, high) in enumerate(zip([0, *places], [*places, len(frames)], strict=True))]
    random.Random(6).shuffle(parts)
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", *parts)
    assert essence(calls_of(tmp_path / "data"), tmp_path / "data") == calls


def test_overlapping_files_of_a_ring(all_at_once: tuple[Wire, list[Json], Path], tmp_path: Path) -> None:
    wire, calls, _ = all_at_once
    frames = wire.sorted()
    half = len(frames) // 2
    rokuon(tmp_path / "data", "record", "--jobs", 1, "-r", wire.write(tmp_path / "1.pcap", frames[:half + 700]),
           wire.write(tmp_path / "2.pcap", frames[half - 700:]))
    again = essence(calls_of(tmp_path / "data"), tmp_path / "data")
    assert again == calls


def test_once_more_adds_nothing(all_at_once: tuple[Wire, list[Json], Path]) -> None:
    _, calls, base = all_at_once
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted((base / "data" / "recordings").rglob("*")) if path.is_file()}

    before = files()
    rokuon(base / "data", "record", "--jobs", 1, "-r", base / "a.pcap")
    assert files() == before
    assert essence(calls_of(base / "data"), base / "data") == calls


def test_reindex_is_the_same(all_at_once: tuple[Wire, list[Json], Path]) -> None:
    _, _, base = all_at_once
    queries = ["select * from calls order by id", "select * from legs order by all", "select * from streams order by all",
               "select * from events order by all"]
    before = [rokuon(base / "data", "sql", "--json", q) for q in queries]
    rokuon(base / "data", "reindex")
    assert [rokuon(base / "data", "sql", "--json", q) for q in queries] == before
