"""Telephone numbers: one form for the same number however it was signalled or typed."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from rokuon.store.names import fold

__all__ = ["WITHHELD", "Wanted", "default_region", "e164", "plain", "wanted"]

WITHHELD = "anonymous"
"""What `plain` gives for every way of saying that the number is withheld."""

WITHHELD_WORDS = {"anonymous", "withheld", "restricted", "unavailable", "private", "unknown", "非通知", "表示圏外", "公衆電話"}
SCHEMES = {"tel", "sip", "sips", "callto"}
SHORTEST = 7
"""Fewer digits than this without a plus sign are an extension or a service, never a number of the public network."""
LONGEST = 40


def default_region(environment: Mapping[str, str] = os.environ) -> str | None:
    """The region that numbers without a country code belong to, where no setting says so: JP in Japan's time zone."""
    zone = environment.get("TZ", "").lstrip(":")
    if not zone:
        try:
            zone = str(Path("/etc/localtime").resolve())
        except OSError:
            return None
    return "JP" if zone.endswith(("Asia/Tokyo", "/Japan")) or zone in ("Japan", "JST-9") else None


@lru_cache(maxsize=65536)
def plain(text: str) -> str:
    """A number without scheme, parameters, host, separators and full-width forms; `WITHHELD` for a withheld one.

    "tel:+81-3-1234-5678;phone-context=x" gives "+81312345678"; user parts that are names come back folded.
    """
    text = unicodedata.normalize("NFKC", text).strip()
    scheme, colon, rest = text.partition(":")
    if colon and scheme.casefold() in SCHEMES:
        text = unquote(rest)
    text = text.partition("@")[0].partition(";")[0].strip().casefold()
    if text in WITHHELD_WORDS:
        return WITHHELD
    if any(c.isalpha() or c == "_" for c in text.replace("ー", "")):
        return fold(text)
    kept = "".join(c for c in text if c in "0123456789*#+")
    return kept[:1] + kept[1:].replace("+", "")


@lru_cache(maxsize=65536)
def e164(text: str, region: str | None) -> str | None:
    """The number in E.164 with its plus sign, None where it is not a valid number of the public network.

    `region`: ISO 3166 code of the country that a number without country code belongs to. In Japan 184 and 186 in
    front of a number (hide, show mine) are no part of it.
    """
    digits = plain(text)
    if digits[1:].isdecimal() and digits[:1] in "0123456789+" and len(digits) <= LONGEST:
        return parsed(digits, region)[0]
    return None


def parsed(digits: str, region: str | None) -> tuple[str | None, str]:
    """E.164 and the national significant number of what `plain` gave; (None, "") where it is no valid number."""
    international = digits.startswith("+")
    if not international and (region is None or len(digits) < SHORTEST):
        return None, ""
    import phonenumbers  # noqa: PLC0415 -- costs 20 ms, and many archives hold extensions only

    if region == "JP" and digits[:3] in ("184", "186") and digits[3:4] in ("0", "+"):
        digits = digits[3:]
    try:
        number = phonenumbers.parse(digits, None if digits.startswith("+") else region)
    except phonenumbers.NumberParseException:
        return None, ""
    if not phonenumbers.is_valid_number(number):
        return None, ""
    return (phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164),
            phonenumbers.national_significant_number(number))


class Wanted(NamedTuple):
    """What a number that somebody looks for is compared with."""

    e164: str | None
    """Where both sides have one, these two must be equal."""
    suffix: str
    """Else what `plain` gave must end with this."""
    whole: bool
    """Else what `plain` gave must be equal to `suffix`."""


def wanted(text: str, region: str | None) -> Wanted:
    """How to look for a number: whole, with or without separators, country code or 184/186 in front, or the last digits
    of one; `anonymous` for withheld ones. Raises ValueError where nothing is left to look for.
    """
    digits = plain(text)
    if not digits.strip("+"):
        raise ValueError(f"not a number: {text!r:.60}")
    if not digits.lstrip("+").strip("*#").isdecimal():
        return Wanted(None, digits, whole=True)
    if digits[:3] in ("184", "186") and digits[3:4] in ("0", "+") and len(digits) >= 3 + 10:
        digits = digits[3:]
    international, national = parsed(digits, region) if digits.lstrip("+").isdecimal() and len(digits) <= LONGEST else (None, "")
    if len(national) >= SHORTEST:
        return Wanted(international, national, whole=False)
    if digits.startswith("0") and len(digits) >= 10:
        return Wanted(None, digits[1:], whole=False)  # a trunk prefix, gone where the country code is there
    return Wanted(None, digits.lstrip("+"), whole=False)
