"""Names are read in the encoding that they were written in, as far as their octets tell."""

from __future__ import annotations

import base64
import quopri
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sniffer.japanese_names import GIVEN, OFFICE, RARER, SURNAMES, half_width, katakana

from rokuon.sniffer.charsets import decode, encoded_words, escaped_jis, unescaped_name
from rokuon.sniffer.sip import parse
from rokuon.sniffer.sip_headers import name_addr

READINGS = sorted({*SURNAMES.values(), *GIVEN.values()})
DRAW = random.Random(3)
WHOLE = sorted({(DRAW.choice(list(SURNAMES)), DRAW.choice(list(GIVEN))) for _ in range(1500)})


def misread(names: Iterable[str], encoding: str) -> set[str]:
    """Those that come back as something else; such as the encoding cannot hold (髙 in EUC-JP) are left out."""
    def held(name: str) -> bool:
        try:
            return bool(name.encode(encoding))
        except UnicodeEncodeError:
            return False
    return {name for name in filter(held, names) if in_header(name.encode(encoding)) != name}


def in_header(octets: bytes) -> str:
    """The name in a header field as it comes: beside ASCII."""
    return name_addr(decode(b'"%b" <sip:201@pbx.example:5060;transport=udp>;tag=8f2a' % octets)).name


KINDS = {
    "surnames": list(SURNAMES), "hiragana": READINGS, "katakana": [katakana(name) for name in READINGS],
    "half-width": [half_width(name) for name in READINGS], "rarer": RARER, "offices": OFFICE,
    "whole": [f"{family}{given}" for family, given in WHOLE], "whole, parted": [f"{family} {given}" for family, given in WHOLE],
    "half-width, whole": [half_width(SURNAMES[family] + GIVEN[given]) for family, given in WHOLE],
    "half-width, whole, parted": [half_width(f"{SURNAMES[family]} {GIVEN[given]}") for family, given in WHOLE],
}
AMBIGUOUS = {
    ("half-width", "cp932"): {"ｲｼｶﾜ", "ｼｮｳﾀ"}, ("half-width", "euc_jp"): {"ｴﾐ", "ﾀﾂﾔ", "ﾐﾅﾄ"},
    ("rarer", "euc_jp"): {"冨田", "鳳"}}
"""What docs/names.md lists."""


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "euc_jp"])
@pytest.mark.parametrize("kind", KINDS)
def test_common_names(kind: str, encoding: str) -> None:
    wrong = misread(KINDS[kind], encoding)
    if kind.startswith("half-width, whole"):
        assert len(wrong) <= 0.005 * len(KINDS[kind])
    else:
        assert wrong <= AMBIGUOUS.get((kind, encoding), set())


def test_given_names_of_one_kanji_alone_are_the_weak_place() -> None:
    """Two octets in EUC-JP that are two half-width kana in CP932; telephones have family names."""
    assert misread(GIVEN, "cp932") <= {"莉子"}
    wrong = misread(GIVEN, "euc_jp")
    assert len(wrong) <= 15
    assert all(len(name) == 1 for name in wrong - {"太郎"})


@pytest.mark.parametrize("name", ["ソ表", "表示", "能", "ポール", "十", "予約センター", "貼る", "暴"])
def test_backslash_as_second_octet(name: str) -> None:
    """CP932 has 0x5C within characters, which a quoted string takes for an escape; at its end, for one of the quote."""
    for octets in (name.encode("cp932"), name.encode("cp932").replace(b"\\", b"\\\\")):
        invite = b'INVITE sip:1@h SIP/2.0\r\nFrom: "%b" <sip:2@h>;tag=a\r\nTo: <sip:1@h>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n'
        from_ = parse(invite % octets).from_
        assert (from_.name, from_.uri, from_.tag) == (name, "sip:2@h", "a")


@pytest.mark.parametrize(("octets", "name"), [
    ("髙橋 﨑山".encode("cp932"), "髙橋 﨑山"), ("①㈱録音".encode("cp932"), "①㈱録音"),
    (bytes.fromhex("fce2b6b6"), "髙橋"), (bytes.fromhex("ada1b6b6"), "①橋"),
    ("ﾔﾏﾀﾞ ﾊﾅｺ".encode("euc_jp"), "ﾔﾏﾀﾞ ﾊﾅｺ"), ("丂丄".encode("euc_jp"), "丂丄")])
def test_characters_of_vendors(octets: bytes, name: str) -> None:
    """Of NEC and IBM, in CP932 and in what Windows calls EUC-JP (CP51932); JIS X 0212 and half-width kana in EUC-JP."""
    assert decode(octets) == name


@pytest.mark.parametrize("name", ["Иван Петров", "Ελένη", "Łukasz Żółć", "محمد علي", "דוד לוי", "Zoë", "Jürgen Groß", "김철수",
                                  "ван", "Ева", "αλεκα", "阿部 Ben", "José Ñandú", "😀 Bob", "Şükrü Ağaoğlu"])
def test_utf_8_of_other_scripts(name: str) -> None:
    assert decode(name.encode()) == in_header(name.encode()) == name


@pytest.mark.parametrize(("octets", "text"), [
    (b"\x1b$BEDCf\x1b(B", "田中"), (b"\x1b$B;3ED\x1b(B \x1b$BB@O:\x1b(B", "山田 太郎"), (b"\x1b(I@A\x1b(B", "ﾀﾁ"),
    (b"\x1b$BED\x1b", "\x1b$BED\x1b"), (b"\x1b[31mred", "\x1b[31mred"), (b"plain", "plain")])
def test_iso_2022_jp(octets: bytes, text: str) -> None:
    assert escaped_jis(octets.decode()) == text


def test_iso_2022_jp_in_a_message() -> None:
    invite = b'INVITE sip:1@h SIP/2.0\r\nFrom: "%b" <sip:2@h>;tag=a\r\nTo: <sip:1@h>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n'
    for name in ("田中", "表示 圏外", "鈴木 一郎", "営業部"):
        message = parse(invite % name.encode("iso2022_jp"))
        assert (message.from_.name, message.from_.tag, message.anomalies) == (name, "a", ())


@pytest.mark.parametrize(("charset", "encoding"), [
    ("UTF-8", "utf-8"), ("iso-2022-jp", "iso2022_jp"), ("Shift_JIS", "cp932"), ("EUC-JP", "euc_jp"), ("Windows-31J", "cp932")])
def test_encoded_words(charset: str, encoding: str) -> None:
    octets = "田中 太郎".encode(encoding)
    in_base64 = f"=?{charset}?B?{base64.b64encode(octets).decode()}?="
    quoted = f"=?{charset}?Q?{quopri.encodestring(octets, header=True).decode()}?="
    for word in (in_base64, quoted.replace("?=5B", "?=5b")):
        assert encoded_words(word) == "田中 太郎"
        assert name_addr(f'"{word}" <sip:1@h>;tag=x').name == name_addr(f"{word} <sip:1@h>;tag=x").name == "田中 太郎"
    assert encoded_words(f"{in_base64} {in_base64}") == "田中 太郎田中 太郎"  # RFC 2047 section 6.2: the space is none


@pytest.mark.parametrize("text", ["=?zlib?B?eJwDAAAAAAE=?=", "=?utf-8?B?!!!?=", "=?utf-8?X?YQ==?=", "=?utf-8?B?/w==?=", "=??B??=",
                                  "=?=", "=?utf-8?q?" + "a" * 2000 + "?="])
def test_what_is_no_encoded_word_stays(text: str) -> None:
    assert encoded_words(text) == text


@pytest.mark.parametrize(("name", "text"), [("%E7%94%B0%E4%B8%AD", "田中"), ("50% off", "50% off"), ("100%25", "100%25"),
                                            ("%FF%80", "%FF%80"), ("%e7%94%b0 %C3", "%e7%94%b0 %C3")])
def test_names_escaped_as_in_uris(name: str, text: str) -> None:
    assert unescaped_name(name) == text


@given(st.binary(max_size=300)
       | st.lists(st.sampled_from(list(KINDS["whole"]))).map(lambda names: "".join(names).encode("euc_jp", "replace")))
def test_whatever_comes_is_text(octets: bytes) -> None:
    text = decode(octets)
    assert len(text) <= len(octets)
    assert octets.isascii() <= (text == octets.decode("latin-1"))
    assert len(name_addr(text).name) <= 256


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60))
def test_utf_8_with_latin_letters_or_beyond_two_octets_is_never_doubted(text: str) -> None:
    assert decode(f"a{text}漢".encode()) == f"a{text}漢"
