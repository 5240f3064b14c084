"""SIP as it is spoken, case by case: what each makes of a call, and which irregularities are counted."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.sniffer.spoken import FACTS, calls_of, outcome, read

SECTIONS = read()
CASES = {case.name: case for cases in SECTIONS.values() for case in cases}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    calls, tracker = calls_of(case)
    assert [outcome(call) for call in calls] == case.calls
    for fact, expected in case.facts.items():
        assert FACTS[fact](calls[0]) == expected
    assert sum((call.anomalies for call in calls), Counter[str]()) + tracker.anomalies == case.odd


def test_names_are_unique() -> None:
    assert len(CASES) == sum(map(len, SECTIONS.values())) >= 50
