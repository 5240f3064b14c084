"""Names are found however they were typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.japanese_names import GIVEN, SURNAMES, half_width, katakana
from tests.store.sidecars import sidecar

from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.names import fold, parts_of
from rokuon.store.query import CallFilter, find

READINGS = sorted({*SURNAMES.values(), *GIVEN.values()})
# Some of what the table of kanji maps, and kana, marks and Latin letters of every kind.
LETTERS = st.sampled_from(["ｼﾞｭﾝ", "か\u3099", *"髙﨑邊渡ｶﾞﾊﾟｰーﾞﾟ゙゚ガがャゃッヴゖヶ・･~〜ßẞéÅİıǆﬁΣςЙй①㈱㍻ﷺ　 ",
                           *"\t\u200b\u0300\u0345\u3099ゝヽ々"])


@pytest.mark.parametrize(("one", "other"), [
    ("ﾔﾏﾀﾞ ﾊﾅｺ", "ヤマダ　ハナコ"), ("田中太郎", "田中 太郎"), ("Ｂｏｂ", "BOB"), ("Jörg Straße", "JÖRG STRASSE"), ("ｶﾞｷﾞ",
    "ガギ"),
    ("e\u0301", "\u00e9"), ("①", "1"), ("㈱録音", "(株)録音"), ("ｶﾄｳ", "かとう"), ("カトウ", "かとう"), ("カトー", "かとう"),
    ("ﾕｰｺ", "ゆうこ"), ("ケーコ", "けいこ"), ("ｼﾖｳｺ", "しょうこ"), ("ｼｮｳｺ", "ショウコ"), ("ﾊﾂﾄﾘ", "はっとり"), ("髙橋", "高橋"),
    ("山﨑", "山崎"),
    ("渡邉", "渡辺"), ("渡邊", "渡辺"), ("齋藤", "斎藤"), ("齊藤", "斎藤"), ("斉藤", "斎藤"), ("𠮷田", "吉田"), ("澤田", "沢田"),
    ("龍ヶ崎", "龍ケ崎"), ("ジョン・スミス", "ｼﾞｮﾝ･ｽﾐｽ"), ("ジョン スミス", "じょんすみす"), ("Müller", "muller"),
    ("JOSÉ ÑANDÚ", "jose nandu"),
    ("O’Brien", "O'Brien"), ("みずき", "みづき"), ("営業部〜本社", "営業部～本社"), ("ｻｰﾋﾞｽ", "サービス"), ("か\u3099", "が"),
    ("ﾞ", "\u3099"),
    ("葛\U000e0100城", "葛城"), ("田\u200b中", "田中")])
def test_same_name(one: str, other: str) -> None:
    assert fold(one) == fold(other)


@pytest.mark.parametrize(("one", "other"), [
    ("かき", "がき"), ("はは", "ばば"), ("はば", "ぱば"), ("大田", "太田"), ("佐藤", "加藤"), ("Müller", "Miller"), ("おの",
    "おおの"), ("й", "к")])
def test_other_names(one: str, other: str) -> None:
    assert fold(one) != fold(other)


@pytest.mark.parametrize("hiragana", READINGS)
def test_every_kind_of_kana(hiragana: str) -> None:
    large = half_width(hiragana).translate(str.maketrans("ｬｭｮｯ", "ﾔﾕﾖﾂ"))
    assert fold(hiragana) == fold(katakana(hiragana)) == fold(half_width(hiragana)) == fold(large)


@given(st.text() | st.lists(LETTERS, max_size=20).map("".join))
def test_folding_is_done_after_one_time(text: str) -> None:
    folded = fold(text)
    assert fold(folded) == folded
    assert not any(c.isspace() for c in folded)


@given(st.sampled_from([*SURNAMES, *GIVEN, *READINGS, *map(katakana, READINGS), *map(half_width, READINGS)]), st.data())
def test_part_of_a_name_is_part_of_it_folded(name: str, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(name) - 1))
    if name[first] in "ﾞﾟーｰ":  # belongs to what is before it
        return
    behind = data.draw(st.integers(first + 1, len(name)))
    if behind < len(name) and name[behind] in "ﾞﾟ":
        behind += 1
    assert fold(name[first:behind]) in fold(name)


@pytest.mark.parametrize("text",
    ["\ufdfa" * 20_000, "ー" * 100_000, "か\u3099" * 50_000, "a" + "\u0300" * 100_000, "\u1e9e" * 50_000])
def test_hostile_text_is_bounded(text: str) -> None:
    assert len(fold(text)) <= 20 * len(text)
    assert len(parts_of(text)) <= 8


def test_words_of_a_search() -> None:
    assert parts_of(" 田中　タロー ") == ["田中", "たろう"]
    assert parts_of("・ ") == []
    assert len(parts_of("a b c d e f g h i j")) == 8


NAMES = ["髙橋 花子", "ﾀｶﾊｼ ｼｮｳﾀ", "タカハシ　ゆうこ", "John Smith", "Smith, John", "Anonymous", None, "田中"]


@pytest.fixture
def archive(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    made = []
    for n, name in enumerate(NAMES):
        caller: dict[str, Any] = {"number": "201", "name": name, "uri": None, "address": None}
        if name == "Anonymous":
            caller["also"] = [{"header": "p-asserted-identity", "number": "0312345678", "name": "渡邉 健", "uri": None}]
        made.append(sidecar(n, caller=caller, callee={"number": "1",
            "name": "代表" if n == 7 else None, "uri": None, "address": None}))
    Index(layout.index, "JP").add_calls(made)
    return layout


@pytest.mark.parametrize(("text", "want"), [
    ("高橋", {0}), ("花子 高橋", {0}), ("高橋花子", {0}), ("花", {0}), ("たかはし", {1, 2}), ("ﾀｶﾊｼ", {1, 2}),
    ("たかはし しょうた", {1}), ("ショータ", {1}),
    ("ユーコ", {2}), ("smith john", {3, 4}), ("JOHN", {3, 4}), ("渡辺", {5}), ("渡辺 Anonymous", {5}), ("anonymous", {5}),
    ("代表", {7}),
    ("田中 代表", set()), ("nobody", set()), ("%", set()), ("_", set()), ("・", set())])
def test_found_by_part_of_a_name(archive: Layout, text: str, want: set[int]) -> None:
    assert set(find(archive, CallFilter(name=text), "JP")) == {sidecar(n)["id"] for n in want}


@pytest.mark.parametrize(("text", "want"), [("渡辺", {5}), ("0312345678", {5}), ("たかはし", {1, 2})])
def test_found_by_text(archive: Layout, text: str, want: set[int]) -> None:
    found, looked_at = set(find(archive, CallFilter(text=text), "JP")), {sidecar(n)["id"] for n in (1, 2, 5)}
    assert found & looked_at == {sidecar(n)["id"] for n in want}


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_whatever_is_looked_for(text: str) -> None:
    for part in parts_of(text):
        assert part == fold(part)
