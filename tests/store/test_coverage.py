"""Which of two copies of a call is the fuller: an order in which nothing depends on who comes first."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.store.coverage import Coverage, standing

SPANS = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda pair: (min(pair), max(pair)))
LEGS = st.lists(st.tuples(st.sampled_from("xy"), st.frozensets(st.sampled_from("ab"), min_size=1)), min_size=1, max_size=2)


@st.composite
def copies(draw: st.DrawFn, count: int) -> list[Coverage]:
    """Copies with signalling that all have the beginning, or none has."""
    begun = draw(st.booleans())
    made = []
    for _ in range(count):
        names = draw(st.sampled_from([(), ("caller",), ("callee",), ("callee", "caller")]))
        sides = tuple((name, draw(SPANS)) for name in names)
        made.append(Coverage(tuple(draw(LEGS)), draw(SPANS), begun, sides, bool(sides) and draw(st.booleans()),
                             draw(st.integers(0, 4)), draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(0, 2)),
                             draw(st.integers(0, 2))))
    return made


@settings(max_examples=300, deadline=None)
@given(copies(3))
def test_covering_is_an_order_and_the_rank_keeps_it(some: list[Coverage]) -> None:
    a, b, c = some
    assert a.covers(a)
    if a.covers(b) and b.covers(c):
        assert a.covers(c)
    if a.covers(b) and not b.covers(a) and a.legs == b.legs:
        assert a.rank > b.rank


@settings(max_examples=300, deadline=None)
@given(copies(2))
def test_of_two_copies_one_is_kept_or_both(some: list[Coverage]) -> None:
    a, b = some
    assert (standing(a, b) == "other") == (standing(b, a) == "other")
    assert "part" in (standing(a, b), standing(b, a)) or standing(a, b) == "other"
    assert standing(a, a) == "part"
    if a.is_enough_for(b):
        assert standing(b, a) == "part" or b.lost < a.lost
        fewer = replace(b, packets=0, messages=0)
        assert standing(fewer, a) == "part" or b.lost < a.lost


def test_which_side_is_heard_matters_where_it_is_known() -> None:
    one = Coverage((("x", frozenset("ab")),), (0, 9), True, (("caller", (1, 8)),), True, 4, 400, 0, 0, 7)
    other = replace(one, sides=(("callee", (1, 8)),))
    assert standing(other, one) == "other"
    assert standing(replace(other, begun=False, told=3), one) == "part"
    assert standing(replace(one, sides=(("callee", (1, 8)), ("caller", (1, 8)))), one) == "fuller"
