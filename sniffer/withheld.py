"""Words that stand where a number is not shown, and why it is not. Of its own, since whoever looks for a number needs no more."""

from __future__ import annotations

import unicodedata

__all__ = ["BY_NAME", "BY_WORD", "REASONS", "folded", "reason_for"]

REASONS = ("by-caller", "unavailable", "payphone", "service-conflict")
"""Why a number is not shown. The causes of no calling line identity that mobile networks know (3GPP TS 24.008 10.5.4.30)
and that Japanese carriers put into the display name."""

BY_NAME = {
    **dict.fromkeys(("anonymous", "reject by user", "anonymous caller", "非通知", "非通知設定", "ヒツウチ"), "by-caller"),
    **dict.fromkeys(("coin line/payphone", "payphone", "公衆電話", "コウシュウデンワ", "コウシユウデンワ"), "payphone"),
    **dict.fromkeys(("interaction with other service", "サービス競合"), "service-conflict"),
    **dict.fromkeys(("表示圏外", "通知不可能", "通知不可", "ヒョウジケンガイ", "ヒヨウジケンガイ", "ツウチフカノウ"),
                    "unavailable"),
}
"""Words that no party has for its name: they say why there is no number, even where there is one."""
BY_WORD = BY_NAME | {
    **dict.fromkeys(("withheld", "restricted", "private", "private number", "private caller", "blocked", "hidden", "nonpub",
                     "id withheld", "number withheld", "caller id blocked"), "by-caller"),
    **dict.fromkeys(("unavailable", "not available", "unknown", "unknown number", "unknown caller", "out of area"),
                    "unavailable"),
}
"""Words that say so where a number should be, or beside one that is none."""


def reason_for(word: str) -> str:
    """Why a number is not shown, where a word stands in its place: "Anonymous", "非通知"; "" for any other word."""
    return BY_WORD.get(folded(word), "")


def folded(text: str) -> str:
    """The text as BY_NAME and BY_WORD have it."""
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().strip()
