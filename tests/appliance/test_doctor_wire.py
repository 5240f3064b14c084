"""Findings about packets as such, each on a capture that scapy made for it: tunnels, joined frames, fragments, copies, hints."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Dot1Q, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from tests.e2e.scenarios import A_RTP, B_RTP, PBX, A, B, Dialog, S, Wire, both, plain, sdp
from tests.sniffer import captures

from rokuon.appliance.doctor.examine import examine_files
from rokuon.appliance.doctor.file_drops import file_drops
from rokuon.appliance.doctor.finding import Finding, Report
from rokuon.store.settings import Settings

LINK = Ether(src="02:00:00:00:0e:01", dst="02:00:00:00:0e:02")
OUTER = LINK / IP(src="203.0.113.1", dst="203.0.113.2")


def judged(wire: Wire, tmp_path: Path) -> dict[str, Finding]:
    return {f.id: f for f in examined(wire, tmp_path).findings}


def examined(wire: Wire, tmp_path: Path) -> Report:
    return examine_files([str(wire.write(tmp_path / "c.pcap"))], Settings())


def a_call() -> Wire:
    """Six messages, 200 packets of RTP."""
    wire = Wire()
    plain(wire, seconds=2)
    return wire


# -- tunnels -----------------------------------------------------------------
WRAPPED: dict[str, tuple[str, Callable[[Packet], Packet]]] = {
    "gre-ip": ("GRE", lambda f: OUTER / GRE() / f[IP]),
    "gre-key": ("GRE", lambda f: OUTER / GRE(key_present=1, key=5, seqnum_present=1) / f[IP]),
    "gretap": ("GRE", lambda f: OUTER / GRE(proto=0x6558) / f),
    "erspan-1": ("ERSPAN", lambda f: OUTER / GRE(proto=0x88BE) / Raw(bytes(f))),
    "erspan-2": ("ERSPAN", lambda f: OUTER / GRE(proto=0x88BE, seqnum_present=1) / ERSPAN_II() / f),
    "erspan-3": ("ERSPAN", lambda f: OUTER / GRE(proto=0x22EB, seqnum_present=1) / ERSPAN_III() / f),
    "vxlan": ("VXLAN", lambda f: OUTER / UDP(sport=50_000, dport=4789) / VXLAN(vni=7) / f),
    "vxlan-tagged": ("VXLAN", lambda f: LINK / Dot1Q(vlan=5) / OUTER[IP] / UDP(sport=50_000, dport=4789) / VXLAN(vni=7)
                     / Ether() / Dot1Q(vlan=6) / f[IP]),
    "vxlan-6": ("VXLAN", lambda f: LINK / IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=50_000, dport=4789) / VXLAN()
                / f),
    "geneve": ("GENEVE", lambda f: OUTER / UDP(sport=50_000, dport=6081) / GENEVE(vni=7) / f),
    "gtp": ("GTP-U", lambda f: OUTER / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=7) / f[IP]),
    "ipip": ("IP in IP", lambda f: OUTER / f[IP]),
    "mpls": ("MPLS", lambda f: LINK / MPLS(label=16, s=0) / MPLS(label=17, s=1) / f[IP]),
    "mpls-ethernet": ("MPLS", lambda f: LINK / MPLS(label=16, s=1) / Raw(bytes(4) + bytes(f))),
    "pppoe": ("PPPoE", lambda f: LINK / PPPoE(sessionid=3) / PPP(proto=0x0021) / f[IP]),
    "tzsp": ("TZSP", lambda f: OUTER / UDP(sport=50_000, dport=37008) / Raw(b"\x01\x00\x00\x01\x01" + bytes(f))),
}


@pytest.mark.parametrize("how", sorted(WRAPPED))
def test_calls_in_tunnels_are_a_problem(how: str, tmp_path: Path) -> None:
    name, wrap = WRAPPED[how]
    wire = a_call()
    wire.frames = [f._replace(data=bytes(wrap(Ether(f.data)))) for f in wire.frames]
    finding = judged(wire, tmp_path)["encapsulation"]
    assert (finding.level, finding.facts["tunnels"]) == ("problem", {name: {"packets": 206, "rtp": 200, "sip": 6}})
    assert name in finding.text


def test_other_things_in_tunnels_are_not(tmp_path: Path) -> None:
    wire = a_call()
    for n in range(30):
        inner = Ether() / IP(dst="10.9.9.9") / UDP(sport=40_000 + n, dport=53) / Raw(bytes([n, 1, 1, 0, 0, 1]) + bytes(20))
        wire.add(n, bytes(OUTER / UDP(sport=50_000, dport=4789) / VXLAN() / inner))
        wire.add(n, bytes(OUTER / GRE() / Raw(bytes(3))))
    found = judged(wire, tmp_path)
    assert (found["encapsulation"].level, found["encapsulation"].facts["tunnels"]) == (
        "note", {"GRE": {"packets": 30, "rtp": 0, "sip": 0}, "VXLAN": {"packets": 30, "rtp": 0, "sip": 0}})


def test_frames_of_no_kind(tmp_path: Path) -> None:
    wire = a_call()
    for n in range(10):
        frame: Packet = LINK
        for tag in range(1, 6):
            frame = frame / Dot1Q(vlan=tag)
        wire.add(n, bytes(frame / IP() / UDP() / Raw(b"x")))
    finding = judged(wire, tmp_path)["encapsulation"]
    assert (finding.level, finding.facts["not_understood"]) == ("warning", 10)


# -- what was done to packets ------------------------------------------------
def test_joined_segments_and_datagrams(tmp_path: Path) -> None:
    wire = a_call()
    wire.add(5 * S, bytes(LINK / IP(src="10.0.0.7", dst="10.0.0.8") / TCP(sport=443, dport=40_000) / Raw(bytes(2896))))
    finding = judged(wire, tmp_path)["offload"]
    assert (finding.level, finding.facts) == ("note", {"long_udp": 0, "long_tcp": 1, "longest": 2896 + 54})
    wire.udp(5 * S, A_RTP, ("10.0.0.8", 9), bytes(3000))
    finding = judged(wire, tmp_path)["offload"]
    assert (finding.level, finding.facts) == ("warning", {"long_udp": 1, "long_tcp": 1, "longest": 3042})


def test_fragments_of_rtp(tmp_path: Path) -> None:
    wire = a_call()
    for n in range(5):
        wire.fragments(2 * S + n * 1000, ("10.0.0.1", 4002), ("10.0.0.2", 6002), struct.pack(">BBHII", 0x80, 96, n, 0, 5)
                       + bytes(1800), 1000)
    finding = judged(wire, tmp_path)["fragments"]
    assert (finding.level, finding.facts) == ("warning", {"fragments": 10, "rtp": 5})


def test_sip_that_comes_twice(tmp_path: Path) -> None:
    wire = Wire()
    dialog = Dialog(wire)
    dialog.request(0, "INVITE", sdp(A_RTP))
    dialog.response(50_000, 486)
    dialog.request(60_000, "ACK", fresh=False)
    wire.frames += [f._replace(at_us=f.at_us + 30) for f in wire.frames]
    finding = judged(wire, tmp_path)["duplicates"]
    assert (finding.level, finding.facts["sip"], finding.facts["sip_share"]) == ("warning", 3, 0.5)
    retransmitted = Wire()
    for at in (0, 500_000, 1_500_000):
        Dialog(retransmitted).request(at, "INVITE", sdp(A_RTP))
    assert judged(retransmitted, tmp_path)["duplicates"].level == "ok"


# -- signalling and media ----------------------------------------------------
def test_responses_only(tmp_path: Path) -> None:
    wire = Wire()
    plain(wire, seconds=2)
    wire.frames = [f for f in wire.frames if b"\x13\xc4\x13\xc4" not in f.data or b"SIP/2.0 " in f.data[:60]]
    finding = judged(wire, tmp_path)["one-way-signalling"]
    assert (finding.level, finding.facts["udp_requests"], finding.facts["udp_responses"]) == ("problem", 0, 3)
    assert "3 responses, no requests" in finding.text


def test_one_invite_that_nobody_answered(tmp_path: Path) -> None:
    wire = a_call()
    Dialog(wire, "dead@example", ((A, PBX),)).request(S, "INVITE", sdp(("10.0.0.1", 4100)))
    finding = judged(wire, tmp_path)["one-way-signalling"]
    assert (finding.level, finding.facts["invites_without_response"]) == ("warning", 1)
    assert finding.facts["servers"] == {"10.0.0.9:5060": 1}


def test_calls_that_were_going_on(tmp_path: Path) -> None:
    """RTP from the first moment on, without signalling: no reason to complain."""
    wire = a_call()
    both(wire, 0, 200, ("10.0.0.5", 4500), ("10.0.0.6", 4600), (51, 52))
    report = examined(wire, tmp_path)
    finding = {f.id: f for f in report.findings}["media-without-signalling"]
    assert (report.verdict, finding.level, finding.facts["already_going_on"]) == ("complete", "note", 1)


def test_one_direction_without_signalling(tmp_path: Path) -> None:
    wire = Wire()
    wire.rtp(0, ("10.0.0.5", 4500), ("10.0.0.6", 4600), 51, 200)
    finding = judged(wire, tmp_path)["both-directions"]
    assert (finding.level, finding.facts["missing_senders"]) == ("problem", {"10.0.0.6": 1})
    paging = Wire()
    paging.rtp(0, ("10.0.0.5", 4500), ("239.1.2.3", 4600), 51, 200)
    assert "both-directions" not in judged(paging, tmp_path)


def test_hold_is_no_missing_direction(tmp_path: Path) -> None:
    wire = Wire()
    dialog = Dialog(wire)
    dialog.answered(offer=(sdp(A_RTP, direction="sendonly"),), answer=(sdp(B_RTP, direction="recvonly"),))
    wire.rtp(S, A_RTP, B_RTP, 1, 150)
    dialog.bye(5 * S)
    assert "both-directions" not in judged(wire, tmp_path)
    both(wire, S, 150, ("10.0.0.1", 4100), ("10.0.0.2", 6100), (11, 12))
    other = Dialog(wire, "c2@example")
    other.answered(offer=(sdp(("10.0.0.1", 4100)),), answer=(sdp(("10.0.0.2", 6100)),))
    other.bye(5 * S)
    finding = judged(wire, tmp_path)["both-directions"]
    assert (finding.level, finding.facts["both"], finding.facts["on_hold"], finding.facts["one"]) == ("ok", 1, 1, 0)


def test_signalling_and_media_in_two_vlans(tmp_path: Path) -> None:
    wire = Wire()
    dialog = Dialog(wire, link={"vlan": (10,)})
    dialog.answered()
    both(wire, S, 150, vlan=(20,))
    dialog.bye(5 * S)
    finding = judged(wire, tmp_path)["vlans"]
    assert finding.facts["calls_crossing"] == 1
    assert finding.facts["vlans"] == {"20": 300, "10": 6}


@pytest.mark.parametrize(("data", "ports", "name"), [
    (b"\x10\x00\x00\x01ZRTP" + bytes(40), (4000, 6000), "zrtp_packets"),
    (b"\x16\xfe\xfd" + bytes(60), (4000, 6000), "dtls_packets")])
def test_keys_that_are_exchanged(data: bytes, ports: tuple[int, int], name: str, tmp_path: Path) -> None:
    wire = a_call()
    for n in range(4):
        wire.udp(S + n, ("10.0.0.1", ports[0]), ("10.0.0.2", ports[1]), data)
    finding = judged(wire, tmp_path)["srtp"]
    assert (finding.level, finding.facts[name]) == ("warning", 4)


def test_rtp_with_an_authentication_tag(tmp_path: Path) -> None:
    """SDP says RTP/AVP, and packets of G.711 are 10 bytes longer than they can be."""
    wire, rng = Wire(), random.Random(3)
    dialog = Dialog(wire)
    dialog.answered()
    for n in range(100):
        for src, dst, ssrc in ((A_RTP, B_RTP, 1), (B_RTP, A_RTP, 2)):
            wire.rtp(S + n * 20_000, src, dst, ssrc, 1, sequence=n, stamp=n * 160, payload=rng.randbytes(170))
    dialog.bye(4 * S)
    finding = judged(wire, tmp_path)["srtp"]
    assert (finding.level, finding.facts["streams_with_tag"]) == ("warning", 2)


@pytest.mark.parametrize(("layer", "name"), [
    (TCP(sport=40_000, dport=1720, flags="PA") / Raw(b"\x03\x00\x00\x20" + bytes(28)), "H.323"),
    (TCP(sport=2000, dport=40_000, flags="PA") / Raw(bytes(40)), "SCCP"),
    (UDP(sport=2427, dport=2727) / Raw(b"CRCX 1204 aaln/1@gw MGCP 1.0\r\n"), "MGCP"),
    (UDP(sport=4569, dport=4569) / Raw(b"\x00\x01\x02\x03" + bytes(30)), "IAX2")])
def test_other_signalling_is_named(layer: Packet, name: str, tmp_path: Path) -> None:
    wire = Wire()
    both(wire, 0, 100)
    wire.add(100, bytes(LINK / IP(src="10.0.0.1", dst="10.0.0.2") / layer))
    finding = judged(wire, tmp_path)["signalling"]
    assert (finding.level, finding.facts["other"]) == ("problem", {name: 1})
    assert name in finding.text


def test_no_call_in_sip(tmp_path: Path) -> None:
    wire = Wire()
    for n in range(5):
        Dialog(wire, f"o{n}@example", ((A, B),)).request(n * S, "OPTIONS")
        Dialog(wire, f"o{n}@example", ((A, B),)).response(n * S + 20_000, 200, method="OPTIONS")
    report = examined(wire, tmp_path)
    assert (report.verdict, {f.id: f.level for f in report.findings}["calls"]) == ("complete", "warning")
    assert report.summary.startswith("0 calls: nothing is wrong so far")


def test_time_that_goes_back(tmp_path: Path) -> None:
    wire = a_call()
    frames = wire.sorted()
    half = len(frames) // 2
    path = wire.write(tmp_path / "c.pcap", frames[:half] + [f._replace(at_us=f.at_us - 3600 * S) for f in frames[half:]])
    finding = {f.id: f for f in examine_files([str(path)], Settings()).findings}["clock"]
    assert (finding.level, finding.facts["backwards"]) == ("warning", 1)
    assert finding.facts["backwards_most_s"] == pytest.approx(3600, abs=1)
    assert "-3,6" in finding.text


def test_loss_at_the_same_moments_without_reports(tmp_path: Path) -> None:
    wire = Wire()
    for k in range(4):
        both(wire, k * 1000, 300, (f"10.0.1.{k}", 4000), ("10.0.2.1", 6000 + 2 * k), (k * 2 + 1, k * 2 + 2))
    whole, rng = wire.frames, random.Random(5)
    wire.frames = [f for f in whole if f.at_us % 500_000 > 30_000]
    finding = judged(wire, tmp_path)["rtp-loss"]
    assert finding.level == "problem"
    assert "several conversations at once" in finding.text
    wire.frames = [f for f in whole if rng.random() > 0.06]  # as much, here and there
    finding = judged(wire, tmp_path)["rtp-loss"]
    assert finding.level == "warning"
    assert "most of it from" in finding.text


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("dropped", "level"), [((3, 4), "problem"), ((0, 0), "ok")])
def test_what_a_pcapng_file_says_of_drops(order: str, dropped: tuple[int, int], level: str, tmp_path: Path) -> None:
    def option(code: int, value: int) -> bytes:
        return struct.pack(order + "HHQ", code, 8, value)

    rows = [captures.enhanced(f.at_us, f.data, order=order) for f in a_call().sorted()]
    statistics = []
    for at, by_interface, by_kernel in ((1, 0, 0), (2, *dropped)):
        options = option(4, 1000) + option(5, by_interface) + option(7, by_kernel) + bytes(4)
        statistics.append(captures.block(5, struct.pack(order + "III", 0, 0, at) + options, order))
    names = captures.block(4, bytes(4), order)
    path = tmp_path / "c.pcapng"
    path.write_bytes(captures.section(order) + captures.interface(order) + b"".join([*rows, *statistics, names]))
    found = {f.id: f for f in examine_files([str(path)], Settings()).findings}
    assert found["drops"].level == level
    assert found["drops"].facts == {"received": 1000, "dropped_by_interface": dropped[0], "dropped_by_kernel": dropped[1]}
    path.write_bytes(path.read_bytes()[:-6])
    assert file_drops([str(path), str(tmp_path), "-", "/none"]) is None


def test_copies_on_two_interfaces(tmp_path: Path) -> None:
    wire = a_call()
    wire.frames += [f._replace(at_us=f.at_us + 20, interface=1) for f in wire.frames]
    finding = judged(wire, tmp_path)["duplicates"]
    assert (finding.level, finding.facts["rtp_other_vlan_or_interface"], finding.facts["sip"]) == ("warning", 200, 6)
    assert "on 2 interfaces" in finding.text


def test_sip_over_tcp_in_a_tunnel(tmp_path: Path) -> None:
    wire = a_call()
    inner = IP(src="10.0.0.1", dst="10.0.0.9") / TCP(sport=40_000, dport=5060, flags="PA") / Raw(b"INVITE sip:x@y SIP/2.0\r\n")
    wire.add(S, bytes(OUTER / inner))
    finding = judged(wire, tmp_path)["encapsulation"]
    assert (finding.level, finding.facts["tunnels"]) == ("problem", {"IP in IP": {"packets": 1, "rtp": 0, "sip": 1}})


def test_an_empty_capture(tmp_path: Path) -> None:
    report = examined(Wire(), tmp_path)
    assert (report.verdict, report.packets, report.started) == ("incomplete", 0, None)
    assert [f.id for f in report.findings] == ["capture-file"]
