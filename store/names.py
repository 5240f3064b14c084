"""Names so that they can be found however they were typed."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

__all__ = ["fold", "parts_of"]

_CACHED = 128
"""Characters: longer texts are no names and not likely to come again."""
_ROUNDS = 8
_SMALL = dict(zip("ぁぃぅぇぉっゃゅょゎゕゖぢづをゐゑ", "あいうえおつやゆよわかけじずおいえ", strict=True))
"""Small kana, which many telephones cannot write, and kana that sound like others."""
_VARIANTS = (
    "高髙", "崎﨑嵜", "辺邊邉", "斎齋齊斉", "沢澤", "浜濱濵", "広廣", "国國圀", "桜櫻", "島嶋嶌", "富冨", "桑桒", "真眞",
    "恵惠", "徳德", "竜龍", "滝瀧", "将將", "栄榮", "寿壽", "実實", "条條", "円圓", "学學", "槙槇", "柳栁", "昇曻", "吉𠮷",
    "鴎鷗", "藪薮籔", "桧檜", "喜㐂", "豊豐", "渕淵渊", "刈苅", "曽曾", "篭籠", "館舘", "万萬", "応應", "関關", "静靜", "総總",
    "浅淺", "村邨", "野埜", "峰峯", "岳嶽", "蔵藏", "荘莊", "縄繩", "頼賴", "黒黑", "横橫", "増增", "瀬瀨", "鉄鐵", "与與",
    "亘亙", "弥彌", "穂穗", "晋晉", "恒恆", "戸戶", "教敎", "青靑", "清淸", "呉吳", "内內", "郎郞", "朗朖", "闘鬪", "労勞",
    "栃杤", "釜釡", "梅楳", "鶴靏靎鸖", "楠柟", "竈竃", "塩鹽", "麦麥", "鉱鑛", "団團", "会會", "営營", "経經", "証證", "鷹鹰",
)
"""Kanji of names that people type as they can, each behind the one that it becomes."""
_TABLE: dict[int, str | None] = {
    **{kana: chr(kana - 0x60) for kana in range(0x30A1, 0x30F7)},
    **{ord(small): large for small, large in _SMALL.items()},
    **{ord(small) + 0x60: large for small, large in _SMALL.items()},
    **{ord(variant): group[0] for group in _VARIANTS for variant in group[1:] if variant != group[0]},
    **dict.fromkeys(map(ord, "・·‧\u00ad\u200b\u200c\u200d\u2060\ufeff"), None),
    **dict.fromkeys((*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)), None),  # which of a letter's forms is meant
    ord("〜"): "~", ord("’"): "'", ord("‘"): "'",
}
_ACCENTS = re.compile("[\u0300-\u036f]+")
_VOWELS = {kana: vowel for row, vowel in (("あかがさざただなはばぱまやらわ", "あ"), ("いきぎしじちにひびぴみり", "い"),
                                           ("うくぐすずつぬふぶぷむゆるゔ", "う"), ("えけげせぜてでねへべぺめれ", "い"),
                                           ("おこごそぞとどのほぼぽもよろ", "う")) for kana in row}
"""What the long sound is when it is written without its mark: サトー is さとう, ケー is けい."""


def fold(text: str) -> str:
    """The text with what people do not search for taken out of it; folding it once more changes nothing.

    NFKC (full-width letters and digits, half-width kana with their sound marks), case, accents of Latin letters, white space
    and middle dots; katakana as hiragana, small kana as large, the mark of a long sound as the vowel that it stands for;
    variants of kanji as the common one: 髙橋 is 高橋, ｶﾄｳ is かとう.
    """
    if text.isascii():
        return "".join(text.casefold().split())
    return _cached(text) if len(text) <= _CACHED else _folded(text)


def _folded(text: str) -> str:
    for _ in range(_ROUNDS):  # taking out characters can leave text that is not in normal form (Unicode, section 3.13)
        before, text = text, _once(text)
        if text == before:
            break
    return text


_cached = lru_cache(16_384)(_folded)


def _once(text: str) -> str:
    text = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)
    if any("\u00c0" <= c <= "\u04ff" or "\u1e00" <= c <= "\u1fff" for c in text):
        text = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", text)))
    text = text.translate(_TABLE)
    if "ー" in text:
        text = _lengthened(text)
    return text


def _lengthened(text: str) -> str:
    """Marks of a long sound as vowels; where none is before them they are dashes."""
    last, made = "", []
    for character in text:
        last = _VOWELS.get(last, "") if character == "ー" else character
        made.append(last)
    return "".join(made)


def parts_of(text: str, most: int = 8) -> list[str]:
    """The words of what somebody looks for, folded: each must be part of a name, in any order. At most so many."""
    return list(dict.fromkeys(part for part in map(fold, text.split(None, most - 1)[:most]) if part))
