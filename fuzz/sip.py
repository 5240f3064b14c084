"""Fuzzes SIP messages: any bytes give a message within bounds or SipError, and a message written out again is the same one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import harness, seeds

with harness.instrumented():
    from rokuon.sniffer import sip
    from rokuon.sniffer.model import SipMessage
    from rokuon.sniffer.sip_headers import MAX_NAME, MAX_URI, MAX_VALUE, decode, name_addr, parameter, split_list

WORDS = (b"\r\n", b"\n", b"\r\n ", b"\r\n\r\n", b'"', b"\\", b"<", b">", b",", b";", b";tag=", b";branch=z9hG4bK", b"SIP/2.0",
         b"sip:", b"tel:", b"Call-ID: ", b"i:", b"CSeq: 1 ", b"v:", b"f:", b"t:", b"c:", b"l:",
         b"Content-Type: multipart/mixed;boundary=b", b"--b", b"application/sdp", b"v=0\r\n", b"\xff", b"\x83\x5c",
         b"\xe3\x81", b"\x1b[", b"\xe2\x80\xae", b"9" * 12, b"\0")
UNSAFE = {*map(chr, range(32)), *map(chr, range(127, 160)), *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"}
ONE_PER_LINE = 40
"""Values of all header fields up to which a message is written out: more may be beyond bounds. Nor are those with texts of which
it is doubtful what encoding they have."""


def bounded(m: SipMessage, size: int) -> None:
    """What holds of every message that is taken for one."""
    texts = [m.method, m.reason, m.request_uri, m.call_id, *m.from_, *m.to, m.branch, m.first_line, *m.headers,
             *(value for values in m.headers.values() for value in values)]
    assert m.call_id
    assert all(len(text) <= MAX_VALUE for text in texts)
    assert max(len(m.from_.name), len(m.to.name)) <= MAX_NAME
    assert max(len(m.from_.uri), len(m.to.uri), len(m.request_uri), len(m.call_id)) <= MAX_URI
    assert max(len(m.from_.tag), len(m.to.tag), len(m.branch)) <= 256
    assert sum(map(len, m.headers.values())) <= 512
    assert sum(map(len, texts)) <= 4 * size + 64, "more text than bytes"
    assert 0 <= m.cseq < 1 << 32
    assert (m.status == 0 and m.method) or 100 <= m.status <= 699
    assert not UNSAFE.intersection("".join(texts)), "what a terminal obeys"
    assert len(set(m.anomalies)) == len(m.anomalies)
    assert all(0 <= line.port <= 65_535 and len(line.formats) <= 64 for line in (m.sdp.media if m.sdp else ()))


def written(m: SipMessage) -> bytes:
    """The message again, a line for each value."""
    lines = [f"{name}: {value}" for name, values in m.headers.items() for value in values]
    return "\r\n".join([m.first_line, *lines, "", ""]).encode()


def check(data: bytes) -> None:
    """The target."""
    assert isinstance(sip.looks_like_sip(data), bool)
    try:
        m = sip.parse(data)
    except sip.SipError as error:
        assert error.anomaly.startswith("sip-")  # noqa: PT017 - this is no test of pytest's
        return
    bounded(m, len(data))
    try:
        assert sip.parse(data, strict_length=True) == m
    except sip.SipError as error:
        assert error.anomaly == "sip-short-body"  # noqa: PT017
    for value in (v for values in m.headers.values() for v in values[:4]):
        again = name_addr(value)
        assert len(again.name) <= MAX_NAME
        assert len(parameter(value, "tag")) <= 256
        assert all(part and len(part) <= len(value) for part in split_list(value))
    texts = [m.first_line, *(value for values in m.headers.values() for value in values)]
    if len(m.first_line) < 1_000 and len(texts) < ONE_PER_LINE and all(decode(text.encode()) == text for text in texts):
        again_m = sip.parse(written(m))
        first = {name: values for name, values in m.headers.items() if values}
        second = {name: values for name, values in again_m.headers.items() if values}
        assert {**first, "content-length": ()} == {**second, "content-length": ()}
        assert (again_m.call_id, again_m.from_, again_m.to, again_m.cseq, again_m.branch) == (
            m.call_id, m.from_, m.to, m.cseq, m.branch)
        assert (again_m.status, again_m.request_uri) == (m.status, m.request_uri)


if __name__ == "__main__":
    harness.fuzz(check, seeds.sip, WORDS)
