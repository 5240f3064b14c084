"""Sessions that are described anew in mid-call, through the installed command: nothing that was heard before it is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, record, udp, write
from tests.sniffer.captures import Packet

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")

MS = SECOND // 1000
AT = START + 2 * SECOND
RTP = 14 + 20 + 8
T38 = b"v=0\r\no=- 1 2 IN IP4 %b\r\ns=-\r\nc=IN IP4 %b\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\nm=image %d udptl t38\r\n"


def talk(codecs: tuple[bytes, bytes], maps: tuple[bytes, bytes], fax: bool = False,
         until: int = START + 9 * SECOND) -> list[Packet]:
    """A call of four seconds with a re-INVITE after two; payload types and their maps before and after it.

    `fax`: it switches to T.38, at the ports that there are. `until`: no voice from then on.
    """
    phone = Phone(1, START, 4, codec=codecs[0], maps=maps[0])
    phone.codec, phone.maps = codecs[1], maps[1]
    bodies = [T38 % (host.encode(), host.encode(), port) if fax else phone.sdp(up)
              for up, host, port in ((True, phone.caller, phone.ports[0]), (False, phone.callee, phone.ports[1]))]
    phone.sip(AT - 40 * MS, True, phone.message(b"INVITE sip:bob@example.com SIP/2.0", b"2 INVITE", bodies[0]))
    phone.sip(AT - 20 * MS, False, phone.message(b"SIP/2.0 200 OK", b"2 INVITE", bodies[1]))
    phone.sip(AT - 10 * MS, True, phone.message(b"ACK sip:bob@example.com SIP/2.0", b"2 ACK"))
    packets = []
    for packet in sorted(phone.packets, key=lambda p: p.time_ns):
        octets = bytearray(packet.data.replace(b"2 BYE", b"3 BYE"))
        if octets[RTP] == 0x80:
            if packet.time_ns >= until:
                octets = bytearray(udp((phone.caller, phone.ports[0]), (phone.callee, phone.ports[1]), b"\0\1\6\300" + bytes(20)))
            elif packet.time_ns >= AT:
                octets[RTP + 1] = int(codecs[1])
        packets.append(Packet(packet.time_ns, bytes(octets), len(octets)))
    return packets


def heard(where: Path, packets: list[Packet]) -> dict[str, object]:
    record(where, write(where.with_suffix(".pcap"), packets))
    (call,) = calls(where)
    return {"sound": (call["audio"] or {}).get("sha256"), "streams": [(s["codec"], s["payload_sha256"]) for s in call["streams"]],
            "state": (call["state"], call["end"]), "odd": call["anomalies"],
            "events": [(event["type"], event["detail"]) for event in call["events"]]}


def test_payload_types_under_other_numbers(tmp_path: Path) -> None:
    same = heard(tmp_path / "same", talk((b"0", b"0"), (b"", b"")))
    other = heard(tmp_path / "other", talk((b"96", b"97"), (b"a=rtpmap:96 PCMU/8000\r\n", b"a=rtpmap:97 PCMU/8000\r\n")))
    assert same["sound"]
    assert (same["odd"], same["events"]) == ({}, [])
    assert other == same


def test_talk_before_a_fax(tmp_path: Path) -> None:
    """The fax takes more of the call than the talk, between the same ports."""
    silent = heard(tmp_path / "silent", talk((b"0", b"0"), (b"", b""), until=AT - 500 * MS))
    fax = heard(tmp_path / "fax", talk((b"0", b"0"), (b"", b""), fax=True, until=AT - 500 * MS))
    assert silent["sound"]
    assert fax == silent | {"events": [("codec-change", "audio to T.38")]}
