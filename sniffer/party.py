"""Who calls whom: numbers and names from the header fields that carry identity (RFC 3261, RFC 3325, Remote-Party-ID)."""

from __future__ import annotations

from urllib.parse import unquote

from rokuon.sniffer.model import NameAddr, Party, SipMessage
from rokuon.sniffer.sip_headers import clean, name_addr

__all__ = ["callee_of", "caller_of", "number_of"]

_LONGEST = 256


def number_of(address: NameAddr) -> str:
    """The user part with %-escapes undone (RFC 3261 19.1.2), harmless to show: what is not printable becomes U+FFFD."""
    user = address.user
    if "%" in user:
        user = clean(unquote(user, errors="replace"))
    return user[:_LONGEST]


def caller_of(message: SipMessage, address: str) -> tuple[Party, bool]:
    """The caller by an INVITE, and whether the network vouches for it.

    P-Asserted-Identity comes before Remote-Party-ID before From; a name that the one chosen lacks is From's.
    `address`: IP address of who sent the INVITE.
    """
    for header in ("p-asserted-identity", "remote-party-id"):
        for value in message.headers.get(header, ()):
            identity = name_addr(value)
            number = number_of(identity)
            if number:
                return Party(number, identity.name or message.from_.name, identity.uri, address), True
    return Party(number_of(message.from_), message.from_.name, message.from_.uri, address), False


def callee_of(message: SipMessage, address: str) -> Party:
    """Who is called: To, or where it has no user the Request-URI. `address`: IP address that the INVITE went to."""
    number, uri = number_of(message.to), message.to.uri
    if not number:
        target = NameAddr("", message.request_uri)
        number, uri = number_of(target), uri or message.request_uri
    return Party(number, message.to.name, uri, address)
