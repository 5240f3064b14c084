"""Who calls whom: which of the identities in a message is the party's, and what is kept of the others."""

from __future__ import annotations

from collections.abc import Iterable

from rokuon.sniffer.identity import asserted, diverted, identity_of, is_telephone, number_of, reason_in, wants_privacy
from rokuon.sniffer.model import Identity, NameAddr, Party, SipMessage

__all__ = ["callee_of", "caller_of", "connect", "number_of"]

_MOST = 8
"""Further identities that are kept of a party."""


def caller_of(message: SipMessage, address: str) -> tuple[Party, bool]:
    """The caller by an INVITE or a response to one, and whether the network vouches for it.

    P-Asserted-Identity comes before Remote-Party-ID before From; a name that the one chosen lacks is that of another. In
    a response the first two speak of the callee. `address`: IP address of who sent the INVITE.
    """
    origin = Identity("from", number_of(message.from_), message.from_.name, message.from_.uri)
    vouched = [] if message.status else asserted(message)
    chosen = vouched[0] if vouched else origin
    name = chosen.name or next((i.name for i in vouched if i.name), "") or origin.name
    withheld = reason_in(origin) or (reason_in(chosen) if vouched else "")
    others = [*vouched[1:], origin]
    if not message.status:
        if not withheld and wants_privacy(message):
            withheld = "by-caller"
        preferred = message.headers.get("p-preferred-identity", ())[:_MOST]
        others += [identity_of("p-preferred-identity", value) for value in preferred]
    party = Party(chosen.number, name, chosen.uri, address, withheld)
    party.also = _others(party, others)
    return party, bool(vouched)


def callee_of(message: SipMessage, address: str) -> Party:
    """Who is called: To, or where it has no user the Request-URI. `address`: IP address that the INVITE went to."""
    number, uri = number_of(message.to), message.to.uri
    target = number_of(NameAddr("", message.request_uri)) if message.request_uri else ""
    if not number:
        number, uri = target, uri or message.request_uri
    party = Party(number, message.to.name, uri, address)
    if not message.status:
        others = [Identity("request-uri", target, "", message.request_uri)] if target and target != number else []
        others += (i for i in diverted(message) if i.number != number or i.header == "diversion")
        if others:
            party.also = _others(party, others)
    return party


def connect(message: SipMessage, *parties: Party) -> None:
    """Adds to the callee, in each of the objects that stand for it, who a response to the INVITE says has been reached
    (RFC 3325 section 5: P-Asserted-Identity in responses; Remote-Party-ID with party=called).
    """
    headers = message.headers
    if "p-asserted-identity" not in headers and "remote-party-id" not in headers:
        return
    for identity in asserted(message, "called") or asserted(message):
        for party in parties:
            if identity.name and not party.name and _same(identity.number, party.number):
                party.name = identity.name
            party.also = _others(party, (*party.also, identity))


def _same(one: str, other: str) -> bool:
    """Whether two numbers, as signalled, are the same but for separators."""
    return one == other or (is_telephone(one) and is_telephone(other)
                            and [c for c in one if c.isalnum()] == [c for c in other if c.isalnum()])


def _others(party: Party, identities: Iterable[Identity]) -> tuple[Identity, ...]:
    """Those of the identities that say something beyond the party's own number, name and URI, and beyond each other."""
    kept: list[Identity] = []
    known = {(party.number, party.name, party.uri), (party.number, "", party.uri), ("", "", "")}
    for identity in identities:
        said = identity.number, identity.name, identity.uri
        if (said not in known or identity.reason) and (identity.number or identity.name):
            known.add(said)
            kept.append(identity)
            if len(kept) == _MOST:
                break
    return tuple(kept)
