"""Numbers match however they were signalled or typed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store.sidecars import sidecar

from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.numbers import default_region, e164, plain, wanted
from rokuon.store.query import CallFilter, find

TOKYO = [
    "03-1234-5678", "0312345678", "+81312345678", "tel:+81-3-1234-5678", "tel:+81-3-1234-5678;phone-context=example",
    "03 (1234) 5678", "０３－１２３４－５６７８", "184-03-1234-5678", "1860312345678", "sip:0312345678@pbx.example",
    "+81 (0)3-1234-5678", "010-81-3-1234-5678", "81312345678", "sips:%2B81312345678@x;user=phone", "03－1234－5678",
    "03ー1234ー5678", "(+81) 3.1234.5678", "03\u20101234\u22125678", "03\u30001234\u30005678", "03–1234—5678", "03﹣1234－5678",
    "184+81312345678", "186-+81-3-1234-5678", "184 010 81 3 1234 5678", "tel:184-03-1234-5678", "0081312345678",
    "00 81 3 1234 5678",
    "0-03-1234-5678", "0 184 03 1234 5678", "0033-03-1234-5678", "001-010-81-3-1234-5678", "0033 010 81 3 1234 5678",
    "%2B81312345678", "sip:0312345678:secret@h", "sip:0312345678;phone-context=+81@h;user=phone",
    "tel:0312345678;phone-context=+81", "tel:12345678;phone-context=+813", "tel:+81-3-1234-5678;isub=12;ext=3;postd=pp22",
    '"Tanaka" <sip:+81312345678@h;user=phone>', "<tel:+81.3.1234.5678>", "TEL:+81(3)1234-5678", "０３（１２３４）５６７８",
    "٠٣١٢٣٤٥٦٧٨", "callto:+81312345678"]


@pytest.mark.parametrize("text", TOKYO)
def test_one_number_in_all_its_forms(text: str) -> None:
    assert e164(text, "JP") == "+81312345678"


@pytest.mark.parametrize("text", ["", "100", "1001", "*72", "alice", "anonymous", "+", "+0", "0", "1" * 60, "03-1234", "#",
                                  "+" * 9, "12345678901234"])
def test_what_is_no_number_of_the_public_network(text: str) -> None:
    assert e164(text, "JP") is None


@pytest.mark.parametrize(("text", "region", "want"), [
    ("+819012345678", None, "+819012345678"), ("0312345678", None, None), ("020 7946 0958", "GB", "+442079460958"),
    ("(202) 456-1111", "US", "+12024561111"), ("110", "JP", None), ("0120-444-444", "JP", "+81120444444"),
    ("0312345678", "XX", None), ("tel:2024561111;phone-context=+1", "JP", "+12024561111"), ("119", "JP", None),
    ("177", "JP", None),
    ("117", "JP", None), ("104", "JP", None), ("#9910", "JP", None), ("0570-012-345", "JP", "+81570012345"),
    ("0800-123-4567", "JP", "+818001234567"), ("050-1234-5678", "JP", "+815012345678"), ("070-1234-5678", "JP", "+817012345678"),
    ("080-1234-5678", "JP", "+818012345678"), ("090-1234-5678", "JP", "+819012345678"),
    ("010-1-202-456-1111", "JP", "+12024561111"),
    ("009130-010-1-202-456-1111", "JP", "+12024561111"), ("184-010-44-20-7946-0958", "JP", "+442079460958"),
    ("0-010-44-20-7946-0958", "JP", "+442079460958"), ("00442079460958", "JP", "+442079460958"),
    ("0184-23-4567", "JP", "+81184234567"),
    ("0186-49-1111", "JP", "+81186491111"), ("1840", "JP", None), ("184", "JP", None), ("00312345678", "GB", None)])
def test_region(text: str, region: str | None, want: str | None) -> None:
    assert e164(text, region) == want


@pytest.mark.parametrize(("text", "want"), [
    ("Anonymous", "anonymous"), ("anonymous@anonymous.invalid", "anonymous"), ("非通知", "anonymous"),
    ("Restricted", "anonymous"), ("Alice", "alice"), ("sip:Alice@pbx", "alice"), ("*72", "*72"), ("03-1234-5678", "0312345678"),
    ("+81 3", "+813"), ("3+81", "381"), ("", ""), ("tel:", ""), ("ext_7", "ext_7")])
def test_plain(text: str, want: str) -> None:
    assert plain(text) == want


def matches(query: str, signalled: str, region: str | None) -> bool:
    """What rokuon.store.query says in SQL."""
    want = wanted(query, region)
    has = e164(signalled, region)
    if want.e164 and has:
        return want.e164 == has
    return plain(signalled) == want.suffix if want.whole else plain(signalled).endswith(want.suffix)


@pytest.mark.parametrize("region", ["JP", None])
@pytest.mark.parametrize("query", ["03-1234-5678", "0312345678", "+81312345678", "tel:+81-3-1234-5678", "184 03 1234 5678",
                                   "5678", "345678"])
@pytest.mark.parametrize("signalled", ["03-1234-5678", "0312345678", "+81312345678", "tel:+81-3-1234-5678", "1840312345678"])
def test_every_form_finds_every_form(query: str, signalled: str, region: str | None) -> None:
    assert matches(query, signalled, region)


@pytest.mark.parametrize("region", ["JP", None])
@pytest.mark.parametrize(("query", "signalled"), [
    ("0312345678", "0612345678"), ("0312345678", "0312345679"), ("5678", "56780"), ("anonymous", "0312345678"), ("100", "1001"),
    ("alice", "malice"), ("+81312345678", "312345"), ("0312345678", "anonymous")])
def test_others_are_left_alone(query: str, signalled: str, region: str | None) -> None:
    assert not matches(query, signalled, region)


@pytest.mark.parametrize(("query", "signalled"), [
    ("100", "100"), ("00", "100"), ("anonymous", "Anonymous"), ("非通知", "anonymous"), ("alice", "Alice"), ("*72", "*72"),
    ("0312345678", "90312345678")])
def test_extensions_names_and_prefixes_of_a_trunk(query: str, signalled: str) -> None:
    assert matches(query, signalled, "JP")


def test_a_country_code_tells_apart() -> None:
    assert not matches("+442079460958", "+12079460958", None)


@pytest.mark.parametrize("text", ["", "-", "+", " ", "tel:", "()"])
def test_nothing_to_look_for(text: str) -> None:
    with pytest.raises(ValueError, match="not a number"):
        wanted(text, "JP")


@pytest.mark.parametrize(("text", "want"), [
    ("03*", ("03", "+813")), ("+81 3 1234*", ("+8131234", "031234")), ("０９０＊", ("090", "+8190")),
    ("184-03-12*", ("0312", "+81312")),
    ("010-1-202*", ("0101202", "+1202")), ("20*", ("20",)), ("ali*", ("ali",)), ("*72*", ("*72",)),
    ("03-12…", ("0312", "+81312"))])
def test_numbers_that_begin_so(text: str, want: tuple[str, ...]) -> None:
    assert (wanted(text, "JP").begins, wanted(text, "JP").suffix) == (want, "")


def test_beginnings_elsewhere() -> None:
    assert wanted("202*", "US").begins == ("202", "+1202")
    assert wanted("1202*", "US").begins == ("1202", "+1202")
    assert wanted("020*", "GB").begins == ("020", "+4420")
    assert wanted("020*", None).begins == ("020",)
    assert wanted("020*", "XX").begins == ("020",)


@pytest.mark.parametrize(("text", "want"), [
    ("anonymous", "anonymous"), ("Anonymous", "anonymous"), ("非通知", "anonymous"), ("ﾋﾂｳﾁ", "anonymous"),
    ("withheld", "anonymous"),
    ("公衆電話", "payphone"), ("Coin line/payphone", "payphone"), ("表示圏外", "unavailable"), ("unknown", "unavailable")])
def test_withheld_ones(text: str, want: str) -> None:
    assert wanted(text, "JP")[:3] == (None, want, True)


# -- in an archive, by the statement that the commands use ---------------------------
NUMBERS = ["0312345678", "09012345678", "0120444444", "05012345678", "0570012345"]
WRITINGS = ("{n}", "+81{s}", "81{s}", "184{n}", "186{n}", "184+81{s}", "01081{s}", "0081{s}", "0{n}", "0033{n}", "tel:+81{s}",
            "tel:{n}", "sip:{n}@pbx.example", "sip:+81{s}@pbx.example;user=phone", "sip:%2B81{s}@h", "tel:{s};phone-context=+81")
SEPARATORS = ["", "-", " ", ".", "(", ")", "/", "\u2010", "\u2212", "\uff0d", "\u3000", "ー", "\u2014"]
CALLS: dict[str, str] = {}
"""Ids, and the number that each has."""


def written(number: str, writing: str) -> str:
    return writing.format(n=number, s=number[1:])


def party(number: str | None, **more: Any) -> dict[str, Any]:
    return {"number": number, "name": None, "uri": None, "address": "10.0.0.1"} | more


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("numbers") / "data")
    made = []
    for n, (number, writing) in enumerate(itertools.product(NUMBERS, WRITINGS)):
        text = written(number, writing)
        uri = text if ":" in text else f"sip:{text}@h"
        user = text.partition(":")[2].partition("@")[0].partition(";")[0] if ":" in text else text
        call = sidecar(n, caller=party(user.replace("%2B", "+"), uri=uri), callee=party("100"))
        if n % 3 == 0:  # as another header field has it
            call["caller"] = party("201", also=[{"header": "from", **party(user.replace("%2B", "+"), uri=uri)}])
        elif n % 3 == 1:
            call["caller"], call["parties"] = party("201"), [party(user.replace("%2B", "+"), uri=uri)]
        CALLS[call["id"]] = number
        made.append(call)
    Index(layout.index, "JP").add_calls(made)
    return layout


def with_separators(text: str, separators: list[str]) -> str:
    return "".join(a + b for a, b in itertools.zip_longest(text, separators, fillvalue="")) if text.isascii() else text


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NUMBERS), st.sampled_from(WRITINGS), st.lists(st.sampled_from(SEPARATORS), max_size=12), st.booleans())
def test_any_writing_finds_any_writing(archive: Layout, number: str, writing: str, separators: list[str], wide: bool) -> None:
    text = written(number, writing)
    if ":" not in text:
        text = text[:3] + with_separators(text[3:], separators)
        if wide:
            text = text.translate({ord(c): ord(c) + 0xFEE0 for c in "0123456789+"})
    found = find(archive, CallFilter(numbers=[text]), "JP")
    assert set(found) == {call_id for call_id, has in CALLS.items() if has == number}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NUMBERS), st.integers(4, 9))
def test_last_digits_find_every_writing(archive: Layout, number: str, count: int) -> None:
    found = set(find(archive, CallFilter(numbers=[number[-count:]]), "JP"))
    assert {call_id for call_id, has in CALLS.items() if has == number} <= found
    assert all(CALLS[call_id].endswith(number[-4:]) for call_id in found)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(NUMBERS), st.integers(3, 9), st.sampled_from(["{}*", "{}", "+81{}*"]))
def test_first_digits_find_every_writing(archive: Layout, number: str, count: int, form: str) -> None:
    first = number[:count]
    found = set(find(archive, CallFilter(numbers=[form.format(first[1:] if form[0] == "+" else first)]), "JP"))
    assert {call_id for call_id, has in CALLS.items() if has == number} <= found
    if form.endswith("*"):
        assert all(CALLS[call_id].startswith(first) for call_id in found)


@pytest.fixture
def some(tmp_path: Path) -> Layout:
    """Calls of whom the number is withheld, in every way, and others."""
    layout = Layout(tmp_path / "data")
    callers = {
        0: party("anonymous", uri="sip:anonymous@anonymous.invalid", withheld="by-caller"),
        1: party("0312345678", withheld="by-caller", also=[{"header": "from", **party("anonymous")}]),
        2: party("anonymous", withheld="payphone"), 3: party("unavailable"), 4: party("0398765432"),
        5: party("0312349999", uri="sip:0312349999@c", also=[{"header": "from", **party("1001")}]), 6: party(None),
        7: party("非通知")}
    passed = [{"header": "diversion", **party("0322222222")}, {"header": "request-uri", **party("202")}]
    callees = {4: party("0312345678", also=passed)}
    Index(layout.index, "JP").add_calls(
        [sidecar(n, caller=caller, callee=callees.get(n, party("100"))) for n, caller in callers.items()])
    return layout


@pytest.mark.parametrize(("which", "want"), [
    ({"numbers": ["anonymous"]}, {0, 1, 2, 3, 7}), ({"callers": ["非通知"]}, {0, 1, 2, 3, 7}),
    ({"callees": ["anonymous"]}, set()),
    ({"numbers": ["公衆電話"]}, {2}), ({"callers": ["03-1234-5678"]}, {1}), ({"numbers": ["03-1234-5678"]}, {1, 4}),
    ({"callees": ["03-1234-5678"]}, {4}), ({"callees": ["+81 3 2222 2222"]}, {4}), ({"callers": ["0322222222"]}, set()),
    ({"callees": ["202"]}, {4}), ({"numbers": ["2222"]}, {4}), ({"callers": ["1001"]}, {5}), ({"callers": ["03*"]}, {1, 4, 5}),
    ({"callees": ["032*"]}, {4}), ({"callees": ["100"], "callers": ["1001"]}, {5})])
def test_found_by_every_number_that_they_have(some: Layout, which: dict[str, Any], want: set[int]) -> None:
    assert set(find(some, CallFilter(**which), "JP")) == {sidecar(n)["id"] for n in want}


@pytest.mark.parametrize("name", ["03-1234-5678", "+81312345678", "０３１２３４５６７８"])
def test_a_number_in_the_place_of_the_name(name: str, tmp_path: Path) -> None:
    """Systems that call their lines by account put the caller's number there."""
    layout = Layout(tmp_path)
    callers = [party("trunk-1", name=name), party("trunk-2", name="3rd floor")]
    Index(layout.index, "JP").add_calls([sidecar(n, caller=caller) for n, caller in enumerate(callers)])
    assert find(layout, CallFilter(callers=["0312345678"]), "JP") == [sidecar(0)["id"]]
    assert find(layout, CallFilter(callers=["03-1234*"]), "JP") == [sidecar(0)["id"]]


@pytest.mark.parametrize("wrong", [5, "x", {}, [5], [{"number": 5}], [{"number": ["a"], "name": {}, "uri": 3}], [[]], [None],
                                   [{"number": "1" * 9000}] * 500])
def test_a_sidecar_that_somebody_wrote(wrong: object, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    Index(layout.index, "JP").add_calls([sidecar(0, caller=party("0312345678", also=wrong, withheld=wrong))])
    assert len(find(layout, CallFilter(numbers=["0312345678"]), "JP")) == 1


def test_texts_do_not_pass_for_numbers(tmp_path: Path) -> None:
    """Notes share a column with further numbers."""
    layout = Layout(tmp_path / "data")
    notes = ["< +81312345678", "<+81312345678\n> =0312345678", "call 0312345678", "= anonymous"]
    Index(layout.index, "JP").add_calls([sidecar(0, caller=party("1"), callee=party("2"), tags=[], notes=notes)])
    for text in ("0312345678", "5678", "031*", "anonymous"):
        assert find(layout, CallFilter(numbers=[text]), "JP") == []
    assert len(find(layout, CallFilter(text="0312345678"), "JP")) == 1


@given(st.text(max_size=80) | st.text("0123456789+*#-() ", max_size=50), st.sampled_from(["JP", "US", None]))
def test_nothing_from_the_network_raises(text: str, region: str | None) -> None:
    found = e164(text, region)
    assert found is None or (found.startswith("+") and found[1:].isdecimal())
    assert plain(plain(text)) == plain(text) or not {":", "@", "%", "<"}.isdisjoint(plain(text) + text)


HOSTILE = ["1" * 100_000, "+" * 100_000, "<" * 50_000 + ">" * 50_000, "tel:" * 20_000, "%2B" * 30_000, ";phone-context=+" * 5_000,
           "\u3000" * 100_000, "\ufdfa" * 10_000, "0" * 39 + "*", "a\u0300" * 50_000, "\U0001f4de" * 1000, "()[]{}.*\\d+^$|",
           "'; DROP TABLE"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_bounded(text: str, tmp_path: Path) -> None:
    assert len(plain(text)) <= 20_000
    assert len(e164(text, "JP") or "") <= 20
    try:
        want = wanted(text, "JP")
    except ValueError as error:
        assert len(str(error)) < 100  # noqa: PT017 -- either is right
        return
    assert len(want.suffix) <= 20_000
    layout = Layout(tmp_path)
    Index(layout.index, "JP").add_calls([sidecar(0, caller=party(text[:300], also=[{"header": "from", **party(text)}]))])
    find(layout, CallFilter(numbers=[text], callers=[text], callees=[text]), "JP")


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_a_search_for_anything_ends(archive: Layout, text: str) -> None:
    try:
        find(archive, CallFilter(numbers=[text], name=text), "JP")
    except ValueError as error:
        assert "not a number" in str(error)  # noqa: PT017 -- either is right


def test_default_region() -> None:
    assert default_region({"TZ": "Asia/Tokyo"}) == "JP"
    assert default_region({"TZ": ":Asia/Tokyo"}) == "JP"
    assert default_region({"TZ": "Europe/Berlin"}) is None
