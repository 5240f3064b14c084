"""Telephone numbers: one form for the same number however it was signalled or typed."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from rokuon.sniffer.withheld import reason_for
from rokuon.store.names import fold

__all__ = ["WITHHELD", "Wanted", "default_region", "e164", "plain", "wanted"]

WITHHELD = "anonymous"
"""What `plain` gives for every way of saying that the number is withheld."""

SCHEMES = {"tel", "sip", "sips", "callto"}
SHORTEST = 7
"""Fewer digits than this without a plus sign are an extension or a service, never a number of the public network."""
LONGEST = 40
LONGEST_TEXT = 1024
HIDING = ("184", "186")
"""Dialled before a number in Japan: hide mine, show mine."""
SIMPLE = re.compile(r"\+?[0-9*#]+", re.ASCII)
SHOWING = re.compile(r"18[46]\+")
CONTEXT = re.compile(r";phone-context=(\+[-0-9().]{1,20})", re.ASCII | re.IGNORECASE)


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
    text = text[:LONGEST_TEXT]
    if SIMPLE.fullmatch(text):
        return text
    text = unicodedata.normalize("NFKC", text).strip()
    if "<" in text:  # as it stands in a message: "Name" <sip:…>
        text = text.partition("<")[2].partition(">")[0]
    scheme, colon, rest = text.partition(":")
    if colon and scheme.casefold() in SCHEMES:
        text = rest
    text = text.partition("@")[0].partition(";")[0].partition(":")[0]
    if "%" in text:
        text = unicodedata.normalize("NFKC", unquote(text))
    text = text.strip().casefold()
    if reason_for(text):
        return WITHHELD
    if any(c.isalpha() or c == "_" for c in text.replace("ー", "")):
        return fold(text)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    kept = "".join(c for c in text if c in "0123456789*#+")
    first = 4 if SHOWING.match(kept) else 1
    return kept[:first] + kept[first:].replace("+", "")


@lru_cache(maxsize=65536)
def e164(text: str, region: str | None) -> str | None:
    """The number in E.164 with its plus sign, None where it is not a valid number of the public network.

    `region`: ISO 3166 code of the country that a number without country code belongs to; a phone-context that names a country
    (RFC 3966 section 5.1.5) goes before it. In Japan, what is dialled in front of a number is no part of it: 184 and 186
    (hide, show mine), 0 for an outside line, a carrier's prefix.
    """
    digits = plain(text)
    context = CONTEXT.search(text[:LONGEST_TEXT]) if ";" in text else None
    if context and digits.isdecimal() and len(digits) <= LONGEST:
        found = parsed(plain(context[1]) + digits, None)[0]
        if found:
            return found
    return parsed(digits, region)[0] if is_dialled(digits) else None


def is_dialled(digits: str) -> bool:
    """Whether what `plain` gave is digits, maybe with a plus sign."""
    bare = digits.replace("+", "", 1)
    return bare.isdecimal() and len(bare) <= LONGEST


def parsed(digits: str, region: str | None) -> tuple[str | None, str]:
    """E.164 and the national significant number of what `plain` gave; (None, "") where it is no valid number."""
    if not digits.startswith("+") and (region is None or len(digits) < SHORTEST):
        return None, ""
    if region == "JP":
        digits = without_hiding(digits)
    found = valid(digits, region)
    if not found[0] and region == "JP" and digits.startswith("0"):
        found = behind_prefix(digits)
    return found


def without_hiding(digits: str) -> str:
    return digits[3:] if digits[:3] in HIDING and digits[3:4] in ("0", "+") else digits


def behind_prefix(digits: str) -> tuple[str | None, str]:
    """A number in Japan behind 0 for an outside line or a carrier's prefix (0033, 001 …), or behind 00 and a country code."""
    for length in (1, 3, 4, 5, 6):
        rest = without_hiding(digits[length:])
        found: tuple[str | None, str] = (None, "")
        if rest.startswith("010"):
            found = valid(f"+{rest[3:]}", None)
        elif rest.startswith(("0", "+")) and len(rest) in (10, 11):
            found = valid(rest, "JP")
        if found[0]:
            return found
    return valid(f"+{digits[2:]}", None) if digits.startswith("00") else (None, "")


def valid(digits: str, region: str | None) -> tuple[str | None, str]:
    import phonenumbers  # noqa: PLC0415 -- costs 20 ms, and many archives hold extensions only

    try:
        number = phonenumbers.parse(digits, None if digits.startswith("+") else region)
    except phonenumbers.NumberParseException:
        return None, ""
    if not phonenumbers.is_valid_number(number):
        return None, ""
    return (phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164),
            phonenumbers.national_significant_number(number))


class Wanted(NamedTuple):
    """What a number that somebody looks for is compared with. Any of these may hold."""

    e164: str | None
    """Where both sides have one, these two must be equal."""
    suffix: str
    """Else what `plain` gave must end with this; "": it need not."""
    whole: bool
    """Else what `plain` gave must be equal to `suffix`."""
    begins: tuple[str, ...] = ()
    """Or the number in E.164, else what `plain` gave, begins with one of these."""


def wanted(text: str, region: str | None) -> Wanted:
    """How to look for a number: whole, with or without separators, country code or 184/186 in front; its last digits; its
    first ones, from 0 or + on or with * behind them; `anonymous` for withheld ones. Raises ValueError where nothing is left
    to look for.
    """
    text = text[:LONGEST_TEXT].strip()
    digits = plain(text)
    if not digits.strip("+*"):
        raise ValueError(f"not a number: {text!r:.60}")
    if digits == WITHHELD:
        reason = reason_for(text)
        return Wanted(None, WITHHELD if reason == "by-caller" or not reason else reason, whole=True)
    if digits.endswith("*") or text.endswith("…"):
        return Wanted(None, "", whole=False, begins=beginnings(digits.rstrip("*"), region))
    if not digits.lstrip("+").strip("*#").replace("+", "", 1).isdecimal():
        return Wanted(None, digits, whole=True)
    if digits[:3] in HIDING and len(digits) >= 3 + 10:
        digits = without_hiding(digits)
    international, national = parsed(digits, region) if is_dialled(digits) else (None, "")
    if len(national) >= SHORTEST:
        return Wanted(international, national, whole=False)
    begins = beginnings(digits, region) if digits[0] in "0+" and len(digits) > 1 else ()
    if digits.startswith("0") and len(digits) >= 10:
        return Wanted(None, digits[1:], whole=False, begins=begins)  # a trunk prefix, gone where the country code is there
    return Wanted(None, digits.lstrip("+"), whole=False, begins=begins)


def beginnings(digits: str, region: str | None) -> tuple[str, ...]:
    """What a number may begin with that begins with these digits: as dialled, with country code, without."""
    if region == "JP":
        digits = without_hiding(digits)
    found = [digits]
    if region and is_dialled(digits):
        import phonenumbers  # noqa: PLC0415 -- as above

        country = str(phonenumbers.country_code_for_region(region))
        trunk = phonenumbers.ndd_prefix_for_region(region, True) or ""
        if digits.startswith(f"+{country}"):
            found.append(trunk + digits[1 + len(country):])
        elif region == "JP" and digits.startswith("010"):
            found.append(f"+{digits[3:]}")
        elif digits[0] != "+" and (trunk != "0" or digits.startswith("0")) and country != "0":
            found.append(f"+{country}{digits.removeprefix(trunk)}")
    return tuple(dict.fromkeys(begin for begin in found if begin.strip("+")))
