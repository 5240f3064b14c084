"""Session descriptions against RFC 8866, RFC 3551, RFC 3605, RFC 5761."""

from __future__ import annotations

import pytest

from rokuon.sniffer import sdp
from rokuon.sniffer.model import MediaDescription, PayloadFormat

SESSION = "v=0\r\no=alice 2890844526 2890844526 IN IP4 host.example\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"


def media(*lines: str, session: str = SESSION) -> MediaDescription:
    described = sdp.parse((session + "\r\n".join(lines) + "\r\n").encode())
    assert len(described.media) == 1
    return described.media[0]


def test_an_ordinary_offer() -> None:
    m = media("m=audio 49170 RTP/AVP 0 8 97 101", "a=rtpmap:97 opus/48000/2", "a=fmtp:97 useinbandfec=1;stereo=0",
              "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15", "a=ptime:20", "a=sendonly")
    assert (m.media, m.address, m.port, m.proto, m.direction, m.rtcp_port, m.ptime) == (
        "audio", "192.0.2.1", 49170, "RTP/AVP", "sendonly", 49171, 20)
    assert list(m.formats.items()) == [
        (0, PayloadFormat("PCMU", 8000)), (8, PayloadFormat("PCMA", 8000)),
        (97, PayloadFormat("opus", 48000, 2, "useinbandfec=1;stereo=0")), (101, PayloadFormat("telephone-event", 8000, 1,
                                                                                              "0-15"))]


def test_static_payload_types() -> None:
    # RFC 3551 table 4 (encoding name, clock rate, channels) and table 5
    audio = {0: "PCMU 8000 1", 3: "GSM 8000 1", 4: "G723 8000 1", 5: "DVI4 8000 1", 6: "DVI4 16000 1", 7: "LPC 8000 1",
             8: "PCMA 8000 1",
             9: "G722 8000 1", 10: "L16 44100 2", 11: "L16 44100 1", 12: "QCELP 8000 1", 13: "CN 8000 1", 14: "MPA 90000 1",
             15: "G728 8000 1", 16: "DVI4 11025 1", 17: "DVI4 22050 1", 18: "G729 8000 1"}
    video = {25: "CelB", 26: "JPEG", 28: "nv", 31: "H261", 32: "MPV", 33: "MP2T", 34: "H263"}
    assert {pt: f"{f.encoding} {f.clock_rate} {f.channels}" for pt, f in sdp.STATIC.items()} == audio | {
        pt: f"{name} 90000 1" for pt, name in video.items()}


@pytest.mark.parametrize("line", ["a=rtpmap:9 G722/8000", "a=rtpmap:9 G722/16000/1", "a=rtpmap:9 g722/16000", ""])
def test_g722_ticks_at_8_khz_whatever_is_said(line: str) -> None:
    assert media("m=audio 4000 RTP/AVP 9", line).formats[9].clock_rate == 8000


def test_the_case_of_a_name_stays() -> None:
    assert media("m=audio 4000 RTP/AVP 0", "a=rtpmap:0 pcmu/8000").formats[0] == PayloadFormat("pcmu", 8000)


def test_a_type_may_be_mapped_before_or_without_use_and_what_is_unknown_is_left_out() -> None:
    assert dict(media("m=audio 4000 RTP/AVP 96 0 0 200 x", "a=rtpmap:97 opus/48000/2", "a=rtpmap:0",
                      "a=rtpmap:x y/1").formats) == {
        0: PayloadFormat("PCMU", 8000)}


@pytest.mark.parametrize("line", ["a=rtpmap:96 x/0", "a=rtpmap:96 x/y", "a=rtpmap:96 x", "a=rtpmap:96", "a=rtpmap:128 x/8000",
                                  "a=rtpmap:-1 x/1",
                                  "a=rtpmap:96 x/9999999999", "a=rtpmap:96 /8000", "a=rtpmap:96 \x1b[2J/8000",
                                                                                                     "a=rtpmap:９６ x/8000"])
def test_maps_that_map_nothing(line: str) -> None:
    assert not media("m=audio 4000 RTP/AVP 96", line).formats


@pytest.mark.parametrize(("line", "address"), [
    ("c=IN IP4 198.51.100.7", "198.51.100.7"), ("c=IN IP4 233.252.0.1/127", "233.252.0.1"), ("c=IN IP4 233.252.0.1/127/3",
                                                                                             "233.252.0.1"),
    ("c=IN IP6 2001:DB8:0:0::9", "2001:db8::9"), ("c=IN IP6 ff15::101/3", "ff15::101"), ("c=IN IP6 [2001:db8::9]", "2001:db8::9"),
    ("c=IN IP4 0.0.0.0", "0.0.0.0"),  # noqa: S104 -- the hold of RFC 2543
    ("c=IN IP4 media.Example", "media.Example"), ("c=IN IP4 evil\x1b[2J", "evil\ufffd[2J"), ("c=in ip4 198.51.100.7 ",
                                                                                             "198.51.100.7"),
    ("c=IN IP4", "192.0.2.1"), ("c=ATM NSAP 47.0091", "192.0.2.1"), ("c=", "192.0.2.1"),
])
def test_addresses(line: str, address: str) -> None:
    assert media("m=audio 4000 RTP/AVP 0", line).address == address


def test_without_any_address() -> None:
    assert media("m=audio 4000 RTP/AVP 0", session="v=0\n").address == ""


@pytest.mark.parametrize(("lines", "rtcp_port"), [
    (["m=audio 4000 RTP/AVP 0"], 4001), (["m=audio 4000 RTP/AVP 0", "a=rtcp:53020"], 53020),
    (["m=audio 4000 RTP/AVP 0", "a=rtcp:53020 IN IP4 198.51.100.7"], 53020), (["m=audio 4000 RTP/AVP 0", "a=rtcp-mux"], 4000),
    (["m=audio 4000 RTP/AVP 0", "a=rtcp:53020", "a=rtcp-mux"], 4000), (["m=audio 4000 RTP/AVP 0", "a=rtcp:99999"], 4001),
    (["m=audio 65535 RTP/AVP 0"], 0), (["m=audio 0 RTP/AVP 0"], 0), (["m=audio 5004/2 RTP/AVP 0"], 5005),
])
def test_rtcp(lines: list[str], rtcp_port: int) -> None:
    assert media(*lines).rtcp_port == rtcp_port


@pytest.mark.parametrize(("port", "read"), [("5004/2", 5004), ("0", 0), ("65536", 0), ("-1", 0), ("x", 0), ("９", 0),
                                            ("9" * 5000, 0)])
def test_ports(port: str, read: int) -> None:
    assert media(f"m=audio {port} RTP/AVP 0").port == read


def test_the_session_speaks_for_silent_sections() -> None:
    described = sdp.parse((SESSION + "a=inactive\r\nm=audio 1000 RTP/AVP 0\r\nm=video 2000 RTP/AVP 34\r\na=recvonly\r\n"
                           "c=IN IP6 2001:db8::1\r\n").encode())
    assert [(m.media, m.direction, m.address) for m in described.media] == [
        ("audio", "inactive", "192.0.2.1"), ("video", "recvonly", "2001:db8::1")]
    assert described.origin == "alice 2890844526 2890844526 IN IP4 host.example"
    assert media("m=audio 1000 RTP/AVP 0").direction == "sendrecv"


def test_sections_keep_their_place() -> None:
    # RFC 3264 section 6: an answer's m= lines stand in the offer's order, so none may vanish.
    described = sdp.parse((SESSION + "m=\r\nm=image 4002 udptl t38\r\nm=audio\r\nm=audio 4000 RTP/SAVPF 0\r\n").encode())
    assert [(m.media, m.port, m.proto, list(m.formats)) for m in described.media] == [
        ("", 0, "", []), ("image", 4002, "udptl", []), ("audio", 0, "", []), ("audio", 4000, "RTP/SAVPF", [0])]


def test_bounds() -> None:
    maps = "".join(f"a=rtpmap:{pt} {'x' * 64}/8000\r\na=fmtp:{pt} {'y' * 5000}\r\n" for pt in range(128))
    section = f"m={'a' * 999} 4000 RTP/AVP {' '.join(map(str, range(128)))}\r\n{maps}"
    described = sdp.parse((f"o={'o' * 9999}\r\n" + section * 5 + "m=audio 1 RTP/AVP 0\r\n" * 50).encode())
    assert len(described.origin) <= 255
    assert len(described.media) <= sdp.MAX_SECTIONS
    assert all(len(m.formats) <= sdp.MAX_FORMATS and len(m.media) <= 32 for m in described.media)
    assert max(len(f.fmtp) for m in described.media for f in m.formats.values()) <= 512


@pytest.mark.parametrize("data", [b"", b"\0", b"v=0", b"\xff\xfe", b"m=audio 4000 RTP/AVP \xff",
                                  b"a=rtpmap:0 \xe3\x81/8000\nm=x", b"a=", b"=", b"m"])
def test_rubbish(data: bytes) -> None:
    sdp.parse(data)


@pytest.mark.parametrize(("lines", "told"), [
    ("m=audio 4000 RTP/AVP 0 12\r\na=rtpmap:0\r\n\r\n", []),
    ("m=audio 4000 RTP/AVP 0\r\nnonsense\r\nm =video 1 RTP/AVP 31\r\n", ["sdp-bad-line", "sdp-bad-line"]),
    ("c=IN\r\nm=audio 4000 RTP/AVP 0\r\n", ["sdp-bad-line"]),
    ("m=audio RTP/AVP 0\r\nm=audio 70000 RTP/AVP 0\r\nm=audio\r\n", ["sdp-bad-media"] * 3),
    ("m=audio 4000 RTP/AVP 96 0 97\r\na=rtpmap:97 opus/48000/2\r\na=rtpmap:96 opus\r\n", ["sdp-unmapped-type"]),
    ("m=audio 0 RTP/AVP 96\r\nm=image 4002 udptl t38\r\n", []),
    ("m=audio 4000 RTP/AVP 0\r\n" * 17, ["sdp-too-long"]),
    ("a=x\r\n" * 1100, ["sdp-too-long"]),
    ("m=audio 4000 RTP/AVP " + "0 " * 70 + "\r\n", ["sdp-too-long"]),
])
def test_what_is_forgiven_is_named(lines: str, told: list[str]) -> None:
    odd: list[str] = []
    sdp.parse(("v=0\r\no=- 1 1 IN IP4 h\r\ns=\r\nt=0 0\r\n" + lines).encode(), odd)
    assert odd == told
