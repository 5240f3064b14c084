"""Fuzzes session descriptions: any bytes give one within bounds, and one that is written out again is the same."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import harness, seeds

with harness.instrumented():
    from rokuon.sniffer import sdp
    from rokuon.sniffer.model import SessionDescription

WORDS = (b"\r\n", b"\n", b"m=audio ", b"c=IN IP4 ", b"c=IN IP6 ", b"a=rtpmap:", b"a=fmtp:", b"a=ptime:", b"a=rtcp:",
         b"a=rtcp-mux", b"a=sendonly", b"a=inactive", b"RTP/AVP", b"RTP/SAVPF", b"telephone-event/8000", b"opus/48000/2",
         b"G722/16000", b"65536", b"0", b"4294967296", b"::ffff:1.2.3.4", b"224.0.0.1/127", b"[::1]", b"\xff", b"\0",
         b"\xe2\x80\xae")
UNSAFE = {*map(chr, range(32)), *map(chr, range(127, 160)), "\u2028", "\u202e", "\u2066"}
DIRECTIONS = {"sendrecv", "sendonly", "recvonly", "inactive"}


def written(found: SessionDescription) -> bytes:
    """The description again."""
    lines = ["v=0", f"o={found.origin}"]
    for m in found.media:
        lines += [f"m={m.media or '-'} {m.port} {m.proto or '-'} {' '.join(map(str, m.formats))}", f"c=IN IP4 {m.address or '-'}",
                  f"a={m.direction}"]
        lines += [f"a=rtcp:{m.rtcp_port}"] if m.port else []
        lines += [f"a=ptime:{m.ptime}"] if m.ptime is not None else []
        for number, form in m.formats.items():
            lines.append(f"a=rtpmap:{number} {form.encoding}/{form.clock_rate}/{form.channels}")
            lines += [f"a=fmtp:{number} {form.fmtp}"] if form.fmtp else []
    return "\r\n".join([*lines, ""]).encode()


def check(data: bytes) -> None:
    """The target."""
    odd: list[str] = []
    found = sdp.parse(data, odd)
    assert len(found.media) <= sdp.MAX_SECTIONS
    assert set(odd) <= {"sdp-bad-line", "sdp-bad-media", "sdp-unmapped-type", "sdp-too-long"}
    assert len(odd) <= 1024 + sdp.MAX_SECTIONS * (sdp.MAX_FORMATS + 3)
    for m in found.media:
        assert 0 <= m.port <= 65_535
        assert 0 <= m.rtcp_port <= 65_535
        assert len(m.formats) <= sdp.MAX_FORMATS
        assert len(m.address) <= 255
        assert max(len(m.media), len(m.proto)) <= 32
        assert m.direction in DIRECTIONS
        assert m.ptime is None or 0 < m.ptime <= 10_000
        assert sdp.canonical_address(m.address) == m.address, "an address that changes when it is read again"
        for number, form in m.formats.items():
            assert 0 <= number < 128
            assert 0 < form.clock_rate < 10**9
            assert 0 < form.channels < 256
            assert max(len(form.encoding), len(form.fmtp)) <= 512
        texts = (found.origin, m.media, m.proto, m.address, *(f.encoding + f.fmtp for f in m.formats.values()))
        assert not UNSAFE.intersection("".join(texts)), "what a terminal obeys"
    again = sdp.parse(written(found))
    assert len(again.media) == len(found.media)
    for one, other in zip(found.media, again.media, strict=True):
        assert (one.port, one.direction, one.ptime) == (other.port, other.direction, other.ptime)
        assert one.rtcp_port == other.rtcp_port
        if "RTP" in one.proto.upper():
            assert list(one.formats) == list(other.formats)
            assert [f[:3] for f in one.formats.values()] == [f[:3] for f in other.formats.values()]


if __name__ == "__main__":
    harness.fuzz(check, seeds.sdp, WORDS)
