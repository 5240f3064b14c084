"""Phones that others wrote call each other through a switch, and a mirror of it is recorded.

What must come out is known from who did what, from the phones' own counts, and from tshark on what tcpdump saved beside.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from numpy.typing import NDArray
from tests.e2e.phones import MIRROR, Codec, Json, Line, Phone, Sipp, office, recorder, stop, tcpdump, tshark_streams, why_not
from tests.e2e.wire import identities, run

from rokuon.store.sidecar import nanoseconds

REASON = why_not("baresip", "sipp", "tcpdump", "tshark")
pytestmark = [pytest.mark.phones, pytest.mark.skipif(bool(REASON), reason=REASON)]

PAIRS = {"PCMU": Codec("PCMU/8000/1", "g711.so", 8000), "PCMA": Codec("PCMA/8000/1", "g711.so", 8000),
         "G722": Codec("G722/16000/1", "g722.so", 16000), "opus": Codec("opus/48000/2", "opus.so", 48000)}
"""Two phones for each of these; both tones and what happens are the same for all."""
KEYS = "47#"
CALLER = """<?xml version="1.0" encoding="UTF-8" ?>
<scenario name="caller">
<send retrans="500"><![CDATA[

INVITE sip:desk@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
From: "SIPp" <sip:[service]@[local_ip]:[local_port]>;tag=[pid]-[call_number]
To: <sip:desk@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:[service]@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=- 1 1 IN IP4 [local_ip]
s=-
c=IN IP4 [media_ip]
t=0 0
m=audio [rtpstream_audio_port] RTP/AVP 8
]]></send>
<recv response="100" optional="true"/>
<recv response="180" optional="true"/>
<recv response="200" rrs="true"/>
<send><![CDATA[

ACK [next_url] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
[last_From:]
[last_To:]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
<nop><action><exec rtp_stream="TONE,-1,8"/></action></nop>
<pause milliseconds="1500"/>
<nop><action><exec rtp_stream="pause"/></action></nop>
<send retrans="500"><![CDATA[

BYE [next_url] SIP/2.0
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch]
[last_From:]
[last_To:]
Call-ID: [call_id]
CSeq: 2 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200"/>
<pause milliseconds="1000"/>
</scenario>
"""
"""How SIPp calls. It waits before the next call because on a busy machine the desk sends back late what it hears."""


@dataclass
class Day:
    """What happened in the office, and what was recorded of it."""

    data: Path
    calls: list[Json]
    """Oldest first."""
    ended: tuple[int, str, str]
    sipp: list[tuple[int, int, int]]
    counted: dict[str, list[tuple[int, int]]]
    """Phone → of each of its calls with media, packets sent and received."""
    seen: dict[tuple[str, str, int], Counter[int]]
    """RTP streams as tshark sees them."""
    capture: Path

    def of(self, caller: str) -> list[Json]:
        return [call for call in self.calls if call["caller"]["number"] == caller]


def names(codec: str) -> tuple[str, str]:
    return f"a-{codec.lower()}", f"b-{codec.lower()}"


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """All the calls of this file, at the same time where they can be."""
    home = tmp_path_factory.mktemp("office")
    data, capture, settings = home / "data", home / "beside.pcap", home / "rokuon.toml"
    settings.write_text("[record]\nmask_digits = false\n")
    with office(len(PAIRS) + 1, len(PAIRS) + 1) as lines:
        near, far = lines[:len(PAIRS) + 1], lines[len(PAIRS) + 1:]
        with recorder(data, MIRROR, options=("--config", str(settings))) as process:
            with tcpdump(MIRROR, capture), ExitStack() as started:
                desk, callers = sipp_calls(home, near[-1], far[-1], started)
                pairs = []
                for number, (codec, how) in enumerate(PAIRS.items()):
                    a, b = (Phone(line, home / user, user, tone, how) for line, user, tone in zip(
                        (near[number], far[number]), names(codec), (400, 1000), strict=True))
                    started.callback(a.close)
                    started.callback(b.close)
                    pairs.append((a, b))
                talk(pairs)
                counted = {phone.user: phone.close() for pair in pairs for phone in pair}
                sipp = [desk.done(), *(caller.done() for caller in callers)]
            ended = stop(process)
    calls = list(reversed(json.loads(run(data, "calls", "--json").stdout)))
    return Day(data, calls, ended, sipp, counted, tshark_streams(capture), capture)


def sipp_calls(home: Path, near: Line, far: Line, started: ExitStack) -> tuple[Sipp, list[Sipp]]:
    """Two rows of three calls, each on the ports of the one before it, to one desk that sends back what it hears."""
    desk = Sipp(far, home / "desk", "-sn", "uas", "-p", 5060, "-rtp_echo", "-m", 6)
    started.callback(desk.close)
    callers = []
    for number in (1, 2):
        scenario, tone = home / f"caller-{number}.xml", home / f"caller-{number}.alaw"
        sf.write(tone, 0.3 * np.sin(2 * np.pi * 600 * number / 8000 * np.arange(16000)), 8000, format="RAW", subtype="ALAW")
        scenario.write_text(CALLER.replace("TONE", str(tone)))
        callers.append(Sipp(near, home / f"caller-{number}", "-sf", scenario, "-p", 5060 + number, "-s", f"caller{number}",
                            "-l", 1, "-m", 3, "-r", 1000, f"{far.address}:5060", media_port=6000 + 100 * number))
        started.callback(callers[-1].close)
    return desk, callers


def talk(pairs: list[tuple[Phone, Phone]]) -> None:
    """What the pairs do, all at the same time."""
    def each(side: int, command: str, parameters: str = "") -> None:
        for pair in pairs:
            pair[side].do(command, parameters.format(pair[1 - side].uri))

    def wait(event: str) -> None:
        for pair in pairs:
            for phone in pair:
                phone.wait(event)

    def call(side: int, answered: bool = True) -> None:
        each(side, "dial", "{}")
        for pair in pairs:
            pair[1 - side].wait("CALL_INCOMING")
            pair[side].wait("CALL_RINGING")
        if answered:
            each(1 - side, "accept")
            wait("CALL_ESTABLISHED")

    call(0)
    time.sleep(2)
    each(1, "hangup")  # by the callee
    wait("CALL_CLOSED")

    call(0)
    time.sleep(0.5)
    for key in KEYS:
        each(0, "sndcode", key)
        for pair in pairs:
            pair[1].wait("CALL_DTMF_END")
    each(0, "hold")
    for pair in pairs:
        pair[0].wait("CALL_REMOTE_SDP")
    time.sleep(1)
    each(0, "resume")
    for pair in pairs:
        pair[0].wait("CALL_REMOTE_SDP")
    time.sleep(0.5)
    each(0, "hangup")
    wait("CALL_CLOSED")

    call(0, answered=False)
    each(1, "hangup")  # refused
    wait("CALL_CLOSED")

    call(0, answered=False)
    each(0, "hangup")  # given up
    wait("CALL_CLOSED")

    call(1)
    time.sleep(1)
    each(1, "hangup")
    wait("CALL_CLOSED")


def loudest(samples: NDArray[np.float64], rate: int) -> int:
    """The frequency in Hz, to ten, that is strongest in the middle of the sound."""
    middle = samples[len(samples) // 4:len(samples) * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.max() > 1, "silence"
    return round(int(spectrum.argmax()) * rate / len(middle) / 10) * 10


def tones(data: Path, call: Json, tmp_path: Path) -> tuple[int, int, int]:
    """What is heard left and right, and the rate, in the WAV that a user gets."""
    path = tmp_path / f"{call['id']}.wav"
    assert run(data, "export", call["id"], "-o", path).returncode == 0
    samples, rate = sf.read(path, always_2d=True)
    assert samples.shape[1] == 2
    return loudest(samples[:, 0], rate), loudest(samples[:, 1], rate), rate


def test_every_call_is_there(day: Day) -> None:
    status, said, complaints = day.ended
    assert (status, complaints) == (0, "")
    assert said.startswith(f"{5 * len(PAIRS) + 6} calls recorded")
    assert len(day.calls) == 5 * len(PAIRS) + 6
    assert all(call["anomalies"] == {} for call in day.calls)


@pytest.mark.parametrize("codec", PAIRS)
def test_calls_end_as_people_ended_them(codec: str, day: Day) -> None:
    a, b = names(codec)
    assert [(c["callee"]["number"], c["state"], c["sip_status"], c["end_reason"]) for c in day.of(a)] == [
        (b, "answered", 200, "bye"), (b, "answered", 200, "bye"), (b, "busy", 486, "reject"), (b, "cancelled", 487, "cancel")]
    assert [call["hangup_by"] for call in day.of(a)[:2]] == ["callee", "caller"]
    assert [call["audio"] for call in day.of(a)[2:]] == [None, None]
    back, = day.of(b)
    assert (back["callee"]["number"], back["state"], back["hangup_by"]) == (a, "answered", "caller")
    assert {call["caller"]["name"] for call in day.of(a)} == {a.title()}


@pytest.mark.parametrize("codec", PAIRS)
def test_caller_left_callee_right(codec: str, day: Day, tmp_path: Path) -> None:
    a, b = names(codec)
    talked, keys, *_ = day.of(a)
    back, = day.of(b)
    rate = PAIRS[codec].rate
    assert {s["codec"] for call in (talked, keys, back) for s in call["streams"]} == {codec}
    assert [tones(day.data, call, tmp_path) for call in (talked, back)] == [(400, 1000, rate), (1000, 400, rate)]


@pytest.mark.parametrize("codec", PAIRS)
def test_keys_and_hold(codec: str, day: Day) -> None:
    """While it is held both are silent: this phone has no music on hold."""
    call = day.of(names(codec)[0])[1]
    assert [(e["type"], e["side"], e["detail"]) for e in call["events"]] == [
        *(("dtmf", "caller", key) for key in KEYS), ("hold", "caller", None), ("resume", "caller", None)]
    samples, rate = sf.read(day.data / call["audio"]["path"])
    begins, ends = ((nanoseconds(e["time"]) - nanoseconds(call["audio"]["start"])) / 1e9 for e in call["events"][-2:])
    held = samples[round((begins + 0.3) * rate):round((ends - 0.1) * rate)]
    assert len(held) > 0.5 * rate
    assert np.abs(held).max() < 0.01
    for talk in (samples[:round(begins * rate)], samples[round((ends + 0.1) * rate):]):
        assert (np.abs(talk).max(0) > 0.1).all()


def test_the_phones_counted_the_same(day: Day) -> None:
    for codec in PAIRS:
        a, b = names(codec)
        counts: dict[str, list[int]] = {a: [], b: []}
        for call in sorted([*day.of(a), *day.of(b)], key=lambda c: str(c["start"])):
            for stream in call["streams"]:
                counts[call[stream["direction"]]["number"]].append(stream["packets"])
                assert stream["lost"] == 0
        assert counts == {user: [sent for sent, _ in day.counted[user]] for user in (a, b)}
        assert [len(counts[a]), len(counts[b])] == [3, 3]


def test_sipp_counted_the_same(day: Day, tmp_path: Path) -> None:
    """Six calls, and all of the desk's streams from one port; what is right of a caller is its own tone, which came back."""
    assert day.sipp == [(0, 6, 0), (0, 3, 0), (0, 3, 0)]
    for number in (1, 2):
        calls = day.of(f"caller{number}")
        ends = [(c["state"], c["end_reason"], c["hangup_by"], len(c["streams"])) for c in calls]
        assert ends == [("answered", "bye", "caller", 2)] * 3
        assert [tones(day.data, call, tmp_path) for call in calls] == [(600 * number, 600 * number, 8000)] * 3
        for call in calls:
            to, back = call["streams"]
            assert to["payload_sha256"] == back["payload_sha256"]


def test_tshark_counts_the_same(day: Day) -> None:
    streams = [stream for call in day.calls for stream in call["streams"]]
    ours = {(s["src"], s["dst"], s["ssrc"]): (s["packets"], s["lost"], s["duplicates"]) for s in streams}
    assert len(ours) == len(streams)
    assert ours == {name: (len(seen), missing_of(seen), seen.total() - len(seen)) for name, seen in day.seen.items()}


def missing_of(numbers: Counter[int]) -> int:
    """How many of 16-bit sequence numbers lie between the first and the last and are not there; they may wrap once."""
    there = sorted(numbers)
    if there[-1] - there[0] > 32768:
        there = sorted((n + 32768) % 65536 for n in there)
    return there[-1] - there[0] + 1 - len(there)


def test_what_tcpdump_saved_gives_the_same_calls(day: Day, tmp_path: Path) -> None:
    assert run(tmp_path / "data", "record", "-r", day.capture).returncode == 0

    def facts(data: Path) -> dict[str, object]:
        return {key: (state, streams) for key, (state, _, _, streams, _) in identities(data).items()}

    assert facts(tmp_path / "data") == facts(day.data)
