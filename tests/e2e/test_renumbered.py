"""Payload types that get other numbers in mid-call, through the installed command: not a packet is lost of what is heard."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, record, write
from tests.sniffer.captures import Packet

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")

MS = SECOND // 1000
AT = START + 2 * SECOND
RTP = 14 + 20 + 8


def talk(codecs: tuple[bytes, bytes], maps: tuple[bytes, bytes]) -> list[Packet]:
    """A call of four seconds with a re-INVITE after two; payload types and their maps before and after it."""
    phone = Phone(1, START, 4, codec=codecs[0], maps=maps[0])
    phone.codec, phone.maps = codecs[1], maps[1]
    phone.sip(AT - 40 * MS, True, phone.message(b"INVITE sip:bob@example.com SIP/2.0", b"2 INVITE", phone.sdp(True)))
    phone.sip(AT - 20 * MS, False, phone.message(b"SIP/2.0 200 OK", b"2 INVITE", phone.sdp(False)))
    phone.sip(AT - 10 * MS, True, phone.message(b"ACK sip:bob@example.com SIP/2.0", b"2 ACK"))
    packets = []
    for packet in sorted(phone.packets, key=lambda p: p.time_ns):
        octets = bytearray(packet.data.replace(b"2 BYE", b"3 BYE"))
        if octets[RTP] == 0x80 and packet.time_ns >= AT:
            octets[RTP + 1] = int(codecs[1])
        packets.append(Packet(packet.time_ns, bytes(octets), packet.wire))
    return packets


def test_what_is_heard_is_the_same_under_other_numbers(tmp_path: Path) -> None:
    found = []
    for name, codecs, maps in (
            ("same", (b"0", b"0"), (b"", b"")),
            ("other", (b"96", b"97"), (b"a=rtpmap:96 PCMU/8000\r\n", b"a=rtpmap:97 PCMU/8000\r\n"))):
        record(tmp_path / name, write(tmp_path / f"{name}.pcap", talk(codecs, maps)))
        (call,) = calls(tmp_path / name)
        found.append((call["audio"]["sha256"], [s["payload_sha256"] for s in call["streams"]],
                      [s["codec"] for s in call["streams"]], call["events"], call["anomalies"]))
    assert found[0] == found[1]
    assert found[0][2:] == (["PCMU", "PCMU"], [], {})
