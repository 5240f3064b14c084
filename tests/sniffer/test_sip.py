"""SIP messages against RFC 3261, the torture messages of RFC 4475 and RFC 5118, and tshark's reading of real captures."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rokuon.sniffer import sip
from rokuon.sniffer.model import NameAddr, SipMessage
from rokuon.sniffer.sip_headers import canonical_name, clean, decode, name_addr, parameter, split_list

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "captures" / "real"

HEAD = """\
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx
From: "Alice" <sip:100@example.com>;tag=a
To: <sip:200@example.com>
Call-ID: c1@example.com
CSeq: 7 INVITE
"""
SDP = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


def message(extra: str = "", body: str = "", first: str = "INVITE sip:200@example.com SIP/2.0", head: str = HEAD) -> bytes:
    return (f"{first}\n{head}{extra}\n".replace("\n", "\r\n") + body).encode()


def with_sdp(length: int | str | None = None, body: str = SDP, kind: str = "application/sdp") -> bytes:
    return message(f"Content-Type: {kind}\nContent-Length: {len(body) if length is None else length}\n", body)


class TestParse:
    def test_request(self) -> None:
        m = sip.parse(message())
        assert (m.method, m.status, m.request_uri, m.call_id, m.cseq) == ("INVITE", 0, "sip:200@example.com", "c1@example.com", 7)
        assert m.from_ == NameAddr("Alice", "sip:100@example.com", "a")
        assert m.to == NameAddr("", "sip:200@example.com")
        assert m.branch == "z9hG4bKx"
        assert m.first_line == "INVITE sip:200@example.com SIP/2.0"
        assert m.sdp is None
        assert m.anomalies == ()

    def test_response_takes_its_method_from_cseq(self) -> None:
        m = sip.parse(message(first="SIP/2.0 486 Busy Here"))
        assert (m.method, m.status, m.reason, m.request_uri) == ("INVITE", 486, "Busy Here", "")

    def test_every_compact_form(self) -> None:
        # IANA, Session Initiation Protocol parameters: header fields with a compact form
        registered = {"a": "Accept-Contact", "b": "Referred-By", "c": "Content-Type", "d": "Request-Disposition",
                      "e": "Content-Encoding",
                      "f": "From", "i": "Call-ID", "j": "Reject-Contact", "k": "Supported", "l": "Content-Length", "m": "Contact",
                      "n": "Identity-Info", "o": "Event", "r": "Refer-To", "s": "Subject", "t": "To", "u": "Allow-Events",
                      "v": "Via",
                      "x": "Session-Expires", "y": "Identity"}
        for short, full in registered.items():
            assert canonical_name(short) == canonical_name(short.upper() + " ") == canonical_name(full) == full.lower()

    def test_white_space_case_and_folding(self) -> None:
        m = sip.parse(b"\r\n\r\nINVITE sip:2@h SIP/2.0\r\nCALL-id \t:\r\n  c@h\r\nf:sip:1@h\r\n ;tag\r\n\t=\r\n  t1\r\n"
                      b"to:sip:2@h\r\ncSEQ: 0009\r\n INVITE\r\nv : SIP/2.0/UDP h ; branch =\r\n z9\r\nSubject: a\r\n  b\r\n\r\n")
        assert (m.call_id, m.from_, m.cseq, m.method, m.branch) == ("c@h", NameAddr("", "sip:1@h", "t1"), 9, "INVITE", "z9")
        assert m.headers["subject"] == ("a b",)

    def test_bare_line_feeds(self) -> None:
        crlf = with_sdp()
        lf = message("Content-Type: application/sdp\n").replace(b"\r\n", b"\n") + SDP.replace("\r\n", "\n").encode()
        assert sip.parse(lf).sdp == sip.parse(crlf).sdp
        assert sip.parse(lf).headers["via"] == sip.parse(crlf).headers["via"]

    def test_lists_are_parted_but_never_within_quotes_or_brackets(self) -> None:
        m = sip.parse(message('Contact: "a, \\", b" <sip:x@h;p=1,2>;q=0.5 , <sip:y@[2001:db8::1]>\nContact: <sip:z@h>\n'
                              "Via: SIP/2.0/TCP h2, SIP/2.0/TCP h3\nAllow: INVITE,ACK ,, BYE\n"
                              "Date: Fri, 01 Jan 2010 16:00:00 GMT\n"
                              'P-Asserted-Identity: "A, B" <sip:1@h>, <tel:+81312345678>\n'))
        assert m.headers["contact"] == ('"a, \\", b" <sip:x@h;p=1,2>;q=0.5', "<sip:y@[2001:db8::1]>", "<sip:z@h>")
        assert m.headers["via"] == ("SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx", "SIP/2.0/TCP h2", "SIP/2.0/TCP h3")
        assert m.headers["allow"] == ("INVITE", "ACK", "BYE")
        assert m.headers["date"] == ("Fri, 01 Jan 2010 16:00:00 GMT",)
        assert [name_addr(v).user for v in m.headers["p-asserted-identity"]] == ["1", "+81312345678"]

    @pytest.mark.parametrize(("data", "anomaly"), [
        (b"", "sip-start-line"),
        (b"\0\0\0\0", "sip-start-line"),
        (message(first="INVITE sip:200@example.com"), "sip-start-line"),
        (message(first="IN(VITE sip:200@example.com SIP/2.0"), "sip-start-line"),
        (message(first="OPTIONS * HTTP/1.1"), "sip-start-line"),
        (message(first="INVITE sip:200@example.com SIP/3.0"), "sip-version"),
        (message(first="SIP/2.0 042 No"), "sip-status"),
        (message(first="SIP/2.0 2000 No"), "sip-status"),
        (message(head="CSeq: 1 INVITE\n"), "sip-no-call-id"),
        (message(first="SIP/2.0 200 OK", head="Call-ID: x\n"), "sip-no-cseq"),
    ])
    def test_refused(self, data: bytes, anomaly: str) -> None:
        with pytest.raises(sip.SipError) as e:
            sip.parse(data)
        assert e.value.anomaly == anomaly

    @pytest.mark.parametrize(("data", "anomaly"), [
        (message(head=HEAD.replace("CSeq: 7 INVITE\n", "")), "sip-no-cseq"),
        (message(head=HEAD.replace("7 INVITE", "9292394834772304023312 INVITE")), "sip-bad-cseq"),
        (message(head=HEAD.replace("7 INVITE", "7 BYE")), "sip-cseq-method"),
        (message(head=HEAD.replace("To:", "Tow:")), "sip-no-to"),
        (message(head=HEAD.replace("From:", "Form:")), "sip-no-from"),
        (message("Call-ID: other\n"), "sip-two-call-id"),
        (message("no colon here\n"), "sip-bad-header"),
        (message("bad name: x\n"), "sip-bad-header"),
        (message("Subject: \x1b[2J\n"), "sip-control-characters"),
        (message("Subject: " + "x" * 60000 + "\n"), "sip-long-header"),
        (message("X: y\n" * 300), "sip-too-many-headers"),
        (message(first="INVITE <sip:200@example.com> SIP/2.0"), "sip-request-uri"),
        (message()[:-2], "sip-no-blank-line"),
        (with_sdp(9999), "sip-short-body"),
        (with_sdp(20), "sip-trailing-bytes"),
        (with_sdp("-1"), "sip-content-length"),
        (message("", SDP), "sip-no-content-type"),
    ])
    def test_forgiven(self, data: bytes, anomaly: str) -> None:
        m = sip.parse(data)
        assert anomaly in m.anomalies
        assert m.call_id == "c1@example.com"
        assert all(len(value) <= 4096 for values in m.headers.values() for value in values)
        assert sum(map(len, m.headers.values())) <= 512

    def test_terminal_escapes_and_direction_marks_never_pass(self) -> None:
        data = "\r\n".join(["INVITE sip:a\x1b]0;x\x07@h SIP/2.0",
                           'From: "\x1b[31m\x9b\u202eevil\x00\x7f\u2028" <sip:\x08@h>;tag=\x01',
                            "To: <sip:b@h>", "Call-ID: \x1bc", "CSeq: 1 INVITE", "X-Y: tab\there", "", ""])
        for encoding in ("utf-8", "latin-1"):
            m = sip.parse(data.encode(encoding, "replace"))
            values = [m.first_line, m.request_uri, m.call_id, *m.from_, *m.to, *(v for vs in m.headers.values() for v in vs)]
            assert all(value.isprintable() for value in values), values
            assert m.headers["x-y"] == ("tab here",)

    def test_names_are_bounded(self) -> None:
        m = sip.parse(message(head=HEAD.replace("Alice", "A" * 3000).replace("100@", "1" * 3000 + "@")))
        assert len(m.from_.name) == 256
        assert len(m.from_.uri) <= 1024


class TestBody:
    def port(self, data: bytes, *, strict: bool = False) -> int | None:
        m: SipMessage = sip.parse(data, strict_length=strict)
        return m.sdp.media[0].port if m.sdp and m.sdp.media else None

    def test_sdp(self) -> None:
        assert self.port(with_sdp()) == 4000
        assert self.port(message("c: Application/SDP ;charset=utf-8\n", SDP)) == 4000

    def test_length_too_long(self) -> None:
        assert self.port(with_sdp(9999)) == 4000
        with pytest.raises(sip.SipError, match="sip-short-body"):
            sip.parse(with_sdp(9999), strict_length=True)

    def test_length_too_short_drops_whole_lines_and_keeps_cut_ones(self) -> None:
        m = sip.parse(with_sdp(SDP.index("m=")))
        assert m.sdp is not None
        assert m.sdp.media == ()
        assert self.port(with_sdp(len(SDP) - 8)) == 4000

    def test_second_request_in_the_datagram_is_not_read(self) -> None:
        assert self.port(message("Content-Type: application/sdp\nContent-Length: 0\n", "\r\n" + with_sdp().decode())) is None

    def test_multipart(self) -> None:
        inner = f"--in\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--in--\r\n"
        body = ("preamble\r\n--b 1\r\nContent-Type: text/plain\r\n\r\nv=0\r\nm=audio 1 RTP/AVP 0\r\n"
                "--b 1 \r\n\r\nno header\r\n--b 1\r\n"
                f'content-TYPE:\r\n multipart/alternative; boundary=in\r\n\r\n{inner}\r\n--b 1--\r\nepilogue')
        assert self.port(message('Content-Type: multipart/mixed;x=y; boundary="b 1"\n', body)) == 4000
        assert self.port(message("Content-Type: multipart/mixed\n", body)) is None
        lf = body.replace("\r\n", "\n")
        assert self.port(message('Content-Type: multipart/mixed; boundary="b 1"\n', lf)) == 4000

    def test_multipart_that_never_ends(self) -> None:
        body = "--b\r\nContent-Type: application/sdp\r\n\r\n" + SDP
        assert self.port(message("Content-Type: multipart/mixed;boundary=b\n", body)) == 4000
        assert self.port(message("Content-Type: multipart/mixed;boundary=b\n", "--b\r\n\r\n" * 5000)) is None

    def test_other_bodies(self) -> None:
        assert self.port(message("Content-Type: text/plain\n", SDP)) is None
        assert self.port(message("Content-Type: application/sdp\nContent-Encoding: gzip\n", SDP)) is None


class TestNameAddr:
    @pytest.mark.parametrize(("value", "expected"), [
        ("<sip:a@h>", NameAddr("", "sip:a@h")),
        ("Alice <sip:a@h>;tag=1", NameAddr("Alice", "sip:a@h", "1")),
        ("Alice Q. Doe<sip:a@h>;x=y;TAG = 1 ;z", NameAddr("Alice Q. Doe", "sip:a@h", "1")),
        (r'"J \"Jay\" \\ R" <sip:a@h>', NameAddr(r'J "Jay" \ R', "sip:a@h")),
        ('"<sip:evil@h>;tag=no" <sip:a@h>;tag=yes', NameAddr("<sip:evil@h>;tag=no", "sip:a@h", "yes")),
        ("<sip:a@h;tag=uri>;tag=yes", NameAddr("", "sip:a@h;tag=uri", "yes")),
        ("sip:a@h;tag=1", NameAddr("", "sip:a@h", "1")),
        ("sip:a@[2001:db8::1]:5070;x;tag=1", NameAddr("", "sip:a@[2001:db8::1]:5070", "1")),
        ('<sip:a@h>;x="q;tag=no";tag=yes', NameAddr("", "sip:a@h", "yes")),
        ('"Mr. J. User <sip:j.user@example.com>', NameAddr("Mr. J. User", "sip:j.user@example.com")),
        ("Bell, Alexander <sip:a.g.bell@example.com>;tag=43", NameAddr("Bell, Alexander", "sip:a.g.bell@example.com", "43")),
        ("<sip:a@h;tag=1", NameAddr("", "sip:a@h", "1")),
        ("", NameAddr("", "")),
        ("<>", NameAddr("", "")),
        ("tel:+81-3-1234-5678;phone-context=x", NameAddr("", "tel:+81-3-1234-5678")),
    ])
    def test_forms(self, value: str, expected: NameAddr) -> None:
        assert name_addr(value) == expected

    def test_parameter(self) -> None:
        assert parameter('<sip:x;q=1>;Q="a;\\"b";q=3', "q") == 'a;"b'
        assert parameter("1234;to-tag=a;from-tag=b", "from-tag") == "b"
        assert parameter("<sip:x;lr>", "lr") == ""

    def test_split_is_bounded(self) -> None:
        assert len(split_list("," * 4096)) == 0
        assert len(split_list("a," * 2048)) <= 64
        assert len(split_list("<a>," * 1024)) <= 64

    @pytest.mark.parametrize("name", ["田中", "鈴木 一郎", "佐藤", "ソニー", "株式会社テスト", "営業部", "ｽｽﾞｷ ｲﾁﾛｳ",
                                      "ﾀﾅｶ", "高橋 花子", "A 表示 1", "東京支店100"])
    def test_japanese_names(self, name: str) -> None:
        assert decode(name.encode()) == name
        assert decode(name.encode("cp932")) == name
        for encoding in ("utf-8", "cp932"):
            m = sip.parse(message().replace(b"Alice", name.encode(encoding)))
            assert m.from_ == NameAddr(name, "sip:100@example.com", "a")

    @pytest.mark.parametrize("name", ["田中", "鈴木 一郎", "佐藤", "高橋 花子", "ヤマダ タロウ", "やまだ", "中村", "伊藤"])
    def test_names_in_euc_jp(self, name: str) -> None:
        assert decode(name.encode("euc_jp")) == name

    @pytest.mark.parametrize("name", ["Müller", "Jürgen Groß", "François", "René", "Ångström"])
    def test_latin_1(self, name: str) -> None:
        assert decode(name.encode("latin-1")) == decode(name.encode()) == name

    def test_name_cut_within_a_character(self) -> None:
        assert decode("田中太郎".encode()[:-1]) == "田中太\ufffd"

    def test_clean(self) -> None:
        assert clean("a\x1b[0m\x85\r\nb\tc　d") == "a\ufffd[0m\ufffd\ufffd\ufffdb c　d"


class TestLooksLikeSip:
    @pytest.mark.parametrize("data", [b"INVITE sip:a@h SIP/2.0\r\n", b"SIP/2.0 200 OK\r\n", b"\r\n\r\nBYE sip:a@h SIP/2.0\r\n",
                                      b"SIP/2.0 100 ",
                                      b"OPTIONS sip:a@h", b"FOO sip:a@h SIP/2.0\r\n", b"PUBLISH tel:1 SIP/2.0\n"])
    def test_sip(self, data: bytes) -> None:
        assert sip.looks_like_sip(data)

    @pytest.mark.parametrize("data", [b"", b"\r\n\r\n", b"\0\0\0\0", b"INVITE", b"GET / HTTP/1.1\r\n", b"OPTIONS / HTTP/1.1\r\n",
                                      b"OPTIONS rtsp://h/x RTSP/1.0\r\n", b"SIP/2.0/UDP x", b"INVITEE sip:a@h",
                                      b"\x80\0\0\1SIP/2.0 200",
                                      b"SIP/2.0 999 x", b"M-SEARCH * HTTP/1.1\r\n", b"Subject: INVITE sip:a"])
    def test_other(self, data: bytes) -> None:
        assert not sip.looks_like_sip(data)


# File, method or status, CSeq, beginning of Call-ID, URI of From and of To (without "sip:"; *: not looked at), payload types by
# section of its SDP: from the messages' text and RFC 4475's word on them. What that calls invalid is read as far as it goes,
# where not refused (!).
TORTURE = [line.split() for line in """\
rfc4475/wsinv.dat INVITE 9 wsinv. jdrosen@example.com vivekg@chair-dnrc.example.com 0,12/31
rfc4475/esc02.dat RE%47IST%45R 29344 esc02. resource@example.com resource@example.com -
rfc4475/escnull.dat REGISTER 14398234 escnull. null-%00-null@example.com null-%00-null@example.com -
rfc4475/longreq.dat INVITE 3882340 longreq. * * 0,12/31
rfc4475/dblreq.dat REGISTER 8 dblreq.0ha0isndaksdj99 j.user@example.com j.user@example.com -
rfc4475/semiuri.dat OPTIONS 8 semiuri. caller@example.org j_user@example.com -
rfc4475/transports.dat OPTIONS 60 transports. caller@example.com user@example.com -
rfc4475/mpart01.dat MESSAGE 1 3d9485ad0c49859b@ fluffy@example.com kumiko@example.org -
rfc4475/unreason.dat 200 35 unreason. user@example.com user@example.edu 0,12/31
rfc4475/noreason.dat 100 35 noreason. user@example.com user@example.edu -
rfc4475/clerr.dat INVITE 8 clerr. caller@example.net j.user@example.com 0,12/31
rfc4475/scalarlg.dat 503 0 scalarlg. other@example.net user@example.com -
rfc4475/quotbal.dat INVITE 8 quotbal. caller@example.net j.user@example.com 0,12/31
rfc4475/ltgtruri.dat INVITE 1 ltgtruri. caller@example.net user@example.com 0,12/31
rfc4475/trws.dat OPTIONS 238923 trws. local-resource@example.com remote-target@example.com -
rfc4475/baddate.dat INVITE 1392934 baddate. caller@example.net user@example.com 0,12/31
rfc4475/regbadct.dat REGISTER 1 regbadct. user@example.com user@example.com -
rfc4475/baddn.dat OPTIONS 3923239 baddn. a.g.bell@example.com t.watson@example.org -
rfc4475/badvers.dat !sip-version
rfc4475/mismatch01.dat OPTIONS 8 mismatch01. caller@example.net j.user@example.com -
rfc4475/bigcode.dat !sip-status
rfc4475/badbranch.dat OPTIONS 8 badbranch. caller@example.org user@example.com -
rfc4475/insuf.dat !sip-no-call-id
rfc4475/novelsc.dat OPTIONS 3923423 novelsc. caller@example.net user@example.com -
rfc4475/unksm2.dat REGISTER 234902 unksm2. http://www.example.com isbn:2983792873 -
rfc4475/invut.dat INVITE 235448 invut. caller@example.net j.user@example.com -
rfc4475/regaut01.dat REGISTER 9338 regaut01. j.user@example.com j.user@example.com -
rfc4475/multi01.dat INVITE 5 multi01.98asdh@192.0.2.1 caller@example.com user@example.com 0,12/31
rfc4475/mcl01.dat OPTIONS 15932 mcl01. other@example.net user@example.com -
rfc4475/zeromf.dat OPTIONS 39234321 zeromf. caller@example.net user@example.com -
rfc4475/cparam02.dat REGISTER 3 cparam02. watson@example.com watson@example.com -
rfc4475/regescrt.dat REGISTER 14398234 regescrt. user@example.com user@example.com -
rfc4475/sdp01.dat INVITE 8 sdp01. caller@example.net j_user@example.com 0,12/31
rfc4475/inv2543.dat INVITE 56 inv2543. +13035551111@ift.client.example.net;user=phone +16505552222@ss1.example.net 0
rfc4475/test.dat !sip-start-line
rfc5118/ipv6-bad REGISTER 98176 SSG9559905523997077@ user@example.com user@example.com -
rfc5118/port-ambiguous REGISTER 98176 SSG9559905523997077@ user@example.com user@example.com -
rfc5118/via-received-param-with-delim BYE 321 SSG9559905523997077@ user@example.com user@example.com -
rfc5118/via-received-param-no-delim OPTIONS 921 SSG95523997077@ user@example.com user@example.com -
rfc5118/ipv6-in-sdp INVITE 8612 SSG9559905523997077@ user@example.com user@[2001:db8::10] 2/107
rfc5118/mult-ip-in-header BYE 89187 997077@lau_4100 user@example.com user@example.net -
rfc5118/mult-ip-in-sdp INVITE 8912 SSG9559905523997077@ user@example.com user@[2001:db8::10] 0/107
rfc5118/ipv6-bug-abnf-3-colons OPTIONS 689 G9559905523997077@ user@example.com user@[2001:db8:::192.0.2.1] -
rfc5118/ipv6-correct-abnf-2-colons OPTIONS 689 G9559905523997077@ user@example.com user@[2001:db8::192.0.2.1] -
""".splitlines()]


@pytest.mark.parametrize("case", TORTURE, ids=lambda case: str(case[0]))
def test_torture(case: list[str]) -> None:
    path = REAL / case[0]
    if not path.exists():
        pytest.skip(f"{case[0]} is not here")
    data = path.read_bytes()
    if case[1].startswith("!"):
        with pytest.raises(sip.SipError, match=case[1][1:]):
            sip.parse(data)
        return
    _, what, cseq, call_id, from_uri, to_uri, formats = case
    m = sip.parse(data)
    assert [str(m.status or m.method), str(m.cseq)] == [what, cseq]
    assert m.call_id.startswith(call_id)
    assert from_uri in ("*", m.from_.uri.removeprefix("sip:"))
    assert to_uri in ("*", m.to.uri.removeprefix("sip:"))
    read = ["/".join(",".join(map(str, section.formats)) for section in m.sdp.media)] if m.sdp else ["-"]
    assert read == [formats]


def test_every_torture_message_is_in_the_table() -> None:
    there = {f"{d.name}/{f.name}" for d in (REAL / "rfc4475", REAL / "rfc5118") if d.is_dir() for f in d.iterdir() if f.is_file()}
    assert there <= {case[0] for case in TORTURE}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("name", ["SIP_DTMF2.cap", "aaa.pcap", "ndpi-sip.pcap", "sip-rtp-g726.pcap",
                                  "sip-488-codec-reject.pcapng"])
def test_against_tshark(name: str) -> None:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    fields = ["udp.payload", "sip.Call-ID", "sip.CSeq.seq", "sip.CSeq.method", "sip.Status-Code", "sip.from.tag", "sip.to.tag",
              "sdp.media.port", "sdp.connection_info.address"]
    out = subprocess.run(["tshark", "-r", path, "-Y", "sip && udp && !icmp", "-T", "fields", "-E", "occurrence=a", "-E",
                          "separator=/t",
                          *(arg for f in fields for arg in ("-e", f))], capture_output=True, text=True, check=True).stdout
    rows = [row for line in out.splitlines() if len(row := line.split("\t")) == len(fields) and row[1]]
    assert rows
    for payload, call_id, cseq, method, status, from_tag, to_tag, ports, address in rows:
        m = sip.parse(bytes.fromhex(payload))
        assert (m.call_id, str(m.cseq), m.method, m.status) == (call_id, cseq, method, int(status or 0))
        assert (m.from_.tag, m.to.tag) == (from_tag, to_tag)
        media = m.sdp.media if m.sdp else ()
        assert ",".join(str(section.port) for section in media) == ports
        assert not address or not media or media[0].address in address.split(",")


def test_leading_junk_of_a_real_capture_is_a_datagram_of_its_own() -> None:
    # zeek-junk-before-request.pcap: four NULs (a NAT keep-alive) in one datagram, a REGISTER without Call-ID in the next.
    assert not sip.looks_like_sip(bytes(4))
    assert sip.looks_like_sip(b"REGISTER sip:1.1.1.1:5060 SIP/2.0\r\nExpires: 3600\r\n\r\n")
    with pytest.raises(sip.SipError, match="sip-no-call-id"):
        sip.parse(b"REGISTER sip:1.1.1.1:5060 SIP/2.0\r\nExpires: 3600\r\n\r\n")
