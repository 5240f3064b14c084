"""Sessions that are described anew in mid-call, through the installed command: nothing that was heard before it is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, record, udp, write
from tests.sniffer.captures import Packet

from rokuon.store.record_files import record_files
from rokuon.store.settings import Settings

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


# -- what changes nothing of what is heard, while both go on sending -----------------
HOLD, RESUME = ("hold", "caller"), ("resume", "caller")
MID_CALL = """
refreshed:       2000 A INVITE 2 sdp, 2020 B 200 2 sdp, 2030 A ACK 2
no offer:        2000 A INVITE 2, 2020 B 200 2 sdp, 2030 A ACK 2 sdp
glare:           2000 A INVITE 2 sdp, 2001 B INVITE b1 sdp, 2010 B 491 2, 2011 A 491 b1
refused:         2000 A INVITE 2 G729, 2020 B 488 2, 2030 A ACK 2
UPDATE:          2000 A UPDATE 2, 2020 B 200 2/UPDATE
sendonly:        2000 A INVITE 2 sendonly, 2020 B 200 2 recvonly, 3000 A INVITE 3 sdp, 3020 B 200 3 sdp
inactive:        2000 A INVITE 2 inactive, 2020 B 200 2 inactive, 3000 A INVITE 3 sdp, 3020 B 200 3 sdp
c=0.0.0.0:       2000 A INVITE 2 zero, 2020 B 200 2 sdp, 3000 A INVITE 3 sdp, 3020 B 200 3 sdp
port 0:          2000 A INVITE 2 port0, 2020 B 200 2 port0, 3000 A INVITE 3 sdp, 3020 B 200 3 sdp
CANCEL too late: 15 A CANCEL 1, 21 B 481 1/CANCEL
"""


def said(phone: Phone, line: str) -> None:
    """A message of `MID_CALL`: when (ms), who, method or status, CSeq (`b`: the callee's; `/METHOD`), how media is described."""
    at, who, what, cseq, *how = line.split()
    up = who == "A"
    number, _, method = cseq.removeprefix("b").partition("/")
    method = method or ("INVITE" if what.isdigit() else what)
    first = f"SIP/2.0 {what} X" if what.isdigit() else f"{what} sip:bob@example.com SIP/2.0"
    body = phone.sdp(up) if how else b""
    host, port = ((phone.caller, phone.ports[0]), (phone.callee, phone.ports[1]))[not up]
    if how == ["zero"]:
        body = body.replace(b"c=IN IP4 " + host.encode(), b"c=IN IP4 0.0.0.0")
    elif how == ["port0"]:
        body = body.replace(b"m=audio %d" % port, b"m=audio 0")
    elif how == ["G729"]:
        body = body.replace(b"RTP/AVP 0", b"RTP/AVP 18")
    elif how and how != ["sdp"]:
        body += b"a=" + how[0].encode() + b"\r\n"
    message = phone.message(first.encode(), f"{number} {method}".encode(), body)
    if cseq.startswith("b"):
        message = message.replace(b"From:", b"X:").replace(b"To:", b"From:").replace(b"X:", b"To:")
    phone.sip(START + int(at) * MS, up, message)


@pytest.mark.parametrize("line", MID_CALL.strip().splitlines(), ids=lambda line: str(line).partition(":")[0])
def test_what_is_heard_does_not_change(line: str, tmp_path: Path) -> None:
    name, _, messages = line.partition(":")
    found = []
    for each in ("", messages):
        phone = Phone(1, START, 4)
        for message in filter(None, each.split(",")):
            said(phone, message)
        packets = [Packet(p.time_ns, p.data.replace(b"2 BYE", b"9 BYE"), p.wire)
                   for p in sorted(phone.packets, key=lambda p: p.time_ns)]
        data = tmp_path / f"data{len(found)}"
        record_files([str(write(tmp_path / "a.pcap", packets))], data, Settings())
        (sidecar,) = (data / "recordings").rglob("*.json")
        call = json.loads(sidecar.read_text("utf-8"))
        assert call["anomalies"].keys() <= {"hold-by-zero-address"}
        found.append((call["audio"]["sha256"], call["state"], call["end"],
                      [(s["codec"], s["packets"], s["payload_sha256"]) for s in call["streams"]]))
        events = [(event["type"], event["side"]) for event in call["events"]]
    assert found[0] == found[1]
    assert events == ([HOLD, RESUME] if name in ("sendonly", "inactive", "c=0.0.0.0") else [])
