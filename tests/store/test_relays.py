"""Whether one call's voice is relayed in another: who is looked at, and what becomes of a spool that is damaged."""

from __future__ import annotations

import os
import random
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tests.store.spooling import Maker, OwnSpool

from rokuon.sniffer.binding import Stream
from rokuon.sniffer.model import Call, Hop, Leg, MediaClaim, Party
from rokuon.sniffer.packet import Endpoint
from rokuon.store.relays import Payloads, Relays, sampler

S = 1_000_000_000
HOP = Hop(Endpoint("10.0.0.1", 5060), Endpoint("10.0.0.9", 5060), 0)
HOSTS = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.9"]), min_size=1, max_size=3)


def call(number: int, answer_ns: int, callers: list[str], callees: list[str]) -> Call:
    nobody = Party()
    made = Call([Leg(f"{number}@x", "f", "t", nobody, nobody, answer_ns - S)], nobody, nobody, answer_ns - S,
                answer_ns=answer_ns, number=number)
    for side, hosts in (("caller", callers), ("callee", callees)):
        for n, host in enumerate(hosts):
            made.claims.append(MediaClaim(side, 0, HOP, "audio", host, 4000 + 10 * number + n, 0, "RTP/AVP", {},  # type: ignore[arg-type]
                                          answer_ns))
    return made


def streams_of(made: Call) -> list[Stream]:
    a, b = (next(Endpoint(c.address, c.port) for c in made.claims if c.side == side) for side in ("caller", "callee"))
    return [Stream(2 * made.number, a, b, 0, 1, 0), Stream(2 * made.number + 1, b, a, 0, 2, 0)]


def voice(seed: int, at_ns: int) -> Payloads:
    rng = random.Random(seed)
    return {rng.randbytes(40): at_ns + n * 20_000_000 for n in range(50)}


def look(said: dict[int, tuple[Payloads, Payloads]], calls: list[Call]) -> set[tuple[int, int]]:
    """What is found where the streams of calls, by number, are these: the caller's and the callee's voice."""
    relays = Relays()
    relays.sample = lambda streams, since, until: [said[s.number // 2][s.number % 2] for s in streams]
    by_number = {made.number: made for made in calls}
    for made in calls:
        relays.answered(made)
    return {(one.number, other.number) for one, other, _ in relays.look(calls, by_number.get, streams_of, 10 * S)}


def test_one_way_it_takes_one_candidate_both_ways_others_may_listen() -> None:
    a, b, c = (call(1, S, ["10.0.1.1"], ["10.0.0.9"]), call(2, S, ["10.0.0.9"], ["10.0.1.2"]),
               call(3, S, ["10.0.0.9"], ["10.0.1.3"]))
    early, late, nothing = voice(1, S), voice(1, S + 3_000_000), {}
    assert look({1: (early, nothing), 2: (late, nothing)}, [a, b]) == {(1, 2)}
    assert look({1: (early, nothing), 2: (late, nothing), 3: (late, nothing)}, [a, b, c]) == set()
    answer, heard = voice(2, S), voice(2, S + 3_000_000)
    assert look({1: (early, heard), 2: (late, answer), 3: (late, nothing)}, [a, b, c]) == {(1, 2)}
    assert look({1: (late, nothing), 2: (early, nothing)}, [a, b]) == set()  # it leaves before it comes


@given(st.lists(st.tuples(st.integers(1, 5), HOSTS, HOSTS), min_size=1, max_size=12),
       st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.booleans()), max_size=12))
def test_nothing_stays(made: list[tuple[int, list[str], list[str]]], joins: list[tuple[int, int, bool]]) -> None:
    relays = Relays()
    relays.sample = lambda streams, since, until: [{} for _ in streams]
    calls = [call(n, at * S, a, b) for n, (at, a, b) in enumerate(made)]
    for each in calls:
        relays.answered(each)
    for one, other, flipped in joins:
        if one < len(calls) and other < len(calls) and one != other:
            relays.joined(calls[one], calls[other], flipped)
    for host, there in relays._at.items():
        assert there == sorted(set(there))
        assert {number for _, number in there} == {n for n, (_, known) in relays._of.items() if known.get(host)}
    for each in calls:
        relays.over(each.number)
    assert not relays._at
    assert not relays._of


def test_a_spool_that_is_damaged_tells_nothing(tmp_path: Path) -> None:
    spool, maker = OwnSpool(tmp_path), Maker(7)
    try:
        for _ in range(8):
            spool.put(maker.run([1, 2], most=40))
        streams = [Stream(n, Endpoint("10.0.0.1", n), Endpoint("10.0.0.2", n), 0, 7 * n, 0) for n in (1, 2)]
        assert len(sampler(spool)(streams, 0, 1 << 60)) == 2
        paths = sorted(tmp_path.glob("*.seg"))
        for path in paths:
            os.truncate(path, path.stat().st_size // 2 + 3)
        assert sampler(spool)(streams, 0, 1 << 60) == [{}, {}]
        for path in paths:
            path.unlink()
        assert sampler(spool)(streams, 0, 1 << 60) == [{}, {}]
    finally:
        spool.close()
