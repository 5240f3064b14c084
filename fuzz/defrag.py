"""Fuzzes defragmentation: any fragments stay within bounds; those of one datagram give it back in whatever order they come."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import harness, seeds
from fuzz.harness import Input

with harness.instrumented():
    from rokuon.sniffer.defrag import Defragmenter

SECOND = 1_000_000_000
DATAGRAMS, SIZE = 8, 40_000


def hostile(given: Input) -> None:
    """Fragments of any place, length and time, of some datagrams at once."""
    d = Defragmenter(datagram_limit=DATAGRAMS, size_limit=SIZE)
    into, out, now = 0, 0, 0
    while not given.over:
        key = (("192.0.2.1", "2001:db8::1")[given.number(1)], given.number(15))
        offset, size, more = given.number(8191) * 8, given.number(3_000), bool(given.number(1))
        now += given.number(40) * SECOND - 5 * SECOND
        payload = (given.rest or b"x") * (size // max(len(given.rest), 1) + 1)
        whole = d.receive(now, key, offset, more, payload[:size])
        into += size
        if whole is not None:
            out += len(whole)
            assert 0 < len(whole) <= 65_535
        assert out <= into, "more bytes out than in"
        assert len(d) <= DATAGRAMS
        held = list(d._datagrams.values())
        assert d._size == sum(each.size for each in held) <= SIZE, "bytes held are miscounted"
        for each in held:
            assert each.size == sum(len(piece) for _, piece in each.pieces)
            assert len(each.pieces) <= 1_024
            assert all(a + len(piece) <= b for (a, piece), (b, _) in zip(each.pieces, each.pieces[1:], strict=False)), "overlap"
    d.expire(now + 3600 * SECOND)
    assert len(d) == d._size == 0


def shuffled(given: Input) -> None:
    """One datagram in fragments that come in any order, some twice, or cut elsewhere a second time (a mirror behind a router)."""
    data = given.rest[:60_000] or b"x"
    v6 = given.number(1) == 1
    cuts = sorted({given.number(len(data) // 8) * 8 for _ in range(1 + given.number(20))} - {len(data)} | {0})
    pieces = [(a, b) for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]
    pieces.sort(key=lambda _: given.number(255))
    pieces += pieces[:given.number(3)]
    if not v6:
        pieces.insert(given.number(len(pieces) - 1), (0, len(data)) if len(data) % 8 == 0 else pieces[0])
    key = ("2001:db8::1" if v6 else "192.0.2.1", 7)
    d = Defragmenter()
    got = [d.receive(1, key, a, b < len(data), data[a:b]) for a, b in pieces]
    wholes = [whole for whole in got if whole is not None]
    assert wholes[:1] == [data], "not what was sent"
    assert all(whole == data for whole in wholes)


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    if given.number(1):
        shuffled(given)
    else:
        hostile(given)


if __name__ == "__main__":
    harness.fuzz(check, seeds.defrag)
