"""Correlation of generated captures against their manifest; streams that signalling speaks of late, twice or never."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.sniffer.batches import T0, S, batch, udp, voice
from tests.sniffer.captures import Packet

from rokuon.sniffer.binding import Span
from rokuon.sniffer.pcap_merge import open_captures
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator
from rokuon.store.ended import Ended, Piece
from rokuon.store.runs import Run
from rokuon.store.unclaimed import NEVER

MAKE_LOAD = Path(__file__).resolve().parents[3] / "shared" / "load" / "make_load.py"
LOADS = {
    "reuse-ports": "--calls 24 --seconds 4 --reuse-ports 3 --spread 1 --mixed",
    "overlap-vlans": "--calls 16 --seconds 4 --overlap-vlans --spread 3",
    "vlan-crossed": "--calls 16 --seconds 4 --vlan-crossed --mixed --spread 3",
    "early-late": "--calls 16 --seconds 4 --early-media --late-sip 700 --spread 3",
    "ssrc-trailing": "--calls 16 --seconds 4 --ssrc-change 0.5 --trailing-rtp --spread 3",
    "ipv6-hard": "--calls 16 --seconds 4 --mixed --ipv6 0.4 --vlan 9 --loss 0.02 --duplicate 0.02 --reorder 0.02 --jitter 8",
}
CHUNKS = [64 << 10, 200_001, 1 << 20, 8 << 20]
Json = dict[str, Any]
StreamName = tuple[str, str, tuple[int, ...], int]


class Bound(NamedTuple):
    """A call as correlation leaves it: all that must not depend on runs."""

    call_ids: tuple[str, ...]
    state: str
    end_reason: str | None
    hangup_by: str | None
    times: tuple[int | None, ...]
    events: tuple[tuple[int, str, str], ...]
    anomalies: tuple[tuple[str, int], ...]
    streams: tuple[tuple[StreamName, str, tuple[int, ...]], ...]
    """Which, who speaks, and when each of the packets came."""
    frames: int


class Seen:
    """When the packets of each stream came."""

    def __init__(self) -> None:
        self.times: dict[int, list[int]] = defaultdict(list)

    def add(self, run: Run) -> Run:
        assert run.records is not None
        for k, number in enumerate(run.streams.tolist()):
            self.times[number] += run.records["time_ns"][int(run.starts[k]):int(run.starts[k + 1])].tolist()
        return run

    def within(self, span: Span) -> list[int]:
        """The packets that a span brings to its call: spans are times, and may be empty."""
        return [t for t in self.times[span.stream.number] if span.since_ns <= t < span.until_ns]


def bound(ended: Ended, correlator: Correlator, seen: Seen) -> Bound:
    call = ended.call
    packets: dict[tuple[StreamName, str], list[int]] = defaultdict(list)
    for span in ended.spans:
        s, found = span.stream, seen.within(span)
        if found:
            packets[(str(s.src), str(s.dst), correlator.encapsulations.tags(s.encap), s.ssrc), span.direction] += found
    return Bound(tuple(leg.call_id for leg in call.legs), call.state, call.end_reason, call.hangup_by,
                 (call.start_ns, call.answer_ns, call.end_ns), tuple((e.time_ns, e.type, e.side) for e in call.events),
                 tuple(sorted(call.anomalies.items())),
                 tuple(sorted((*name, tuple(sorted(times))) for name, times in packets.items())), len(ended.frames))


def correlate(path: Path, chunk: int) -> tuple[list[Bound], Json]:
    capture, correlator, seen = Capture(), Correlator(), Seen()
    out: list[Ended | Piece] = []
    with open_captures([str(path)], chunk=chunk) as source:
        for taken in source:
            out += correlator.process(seen.add(capture.process(taken)))
    out += correlator.finish()
    calls = [bound(item, correlator, seen) for item in out if isinstance(item, Ended)]
    counts = {"capture": +capture.counts, "correlate": +correlator.counts, "tracker": +correlator.tracker.anomalies,
              "signalling": +correlator.signalling.all_anomalies()}
    return calls, counts


class Load(NamedTuple):
    path: Path
    manifest: Json


@pytest.fixture(scope="module", params=LOADS)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Load:
    if not MAKE_LOAD.is_file():
        pytest.skip("../shared is not here")
    path = tmp_path_factory.mktemp("load") / "load.pcap"
    subprocess.run([sys.executable, MAKE_LOAD, path, *LOADS[request.param].split(), "--seed", "3"], check=True,
                   stdout=subprocess.DEVNULL)
    return Load(path, json.loads(path.with_suffix(".json").read_text()))


@functools.lru_cache
def correlated(path: Path, chunk: int) -> tuple[list[Bound], Json]:
    return correlate(path, chunk)


def test_runs_make_no_difference(load: Load) -> None:
    calls, counts = correlated(load.path, CHUNKS[-1])
    for chunk in CHUNKS[:-1]:
        others, other_counts = correlated(load.path, chunk)
        assert others == calls
        assert other_counts == counts


def test_every_stream_is_bound_to_its_call_and_side(load: Load) -> None:
    calls, counts = correlated(load.path, CHUNKS[0])
    found = {call.call_ids: call for call in calls}
    assert len(found) == len(calls)
    assert set(found) == {(c["call_id"],) for c in load.manifest["calls"]}  # one for each, and none beside
    for truth in load.manifest["calls"]:
        call = found[(truth["call_id"],)]
        assert call.state == truth["state"]
        assert call.hangup_by == truth["hangup_by"]
        assert call.times[0] == truth["invite_us"] * 1000
        expected = {}
        for s in truth["streams"]:
            if s["unique"]:
                ends = [f"[{a}]:{p}" if ":" in a else f"{a}:{p}" for a, p in (s["src"], s["dst"])]
                expected[(*ends, tuple(s["vlan"]), s["ssrc"]), s["direction"]] = s["first_us"] * 1000, s["last_us"] * 1000
        assert {(name, side) for name, side, _ in call.streams} == set(expected)
        assert {(name, side): (times[0], times[-1]) for name, side, times in call.streams} == expected
        counts_of = {(s["ssrc"], s["direction"]): s["unique"] + s["duplicates"] for s in truth["streams"]}
        assert all(len(times) == counts_of[name[3], side] for name, side, times in call.streams)
    assert counts["capture"]["rtp"] == load.manifest["rtp_packets"]


def test_crossed_vlans_are_one_vlan_for_no_call(load: Load) -> None:
    calls, _ = correlated(load.path, CHUNKS[0])
    ambiguous = sum(dict(call.anomalies).get("ambiguous-media-vlan", 0) for call in calls)
    assert ambiguous == 0


# -- by hand -----------------------------------------------------------------------
A, B = ("10.0.0.1", 4000), ("10.0.0.2", 5000)


def sip(seconds: float, what: str, call_id: str, *, back: bool = False, media: tuple[str, int] | None = None,
        cseq: str = "1 INVITE") -> Packet:
    """A SIP message between the hosts of A and B."""
    body = ""
    if media:
        body = (f"v=0\r\no=- 1 1 IN IP4 {media[0]}\r\ns=-\r\nc=IN IP4 {media[0]}\r\nt=0 0\r\nm=audio {media[1]} RTP/AVP 0\r\n")
    to_tag = "" if what.startswith("INVITE") else ";tag=b"
    text = (f"{what}\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{call_id}{cseq[0]}\r\nFrom: <sip:1@x>;tag=a\r\n"
            f"To: <sip:2@x>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n"
            + ("Content-Type: application/sdp\r\n" if body else "") + f"Content-Length: {len(body)}\r\n\r\n{body}")
    ends = (B[0], 5060), (A[0], 5060)
    frame = udp(text.encode(), *(ends if back else ends[::-1]))
    return Packet(T0 + round(seconds * S), frame, len(frame))


def call(call_id: str, begin: float, end: float | None) -> list[Packet]:
    """An answered call between A and B."""
    packets = [sip(begin, "INVITE sip:2@x SIP/2.0", call_id, media=A),
               sip(begin + 0.1, "SIP/2.0 200 OK", call_id, back=True, media=B),
               sip(begin + 0.2, "ACK sip:2@x SIP/2.0", call_id, cseq="1 ACK")]
    if end is not None:
        packets += [sip(end, "BYE sip:2@x SIP/2.0", call_id, cseq="2 BYE"),
                    sip(end + 0.1, "SIP/2.0 200 OK", call_id, back=True, cseq="2 BYE")]
    return packets


def talk(begin: float, end: float, *, ssrc: int = 7, both: bool = True, step: float = 0.1) -> list[Packet]:
    """RTP from A to B, and back."""
    found = []
    for n in range(round((end - begin) / step)):
        at = T0 + round((begin + n * step) * S)
        found.append(voice(at, ssrc, n, src=A, dst=B))
        if both:
            found.append(voice(at + 1, ssrc + 1, n, src=B, dst=A))
    return found


class Played:
    """What correlation says of packets that come `size` at a time."""

    def __init__(self, packets: Sequence[Packet], correlator: Correlator, size: int, *, finish: bool = False) -> None:
        self.correlator, self.seen, self.out = correlator, Seen(), list[Ended | Piece]()
        self.held: list[float] = []
        """How much of stream 1 the spool has to keep, after each run, in seconds."""
        capture, ordered = Capture(), sorted(packets, key=lambda p: p.time_ns)
        for i in range(0, len(ordered), size):
            self.out += correlator.process(self.seen.add(capture.process(batch(ordered[i:i + size]))))
            self.held.append((correlator.now_ns - max(T0, int(correlator.keep_from[1]))) / S)
        if finish:
            self.out += correlator.finish()

    def voices(self, item: Ended | Piece) -> list[tuple[str, float, float]]:
        """Who is heard from when to when, in seconds."""
        times: dict[tuple[int, str], list[int]] = defaultdict(list)
        for s in item.spans:
            times[s.stream.ssrc, s.direction] += self.seen.within(s)
        return sorted((side, round((min(t) - T0) / S, 3), round((max(t) - T0) / S, 3)) for (_, side), t in times.items() if t)

    def all(self) -> list[list[tuple[str, float, float]]]:
        return [self.voices(item) for item in self.out]


SIZES = pytest.mark.parametrize("size", [1, 50, 100_000])


@SIZES
@pytest.mark.parametrize("gap", [1.5, 10, 20, 31, 45, 90, 700])
def test_one_stream_for_call_after_call(size: int, gap: float) -> None:
    """A gateway that keeps 5-tuple and SSRC and is silent between calls, however long."""
    second = 10 + gap
    packets = call("one", 0, 10) + talk(0.2, 10) + call("two", second, second + 10) + talk(second + 0.2, second + 10)
    assert Played(packets, Correlator(), size, finish=True).all() == [
        [("callee", 0.2, 9.9), ("caller", 0.2, 9.9)],
        [("callee", second + 0.2, second + 9.9), ("caller", second + 0.2, second + 9.9)]]


@pytest.mark.parametrize("first", [15.0, 20.0, 20.4, 25.0])
def test_calls_go_on_over_a_second_gap_while_the_first_is_judged(first: float) -> None:
    """The window after one time without capture may end within another; calls were not heard then, but are not over.

    A capture that begins anew numbers streams anew: here they have another SSRC.
    """
    spans = [(0.3, first), (first + 1, 50.5), (51.5, 60)]
    packets = call("one", 0, 60) + [p for k, span in enumerate(spans) for p in talk(*span, ssrc=7 + 2 * k)]
    packets.sort(key=lambda p: p.time_ns)
    capture, correlator, out = Capture(), Correlator(), list[Ended | Piece]()
    for k, (begin, end) in enumerate(spans):
        run = capture.process(batch([p for p in packets if begin - 0.5 < (p.time_ns - T0) / S < end + 0.2]))
        run.gap_ns = T0 + round(spans[k - 1][1] * S) if k else 0
        out += correlator.process(run)
    assert [item.call.end_reason for item in out + correlator.finish() if isinstance(item, Ended)] == ["bye"]


def test_calls_of_which_nothing_is_heard_after_a_gap_are_over() -> None:
    """Whether something else comes after it, or nothing at all."""
    capture, correlator, out = Capture(), Correlator(), list[Ended | Piece]()
    out += correlator.process(capture.process(batch(call("one", 0, None) + talk(0.3, 10))))
    for second in range(11, 60):
        correlator.note_gap(T0 + 10 * S, T0 + second * S)
        out += correlator.advance(T0 + second * S)
        assert len(out) == (second >= 41), second
    assert [item.call.end_reason for item in out if isinstance(item, Ended)] == ["recovered"]


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_call_goes_on_while_the_clock_is_set_forth(size: int) -> None:
    """By an hour; the step may lie within a run, as it does live."""
    plain = sorted(call("one", 0, 20) + talk(0.3, 20), key=lambda p: p.time_ns)
    packets = [p._replace(time_ns=p.time_ns + 3600 * S * (p.time_ns > T0 + 10.05 * S)) for p in plain]
    capture, correlator, out, newest = Capture(), Correlator(), list[Ended | Piece](), packets[0].time_ns
    for i in range(0, len(packets), size):
        run = capture.process(batch(packets[i:i + size]))
        run.step_ns, newest = (3600 * S if run.last_ns - newest > 5 * S else 0), run.last_ns
        out += correlator.process(run)
    assert [item.call.end_reason for item in out + correlator.finish() if isinstance(item, Ended)] == ["bye"]


@SIZES
@pytest.mark.parametrize("rtp_only", [True, False])
def test_a_stream_that_goes_on_for_ever(size: int, rtp_only: bool) -> None:
    """Media that never stops: each call takes its part, and the spool is not asked to hold the rest."""
    packets = talk(0, 300, step=0.5) + call("one", 65, 80) + call("two", 150, 160)
    played = Played(packets, Correlator(rtp_only=rtp_only), size)
    calls = {item.call.legs[0].call_id: played.voices(item) for item in played.out if item.call.legs}
    begin = 0 if rtp_only else 30  # within the window before the offer
    assert calls["one"] == [("callee", begin, 80.5), ("caller", begin, 80.5)]
    assert calls["two"] == [("callee", 145, 160.5), ("caller", 145, 160.5)]
    assert all(not item.call.legs or item.call.state == "answered" for item in played.out)
    if size == 1:
        assert max(played.held[-200:]) <= 61  # a window, and the time until it is looked at again


@SIZES
def test_a_stream_that_no_call_wants_is_let_go_on(size: int) -> None:
    played = Played(talk(0, 300, step=0.5), Correlator(rtp_only=False), size, finish=True)
    assert played.out == []
    assert played.correlator.counts["unclaimed-streams-let-go"] == 2
    assert all(played.correlator.keep_from[n] == NEVER for n in range(1, 3))
    if size == 1:
        assert max(played.held) <= 61


@SIZES
def test_rtp_only_pairs_both_directions(size: int) -> None:
    played = Played([*talk(0, 20), voice(T0 + 100 * S, 99, src=("10.5.0.1", 1), dst=("10.5.0.2", 2))], Correlator(), size)
    (item,) = played.out
    assert isinstance(item, Ended)
    assert item.call.state == "rtp-only"
    assert item.call.legs == []
    assert played.voices(item) == [("callee", 0, 19.9), ("caller", 0, 19.9)]
    assert item.call.caller.address == A[0]  # who sent first
    assert {s.stream.src.address: s.direction for s in item.spans} == {A[0]: "caller", B[0]: "callee"}
    assert (item.call.start_ns, item.call.end_ns) == (T0, T0 + 19_900_000_001)
    assert all(played.correlator.keep_from[n] == NEVER for n in range(1, 3))
    assert sorted(played.correlator.forgotten) == [1, 2]


@SIZES
@pytest.mark.parametrize("pause", [5, 14, 16, 25])
def test_rtp_only_with_a_pause(size: int, pause: float) -> None:
    """Silence suppression, or a hold, that is shorter than the window is part of the conversation."""
    packets = talk(0, 20) + talk(20 + pause, 50 + pause) + talk(300, 301, ssrc=50)
    assert Played(packets, Correlator(), size).all() == [[("callee", 0, 49.9 + pause), ("caller", 0, 49.9 + pause)]]


@SIZES
def test_rtp_only_ends_with_the_window(size: int) -> None:
    packets = talk(0, 20) + talk(60, 80) + talk(300, 301, ssrc=50)
    assert Played(packets, Correlator(), size).all() == [
        [("callee", 0, 19.9), ("caller", 0, 19.9)], [("callee", 60, 79.9), ("caller", 60, 79.9)]]


@SIZES
def test_rtp_only_is_adopted_when_signalling_claims_it(size: int) -> None:
    """40 s after its first packet, already taken for a conversation of its own."""
    played = Played(talk(0, 60) + call("late", 40, 60), Correlator(), size, finish=True)
    assert played.all() == [[("callee", 0, 59.9), ("caller", 0, 59.9)]]
    assert [item.call.state for item in played.out] == ["answered"]


@SIZES
def test_one_direction_is_a_conversation_too(size: int) -> None:
    assert Played(talk(0, 5, both=False), Correlator(), size, finish=True).all() == [[("caller", 0, 4.9)]]


@SIZES
def test_unclaimed_streams_at_the_end(size: int) -> None:
    played = Played(talk(0, 5), Correlator(), size)
    assert played.out == []
    (item,) = played.correlator.finish()
    assert item.call.state == "rtp-only"
    assert len(item.spans) == 2


@SIZES
def test_unclaimed_streams_let_go(size: int) -> None:
    played = Played(talk(0, 5) + talk(100, 101, ssrc=50), Correlator(rtp_only=False), size, finish=True)
    assert played.out == []
    assert played.correlator.counts["unclaimed-streams-let-go"] == 4
    assert all(played.correlator.keep_from[n] == NEVER for n in range(1, 5))


@SIZES
def test_so_many_loose_conversations_at_most(size: int) -> None:
    packets = [voice(T0 + n, n, src=("10.5.0.1", 1000 + n), dst=("10.5.0.2", 2)) for n in range(10)]
    packets += [voice(T0 + 100 + n, 100 + n, dst=("10.5.0.1", 1000 + n), src=("10.5.0.2", 2)) for n in range(10)]
    played = Played([*packets, voice(T0 + 100 * S, 99, src=("10.6.0.1", 1))], Correlator(max_loose=3), size)
    assert [len(item.spans) for item in played.out[:3]] == [2, 2, 2]  # the other direction of one that is known comes in
    assert played.correlator.counts["unclaimed-streams-let-go"] == 7  # when those three are over there is room again


@SIZES
@pytest.mark.parametrize("until", [300, 700])
def test_idle_calls_end(size: int, until: float) -> None:
    """A BYE that was never seen: the call ends ten minutes after its last packet, and no later."""
    packets = call("lost", 0, None) + talk(0.2, until, step=1) + [voice(T0 + 2000 * S, 99, src=("10.5.0.1", 1))]
    played = Played(packets, Correlator(piece_ns=10_000 * S), size)
    (item,) = played.out
    assert item.call.end_reason == "timeout"
    assert [side for side, _, _ in played.voices(item)] == ["callee", "caller"]
    assert played.correlator.now_ns == T0 + 2000 * S


@SIZES
def test_long_calls_come_in_pieces(size: int) -> None:
    played = Played(call("long", 0, 200) + talk(0.2, 200, step=0.5), Correlator(piece_ns=60 * S), size, finish=True)
    assert [(item.until_ns - T0) / S for item in played.out if isinstance(item, Piece)] == [55, 115, 175]
    assert [voices[0][1:] for voices in played.all()] == [(0.2, 54.7), (55.2, 114.7), (115.2, 174.7), (175.2, 199.7)]


@SIZES
def test_addresses_that_two_networks_share_do_not_mix(size: int) -> None:
    """Media that goes on when its call is over is not given to the call that uses the same addresses in another VLAN."""

    def in_vlan(packets: list[Packet], tag: int) -> list[Packet]:
        return [p._replace(data=p.data[:12] + b"\x81\x00" + tag.to_bytes(2, "big") + p.data[12:], wire=p.wire + 4)
                for p in packets]

    packets = (in_vlan(call("seven", 0, 10) + talk(0.2, 20), 7)
               + in_vlan(call("eight", 0.01, 30) + talk(0.21, 30, ssrc=20), 8))
    played = Played(packets, Correlator(), size, finish=True)
    assert [played.voices(item) for item in played.out] == [
        [("callee", 0.2, 10.9), ("caller", 0.2, 10.9)], [("callee", 0.21, 29.91), ("caller", 0.21, 29.91)]]
