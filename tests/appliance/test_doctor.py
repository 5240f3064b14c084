"""`rokuon doctor -r`: a capture for each finding, whose facts its generator knows; and one with which nothing is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rokuon.appliance.doctor.examine import examine_files
from rokuon.appliance.doctor.finding import Finding
from rokuon.store.settings import Settings

ROKUON = Path(sys.executable).with_name("rokuon")
PCAPS = Path(__file__).parents[2] / "fixtures" / "pcaps"


@cache
def report(name: str) -> tuple[str, dict[str, Finding]]:
    """The verdict, and the findings by id."""
    made = examine_files([str(PCAPS / f"{name}.pcap")], Settings())
    assert len({f.id for f in made.findings}) == len(made.findings)
    for finding in made.findings:
        assert finding.text.endswith(".")
        assert "\n" not in finding.text
        assert bool(finding.remedy) or finding.level in ("ok", "note")
    return made.verdict, {f.id: f for f in made.findings}


def levels(name: str) -> dict[str, str]:
    """What is not as it should be; without the hint that there was no RTCP."""
    return {id_: f.level for id_, f in report(name)[1].items() if f.level != "ok" and id_ != "rtcp"}


def expected(name: str) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = json.loads((PCAPS / f"{name}.expected.json").read_text(encoding="utf-8"))["calls"]
    return calls


def test_nothing_is_wrong_with_a_good_mirror() -> None:
    verdict, found = report("doctor-clean")
    assert verdict == "complete"
    assert {f.level for f in found.values()} == {"ok"}
    assert found["calls"].facts["states"] == {"answered": 2}
    assert found["both-directions"].facts["both"] == 2
    assert found["codecs"].facts["streams"] == {"PCMU": 4}
    assert found["rtcp"].facts == {"packets": 3, "streams_reported": 1}
    wanted = sum(stream["packets"] for call in expected("doctor-clean") for stream in call["streams"])
    assert found["rtp-loss"].facts["expected"] == wanted
    assert found["rtp-loss"].facts["lost"] == 0


@pytest.mark.parametrize(("name", "wrong"), [
    ("rtp-only", {"signalling": "problem", "media-without-signalling": "problem"}),
    ("doctor-media-elsewhere", {"announced-media": "problem"}),
    ("doctor-one-way-media", {"both-directions": "problem"}),
    ("doctor-one-way-port", {"one-way-signalling": "problem", "both-directions": "problem"}),
    ("doctor-without-sip", {"media-without-signalling": "problem"}),
    ("doctor-tls", {"sip-tls": "problem", "signalling": "problem", "media-without-signalling": "problem"}),
    ("doctor-srtp", {"srtp": "problem"}),
    ("doctor-erspan", {"encapsulation": "problem", "signalling": "problem"}),
    ("doctor-two-vlans", {"duplicates": "warning", "vlans": "note"}),
    ("doctor-routed-copies", {"duplicates": "warning"}),
    ("mirror-duplicates", {"duplicates": "warning"}),
    ("doctor-mirror-loss", {"rtp-loss": "problem"}),
    ("doctor-network-loss", {"rtp-loss": "note"}),
    ("doctor-snaplen", {"snaplen": "problem", "signalling": "problem", "media-without-signalling": "problem"}),
    ("doctor-clock-step", {"clock": "warning"}),
    ("doctor-clock-drift", {"clock": "warning"}),
    ("doctor-codec", {"codecs": "problem"}),
    ("vlan", {"vlans": "note"}),
    ("fragmented-ipv4", {"fragments": "note"}),
    ("softphones-pcmu-ipv6-qinq", {"vlans": "note", "fragments": "note"}),
])
def test_what_is_wrong_is_found_and_nothing_else(name: str, wrong: dict[str, str]) -> None:
    verdict, found = report(name)
    assert levels(name) == wrong
    assert verdict == ("incomplete" if "problem" in wrong.values() else "complete")
    order = [("problem", "warning", "note", "ok").index(f.level) for f in found.values()]
    assert order == sorted(order)


def test_media_that_was_announced_and_never_seen() -> None:
    facts = report("doctor-media-elsewhere")[1]["announced-media"].facts
    assert (facts["answered"], facts["without_media"]) == (2, 2)
    ends = ("192.0.2.10:10000", "192.0.2.20:20000", "192.0.2.10:10010", "192.0.2.20:20010")
    assert facts["addresses"] == dict.fromkeys(ends, 1)


def test_who_is_not_heard_is_named() -> None:
    finding = report("doctor-one-way-media")[1]["both-directions"]
    assert (finding.facts["answered"], finding.facts["both"], finding.facts["one"]) == (3, 1, 2)
    assert finding.facts["missing_senders"] == {"192.0.2.20": 2}
    assert finding.facts["heard"] == {"caller": 1, "callee": 1}
    assert "2 of 3 answered calls" in finding.text
    assert "192.0.2.20" in finding.remedy
    assert report("doctor-one-way-port")[1]["both-directions"].facts["missing_senders"] == {"192.0.2.20": 1}


def test_a_port_of_which_one_direction_is_mirrored() -> None:
    facts = report("doctor-one-way-port")[1]["one-way-signalling"].facts
    assert (facts["udp_requests"], facts["udp_responses"]) == (3, 0)  # INVITE, ACK, BYE


def test_media_without_signalling_has_its_share() -> None:
    with_it, without = (sum(s["packets"] for s in call["streams"]) for call in
                        sorted(expected("doctor-without-sip"), key=lambda c: c["call_id"] is None))
    facts = report("doctor-without-sip")[1]["media-without-signalling"].facts
    assert (facts["conversations"], facts["already_going_on"], facts["packets"]) == (1, 0, without)
    assert facts["share"] == round(without / (with_it + without), 4)
    assert facts["examples"] == ["192.0.2.30:9000 to 192.0.2.40:9002"]


def test_encrypted_signalling() -> None:
    facts = report("doctor-tls")[1]["sip-tls"].facts
    assert facts == {"records": 7, "servers": {"192.0.2.5:5061": 7}}


def test_encrypted_media() -> None:
    facts = report("doctor-srtp")[1]["srtp"].facts
    assert (facts["calls"], facts["share"], facts["streams_with_tag"]) == (1, 0.5, 0)


def test_calls_in_a_tunnel() -> None:
    whole = report("doctor-erspan")[1]["encapsulation"].facts["tunnels"]["ERSPAN"]
    assert whole["sip"] == 7  # INVITE, 100, 180, 200, ACK, BYE, 200
    assert whole["rtp"] == whole["packets"] - 7


def test_copies_in_another_vlan() -> None:
    finding = report("doctor-two-vlans")[1]["duplicates"]
    once = sum(stream["packets"] for call in expected("doctor-two-vlans") for stream in call["streams"])
    assert (finding.facts["rtp_other_vlan_or_interface"], finding.facts["rtp"]) == (once, 0)
    assert (finding.facts["share"], finding.facts["sip"], finding.facts["sip_share"]) == (0.5, 7, 0.5)
    assert "10 and 20" in finding.text


@pytest.mark.parametrize(("name", "routed"), [("doctor-routed-copies", True), ("mirror-duplicates", False)])
def test_copies_in_the_same_network(name: str, routed: bool) -> None:
    facts = report(name)[1]["duplicates"].facts
    once = sum(stream["packets"] for call in expected(name) for stream in call["streams"])
    assert (facts["rtp"], facts["rtp_routed"]) == (once, once if routed else 0)
    assert (facts["rtp_other_vlan_or_interface"], facts["share"]) == (0, 0.5)
    assert report(name)[1]["rtp-loss"].facts["lost"] == 0


@pytest.mark.parametrize(("name", "blamed"), [("doctor-mirror-loss", "the mirror loses them"),
                                              ("doctor-network-loss", "the network loses it")])
def test_loss_is_laid_at_the_right_door(name: str, blamed: str) -> None:
    finding = report(name)[1]["rtp-loss"]
    streams = [stream for call in expected(name) for stream in call["streams"]]
    lost = sum(stream["lost"] for stream in streams)
    assert (finding.facts["lost"], finding.facts["expected"]) == (lost, lost + sum(s["packets"] for s in streams))
    assert finding.facts["reported_lost"] == (0 if name == "doctor-mirror-loss" else lost)
    assert blamed in finding.text


def test_packets_that_were_cut() -> None:
    facts = report("doctor-snaplen")[1]["snaplen"].facts
    rtp = sum(stream["packets"] for call in expected("doctor-snaplen") for stream in call["streams"])
    assert facts == {"cut": rtp + 7, "cut_rtp": rtp, "cut_sip": 7, "cut_to": 96}


def test_a_clock_that_was_set() -> None:
    finding = report("doctor-clock-step")[1]["clock"]
    ((time_, seconds),) = [(step["time"], step["seconds"]) for step in finding.facts["steps"]]
    assert time_ == "2026-10-05T00:00:23Z"
    assert seconds == pytest.approx(20.02, abs=0.02)


def test_a_clock_that_is_slow() -> None:
    facts = report("doctor-clock-drift")[1]["clock"].facts
    assert facts["streams_measured"] == 2
    assert facts["drift_ppm"] == pytest.approx(1e6 / 0.998 - 1e6, abs=30)
    assert report("doctor-clean")[1]["clock"].facts["drift_ppm"] in (None, pytest.approx(0, abs=150))


def test_a_codec_that_nobody_has() -> None:
    facts = report("doctor-codec")[1]["codecs"].facts
    assert facts["streams"] == {"PCMU": 2, "G729": 2}
    assert (set(facts["not_decodable"]), facts["calls"]) == ({"G729"}, 1)


# -- the command -------------------------------------------------------------
def doctor(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([ROKUON, "doctor", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in done.stderr
    return done


def test_the_command_says_it_in_words_and_in_json() -> None:
    shown = doctor("-r", PCAPS / "doctor-one-way-media.pcap")
    assert shown.returncode == 1
    lines = shown.stdout.splitlines()
    assert lines[0] == "3 calls: recording would be incomplete (1 problem)."
    assert lines[3].startswith("PROBLEM  In 2 of 3 answered calls only one side is heard")
    assert max(map(len, lines[2:])) <= 100  # the second names the file
    told = json.loads(doctor("-r", PCAPS / "doctor-clean.pcap", "--json").stdout)
    assert list(told) == ["verdict", "summary", "source", "started", "seconds", "packets", "bytes", "sip_messages", "rtp_packets",
                          "rtp_streams", "calls", "findings"]
    assert (told["verdict"], told["packets"], told["sip_messages"], told["calls"]) == ("complete", 503, 14, 2)
    assert told["started"] == "2026-10-05T00:00:01.000000Z"
    assert all(list(f) == ["id", "level", "text", "remedy", "facts"] for f in told["findings"])
    assert told["summary"] == "2 calls, both directions, nothing missing: recording would be complete."


def test_a_capture_that_is_cut_short_is_judged_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = (PCAPS / "doctor-clean.pcap").read_bytes()
    (tmp_path / "cut.pcap").write_bytes(whole[:len(whole) * 3 // 4])
    done = doctor("-r", tmp_path / "cut.pcap", "--json")
    (finding,) = [f for f in json.loads(done.stdout)["findings"] if f["id"] == "capture-file"]
    assert (done.returncode, finding["level"]) == (0, "warning")
    assert "cut short" in finding["text"]


@pytest.mark.parametrize(("arguments", "status"), [
    ([], 2), (["-r", "missing.pcap"], 1), (["-r", __file__], 1), (["-r", "x", "-i", "y"], 2), (["-r", "x", "--duration", "3"], 2),
    (["-i", "no/such"], 1), (["--frobnicate"], 2)])
def test_what_cannot_be_done_is_one_line(arguments: list[str], status: int) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
