"""The torture messages of RFC 4475 and RFC 5118: each must become what the RFC says of it, alone and beside a good call."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, identities, record, udp, write
from tests.sniffer.captures import Packet, pcap
from tests.sniffer.torture.messages import CASES, HERE, JOINED, Case, document, expand, read

from rokuon.sniffer import sip
from rokuon.sniffer.call import CallClosed, CallTracker
from rokuon.sniffer.model import NameAddr, SipMessage
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.party import number_of
from rokuon.sniffer.sdp import canonical_address
from rokuon.sniffer.sip_framing import Verdict, next_frame
from rokuon.sniffer.sip_headers import name_addr
from rokuon.store.record_files import record_files
from rokuon.store.settings import Settings

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "captures" / "real"
MS = SECOND // 1000
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))


def shown(party: NameAddr) -> str:
    return f"{number_of(party)}/{party.name}"


def described(m: SipMessage) -> str:
    if m.sdp is None:
        return "-"
    return " + ".join(f"{s.address}:{s.port} {','.join(map(str, s.formats))}" for s in m.sdp.media)


# -- the messages --------------------------------------------------------------
def test_all_are_here() -> None:
    names = {case.name for case in CASES}
    assert names == {path.stem for path in HERE.glob("*.sip")}
    of_5118 = {case.name for case in CASES if case.section.startswith("4")}
    assert (len(names - of_5118), len(of_5118)) == (49, 12)
    assert len({case.section for case in CASES}) == 49 + 12 - 2  # two sections of RFC 5118 have two messages


def test_notation() -> None:
    assert expand("a\n<allOneLine>\nb\nc <hex>20</hex>\n</allOneLine>\n<repeat count=3>xy</repeat><hex>0D00FF</hex>\n") == (
        b"a\r\nbc  \r\nxyxyxy\r\x00\xff\r\n")


@pytest.mark.skipif(not (REAL / "rfc4475").is_dir(), reason="the copies in ../shared/captures are not here")
def test_octets_are_those_of_the_archive() -> None:
    """Those of RFC 5118 are there with bare line feeds."""
    for case in CASES:
        of_4475, of_5118 = REAL / "rfc4475" / f"{case.name}.dat", REAL / "rfc5118" / case.name
        assert not of_4475.exists() or read(case.name) == of_4475.read_bytes()
        assert not of_5118.exists() or read(case.name).replace(b"\r\n", b"\n").rstrip() == of_5118.read_bytes().rstrip()


@by_name
def test_content_length_is_that_of_the_body(case: Case) -> None:
    """What was typed in from the RFC has no letter too many: but for the messages that are about this."""
    head, _, body = read(case.name).partition(b"\r\n\r\n")
    announced = re.findall(rb"(?im)^(?:l|content-length) *: *(\S+)", head)
    about = {"clerr", "ncl", "mcl01", "dblreq", "inv2543", "ipv6-in-sdp", "mult-ip-in-sdp", "ipv4-mapped-ipv6"}
    assert (announced == [b"%d" % len(body)]) == (case.name not in about)


def test_document() -> None:
    assert (HERE.parents[2] / "docs" / "torture.md").read_text("utf-8") == document()


# -- parsed --------------------------------------------------------------------
@by_name
def test_becomes(case: Case) -> None:
    data = read(case.name)
    if not case.what:
        with pytest.raises(sip.SipError) as refused:
            sip.parse(data)
        assert (refused.value.anomaly,) == case.odd
        return
    m = sip.parse(data)
    assert (f"{m.status} {m.method}" if m.status else m.method, m.cseq, m.call_id) == (case.what, case.cseq, case.call_id)
    assert (shown(m.from_), shown(m.to)) == (case.caller, case.callee)
    assert described(m) == case.sdp
    assert m.anomalies == case.odd
    assert (shown(m.from_) + shown(m.to)).isprintable()


@by_name
def test_what_is_invalid_is_counted_and_what_is_valid_is_taken(case: Case) -> None:
    assert case.odd or case.valid
    assert case.what or not case.valid


@by_name
def test_in_a_stream(case: Case) -> None:
    """Over TCP each is cut out where it ends, and recognised; but what lies about its own length."""
    buffer = bytearray(read(case.name))
    if case.name in ("bigcode", "lwsruri"):  # no start line that one could tell from anything else
        return
    assert sip.looks_like_sip(bytes(buffer))
    if case.name in ("clerr", "ipv6-in-sdp", "baddn"):  # more is to come
        assert next_frame(buffer, 0, 1 << 16).verdict is Verdict.MORE
        return
    frame = next_frame(buffer, 0, 1 << 16)
    assert (frame.verdict, frame.begin) == (Verdict.MESSAGE, 0)
    rest = bytes(buffer[frame.end:])
    if case.name == "dblreq":
        assert sip.parse(rest.lstrip()).call_id == "dblreq.0ha0isnda977644900765@192.0.2.15"
    elif case.name not in ("ncl", "mcl01", "inv2543", "mult-ip-in-sdp", "ipv4-mapped-ipv6"):
        assert rest == b""


def test_what_wsinv_hides() -> None:
    m = sip.parse(read("wsinv"))
    assert (m.from_.tag, m.to.tag) == ("98asjd8", "1918181833n")
    assert m.headers["subject"] == ("",)
    assert m.headers["newfangledheader"] == ("newfangled value continued newfangled value",)
    assert m.headers["unknownheaderwithunusualvalue"] == (";;,,;;,;",)
    assert [re.sub(r"\s", "", via) for via in m.headers["via"]] == [
        "SIP/2.0/UDP192.0.2.2;branch=390skdjuw", "SIP/2.0/TCPspindle.example.com;branch=z9hG4bK9ikj8",
        "SIP/2.0/UDP192.168.255.111;branch=z9hG4bK30239"]
    (contact,) = m.headers["contact"]
    assert name_addr(contact)[:2] == ('Quoted string ""', "sip:jdrosen@example.com")


def test_what_others_hide() -> None:
    assert sip.parse(read("intmeth")).from_.tag == "_token~1'+`*%!-."
    assert len(sip.parse(read("longreq")).headers["via"]) == 34
    assert sip.parse(read("unreason")).reason == "= 2**3 * 5**2 но сто девяносто девять - простое"
    assert sip.parse(read("noreason")).reason == ""
    assert sip.parse(read("badbranch")).branch == ""
    assert sip.parse(read("esc02")).headers["contact"] == ("<sip:alias1@host1.example.com>", "<sip:alias3@host3.example.com>")
    assert sip.parse(read("lwsstart")).request_uri == sip.parse(read("ltgtruri")).request_uri == "sip:user@example.com"
    assert sip.parse(read("invut")).sdp is None


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_against_tshark(tmp_path: Path) -> None:
    """Valid messages, each at a port of its own, as tshark reads them."""
    valid = [case for case in CASES if case.valid]
    packets = [udp(("192.0.2.1", 5060), ("192.0.2.2", 10_000 + i), read(case.name)) for i, case in enumerate(valid)]
    path = write(tmp_path / "valid.pcap", [Packet(START + i * MS, data, len(data)) for i, data in enumerate(packets)])
    fields = ("udp.dstport", "sip.Method", "sip.Status-Code", "sip.Call-ID", "sip.CSeq.seq", "sip.CSeq.method")
    out = subprocess.run(["tshark", "-r", path, "-T", "fields", "-E", "occurrence=f", *(a for f in fields for a in ("-e", f))],
                         capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in out.splitlines()]
    read_by_tshark = {int(row[0]) - 10_000: row[1:] for row in rows if len(row) == len(fields)}
    for i, case in enumerate(valid):
        m = sip.parse(read(case.name))
        method, status = ("", str(m.status)) if m.status else (m.method, "")
        cseq_method = "" if case.name == "intmeth" else m.method  # tshark finds none there
        assert read_by_tshark[i] == [method, status, m.call_id, str(m.cseq), cseq_method], case.name


OCTETS = b'\0\t\n\r "<>;:,?@[\\]%\x1b\x7f\x80\xe2\x80\xae\xe3\xff'


def harmless(text: str) -> bool:
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE")
                   for c in text)


@by_name
def test_damaged(case: Case) -> None:
    """Cut anywhere, or with octets changed: a message, or a named refusal; nothing that is shown does harm."""
    data, rng = read(case.name), random.Random(case.name)
    damaged = [data[:n] for n in range(0, len(data), 1 + len(data) // 500)]
    for _ in range(100):
        octets = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(octets))
            octets[at:at + rng.randint(0, 3)] = bytes(rng.choices(OCTETS, k=rng.randint(0, 3)))
        damaged.append(bytes(octets))
    for octets in damaged:
        try:
            m = sip.parse(octets)
        except sip.SipError:
            continue
        assert harmless(shown(m.from_) + shown(m.to) + m.call_id + m.request_uri + m.reason + m.first_line + described(m))
        assert all(name.startswith(("sip-", "sdp-")) for name in m.anomalies)


# -- the leniencies, each on its own -----------------------------------------------
HEAD = "Via: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: {}\r\nTo: <sip:2@h>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n{}\r\n"


@pytest.mark.parametrize(("first", "from_", "more", "odd"), [
    ("INVITE sip:2@h SIP/2.0", '"A, \\"B\\" <x>" <sip:1@h>;tag=t', "", ()),
    ("INVITE sip:2@h SIP/2.0", "A. B-c ~d* <sip:1@h>;tag=t", "", ()),
    ("INVITE sip:2@h SIP/2.0", "<sip:1@h?subject=x>;tag=t", "", ()),
    ("INVITE sip:2@h SIP/2.0", "sip:1@h;tag=t", "Contact: *\r\nDate: Sat, 01 Jan 2011 00:00:00 GMT\r\n", ()),
    ("INVITE sip:u?x:p@h:5060;a=b:c SIP/2.0", "<sip:1@h>", "", ()),
    ("INVITE sip:u:p@[2001:db8::1]:5060 SIP/2.0", "<sip:1@h>", "Contact: <sip:1@h?a=b>;p\r\n", ()),
    ("INVITE tel:+81-3-1234;ext=1 SIP/2.0", "<tel:1>", "", ()),
    ("INVITE sip:u@2001:db8::1 SIP/2.0", "<sip:1@h>", "", ("sip-request-uri",)),
    ("INVITE sip:u@h;x?a=b SIP/2.0", "<sip:1@h>", "", ("sip-request-uri",)),
    ("INVITE sip:2@h  SIP/2.0 ", "<sip:1@h>", "", ("sip-start-line-spaces",)),
    ("SIP/2.0  200 OK", "<sip:1@h>", "", ("sip-start-line-spaces",)),
    ("SIP/2.0 200 ", "<sip:1@h>", "", ()),
    ("INVITE sip:2@h SIP/2.0", "田中 <sip:1@h>", "", ("sip-bad-display-name",)),
    ("INVITE sip:2@h SIP/2.0", "O'Hara, J. <sip:1@h>", "", ("sip-bad-display-name",)),
    ("INVITE sip:2@h SIP/2.0", "A (mobile) <sip:1@h>", "", ("sip-bad-display-name",)),
    ("INVITE sip:2@h SIP/2.0", '"A <sip:1@h>', "", ("sip-bad-display-name",)),
    ("INVITE sip:2@h SIP/2.0", "A <sip:1@h", "", ("sip-bad-uri",)),
    ("INVITE sip:2@h SIP/2.0", "< sip:1@h>", "", ("sip-bad-uri",)),
    ("INVITE sip:2@h SIP/2.0", "sip:1@h?a=b;tag=t", "", ("sip-bad-uri",)),
    ("INVITE sip:2@h SIP/2.0", "<sip:1@h>;;tag=t", "", ("sip-stray-separators",)),
    ("INVITE sip:2@h SIP/2.0", "<sip:1@h>", "Contact: <sip:1@h>;\r\n", ("sip-stray-separators",)),
    ("INVITE sip:2@h SIP/2.0", "<sip:1@h>", "Date: Sat, 01 Jan 2011 00:00:00 JST\r\n", ("sip-bad-date",)),
])
def test_leniency(first: str, from_: str, more: str, odd: tuple[str, ...]) -> None:
    m = sip.parse(f"{first}\r\n{HEAD.format(from_, more)}".encode())
    assert m.anomalies == odd
    assert m.call_id == "c"


def test_a_mapped_address_is_the_one_that_packets_have() -> None:
    assert canonical_address("::ffff:192.0.2.2") == canonical_address("[::FFFF:c000:202]") == "192.0.2.2"
    assert canonical_address("::192.0.2.2") == "::c000:202"


# -- calls -----------------------------------------------------------------------
@by_name
def test_call(case: Case) -> None:
    """What comes of a message that is all there is."""
    tracker = CallTracker()
    ends = Endpoint("192.0.2.1", 5060), Endpoint("192.0.2.2", 5060)
    events = tracker.receive(START, *ends, 0, "udp", sip.parse(read(case.name))) if case.what else []
    events += tracker.close_all(START + SECOND, "capture-stopped")
    found = [event.call for event in events if isinstance(event, CallClosed)]
    if case.what != "INVITE":
        assert found == []
        return
    (call,) = found
    assert (call.legs[0].call_id, call.answer_ns, call.state) == (case.call_id, None, "in-progress")
    assert f"{call.caller.number}/{call.caller.name}" == case.caller
    assert f"{call.callee.number}/{call.callee.name}" == case.callee
    joined = Counter({"begun-in-mid-call": 1} if case.name in JOINED else {})
    assert call.anomalies == Counter(case.odd) + joined
    sections = [] if case.sdp == "-" else [s.split()[0] for s in case.sdp.split(" + ")]
    assert [f"{c.address}:{c.port}" for c in call.claims] == sections


# -- the whole path ----------------------------------------------------------------
def groups() -> list[list[Case]]:
    """Messages that may be in one capture: RFC 5118 has one Call-ID and tag for several INVITEs."""
    parted: list[list[Case]] = [[]]
    for case in CASES:
        if case.section[0] == "4" and case.what == "INVITE":
            parted.append([case])
        else:
            parted[0].append(case)
    return parted


def beside(good: Phone, cases: list[Case]) -> list[Packet]:
    """A good call, and the messages while it goes on, between hosts of their own."""
    packets = list(good.packets)
    for i, case in enumerate(cases):
        data = udp((f"10.3.0.{i + 1}", 5060), (f"10.4.0.{i + 1}", 5060), read(case.name))
        packets.append(Packet(START + 100 * MS + i * 20 * MS, data, len(data)))
    return sorted(packets, key=lambda p: p.time_ns)


@pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")
def test_beside_a_good_call(tmp_path: Path) -> None:
    good = Phone(1, START, 2)
    record(tmp_path / "good", write(tmp_path / "good.pcap", good.packets))
    (alone,) = identities(tmp_path / "good").items()
    for n, cases in enumerate(groups()):
        data, path = tmp_path / f"data{n}", write(tmp_path / f"{n}.pcap", beside(good, cases))
        done = record(data, path)
        assert done.returncode == 0, done.stderr
        assert alone in identities(data).items()
        found = {call["legs"][0]["call_id"] for call in calls(data)}
        assert found == {"call-1@example"} | {case.call_id for case in cases if case.what == "INVITE"}


def test_all_that_is_odd_is_counted(tmp_path: Path) -> None:
    good = Phone(1, START, 0.2)
    (tmp_path / "all.pcap").write_bytes(pcap(beside(good, groups()[0])))
    summary = record_files([str(tmp_path / "all.pcap")], tmp_path / "data", Settings())
    odd = Counter(name for case in groups()[0] for name in case.odd)
    assert {name: n for name, n in summary.anomalies.items() if name.startswith(("sip-", "sdp-"))} == odd
    assert summary.counts["sip_messages"] == 6 + sum(bool(case.what) for case in groups()[0])
    assert summary.balance.not_recorded["invite-not-understood"] == 1  # insuf
