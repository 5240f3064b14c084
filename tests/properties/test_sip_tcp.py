"""What holds of SIP, session descriptions, TCP and fragments whatever the network brings."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from rokuon.sniffer import sdp, sip
from rokuon.sniffer.defrag import Defragmenter
from rokuon.sniffer.model import NameAddr, SipMessage
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.sip_headers import decode, name_addr, parameter, split_list
from rokuon.sniffer.tcp import FIN, SYN, TcpReassembler

A, B = Endpoint("192.0.2.1", 40000), Endpoint("2001:db8::1", 5060)

SDP = (b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 97 101\r\n"
       b"a=rtpmap:97 opus/48000/2\r\na=fmtp:97 useinbandfec=1\r\na=rtpmap:101 telephone-event/8000\r\na=rtcp:4001\r\n"
       b"a=sendrecv\r\nm=video 4002/2 RTP/AVP 34\r\n")
VALID = [
    b"INVITE sip:200@example.com SIP/2.0\r\nv: SIP/2.0/UDP [2001:db8::1]:5060;branch=z9hG4bKa, SIP/2.0/TCP h;branch=z9hG4bKb\r\n"
    b'f: "A \\"quoted\\", name" <sip:100@example.com>;tag=a\r\nt: <sip:200@example.com>\r\ni: c1\r\nCSeq: 1 INVITE\r\n'
    b"Contact: <sip:a@h>,\r\n <sip:b@h>\r\nc: application/sdp\r\nl: %d\r\n\r\n%s" % (len(SDP), SDP),
    b"SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP h\r\nFrom: \x83\x5c\x83\x6a\x81\x5b <sip:1@h>;tag=x\r\n"
    b"To: tel:+81312345678;tag=y\r\nCall-ID: c2\r\nCSeq: 2 INVITE\r\n\r\n",
    b"BYE sip:1@h SIP/2.0\r\nCall-ID: c3\r\nCSeq: 3 BYE\r\nContent-Type: multipart/mixed;boundary=\"b\"\r\n\r\n--b\r\n"
    b"Content-Type: application/sdp\r\n\r\n" + SDP + b"\r\n--b--\r\n",
]


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of `originals` with parts cut out, doubled, swapped or overwritten."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        a = draw(st.integers(0, len(data)))
        b = min(len(data), a + draw(st.integers(0, 40)))
        what = draw(st.integers(0, 3))
        if what == 0:
            del data[a:b]
        elif what == 1:
            data[a:a] = data[a:b]
        elif what == 2:
            data[a:b] = draw(st.binary(max_size=8))
        else:
            data[a:b] = draw(st.sampled_from([b"\r\n", b"\n", b'"', b"<", b">", b",", b";", b":", b"\\", b" ", b"\t", b"\r\n ",
                                              b"--b", b"a=",
                                              b"9" * 30, b"\xff", b"\x1b[", b"\xe3\x81", b"\x8e", b"Content-Length: 5\r\n"]))
    return bytes(data)


def check_message(m: SipMessage) -> None:
    texts = [m.method, m.reason, m.request_uri, m.call_id, *m.from_, *m.to, m.branch, m.first_line, *m.headers,
             *(v for values in m.headers.values() for v in values)]
    assert m.call_id
    assert all(len(t) <= 4096 for t in texts)
    assert max(len(m.from_.name), len(m.to.name)) <= 256
    assert max(len(m.from_.uri), len(m.to.uri), len(m.request_uri)) <= 1024
    assert sum(map(len, m.headers.values())) <= 512
    assert 0 <= m.cseq < 1 << 32
    assert m.status == 0 or 100 <= m.status <= 699
    for text in texts:
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2028" for c in text), text
    for section in m.sdp.media if m.sdp else ():
        check_section(section.port, section.rtcp_port, len(section.formats), section.address)


def check_section(port: int, rtcp_port: int, formats: int, address: str) -> None:
    assert 0 <= port <= 65535
    assert 0 <= rtcp_port <= 65535
    assert formats <= sdp.MAX_FORMATS
    assert len(address) <= 255


@given(st.binary(max_size=600) | mutated(VALID))
@settings(max_examples=400)
@example(b"SIP/2.0 200 \r\ni:\xff\r\nCSeq:1 A\r\nf:<\r\nt:\"\r\nv:;branch=\r\nc:multipart/x;boundary=\r\n\r\n--\r\n")
@example(b"A b SIP/2.0\r\ni:x\r\nc:multipart/x;boundary\r\n\r\n--")
def test_any_bytes_are_a_message_or_a_sip_error(data: bytes) -> None:
    sip.looks_like_sip(data)
    try:
        m = sip.parse(data)
    except sip.SipError as e:
        assert e.anomaly.startswith("sip-")  # noqa: PT017 -- an error is as right as a message
    else:
        check_message(m)


@given(st.binary(max_size=400) | mutated([SDP]))
@settings(max_examples=300)
def test_any_bytes_are_a_session_description(data: bytes) -> None:
    described = sdp.parse(data)
    assert len(described.media) <= sdp.MAX_SECTIONS
    for section in described.media:
        check_section(section.port, section.rtcp_port, len(section.formats), section.address)
        for meaning in section.formats.values():
            assert meaning.clock_rate > 0
            assert 1 <= meaning.channels <= 255


@given(st.text(st.sampled_from('",<>;\\ab =\t@:'), max_size=40))
def test_header_grammar_takes_any_text(text: str) -> None:
    name_addr(text)
    parameter(text, "a")
    assert "".join(split_list(text)).replace(" ", "").replace("\t", "").replace(",", "") == text.replace(" ", "").replace(
        "\t", "").replace(",", "")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=40), st.sampled_from(["",
                                                                                                                       "t1",
                                                                                                                       "a-b.c"]))
def test_a_display_name_comes_back(name: str, tag: str) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    assert name_addr(f'"{quoted}"<sip:1@h>' + (f";x;tag={tag}" if tag else "")) == NameAddr(name, "sip:1@h", tag)


@given(st.binary(max_size=60))
def test_any_bytes_decode(data: bytes) -> None:
    assert isinstance(decode(data), str)


# -- TCP ---------------------------------------------------------------------
BODIES = st.binary(max_size=120) | st.sampled_from([b"SIP/2.0 200 OK\r\nVia: x\r\n\r\n", b"\r\n\r\n",
                                                    b"INVITE sip:a@h SIP/2.0\r\nl: 0\r\n\r\n", SDP])


UPGRADE = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"


def framed(bodies: list[bytes]) -> list[bytes]:
    return [b"MESSAGE sip:a@h SIP/2.0\r\nCall-ID: %d\r\nCSeq: %d MESSAGE\r\nContent-Length: %d\r\n\r\n%s" % (i, i, len(body),
                                                                                                             body)
            for i, body in enumerate(bodies)]


@st.composite
def segments(draw: st.DrawFn, length: int) -> list[tuple[int, int]]:
    """Spans that cover `length` bytes, cut anywhere, some of them twice or overlapping, in any order."""
    cuts = sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=12))})
    spans = list(pairwise(cuts))
    more = draw(st.lists(st.tuples(st.integers(0, length), st.integers(0, 200)), max_size=4))
    return draw(st.permutations(spans + [(a, min(length, a + n)) for a, n in more if n and a < length]))


@given(st.data(), st.lists(BODIES, min_size=1, max_size=5), st.integers(0, 1 << 31) | st.integers((1 << 32) - 300, (1 << 32) - 1))
@settings(max_examples=200, deadline=None)
def test_any_segmentation_gives_the_same_messages(data: st.DataObject, bodies: list[bytes], first: int) -> None:
    messages = framed(bodies)
    gaps = [data.draw(st.sampled_from([b"", b"\r\n\r\n", b"\r\n"])) for _ in messages]
    stream = b"".join(gap + m for gap, m in zip(gaps, messages, strict=True))
    tcp = TcpReassembler()
    assert tcp.receive(0, A, B, 0, first, SYN, b"") == []
    spans = data.draw(segments(len(stream)))
    out, came = [], [0] * len(stream)
    for time, (a, b) in enumerate(spans, 1):
        came[a:b] = [t or time for t in came[a:b]]
        out += tcp.receive(time, A, B, 0, (first + 1 + a) & 0xFFFFFFFF, FIN if b == len(stream) else 0, stream[a:b])
    assert [m[4] for m in out] == messages
    at = 0
    for (time, *_), gap, m in zip(out, gaps, messages, strict=True):
        at += len(gap) + len(m)
        assert max(came[at - len(m):at]) <= time <= max(came[at - len(m) - len(gap):at])
    assert not tcp.anomalies
    assert tcp._total == 0


@given(st.data(), st.lists(st.binary(max_size=120).map(lambda b: b.replace(b"SIP", b"").replace(b" ", b"")),  # no "INVITE " at
                           min_size=1, max_size=5))                                 # its end: that would begin the next message
@settings(max_examples=200, deadline=None)
def test_so_it_does_without_the_beginning_of_the_connection(data: st.DataObject, bodies: list[bytes]) -> None:
    messages = framed(bodies)
    stream = b"".join(messages)
    tcp = TcpReassembler()
    out = []
    for time, (a, b) in enumerate(data.draw(segments(len(stream)))):
        out += tcp.receive(time, A, B, 0, a, 0, stream[a:b])
    assert sorted(m[4] for m in out) == sorted(messages)
    assert tcp._total == 0


@given(st.data(), st.lists(BODIES, min_size=1, max_size=4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_so_it_does_in_websocket_frames(data: st.DataObject, bodies: list[bytes], begun: bool) -> None:
    messages = framed(bodies)
    masked_with_zeros = [bytes((0x81, 0xFE)) + len(m).to_bytes(2, "big") + bytes(4) + m for m in messages]
    stream = UPGRADE + b"".join(masked_with_zeros)
    tcp = TcpReassembler()
    if begun:
        tcp.receive(0, A, B, 0, (1 << 32) - 1, SYN, b"")
    spans = data.draw(segments(len(stream)))
    if not begun:
        spans = [(0, len(UPGRADE)), *spans]
    out = []
    for time, (a, b) in enumerate(spans):
        out += tcp.receive(time, A, B, 0, a, 0, stream[a:b])
    assert [m[4] for m in out] == messages


@given(st.data(), st.lists(BODIES, min_size=2, max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_lost_segment_costs_the_messages_it_touched(data: st.DataObject, bodies: list[bytes]) -> None:
    messages = framed([body.replace(b"SIP", b"") for body in bodies])
    stream = b"".join(messages)
    a = data.draw(st.integers(0, len(stream) - 2))
    b = data.draw(st.integers(a + 1, len(stream) - 1))
    tcp = TcpReassembler()
    tcp.receive(0, A, B, 0, (1 << 32) - 1, SYN, b"")
    out = tcp.receive(1, A, B, 0, 0, 0, stream[:a]) + tcp.receive(2, A, B, 0, b, 0, stream[b:]) + tcp.flush()
    ends = [len(b"".join(messages[:i + 1])) for i in range(len(messages))]
    whole = {m for m, end in zip(messages, ends, strict=True) if end <= a or end - len(m) >= b}
    got = [m[4] for m in out]
    assert [m for m in got if m in whole] == [m for m in messages if m in whole]
    assert len(got) <= len(whole) + 1  # one may have been cut short


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 32), st.integers(0, 63),
                          st.binary(max_size=30) | mutated([*VALID, UPGRADE]),
                          st.integers(0, 4 * 10**9)), max_size=25))
@settings(max_examples=150, deadline=None)
def test_any_segments_stay_within_bounds(parts: list[tuple[int, int, int, bytes, int]]) -> None:
    tcp = TcpReassembler(connection_limit=3, size_limit=4096, total_limit=8192)
    now = 0
    for who, sequence, flags, payload, later in parts:
        now += later
        near = sequence % 3000 if sequence % 3 else sequence & 0xFFFFFFFF
        for message in tcp.receive(now, Endpoint("h", who), B, 0, near, flags, payload):
            assert len(message[4]) <= 4096
        tcp.expire(now)
        assert len(tcp) <= 3
        assert tcp._total == sum(half.size for half in tcp._halves.values()) <= 8192
        for half in tcp._halves.values():
            assert half.size == sum(len(run.data) for run in half.runs) <= 4096
            taken = sorted([*half.done, *((run.start, run.end) for run in half.runs)])
            assert all(p[1] <= q[0] for p, q in pairwise(taken))
            assert all(run.data and run.marks and run.marks[-1][0] == run.end for run in half.runs)
    tcp.flush()
    assert len(tcp) == tcp._total == 0


# -- fragments ---------------------------------------------------------------
@given(st.data(), st.binary(min_size=9, max_size=600), st.booleans())
@settings(max_examples=200)
def test_fragments_in_any_order_give_the_same_datagram(data: st.DataObject, payload: bytes, ipv6: bool) -> None:
    cuts = sorted({0, len(payload), *(8 * n for n in data.draw(st.lists(st.integers(1, (len(payload) - 1) // 8), min_size=1,
                                                                        max_size=8)))})
    spans = list(pairwise(cuts))
    copies = data.draw(st.lists(st.sampled_from(spans), max_size=4))
    d = Defragmenter()
    out = [d.receive(0, ("k",), a, b < len(payload), payload[a:b], ipv6=ipv6) for a,
           b in data.draw(st.permutations(spans + copies))]
    assert [whole for whole in out if whole is not None] == [payload]
    assert d.anomalies.keys() <= {"fragment-duplicate"}
    assert d._size == len(d) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 9000), st.booleans(), st.integers(0, 8), st.booleans(),
                          st.integers(0, 10**10)), max_size=40))
def test_any_fragments_stay_within_bounds(parts: list[tuple[int, int, bool, int, bool, int]]) -> None:
    d = Defragmenter(datagram_limit=2, size_limit=100)
    now = 0
    for key, offset, more, length, ipv6, later in parts:
        now += later
        whole = d.receive(now, (key,), offset * 8, more, bytes(length * 8), ipv6=ipv6)
        assert whole is None or len(whole) <= 65_535
        assert len(d) <= 2
        assert d._size == sum(datagram.size for datagram in d._datagrams.values()) <= 100
