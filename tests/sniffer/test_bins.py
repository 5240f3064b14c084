"""Small broken inputs of fixtures/bin, each named after its defect: what becomes of it, and that nothing is raised.

What is expected comes from the RFCs and from how fixtures/bins.py makes the file.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.sniffer.batches import T0, batch, udp
from tests.sniffer.captures import Packet

from rokuon.appliance.doctor.rtcp import blocks
from rokuon.decoders import rtp
from rokuon.sniffer import sdp, sip
from rokuon.sniffer.careful import decode
from rokuon.sniffer.classify import Kind, is_rtp, udp_kinds
from rokuon.sniffer.errors import CaptureError
from rokuon.sniffer.ip import PROTOCOL_UDP, IPv6Addresses, udp_datagrams
from rokuon.sniffer.link import locate
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.party import number_of
from rokuon.sniffer.pcap_file import open_capture
from rokuon.sniffer.tcp import TcpReassembler

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
BINS = FIXTURES / "bin"
ETHERNET = 1

if not BINS.is_dir():
    pytest.skip("fixtures/bin is not part of this copy", allow_module_level=True)


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in (BINS / kind).glob("*.bin"))


def read(kind: str, name: str) -> bytes:
    return (BINS / kind / f"{name}.bin").read_bytes()


def test_bins_are_what_their_generator_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FIXTURES / "bins.py"), "-o", str(tmp_path)], check=True, capture_output=True)
    made = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*.bin")}
    assert made
    for path, data in made.items():
        assert (BINS / path).read_bytes() == data, path


# -- SIP -----------------------------------------------------------------------
INVITE = "INVITE 201 'Alice' > 202, 192.0.2.10:10000"
NO_SDP = "INVITE 201 'Alice' > 202, -"
SIP: dict[str, tuple[str, set[str]]] = {
    "start-line-missing": ("refused", {"sip-start-line"}),
    "start-line-alone": ("refused", {"sip-no-call-id"}),
    "start-line-request-without-version": ("refused", {"sip-start-line"}),
    "version-3": ("refused", {"sip-version"}),
    "version-lower-case": (INVITE, {"sip-version-case"}),
    "status-of-two-digits": ("refused", {"sip-status"}),
    "status-1000": ("refused", {"sip-status"}),
    "status-arabic-digits": ("refused", {"sip-status"}),
    "call-id-missing": ("refused", {"sip-no-call-id"}),
    "call-id-empty": ("refused", {"sip-no-call-id"}),
    "cseq-missing-in-response": ("refused", {"sip-no-cseq"}),
    "cseq-missing-in-request": (INVITE, {"sip-no-cseq"}),
    "cseq-2-to-the-32": (INVITE, {"sip-bad-cseq"}),
    "cseq-of-other-method": (INVITE, {"sip-cseq-method"}),
    "content-length-negative": (INVITE, {"sip-content-length"}),
    "content-length-beyond": (INVITE, {"sip-short-body"}),
    "content-length-of-20-digits": (INVITE, {"sip-content-length"}),
    "content-length-twice": (INVITE, {"sip-two-content-length", "sip-content-length"}),
    "blank-line-missing": (NO_SDP, {"sip-no-blank-line"}),
    "header-without-colon": (INVITE, {"sip-bad-header"}),
    "header-of-20000-octets": (INVITE, {"sip-long-header"}),
    "headers-3000": (INVITE, {"sip-too-many-headers"}),
    "name-with-nul": ("INVITE 201 'A\ufffdB' > 202, 192.0.2.10:10000", {"sip-control-characters"}),
    "name-with-escape-sequence": ("INVITE 201 '\ufffd[2JA' > 202, 192.0.2.10:10000", {"sip-control-characters"}),
    "name-not-closed": (INVITE, {"sip-bad-display-name"}),
    "name-not-utf-8": ("INVITE 201 '\ufffd\ufffd\ufffd' > 202, 192.0.2.10:10000", set()),
    "uri-bracket-not-closed": (INVITE, {"sip-bad-uri"}),
    "from-missing": ("INVITE  '' > 202, 192.0.2.10:10000", {"sip-no-from"}),
    "to-missing": ("INVITE 201 'Alice' > , 192.0.2.10:10000", {"sip-no-to"}),
    "cut-in-call-id": ("INVITE 201 'Alice' > 202, -", {"sip-no-blank-line", "sip-no-cseq"}),
    "cut-in-sdp": ("INVITE 201 'Alice' > 202, 192.0.2.10:0", {"sip-short-body", "sdp-bad-media"}),
    "multipart-without-boundary": (NO_SDP, set()),
    "multipart-boundary-nowhere": (NO_SDP, set()),
    "multipart-in-multipart-100": (NO_SDP, set()),  # nobody nests so deep
    "body-of-other-type": (NO_SDP, set()),
    "body-of-no-type": (INVITE, {"sip-no-content-type"}),
    "body-compressed": (NO_SDP, {"sip-content-encoding"}),
    "only-line-ends": ("refused", {"sip-start-line"}),
    "only-nul": ("refused", {"sip-start-line"}),
    "lines-before-it": (INVITE, set()),
    "http": ("refused", {"sip-start-line"}),
    "rtsp": ("refused", {"sip-start-line"}),
}


@pytest.mark.parametrize("name", names("sip"))
def test_sip(name: str) -> None:
    odd: set[str]
    try:
        message = sip.parse(read("sip", name))
    except sip.SipError as error:
        became, odd = "refused", {error.anomaly}
    else:
        sections = " ".join(f"{m.address}:{m.port}" for m in message.sdp.media) if message.sdp else "-"
        became = (f"{message.status or message.method} {number_of(message.from_)} {message.from_.name!r} > "
                  f"{number_of(message.to)}, {sections}")
        odd = set(message.anomalies)
    assert (became, odd) == SIP[name]


# -- SDP -----------------------------------------------------------------------
PLAIN = "192.0.2.10:4000 PCMU"
SDP: dict[str, tuple[list[str], set[str]]] = {
    "empty": ([], set()),
    "address-missing": ([":4000 PCMU"], set()),
    "address-of-no-network": ([":4000 PCMU"], {"sdp-bad-line"}),
    "address-octet-300": (["192.0.2.300:4000 PCMU"], set()),
    "address-with-ttl": (["233.252.0.1:4000 PCMU"], set()),
    "address-with-zone": (["fe80::1:4000 PCMU"], set()),
    "address-mapped": ([PLAIN], set()),
    "address-with-escape-sequence": (["a\ufffd[2J:4000 PCMU"], set()),
    "port-65536": (["192.0.2.10:0 PCMU"], {"sdp-bad-media"}),
    "port-negative": (["192.0.2.10:0 PCMU"], {"sdp-bad-media"}),
    "port-of-two": ([PLAIN], set()),
    "media-line-cut": (["192.0.2.10:0 "], {"sdp-bad-media"}),
    "media-line-empty": (["192.0.2.10:0 ", PLAIN], {"sdp-bad-media"}),
    "payload-type-128": (["192.0.2.10:4000 PCMU PCMA"], set()),
    "payload-type-without-meaning": ([PLAIN], {"sdp-unmapped-type"}),
    "payload-type-twice": ([PLAIN], set()),
    "payload-types-300": (["*"], {"sdp-too-long", "sdp-unmapped-type"}),
    "clock-rate-0": (["192.0.2.10:4000 "], {"sdp-unmapped-type"}),
    "clock-rate-of-30-digits": (["192.0.2.10:4000 "], {"sdp-unmapped-type"}),
    "static-type-mapped-anew": (["192.0.2.10:4000 L16"], set()),
    "rtpmap-before-media": (["192.0.2.10:4000 "], {"sdp-unmapped-type"}),
    "fmtp-of-10000-octets": ([PLAIN], set()),
    "sections-17": ([PLAIN] * 16, {"sdp-too-long"}),
    "lines-5000": ([], {"sdp-too-long"}),
    "line-feeds-only": ([PLAIN], set()),
    "line-of-no-type": ([PLAIN], {"sdp-bad-line"}),
    "nul-between": ([PLAIN], {"sdp-bad-line"}),
    "not-utf-8": ([PLAIN], set()),
    "direction-twice": ([PLAIN], set()),
    "no-version": ([PLAIN], set()),
}


@pytest.mark.parametrize("name", names("sdp"))
def test_sdp(name: str) -> None:
    odd: list[str] = []
    found = sdp.parse(read("sdp", name), odd)
    sections = [f"{m.address}:{m.port} {' '.join(f.encoding for f in m.formats.values())}" for m in found.media]
    wanted, anomalies = SDP[name]
    assert set(odd) == anomalies
    assert len(sections) == len(wanted)
    if wanted != ["*"]:
        assert sections == wanted
    assert all(len(f.fmtp) <= 512 for m in found.media for f in m.formats.values())
    assert all(len(m.formats) <= sdp.MAX_FORMATS for m in found.media)


# -- RTP, RTCP -----------------------------------------------------------------
def kind_of(payload: bytes) -> str:
    taken = batch([Packet(T0, frame := udp(payload), len(frame))])
    (found,), _ = udp_datagrams(taken, locate(taken), IPv6Addresses())
    if is_rtp(found)[0]:
        return "rtp"
    return Kind(int(udp_kinds(found, np.array([0]), np.array([5060], np.uint16))[0])).name.lower()


RTP: dict[str, tuple[str, int | None, str]] = {
    # taken for, octets of its payload (None: it is left out), what is counted
    "empty": ("other", None, "bad-rtp"),
    "octets-11": ("other", None, "bad-rtp"),
    "header-alone": ("rtp", 0, ""),
    "version-0": ("other", None, "bad-rtp"),
    "version-1": ("other", None, "bad-rtp"),
    "version-3": ("other", None, "bad-rtp"),
    "csrc-15-of-2": ("other", None, "bad-rtp"),
    "csrc-15": ("rtp", 160, ""),
    "extension-missing": ("other", None, "bad-rtp"),
    "extension-cut-in-its-header": ("other", None, "bad-rtp"),
    "extension-beyond": ("rtp", None, "bad-rtp"),
    "extension-of-nothing": ("rtp", 160, ""),
    "extension-to-the-end": ("rtp", 0, ""),
    "padding-0": ("rtp", 160, "bad-padding"),
    "padding-beyond": ("rtp", 20, "bad-padding"),
    "padding-of-all": ("rtp", 0, ""),
    "padding-without-payload": ("rtp", 0, ""),
    "everything-beyond": ("rtp", None, "bad-rtp"),
    "payload-type-72": ("rtcp", 160, ""),  # 200 with the marker bit; by itself it would be RTP
    "payload-type-95": ("rtcp", 160, ""),
}


@pytest.mark.parametrize("name", names("rtp"))
def test_rtp(name: str) -> None:
    data = read("rtp", name)
    taken_for, payload, anomaly = RTP[name]
    assert kind_of(data) == taken_for
    size = np.array([len(data)], np.int32)
    buffer = np.frombuffer(data + b"\x5a" * 64, np.uint8)
    packets = rtp.parse(rtp.RtpRecords(np.array([T0]), buffer, np.zeros(1, np.int64), size, size))
    assert packets.length.tolist() == ([] if payload is None else [payload])
    assert {name for name, n in packets.anomalies.items() if n} - {"bad-padding"} == {anomaly} - {"", "bad-padding"}
    assert anomaly != "bad-padding" or packets.anomalies["bad-padding"] == 1


RTCP: dict[str, tuple[str, int]] = {  # taken for, report blocks (24 octets each)
    "octets-3": ("other", 0),
    "header-alone": ("rtcp", 0),
    "receiver-report-empty": ("rtcp", 0),
    "length-beyond": ("rtcp", 0),
    "length-0": ("rtcp", 0),
    "cut-in-block": ("rtcp", 0),
    "count-31-of-1": ("rtcp", 1),
    "count-1-of-none": ("rtcp", 0),
    "second-packet-cut": ("rtcp", 1),
    "second-packet-of-version-1": ("rtcp", 1),
    "type-191": ("rtp", 0),
    "type-223": ("rtcp", 0),
    "bye-of-31": ("rtcp", 0),
}


@pytest.mark.parametrize("name", names("rtcp"))
def test_rtcp(name: str) -> None:
    data = read("rtcp", name)
    assert (kind_of(data), len(list(blocks(data)))) == RTCP[name]


# -- TCP -----------------------------------------------------------------------
TCP: dict[str, list[str]] = {  # the messages that come out
    "keep-alives-only": [],
    "garbage-before": ["INVITE", "BYE"],
    "garbage-between": ["INVITE", "BYE"],
    "nul-between": ["INVITE", "BYE"],
    "http": [],
    "tls": [],
    "content-length-missing": ["INVITE", "BYE"],
    "content-length-999999999": ["BYE"],
    "content-length-of-20-digits": ["INVITE", "BYE"],
    "line-without-end": [],
    "header-without-end": [],
    "status-line-of-9000-octets": ["BYE"],
    "request-line-with-bare-cr": ["BYE"],
    "body-like-sip": ["INVITE", "BYE"],
    "cut-in-header": ["INVITE"],
    "cut-in-body": ["INVITE"],
    "websocket-frame-of-2-to-the-63": [],
    "websocket-frame-beyond-limit": [],
    "websocket-reserved-bits": [],
    "websocket-continues-nothing": ["BYE"],
    "websocket-never-final": ["BYE"],
    "websocket-compressed": ["BYE"],
    "websocket-long-ping": [],
}
A, B = Endpoint("192.0.2.10", 40_000), Endpoint("192.0.2.20", 5060)


def methods(data: bytes, size: int, begun: bool) -> list[str]:
    """What comes out of a stream in segments of `size` bytes, whose handshake was captured or not."""
    tcp, out = TcpReassembler(message_limit=16_384), []
    if begun:
        out += tcp.receive(T0, A, B, 0, 999, 0x02, b"")
    for at in range(0, len(data), size):
        out += tcp.receive(T0 + at, A, B, 0, 1_000 + at, 0x10, data[at:at + size])
    out += tcp.flush()
    return [message[4].lstrip(b"\r\n\0").split(b" ")[0].decode() for message in out]


@pytest.mark.parametrize("name", names("tcp"))
def test_tcp(name: str) -> None:
    data = read("tcp", name)
    sizes = (len(data), 1_460, 61) if len(data) < 5_000 else (60_000, 1_460)
    for size in sizes:
        for begun in (True, False):
            assert methods(data, size, begun) == TCP[name], (size, begun)


# -- IP ------------------------------------------------------------------------
IP: dict[str, tuple[int | None, int | None]] = {
    # octets that the careful path gives as what a UDP packet's IP header carries, and those of the UDP payload in arrays;
    # None: nothing
    "ethernet-cut": (None, None),
    "ethernet-alone": (None, None),
    "arp": (None, None),
    "vlan-tag-cut": (None, None),
    "vlan-tags-5": (None, None),
    "header-cut": (None, None),
    "header-of-16-octets": (None, None),
    "header-of-60-octets-cut": (None, None),
    "version-5": (None, None),
    "version-6-under-ipv4": (None, None),
    "total-length-0": (48, 40),
    "total-length-below-header": (48, 40),
    "total-length-beyond": (48, 40),
    "frame-padded": (9, 1),
    "fragment-beyond-65535": (48, None),
    "fragment-of-nothing": (0, None),
    "fragment-first-alone": (48, None),
    "udp-header-cut": (6, None),
    "udp-length-0": (48, -8),  # of which whoever calls makes nothing
    "udp-length-7": (48, -1),
    "udp-length-beyond": (48, 40),
    "udp-length-below-packet": (48, 12),
    "ipv6-header-cut": (None, None),
    "ipv6-length-beyond": (48, 40),
    "ipv6-extension-headers-8": (48, 40),
    "ipv6-extension-headers-40": (None, None),
    "ipv6-extension-beyond": (None, None),
    "ipv6-fragment-header-cut": (None, None),
    "ipv6-no-next-header": (None, None),
}


@pytest.mark.parametrize("name", names("ip"))
def test_ip(name: str) -> None:
    data = read("ip", name)
    packet = decode(data, ETHERNET)
    taken = batch([Packet(T0, data, len(data))])
    groups, _ = udp_datagrams(taken, locate(taken), IPv6Addresses())
    found = [int(n) for group in groups for n in group.captured]
    payload, datagram = IP[name]
    assert (None if packet is None or packet.protocol != PROTOCOL_UDP else len(packet.payload)) == payload
    assert found == ([] if datagram is None else [datagram])


# -- pcapng --------------------------------------------------------------------
PCAPNG: dict[str, tuple[int | None, bool]] = {  # packets (None: no capture at all), and whether something is said of it
    "empty": (None, True),
    "section-alone": (0, False),
    "section-cut": (0, True),
    "byte-order-unknown": (None, True),
    "interface-missing": (0, True),
    "interface-7-of-1": (2, True),
    "block-length-0": (1, True),
    "block-length-13": (1, True),
    "block-length-2-to-the-32": (1, True),
    "block-trailer-wrong": (1, True),
    "block-unknown": (2, False),
    "captured-beyond-block": (1, True),
    "cut-in-packet": (1, True),
    "resolution-255": (1, False),
    "option-beyond": (1, False),
    "simple-packet": (1, False),
}


@pytest.mark.parametrize("name", names("pcapng"))
def test_pcapng(name: str) -> None:
    path, (count, said) = BINS / "pcapng" / f"{name}.bin", PCAPNG[name]
    if count is None:
        with pytest.raises(CaptureError, match=r"\A[^\n]+\Z"):
            open_capture(path)
        return
    with open_capture(path) as file:
        assert sum(map(len, file)) == count
        assert bool(file.warnings) == said


def test_every_bin_has_its_outcome() -> None:
    tables: dict[str, dict[str, object]] = {
        "sip": {**SIP}, "sdp": {**SDP}, "rtp": {**RTP}, "rtcp": {**RTCP}, "tcp": {**TCP}, "ip": {**IP}, "pcapng": {**PCAPNG}}
    assert {kind: names(kind) for kind in tables} == {kind: sorted(table) for kind, table in tables.items()}
    assert {path.name for path in BINS.iterdir()} == set(tables)
