"""Streams in a crowd: those that calls claim are found, whenever they do, and the rest costs little and is let go."""

from __future__ import annotations

import socket

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.store.runs import STREAM
from rokuon.store.strangers import Strangers

PORTS = st.integers(1, 3)
HOSTS = st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"])
END = st.tuples(HOSTS, PORTS)


def rows(ends: list[tuple[tuple[str, int], tuple[str, int]]], first: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    made = np.zeros(len(ends), STREAM)
    for number, (row, (source, destination)) in enumerate(zip(made, ends, strict=True), first):
        row["number"], row["ssrc"], row["header"] = number, number * 3, 7
        row["v6"] = ":" in source[0]
        for name, (host, port) in (("source", source), ("destination", destination)):
            packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
            row[name][:len(packed)] = np.frombuffer(packed, np.uint8)
            row[f"{name}_port"] = port
    return made


@settings(max_examples=150, deadline=None)
@given(lots=st.lists(st.tuples(st.lists(st.tuples(END, END), max_size=12), st.integers(1, 50)), max_size=6),
       claimed=st.lists(END, max_size=3), asked=st.lists(END, max_size=4), now=st.integers(0, 60))
def test_each_is_given_out_once(lots: list[tuple[list[tuple[tuple[str, int], tuple[str, int]]], int]],
                                claimed: list[tuple[str, int]], asked: list[tuple[str, int]], now: int) -> None:
    strangers, first, times = Strangers(), 1, 0
    known: dict[int, tuple[tuple[str, int], tuple[str, int]]] = {}
    until: dict[int, int] = {}
    for ends, lasts in lots:
        times += lasts
        made = rows(ends, first)
        mine = dict(zip(range(first, first + len(ends)), ends, strict=True))
        given_back = strangers.add(made, [*claimed, ("host.example", 5004)], times)
        assert set(given_back["number"].tolist()) == {n for n, pair in mine.items() if set(pair) & set(claimed)}
        assert (given_back["header"] == 7).all()
        left = {n: pair for n, pair in mine.items() if not set(pair) & set(claimed)}
        known |= left
        until |= dict.fromkeys(left, times)
        first += len(ends)
    for end in asked:
        found = strangers.ask(end)
        assert set(found["number"].tolist()) == {n for n, pair in known.items() if end in pair}
        assert (found["ssrc"] == found["number"] * 3).all()
        assert not found["header_length"].any()
        known = {n: pair for n, pair in known.items() if end not in pair}
    assert strangers.ask(("host.example", 5004)).tolist() == []
    assert len(strangers) == len(known)
    assert sorted(strangers.numbers().tolist()) == sorted(known)
    for moment in (now, 10_000):
        numbers, plain = strangers.over(moment)
        assert set(numbers.tolist()) == {n for n in known if until[n] <= moment}
        assert strangers.whole(plain)["number"].tolist() == numbers.tolist() == sorted(numbers.tolist())
        known = {n: pair for n, pair in known.items() if until[n] > moment}
    assert len(strangers) == 0


def test_their_number_has_a_bound() -> None:
    strangers = Strangers()
    lot = rows([(("10.0.0.1", 1), ("10.0.0.2", 2))], 1).repeat(1 << 18)
    for n in range(6):
        lot["number"] = np.arange(1 + n * len(lot), 1 + (n + 1) * len(lot))
        strangers.add(lot, [], 1 << 60)
        strangers.over(0)
        assert len(strangers) <= 1 << 20
