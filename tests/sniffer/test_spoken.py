"""SIP as it is spoken, case by case: what each makes of a call, and which irregularities are counted."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.sniffer.spoken import FACTS, calls_of, outcome, read

from rokuon.sniffer.sip import looks_like_sip

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
    assert len(CASES) == sum(map(len, SECTIONS.values())) >= 100


@pytest.mark.parametrize("text", [b"INVITE sip:200@pbx sip/2.0\r\n", b"sip/2.0 180 X\r\n", b"NOVEL sip:200@pbx Sip/2.0\r\n"])
def test_version_in_small_letters(text: bytes) -> None:
    """RFC 3261 section 7.1: its case does not matter."""
    assert looks_like_sip(text)
    assert not looks_like_sip(text.replace(b"ip/2.0", b"mtp"))
