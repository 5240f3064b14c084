"""Calls of several legs while they go on: shown once, and not waited for when capture is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.appliance.test_watching import Watched
from tests.e2e.scenarios import A_RTP, C_RTP, PBX, T0_US, A, B, C, S, Wire, both, sdp
from tests.e2e.test_legs import IN, Leg, leg
from tests.properties.in_steps import Clock, Making, Source, archive, small_world
from tests.sniffer.captures import Packet

from rokuon.store.layout import Layout


def taken(wire: Wire, since_us: int = -S, until_us: int = 1 << 60) -> list[Packet]:
    return [Packet((T0_US + f.at_us) * 1000, f.data, len(f.data)) for f in wire.sorted() if since_us <= f.at_us < until_us]


def transferred(wire: Wire) -> tuple[Leg, Leg]:
    ab = leg(wire, "ab", (A, B), ("201", "202"))
    ab.answered(0)
    ab.extra = ("Refer-To: <sip:203@pbx.example>",)
    ab.request(3 * S, "REFER", by_caller=False)
    ac = leg(wire, "ac", (A, C), ("201", "203"), ("X-Call-ID: ab@x",))
    return ab, ac


def test_a_call_in_progress_is_one_though_its_first_leg_is_over(tmp_path: Path) -> None:
    wire = Wire()
    ab, ac = transferred(wire)
    ac.answered(4 * S, (sdp((A_RTP[0], 4010)),), (sdp(C_RTP),))
    cd = leg(wire, "cd", (C, PBX), ("203", "204"), ("X-Call-ID: ac@x",))
    cd.answered(5 * S, (sdp((C_RTP[0], 7010)),), (sdp(IN),))
    ab.bye(6 * S)
    both(wire, 6 * S, 400, (A_RTP[0], 4010), C_RTP)
    watched = Watched(tmp_path / "data")
    try:
        watched.play(taken(wire))
        assert watched.correlator.open == 1
        (call,) = watched.look()
        assert (call["caller"], call["state"]) == ("201", "answered")
    finally:
        watched.close()


def test_what_waits_for_a_leg_is_recorded_when_capture_is_gone(tmp_path: Path) -> None:
    wire = Wire()
    ab, _ = transferred(wire)
    ab.bye(4 * S)
    clock, layout = Clock(), Layout(tmp_path / "data")
    layout.prepare()
    with small_world(clock) as patch:
        source, making = Source(layout, "eth0", clock), Making(layout, clock, patch)
        try:
            clock.now_ns = (T0_US + 6 * S) * 1000
            source.take(taken(wire))
            source.beat(clock.now_ns)
            making.until_quiet()
            source.close()
            assert making.recorder.correlator.open == 1
            for _ in range(5):
                clock.sleep(60)
                making.until_quiet()
            assert [call["state"] for call in archive(layout.root).values()] == ["answered"]
        finally:
            making.close()
            source.close()
