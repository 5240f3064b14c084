"""The transition table: what leads where, and that nothing leads out of the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.sniffer.dialog import TRANSITIONS, Dialog, Input, State, Waits, outcome

OPEN = sorted((s for s in State if s is not State.CLOSED), key=lambda s: s.value)


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    reached, new = set(), {State.CALLING, State.JOINED}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state].values()} - reached
    assert reached == set(State)


@pytest.mark.parametrize("state", OPEN)
def test_every_open_state_ends_by_itself(state: State) -> None:
    """Whatever is not captured any more, a timer closes the dialog, and it has a time to run out."""
    assert TRANSITIONS[state][Input.TIMER] is State.CLOSED
    assert Waits().of(state) > 0


def test_nothing_leads_out_of_the_end() -> None:
    assert not TRANSITIONS[State.CLOSED]


@pytest.mark.parametrize("state", OPEN)
def test_only_an_answer_makes_a_dialog(state: State) -> None:
    ways = {what for what, after in TRANSITIONS[state].items() if after is State.CONFIRMED and state is not State.JOINED}
    assert ways <= {Input.ANSWER, Input.ACKNOWLEDGED}


@given(st.lists(st.sampled_from(Input), max_size=30))
def test_feeding_twice_is_feeding_once_but_for_renewal(inputs: list[Input]) -> None:
    once, twice = Dialog(0, State.CALLING, 0), Dialog(0, State.CALLING, 0)
    for at, what in enumerate(inputs):
        before, since = once.state, once.since_ns
        changed = once.feed(what, at)
        assert changed == (once.state is not before)
        assert once.since_ns in (since, at)
        twice.feed(what, at)
        if what is not Input.BYE and what is not Input.TIMER:  # a second of these is told from a copy by its CSeq number
            assert not twice.feed(what, at) or what in (Input.CHALLENGE, Input.REFUSAL, Input.DECLINED)
        else:
            twice = Dialog(0, once.state, once.since_ns)
        assert (twice.state, twice.since_ns) == (once.state, once.since_ns)


@pytest.mark.parametrize(("status", "cancelled", "state"), [
    (486, False, "busy"), (600, False, "busy"), (487, False, "cancelled"), (408, True, "cancelled"), (None, True, "cancelled"),
    (408, False, "no-answer"), (480, False, "no-answer"), (None, False, "no-answer"), (603, False, "failed"),
    (404, False, "failed"), (500, False, "failed"), (302, False, "failed"), (401, False, "failed"), (699, False, "failed"),
])
def test_outcome_of_calls_without_answer(status: int | None, cancelled: bool, state: str) -> None:
    assert outcome(status, cancelled) == state
