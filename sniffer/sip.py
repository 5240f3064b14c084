"""SIP messages: RFC 3261, read as leniently as a bystander should."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice

from rokuon.sniffer import sdp
from rokuon.sniffer.model import NameAddr, SessionDescription, SipMessage
from rokuon.sniffer.sip_headers import (
    LISTS,
    MAX_URI,
    MAX_VALUE,
    NAMES,
    canonical_name,
    clean,
    decode,
    escaped_jis,
    name_addr,
    parameter,
    split_list,
)

__all__ = ["MAX_HEADERS", "METHODS", "SipError", "looks_like_sip", "name_addr", "parameter", "parse"]

METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "PRACK", "UPDATE", "INFO", "SUBSCRIBE", "NOTIFY", "REFER",
           "MESSAGE", "PUBLISH")

MAX_HEADERS = 256
_MAX_VALUES = 512
_MAX_FIRST_LINE = 1_024
_MAX_PARTS = 16
_MAX_DEPTH = 3
_USUAL = 256
"""Characters of a list that many messages have alike, such as that of an Allow: what it is parted into is kept at hand."""
_PADDING = b"\r\n\0 \t"

_BEGINS = re.compile(rb"[\r\n\x00]{0,64}+(?:(?i:SIP)/2\.0 ++[1-6][0-9][0-9](?![0-9])|(?:%s) ++(?=[^\r\n ])|"
                     rb"[!%%'*+\-.0-9A-Z_`a-z~]{1,64}+ (?=sips?:|tel:)([^\r\n ]++)(?= (?i:SIP)/2\.0))"
                     % "|".join(METHODS).encode())
_KNOWN = frozenset(METHODS)
_METHOD = re.compile(r"[!%'*+\-.0-9A-Z_`a-z~]{1,64}")
_BRANCH = re.compile(r";[ \t]*+branch[ \t]*+=[ \t]*+([^ \t;,]++)", re.IGNORECASE)
_COOKIE = "z9hG4bK"
_ONCE = frozenset(("call-id", "cseq", "from", "to", "content-length", "content-type"))
_NOBODY = NameAddr("", "")


class SipError(ValueError):
    """Bytes that are no SIP message one could use."""

    def __init__(self, anomaly: str) -> None:
        super().__init__(anomaly)
        self.anomaly = anomaly
        """Its name: "sip-start-line", "sip-version", "sip-status", "sip-no-call-id", "sip-no-cseq" or "sip-short-body"."""


def looks_like_sip(data: bytes) -> bool:
    """Whether `data` begins as a SIP message does: with a status line, or the request line of a known method.

    Empty lines and NULs before it are passed over. A request line must end in "SIP/…" where its end is there (RTSP and
    HTTP have OPTIONS too).
    """
    match = _BEGINS.match(data)
    if match is None:
        return False
    if data[match.start():match.end()].lstrip(_PADDING)[:4].upper() == b"SIP/" or match[1]:
        return True
    end = data.find(b"\n", match.end(), match.end() + 8192)
    return end < 0 or data[match.end():end].upper().rfind(b" SIP/") >= 0


def parse(data: bytes, *, strict_length: bool = False) -> SipMessage:
    """The SIP message in `data`: one datagram, or what TCP reassembly framed.

    Bytes behind the body that Content-Length announces are not the message's (RFC 3261 section 18.3). With `strict_length`
    a body that is shorter than announced is an error, else an anomaly. `SipError` is raised, and nothing else, for what
    has no start line of SIP 2.0, no Call-ID, or is a response without CSeq.
    """
    start = 0
    if data[:1] < b"!":
        start = len(data) - len(data.lstrip(_PADDING))
    anomalies: list[str] = []
    head, body = _halves(data, start, anomalies)
    plain = head.isascii()
    text = head.decode("latin-1").replace("\r\n", "\n").removesuffix("\r")
    if "\n " in text or "\n\t" in text:
        text = re.sub(r"\n[ \t]+", " ", text)  # folding: section 7.3.1
    first, _, text = text.partition("\n")
    first_line = clean(first if plain or first.isascii() else decode(first.encode("latin-1"))).rstrip()
    method, status, reason, request_uri = _start_line(first_line, anomalies)
    if first[-1:] == " " and not status:
        anomalies.append("sip-start-line-spaces")
    headers = _headers(text, plain, anomalies)

    call_id = _one(headers, "call-id")
    if not call_id:
        raise SipError("sip-no-call-id")
    number, cseq_method = _cseq(_one(headers, "cseq"))
    if number < 0:
        number = 0
        anomalies.append("sip-bad-cseq" if cseq_method else "sip-no-cseq")
    if status:
        if not cseq_method:
            raise SipError("sip-no-cseq")
        method = cseq_method
    elif cseq_method and cseq_method != method:
        anomalies.append("sip-cseq-method")
    from_, to = _one(headers, "from"), _one(headers, "to")
    if not from_:
        anomalies.append("sip-no-from")
    if not to:
        anomalies.append("sip-no-to")
    vias, contacts, branch = headers.get("via"), headers.get("contact"), ""
    via, contact = vias[0] if vias else "", contacts[0] if contacts else ""
    if via and (match := _BRANCH.search(via)):
        branch = match[1][:256]
        if branch == _COOKIE:  # and nothing behind it (RFC 3261 section 8.1.1.7): it would be that of many transactions
            branch = ""
            anomalies.append("sip-bad-branch")
    # What follows changes nothing that is read here, but tells who looks into a phone.
    if ";;" in via or ";;" in contact or via[-1:] == ";" or contact[-1:] == ";":
        anomalies.append("sip-stray-separators")
    if "?" in contact and "<" not in contact:  # section 20: the URI's header fields, or the header field's parameters?
        anomalies.append("sip-bad-uri")
    if "date" in headers and not headers["date"][0].endswith("GMT"):  # section 20.17
        anomalies.append("sip-bad-date")

    body = _body(body, _one(headers, "content-length"), strict_length, anomalies)
    description = _description(body, headers, anomalies) if body else None
    caller = name_addr(from_, anomalies) if from_ else _NOBODY
    callee = name_addr(to, anomalies) if to else _NOBODY
    return SipMessage(method, status, reason, request_uri, call_id[:MAX_URI], caller, callee, number, branch, headers,
                      description, first_line[:_MAX_FIRST_LINE], tuple(dict.fromkeys(anomalies)) if anomalies else ())


def _halves(data: bytes, start: int, anomalies: list[str]) -> tuple[bytes, bytes]:
    """Start line and header fields; body."""
    end, skip = data.find(b"\n\r\n", start), 3
    bare = data.find(b"\n\n", start, end if end >= 0 else len(data))
    if bare >= 0:
        end, skip = bare, 2
    if end < 0:
        anomalies.append("sip-no-blank-line")
        return data[start:].rstrip(b"\r\n"), b""
    return data[start:end], data[end + skip:]


def _start_line(line: str, anomalies: list[str]) -> tuple[str, int, str, str]:
    """Method, status, reason and Request-URI; of a response the first and last are ""."""
    if line[:4].upper() == "SIP/":
        version, _, rest = line.partition(" ")
        _check_version(version, anomalies)
        if rest[:1] == " ":
            anomalies.append("sip-start-line-spaces")
            rest = rest.lstrip()
        code, _, reason = rest.partition(" ")
        if len(code) != 3 or not code.isascii() or not code.isdigit() or not "100" <= code <= "699":
            raise SipError("sip-status")
        return "", int(code), reason.strip()[:MAX_VALUE], ""
    method, _, rest = line.partition(" ")
    uri, space, version = rest.rpartition(" ")
    if not space or (method not in _KNOWN and not _METHOD.fullmatch(method)) or version[:4].upper() != "SIP/":
        raise SipError("sip-start-line")
    _check_version(version, anomalies)
    if uri[:1] == " " or uri[-1:] == " ":
        anomalies.append("sip-start-line-spaces")
        uri = uri.strip()
    if uri[:1] == "<" or " " in uri or not uri or (("?" in uri or uri.count(":") > 2) and _is_odd(uri)):
        anomalies.append("sip-request-uri")
        uri = uri.strip("<>")
    return method, 0, "", uri[:MAX_URI]


def _check_version(version: str, anomalies: list[str]) -> None:
    if version != "SIP/2.0":
        if version.upper() != "SIP/2.0":
            raise SipError("sip-version")
        anomalies.append("sip-version-case")  # understood, but never to be sent (section 7.1)


def _is_odd(uri: str) -> bool:
    """Whether a SIP URI has header fields, which no Request-URI may (RFC 3261 section 19.1.1), or IPv6 without brackets."""
    scheme, _, rest = uri.partition(":")
    host, _, more = rest.rpartition("@")[2].partition(";")
    return scheme.lower() in ("sip", "sips") and ("?" in host or "?" in more or (host[:1] != "[" and host.count(":") > 1))


def _headers(text: str, plain: bool, anomalies: list[str]) -> dict[str, tuple[str, ...]]:
    """Header fields by name, from unfolded lines in Latin-1; `plain`: all of them ASCII."""
    headers: dict[str, tuple[str, ...]] = {}
    lines = text.split("\n", MAX_HEADERS)
    if len(lines) > MAX_HEADERS:
        del lines[MAX_HEADERS:]
        anomalies.append("sip-too-many-headers")
    count = 0
    for line in lines:
        name, colon, value = line.partition(":")
        key = (NAMES.get(name) or canonical_name(name)) if colon else ""
        if not key:
            if line.strip():
                anomalies.append("sip-bad-header")
            continue
        if not plain and not value.isascii():
            value = decode(value.encode("latin-1"))
        value = value.strip()
        if "\x1b" in value and plain:
            value = escaped_jis(value)
        if not value.isprintable() and (safe := clean(value)) != value:
            if "\ufffd" in safe:
                anomalies.append("sip-control-characters")
            value = safe
        if len(value) > MAX_VALUE:
            anomalies.append("sip-long-header")
            value = value[:MAX_VALUE]
        had = headers.get(key)
        values: tuple[str, ...] = (value,)
        if "," in value and key in LISTS:
            values = _parts(value) if len(value) < _USUAL else tuple(split_list(value))
        count += len(values)
        if count > _MAX_VALUES:
            anomalies.append("sip-too-many-headers")
            break
        if had is not None:
            if key in _ONCE and had != values:
                anomalies.append(f"sip-two-{key}")
            values = had + values
        headers[key] = values
    return headers


@lru_cache(maxsize=1024)
def _parts(value: str) -> tuple[str, ...]:
    return tuple(split_list(value))


def _one(headers: dict[str, tuple[str, ...]], name: str) -> str:
    """The first value of a header field; "" where there is none."""
    values = headers.get(name)
    return values[0] if values else ""


def _cseq(value: str) -> tuple[int, str]:
    """Sequence number (-1: not a number below 2**32) and method."""
    parts = value.split(None, 2)
    if len(parts) < 2 or (parts[1] not in _KNOWN and not _METHOD.fullmatch(parts[1])):
        return -1, ""
    digits = parts[0]
    if len(digits) > 10 or not digits.isascii() or not digits.isdigit() or int(digits) >= 1 << 32:
        return -1, parts[1]
    return int(digits), parts[1]


def _body(body: bytes, length: str, strict: bool, anomalies: list[str]) -> bytes:
    """`body` cut to what Content-Length says."""
    if not length:
        return body  # section 20.14: over UDP it goes to the datagram's end
    if len(length) > 9 or not length.isascii() or not length.isdigit() or "sip-two-content-length" in anomalies:
        anomalies.append("sip-content-length")
        return body
    announced = int(length)
    if announced > len(body):
        if strict:
            raise SipError("sip-short-body")
        anomalies.append("sip-short-body")
    elif announced < len(body):
        if body[announced:].strip(_PADDING):
            anomalies.append("sip-trailing-bytes")
        if announced and body[announced - 1] != 10 and body[announced] not in b"\r\n":
            # Within a line: a NAT wrote a longer address and left Content-Length as it was. Ends of lines are what it cut.
            announced = body.find(b"\n", announced) + 1 or len(body)
        body = body[:announced]
    return body


def _description(body: bytes, headers: dict[str, tuple[str, ...]], anomalies: list[str]) -> SessionDescription | None:
    content_type = _one(headers, "content-type")
    if not content_type:
        if body[:4] != b"v=0\r" and body[:4] != b"v=0\n":
            return None
        anomalies.append("sip-no-content-type")
        content_type = "application/sdp"
    elif len(headers["content-type"]) > 1 and body.startswith(b"v=0"):
        content_type = "application/sdp"
    if _one(headers, "content-encoding").lower() not in ("", "identity"):
        anomalies.append("sip-content-encoding")
        return None
    found = _find_sdp(body, content_type, 0)
    return None if found is None else sdp.parse(found, anomalies)


def _find_sdp(body: bytes, content_type: str, depth: int) -> bytes | None:
    """The session description in a body, looked for in the parts of a multipart one too (RFC 2046 section 5.1)."""
    kind = content_type[:64].partition(";")[0].strip().lower()
    if kind == "application/sdp":
        return body
    if kind[:10] != "multipart/" or depth == _MAX_DEPTH:
        return None
    boundary = parameter(content_type, "boundary")[:70].encode("utf-8", "replace")
    if not boundary:
        return None
    delimiter = re.compile(rb"(?:^|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*+(?=\r?\n|$)")
    edges = list(islice(delimiter.finditer(body), _MAX_PARTS + 1))
    for i, edge in enumerate(edges):
        if edge[1]:
            break
        part = body[edge.end():edges[i + 1].start() if i + 1 < len(edges) else len(body)]
        # The delimiter's own line end is still there: a part without header fields begins with an empty line then.
        blank = re.search(rb"\r?\n\r?\n", part)
        if blank is None:
            continue
        head = part[:blank.start()].decode("latin-1").replace("\r\n", "\n")
        fields = _headers(re.sub(r"\n[ \t]+", " ", head).lstrip("\n"), False, [])
        found = _find_sdp(part[blank.end():], _one(fields, "content-type"), depth + 1)
        if found is not None:
            return found
    return None
