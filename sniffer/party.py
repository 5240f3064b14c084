"""Who calls whom: which of the identities in a message is the party's, and what is kept of the others."""

from __future__ import annotations

from collections.abc import Iterable

from rokuon.sniffer.identity import asserted, diverted, identity_of, is_telephone, number_of, reason_in, wants_privacy
from rokuon.sniffer.model import Identity, NameAddr, Party, SipMessage

__all__ = ["callee_of", "caller_of", "connect", "number_of", "reach"]

_MOST, _MOST_CHARACTERS = 8, 2048
"""Further identities that are kept of a party, and how long they are together."""


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
        reach(message, party)
    return party


def reach(message: SipMessage, *parties: Party) -> None:
    """Adds to the callee, in each of the objects that stand for it, whom an INVITE is sent to where it is seen, and whom it was
    for before: at a further hop, or after a 3xx, that may be somebody else.
    """
    number = parties[0].number
    target = number_of(NameAddr("", message.request_uri)) if message.request_uri else ""
    found = [Identity("request-uri", target, "", message.request_uri)] if target and target != number else []
    found += (i for i in diverted(message) if i.number != number or i.header == "diversion")
    if found:
        for party in parties:
            party.also = _others(party, (*party.also, *found))


def connect(message: SipMessage, *parties: Party) -> None:
    """Adds to the callee, in each of the objects that stand for it, who a response to the INVITE says has been reached
    (RFC 3325 section 5: P-Asserted-Identity in responses; Remote-Party-ID with party=called).
    """
    headers = message.headers
    if "p-asserted-identity" not in headers and "remote-party-id" not in headers:
        return
    for identity in asserted(message, "called") or asserted(message):
        for party in parties:
            if not _same(identity.number, party.number):
                party.also = _others(party, (*party.also, identity))
            elif not party.name:
                party.name = identity.name


def _same(one: str, other: str) -> bool:
    """Whether two numbers, as signalled, are the same but for separators."""
    return one == other or (is_telephone(one) and is_telephone(other)
                            and [c for c in one if c.isalnum()] == [c for c in other if c.isalnum()])


def _others(party: Party, identities: Iterable[Identity]) -> tuple[Identity, ...]:
    """Those of the identities that say something beyond the party's own number, name and URI, and beyond each other."""
    kept: list[Identity] = []
    known, room = {(party.number, party.name, party.uri, ""), (party.number, "", party.uri, "")}, _MOST_CHARACTERS
    for identity in identities:
        _, number, name, uri, _ = identity
        said = identity[1:]
        size = len(number) + len(name) + len(uri)
        if said not in known and (number or name) and size <= room:
            known.add(said)
            kept.append(identity)
            room -= size
            if len(kept) == _MOST:
                break
    return tuple(kept)
