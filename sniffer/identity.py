"""What header fields say of who calls, is called, was called before: RFC 3261, 3323, 3325, 5806, 7044, 7315, Remote-Party-ID."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from rokuon.sniffer.model import Identity, NameAddr, SipMessage
from rokuon.sniffer.sip_headers import clean, decode, name_addr, parameter
from rokuon.sniffer.withheld import BY_NAME, BY_WORD, REASONS, folded, reason_for

__all__ = ["REASONS", "asserted", "diverted", "identity_of", "is_nobody", "is_telephone", "number_of", "reason_for", "reason_in",
           "wants_privacy"]

MOST = 8
"""Values of one header field that are looked at."""
_LONGEST = 256
_NOBODY = re.compile(r"@(?:[^;>?@]*\.)?anonymous\.invalid(?![^;>?:])", re.IGNORECASE)
_TELEPHONE = re.compile(r"\+?[0-9(][-0-9().\s*#/]{2,63}")
_PRIVATE = frozenset(("id", "header", "user"))
"""RFC 3323 section 4.2 and RFC 3325 section 9.3; any of them is a restriction of presentation (3GPP TS 24.607)."""


def number_of(address: NameAddr) -> str:
    """The user part with %-escapes undone (RFC 3261 19.1.2), harmless to show: what is not printable becomes U+FFFD."""
    user = address.user
    if "%" in user:
        user = clean(decode(unquote_to_bytes(user)))
    return user[:_LONGEST]


def identity_of(header: str, value: str) -> Identity:
    """What a value of a header field says. URIs lose the header fields that they may bring along (RFC 7044 has Reason)."""
    address = name_addr(value)
    uri, question, _ = address.uri.partition("?")
    if question and ("@" in uri or uri[:4].lower() == "tel:"):
        address = address._replace(uri=uri)
    return Identity(header, number_of(address), address.name, address.uri)


def asserted(message: SipMessage, party: str = "calling") -> list[Identity]:
    """Identities that the network vouches for, best first: P-Asserted-Identity, then Remote-Party-ID.

    Of several (RFC 3325 section 9.1: a sip and a tel URI), those that are telephone numbers come first. Without: those that
    say nothing, and Remote-Party-IDs of another `party` (draft-ietf-sip-privacy-04).
    """
    headers = message.headers
    found: list[Identity] = []
    values = headers.get("p-asserted-identity")
    if values:
        several = [identity_of("p-asserted-identity", value) for value in values[:MOST]]
        found += sorted(several, key=lambda i: not is_telephone(i.number)) if len(several) > 1 else several
    for value in headers.get("remote-party-id", ())[:MOST]:
        if (parameter(value, "party") or party).lower() == party:
            found.append(identity_of("remote-party-id", value))
    return [identity for identity in found if identity.number and not is_nobody(identity)]


def diverted(message: SipMessage) -> Iterator[Identity]:
    """Whom the call was for at other stages of its way, from an INVITE: P-Called-Party-ID (RFC 7315), Diversion (RFC 5806,
    newest first), History-Info (RFC 7044, oldest first).
    """
    headers = message.headers
    for header in ("p-called-party-id", "diversion", "history-info"):
        for value in headers.get(header, ())[:MOST]:
            identity = identity_of(header, value)
            if identity.number:
                yield identity._replace(reason=parameter(value, "reason")) if header == "diversion" else identity


def is_telephone(number: str) -> bool:
    """Whether a user part is digits, with or without visual separators."""
    return _TELEPHONE.fullmatch(number) is not None


def is_nobody(identity: Identity) -> bool:
    """Whether what stands where a number should be says that there is none."""
    number = identity.number
    return (bool(number) and not is_telephone(number) and folded(number) in BY_WORD) or bool(_NOBODY.search(identity.uri))


def reason_in(identity: Identity) -> str:
    """Why the identity gives no number, or one that is not to be shown, by its own words; "" where it says nothing of it."""
    name = folded(identity.name) if identity.name else ""
    if name in BY_NAME:
        return BY_NAME[name]
    nobody = is_nobody(identity)
    if nobody or not identity.number:
        return BY_WORD.get(name) or (BY_WORD.get(folded(identity.number), "by-caller") if nobody else "")
    return ""


def wants_privacy(message: SipMessage) -> bool:
    """Whether the caller asks not to be shown to the other end: Privacy (RFC 3323, RFC 3325), privacy of Remote-Party-ID."""
    for value in message.headers.get("privacy", ())[:MOST]:
        if not _PRIVATE.isdisjoint(part.strip().lower() for part in re.split("[;,]", value[:256])):
            return True
    for value in message.headers.get("remote-party-id", ())[:MOST]:
        if (parameter(value, "party") or "calling").lower() == "calling":
            asked = parameter(value, "privacy").lower().partition("-")[0]  # "full-network"
            if asked in ("full", "uri"):
                return True
    return False
