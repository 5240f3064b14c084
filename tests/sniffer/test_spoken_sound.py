"""A payload type that means another codec from a re-INVITE on is heard by what it meant when each packet came."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
from tests.e2e.wire import SECOND, Phone, calls, record, write

MS = SECOND // 1000
CODE = 0x2A


def level(law: str) -> int:
    """The 16-bit sample of `CODE` (ITU-T G.711, tables 1a and 2a)."""
    code = CODE ^ (0x55 if law == "PCMA" else 0xFF)
    segment, step = code >> 4 & 7, code & 15
    if law == "PCMA":
        size = (2 * step + 1 << max(segment - 1, 0)) + (32 << segment - 1 if segment else 0)
        return 8 * size * (1 if code & 0x80 else -1)
    return 4 * ((2 * step + 33 << segment) - 33) * (-1 if code & 0x80 else 1)


class Changing(Phone):
    """Both sides speak for two seconds; after one of them they agree on another meaning of 97."""

    then = b"PCMU"
    status = b"200 OK"

    def _make(self) -> None:
        super()._make()
        at = self.start_ns + 1240 * MS - 5 * MS
        self.maps = b"a=rtpmap:97 " + self.then + b"/8000\r\n"
        offer, answer = self.sdp(True), self.sdp(False) if self.status.startswith(b"2") else b""
        self.sip(at, True, self.message(b"INVITE sip:bob@example.com SIP/2.0", b"2 INVITE", offer))
        self.sip(at + 2 * MS, False, self.message(b"SIP/2.0 " + self.status, b"2 INVITE", answer))

    def message(self, first: bytes, cseq: bytes, body: bytes = b"", tagged: bool = True) -> bytes:
        return super().message(first, b"3 BYE" if cseq == b"2 BYE" else cseq, body, tagged)

    def voice_of(self, up: bool, n: int) -> bytes:
        return bytes((CODE,)) * 160


@pytest.mark.parametrize(("status", "then", "codecs"), [
    (b"200 OK", b"PCMU", ("PCMA", "PCMU")),
    (b"488 Not Acceptable Here", b"PCMU", ("PCMA", "PCMA")),
    (b"200 OK", b"G7999", ("PCMA", None)),
])
def test_heard_by_the_meaning_in_force(tmp_path: Path, status: bytes, then: bytes, codecs: tuple[str, str | None]) -> None:
    class Call(Changing):
        pass

    Call.status, Call.then = status, then
    phone = Call(1, seconds=2.0, codec=b"97", maps=b"a=rtpmap:97 PCMA/8000\r\n")
    write(tmp_path / "a.pcap", sorted(phone.packets, key=lambda p: p.time_ns))
    assert record(tmp_path / "data", tmp_path / "a.pcap").returncode == 0
    (call,) = calls(tmp_path / "data")
    sound, rate = soundfile.read(tmp_path / "data" / call["audio"]["path"], dtype="int16")
    assert rate == 8000
    for channel in (0, 1):
        for law, about in zip(codecs, (0.5, 1.55), strict=True):
            heard = set(sound[int((about - 0.3) * 8000):int((about + 0.3) * 8000), channel].tolist())
            assert heard == {level(law) if law else 8}  # A-law has no zero
    assert [(s["payload_type"], s["codec"], s["packets"], s["lost"]) for s in call["streams"]] == [(97, "PCMA", 100, 0)] * 2
    changed = [(e["type"], e["detail"]) for e in call["events"]]
    assert changed == ([("codec-change", f"{codecs[0]} to {then.decode()}")] * 2 if status.startswith(b"2") else [])
