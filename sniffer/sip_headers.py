"""SIP header fields: their names, text and common grammar (RFC 3261 sections 7.3 and 25.1)."""

from __future__ import annotations

import re
from itertools import pairwise

from rokuon.sniffer.charsets import decode, escaped_jis, unescaped_name
from rokuon.sniffer.model import NameAddr

__all__ = ["LISTS", "MAX_NAME", "MAX_URI", "MAX_VALUE", "NAMES", "canonical_name", "clean", "decode", "escaped_jis", "name_addr",
           "parameter", "split_list"]

MAX_VALUE = 4096
MAX_NAME = 256
MAX_URI = 1024
_MAX_PARAMETER = 256

# IANA, Session Initiation Protocol parameters, "Header Fields": all compact forms there are.
_COMPACT = {
    "a": "accept-contact", "b": "referred-by", "c": "content-type", "d": "request-disposition", "e": "content-encoding",
    "f": "from", "i": "call-id", "j": "reject-contact", "k": "supported", "l": "content-length", "m": "contact",
    "n": "identity-info", "o": "event", "r": "refer-to", "s": "subject", "t": "to", "u": "allow-events", "v": "via",
    "x": "session-expires", "y": "identity",
}

LISTS = frozenset((
    "accept", "accept-contact", "accept-encoding", "accept-language", "alert-info", "allow", "allow-events", "call-info",
    "contact", "content-encoding", "content-language", "diversion", "error-info", "history-info", "in-reply-to",
    "p-asserted-identity", "p-associated-uri", "p-early-media", "p-preferred-identity", "p-visited-network-id", "path",
    "proxy-require", "reason", "record-route", "recv-info", "reject-contact", "remote-party-id", "request-disposition",
    "require", "resource-priority", "route", "security-client", "security-server", "security-verify", "service-route",
    "supported", "unsupported", "via", "warning",
))
"""Header fields, by lower-case full name, whose values may stand on one line with commas between (RFC 3261 section 7.3.1)."""

_USUAL = (
    "Via", "From", "To", "Call-ID", "CSeq", "Contact", "Max-Forwards", "Content-Type", "Content-Length", "Allow", "Supported",
    "User-Agent", "Server", "Route", "Record-Route", "Expires", "Authorization", "Proxy-Authorization", "WWW-Authenticate",
    "Proxy-Authenticate", "Accept", "Require", "Session-Expires", "Min-SE", "P-Asserted-Identity", "Remote-Party-ID", "Privacy",
    "Diversion", "Reason", "RSeq", "RAck", "Event", "Refer-To", "Referred-By", "Replaces", "Subject", "Date", "Allow-Events",
    "Content-Disposition", "Session-ID", "X-Call-ID",
)
NAMES = {spelled: name.lower() for name in _USUAL for spelled in (name, name.lower(), name.upper())}
NAMES.update({spelled: name for letter, name in _COMPACT.items() for spelled in (letter, letter.upper())})
"""What `canonical_name` says of most that comes, at hand without a call."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,128}")
# C0, DEL and C1; marks that turn the direction of text; line separators; surrogates.
_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A quoted string or angle brackets that nobody closes reach to the end: so each is read once, and time stays linear.
_LIST_PARTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?$)|<[^>]*+(?:>|$)|,')
_PARAMETER_PARTS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?$)|;')
_NAME_ADDR = re.compile(r'[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"|([^"<]*+))[ \t]*+<([^>]*+)>(.*)')
_TOKENS = re.compile(r"[-.!%*_+`'~0-9A-Za-z \t]*+")
_ESCAPED = re.compile(r"\\(.)")
_TAG = re.compile(r";[ \t]*+tag[ \t]*+=[ \t]*+([^ \t;,\"]++)", re.IGNORECASE)


def canonical_name(name: str) -> str:
    """A header field's lower-case full name from what stands before the colon; "" where that is no token."""
    known = NAMES.get(name)
    if known is not None:
        return known
    lower = name.strip(" \t").lower()
    return _COMPACT.get(lower, lower) if _TOKEN.fullmatch(lower) else ""


def clean(text: str) -> str:
    """`text` in one line without anything that could move a terminal's cursor or turn its text: those become U+FFFD."""
    if text.isprintable():
        return text
    return _UNPRINTABLE.sub("\ufffd", text.replace("\t", " "))


def split_list(value: str, limit: int = 64) -> list[str]:
    """The values that stand in one line, parted at commas outside of quotes and angle brackets; empty ones left out.

    At most `limit` of them.
    """
    if "," not in value:
        return [value] if value else []
    if '"' not in value and "<" not in value:
        return [part for part in map(str.strip, value.split(",", limit)[:limit]) if part]
    parts, start = [], 0
    for match in _LIST_PARTS.finditer(value):
        if match[0] == ",":
            parts.append(value[start:match.start()].strip())
            start = match.end()
            if len(parts) == limit:
                break
    else:
        parts.append(value[start:].strip())
    return [part for part in parts if part]


def name_addr(value: str, anomalies: list[str] | None = None) -> NameAddr:
    """Display name, URI and tag of a From, To, Contact or identity value (RFC 3261 section 20.10).

    Without angle brackets, what follows the first semicolon belongs to the header field. A quote or bracket that is
    never closed is forgiven. Name, URI and tag are bounded to `MAX_NAME`, `MAX_URI` and 256 characters. What was forgiven is
    appended to `anomalies`: "sip-bad-display-name" (neither tokens nor quoted), "sip-bad-uri", "sip-bad-tag",
    "sip-stray-separators".
    """
    odd = [] if anomalies is None else anomalies
    match = _NAME_ADDR.match(value)
    if match is not None:
        quoted, name, uri, rest = match.groups()
        if name is None:
            name = _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted
        elif name and not _TOKENS.fullmatch(name):
            odd.append("sip-bad-display-name")
        if " " in uri:
            odd.append("sip-bad-uri")
    else:
        name, bracket, uri = value.partition("<")
        if bracket:  # an unbalanced quote, or no ">"
            odd.append("sip-bad-uri" if ">" not in uri else "sip-bad-display-name")
            uri, _, rest = uri.partition(">") if ">" in uri else uri.partition(";")
            name = _ESCAPED.sub(r"\1", name).strip(' \t"\\')
        else:
            name, (uri, _, rest) = "", value.partition(";")
            if "?" in uri or "," in uri or " " in uri.strip():  # RFC 3261 section 20: such a URI stands in angle brackets
                odd.append("sip-bad-uri")
        rest = ";" + rest.lstrip(" \t;")
    tag = ""
    if rest:
        if ";;" in rest:
            odd.append("sip-stray-separators")
        found = _TAG.search(rest)
        if found is not None:
            tag = found[1][:_MAX_PARAMETER] if rest.find('"', 0, found.start()) < 0 else parameter(rest, "tag")
        elif '"' in rest and (tag := parameter(rest, "tag")):
            odd.append("sip-bad-tag")  # in quotes: no token (section 25.1)
    if "=?" in name or "%" in name:
        name = clean(unescaped_name(name))
    return NameAddr(name.strip()[:MAX_NAME], uri.strip()[:MAX_URI], tag)


def parameter(value: str, name: str) -> str:
    """The value of the parameter `name` (lower case) among the ;name=value behind a header field's value; "" where it has none.

    Only what follows angle brackets is looked at where there are any. Quotes around a value are taken off; it is bounded
    to 256 characters.
    """
    start = 0
    if "<" in value:
        match = _NAME_ADDR.match(value)
        start = match.start(4) if match is not None else value.find(">") + 1
    edges = [match.start() for match in _PARAMETER_PARTS.finditer(value, start) if match[0] == ";"]
    for edge, after in pairwise([*edges, len(value)]):
        key, equals, found = value[edge + 1:after].partition("=")
        if key.strip().lower() == name and equals:
            found = found.strip()
            if found[:1] == '"':
                found = _ESCAPED.sub(r"\1", found[1:-1] if found[-1] == '"' and len(found) > 1 else found[1:])
            return found[:_MAX_PARAMETER]
    return ""
