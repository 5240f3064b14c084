"""Names so that they can be found however they were typed."""

from __future__ import annotations

import unicodedata

__all__ = ["fold"]


def fold(text: str) -> str:
    """The text with what people do not search for taken out of it.

    NFKC (full-width letters and digits, half-width kana with their sound marks), case folding, no white space: a
    Japanese name is written with a space of either width or without one, by chance.
    """
    if text.isascii():
        return "".join(text.casefold().split())
    # Case folding and taking out spaces can leave text that is not in normal form (Unicode, section 3.13): once more.
    folded = unicodedata.normalize("NFKC", text).casefold()
    return unicodedata.normalize("NFKC", "".join(unicodedata.normalize("NFKC", folded).split()))
