"""TCP reassembly under attack: work and memory in step with what comes in; and what fuzzing found."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sniffer.test_tcp import A, B, Talk, message

from rokuon.sniffer import sip_framing
from rokuon.sniffer import tcp as tcp_module
from rokuon.sniffer.sip_framing import Verdict, find_start, next_frame, undecided
from rokuon.sniffer.tcp import TcpReassembler
from rokuon.sniffer.tcp_runs import Half


class Counting:
    """A pattern, or function, that counts how often it is used."""

    def __init__(self, of: object) -> None:
        self.of, self.count = of, 0

    def match(self, *arguments: object) -> object:
        self.count += 1
        return self.of.match(*arguments)  # type: ignore[attr-defined]

    def __call__(self, *arguments: object) -> object:
        self.count += 1
        return self.of(*arguments)  # type: ignore[operator]


def backwards(data: bytes, size: int, syn: bool) -> list[bytes]:
    talk = Talk()
    if syn:
        talk.syn()
    for at in range(0, len(data), size)[::-1]:
        talk.send(at, data[at:at + size])
    talk.out += talk.tcp.flush()
    return talk.messages()


def test_what_was_sought_in_vain_is_not_sought_again_for_each_segment_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments in reverse order, full of lines that are nearly a start line: work for each line once, not for each segment."""
    monkeypatch.setattr(sip_framing, "_FIELD", counting := Counting(sip_framing._FIELD))
    lines = 4_000
    assert backwards(b"A b SIP/2.0\nx:" * lines, 200, False) == []
    assert counting.count < 4 * lines


def test_what_is_too_long_is_left_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start lines without end of header fields, 12,000 of them, which may all begin a message that is too long."""
    monkeypatch.setattr(tcp_module, "next_frame", counting := Counting(tcp_module.next_frame))
    backwards(b"SIP/2.0 200 OK\nx:y\n" * 12_000, 1_400, True)
    assert counting.count < 400


@given(st.lists(st.sampled_from([b"SIP/2.0 200 OK\r\n", b"INVITE sip:a SIP/2.0\n", b"Via: x\r\n", b"SIP/2.0", b"\n", b"a" * 40,
                                 b"x:"]),
                max_size=40).map(b"".join), st.lists(st.integers(0, 900), max_size=8))
def test_a_beginning_is_found_in_whatever_is_put_before(data: bytes, cuts: list[int]) -> None:
    half = Half((A, B, 0), 0)
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in [*pairwise(places)][::-1]:
        half.insert(begin, data[begin:end], 0)
        run, = half.runs
        found = find_start(run.data, run.scanned, run.vain)
        assert found == find_start(bytearray(data[begin:]), 0)
        if found >= 0:
            break
        run.scanned = undecided(run.data)


@pytest.mark.parametrize("head", [b"a: 1\r\n\r\n", b"a: 1\n\n", b"a: 1\n\r\nb: 2\n\n", b"a: 1\n\nb: 2\r\n\r\n", b"a: 1\r\n\n"])
def test_where_header_fields_end(head: bytes) -> None:
    first = b"SIP/2.0 200 OK\r\n"
    frame = next_frame(bytearray(first + head), 0, 1000)
    blank = min(at + size for mark, size in ((b"\n\r\n", 3), (b"\n\n", 2)) if (at := (first + head).find(mark)) >= 0)
    assert (frame.verdict, frame.end) == (Verdict.MESSAGE, blank)


@pytest.mark.parametrize("cut", [None, 1, 13])
def test_keep_alives_before_an_upgrade(cut: int | None) -> None:
    """The same however it is cut; and what is no SIP is not given out when the connection ends."""
    upgrade = b"\0\r\nHTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n"
    inner = message(1)
    data = upgrade + b"\x82\x7e" + len(inner).to_bytes(2, "big") + inner
    for stream, right in ((data, [inner]), (b"\0HTTP/1.1 101\n\n", [])):
        talk = Talk()
        talk.syn()
        talk.send(0, stream[:cut])
        if cut is not None:
            talk.send(cut, stream[cut:])
        talk.out += talk.tcp.flush()
        assert talk.messages() == right


def test_fragments_of_websocket_messages_count_as_bytes_held() -> None:
    """They wait outside of the stream's runs, on however many connections: the limit is one for all."""
    tcp = TcpReassembler(total_limit=100_000)
    upgrade = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\n\r\n"
    fragment = b"\x01\x7e\x75\x30" + bytes(30_000)  # text, not final
    for number in range(10):
        for at, data in ((0, upgrade), (len(upgrade), fragment), (len(upgrade + fragment), b"\0" + fragment[1:])):
            tcp.receive(0, A._replace(port=number), B, 0, 1000 + at, 0, data)
            assert sum(len(half.fragments) + half.size for half in tcp._halves.values()) == tcp._total <= 100_000
    assert tcp.anomalies["tcp-evicted"] == 9
    tcp.flush()
    assert tcp._total == 0
