"""Names are found however they were typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.store.names import fold


@pytest.mark.parametrize(("one", "other"), [
    ("ﾔﾏﾀﾞ ﾊﾅｺ", "ヤマダ　ハナコ"), ("田中太郎", "田中 太郎"), ("Ｂｏｂ", "BOB"), ("Jörg Straße", "JÖRG STRASSE"), ("ｶﾞｷﾞ", "ガギ"),
    ("e\u0301", "\u00e9"), ("①", "1"), ("㈱録音", "(株)録音")])
def test_same_name(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@given(st.text())
def test_folding_is_done_after_one_time(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert not any(c.isspace() for c in folded)
