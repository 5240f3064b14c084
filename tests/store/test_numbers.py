"""Numbers match however they were signalled or typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.store.numbers import default_region, e164, plain, wanted

TOKYO = [
    "03-1234-5678", "0312345678", "+81312345678", "tel:+81-3-1234-5678", "tel:+81-3-1234-5678;phone-context=example",
    "03 (1234) 5678", "０３－１２３４－５６７８", "184-03-1234-5678", "1860312345678", "sip:0312345678@pbx.example",
    "+81 (0)3-1234-5678", "010-81-3-1234-5678", "81312345678", "sips:%2B81312345678@x;user=phone", "03－1234－5678",
    "03ー1234ー5678", "(+81) 3.1234.5678"]


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
    ("0312345678", "XX", None)])
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


@given(st.text(max_size=80) | st.text("0123456789+*#-() ", max_size=50), st.sampled_from(["JP", "US", None]))
def test_nothing_from_the_network_raises(text: str, region: str | None) -> None:
    found = e164(text, region)
    assert found is None or (found.startswith("+") and found[1:].isdecimal())
    assert plain(plain(text)) == plain(text) or ":" in text or "@" in text or "%" in text


def test_default_region() -> None:
    assert default_region({"TZ": "Asia/Tokyo"}) == "JP"
    assert default_region({"TZ": ":Asia/Tokyo"}) == "JP"
    assert default_region({"TZ": "Europe/Berlin"}) is None
