"""The torture messages of RFC 4475 and RFC 5118: their octets, and what each of them must become by what the RFCs say of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


def expand(text: str) -> bytes:
    """The octets of a message in the notation of RFC 4475 section 2; every line ends in CRLF."""
    text = re.sub(r"<allOneLine>\n(.*?)\n</allOneLine>", lambda m: m[1].replace("\n", ""), text, flags=re.DOTALL)
    text = re.sub(r"<repeat count=([0-9]+)>(.*?)</repeat>", lambda m: m[2] * int(m[1]), text)
    plain = re.split(r"<hex>([0-9A-F]*)</hex>", text)
    return b"".join(bytes.fromhex(part) if i % 2 else part.replace("\n", "\r\n").encode("ascii") for i, part in enumerate(plain))


def read(name: str) -> bytes:
    return expand((HERE / f"{name}.sip").read_text("ascii"))


class Case(NamedTuple):
    """A message, and what it must become."""

    name: str
    section: str
    """Of RFC 5118 where it begins with 4, else of RFC 4475."""
    valid: bool
    """Whether the RFC calls it well-formed."""
    says: str
    """What the RFC says of it, in few words."""
    what: str
    """Method, or status and the method of CSeq; "" where it must be refused."""
    cseq: int = 0
    call_id: str = ""
    caller: str = ""
    """Number and name of From as shown; the last "/" stands between."""
    callee: str = ""
    """Of To."""
    odd: tuple[str, ...] = ()
    """Anomalies that must be counted."""
    sdp: str = "-"
    """Address, port and payload types of each section of the session description, with " + " between."""


def usual(address: str) -> str:
    """The session that most messages of RFC 4475 describe."""
    return f"{address}:49217 0,12 + {address}:3227 31"


_IPV6 = "SSG9559905523997077@hlau_4100"
_LONG = "amazinglylongcallername" * 5

CASES = (
    # -- RFC 4475, 3.1.1: valid ------------------------------------------------------------------------------------------------
    Case("wsinv", "3.1.1.1", True, "folded, spaced and escaped wherever that is allowed", "INVITE", 9, "wsinv.ndaksdj@192.0.2.1",
         'jdrosen/J Rosenberg \\"', "vivekg/", (), usual("192.0.2.4")),
    Case("intmeth", "3.1.1.2", True, "every character that a method, a URI, a name, a tag may have",
         "!interesting-Method0123456789_*+`.%indeed'~", 139122385, "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
         "mundane/token1~` token2'+_ token3*%!.-",
         "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,//BEL:\ufffd NUL:\ufffd DEL:\ufffd",
         ("sip-control-characters",)),
    Case("esc01", "3.1.1.3", True, "%-escapes in URIs", "INVITE", 234234, "esc01.239409asdfakjkn23onasd0-3234", "I have spaces/",
         "user/", (), usual("192.0.2.1")),
    Case("escnull", "3.1.1.4", True, "escaped NULs in URIs", "REGISTER", 14398234, "escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd",
         "null-\ufffd-null/", "null-\ufffd-null/"),
    Case("esc02", "3.1.1.5", True, "% where it escapes nothing: this is no REGISTER", "RE%47IST%45R", 29344,
         "esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf", "resource/%Z%45", "resource/%Z%45"),
    Case("lwsdisp", "3.1.1.6", True, "no space between name and <", "OPTIONS", 60, "lwsdisp.1234abcd@funky.example.com",
         "caller/caller", "user/"),
    Case("longreq", "3.1.1.7", True, "long values", "INVITE", 3882340, f"longreq.one{'really' * 20}longcallid", f"{_LONG}/",
         f"user/I have a user name of {'extreme' * 10} proportion", (), usual("192.0.2.1")),
    Case("dblreq", "3.1.1.8", True, "what lies behind the message in its datagram is noise, even if it looks like an INVITE",
         "REGISTER", 8, "dblreq.0ha0isndaksdj99sdfafnl3lk233412", "j.user/", "j.user/", ("sip-trailing-bytes",)),
    Case("semiuri", "3.1.1.9", True, "semicolons and parameters in a URI's user part", "OPTIONS", 8, "semiuri.0ha0isndaksdj",
         "caller/", "j_user/"),
    Case("transports", "3.1.1.10", True, "known and unknown transports in Via", "OPTIONS", 60,
         "transports.kijh4akdnaqjkwendsasfdj", "caller/", "user/"),
    Case("mpart01", "3.1.1.11", True, "a multipart body with binary parts", "MESSAGE", 1,
         "3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..", "fluffy/", "kumiko/"),
    Case("unreason", "3.1.1.12", True, "a reason phrase in UTF-8", "200 INVITE", 35, "unreason.1234ksdfak3j2erwedfsASdf", "user/",
         "user/", (), usual("192.0.2.198")),
    Case("noreason", "3.1.1.13", True, "an empty reason phrase", "100 INVITE", 35, "noreason.asndj203insdf99223ndf", "user/",
         "user/"),
    # -- 3.1.2: invalid --------------------------------------------------------------------------------------------------------
    Case("badinv01", "3.1.2.1", False, "stray separators in Via and Contact", "INVITE", 8, "badinv01.0ha0isndaksdjasdf3234nas",
         "caller/", "j.user/", ("sip-stray-separators",), usual("192.0.2.15")),
    Case("clerr", "3.1.2.2", False, "Content-Length larger than the datagram", "INVITE", 8, "clerr.0ha0isndaksdjweiafasdk3",
         "caller/", "j.user/", ("sip-short-body",), usual("192.0.2.155")),
    Case("ncl", "3.1.2.3", False, "negative Content-Length", "INVITE", 0, "ncl.0ha0isndaksdj2193423r542w35", "caller/", "j.user/",
         ("sip-content-length",), usual("192.0.2.53")),
    Case("scalar02", "3.1.2.4", False, "CSeq, Max-Forwards and Expires beyond their range", "REGISTER", 0,
         "scalar02.23o0pd9vanlq3wnrlnewofjas9ui32", "user/", "user/", ("sip-bad-cseq",)),
    Case("scalarlg", "3.1.2.5", False, "CSeq, Retry-After and Warning beyond their range", "503 OPTIONS", 0,
         "scalarlg.noase0of0234hn2qofoaf0232aewf2394r", "other/", "user/", ("sip-bad-cseq",)),
    Case("quotbal", "3.1.2.6", False, "a quoted name that is never closed", "INVITE", 8, "quotbal.aksdj", "caller/",
         "j.user/Mr. J. User", ("sip-bad-display-name",), usual("192.0.2.15")),
    Case("ltgtruri", "3.1.2.7", False, "Request-URI in angle brackets", "INVITE", 1, "ltgtruri.1@192.0.2.5", "caller/", "user/",
         ("sip-request-uri",), usual("192.0.2.5")),
    Case("lwsruri", "3.1.2.8", False, "a space in the Request-URI", "INVITE", 2130706432,
         "lwsruri.asdfasdoeoi2323-asdfwrn23-asd834rk423", "caller/", "user/", ("sip-request-uri",), usual("192.0.2.1")),
    Case("lwsstart", "3.1.2.9", False, "several spaces in the start line", "INVITE", 1893884,
         "lwsstart.dfknq234oi243099adsdfnawe3@example.com", "caller/", "user/", ("sip-start-line-spaces",), usual("192.0.2.1")),
    Case("trws", "3.1.2.10", False, "spaces at the end of the start line", "OPTIONS", 238923, "trws.oicu34958239neffasdhr2345r",
         "local-resource/", "remote-target/", ("sip-start-line-spaces",)),
    Case("escruri", "3.1.2.11", False, "header fields in the Request-URI", "INVITE", 149209342,
         "escruri.23940-asdfhj-aje3br-234q098w-fawerh2q-h4n5", "caller/", "user/", ("sip-request-uri",), usual("192.0.2.1")),
    Case("baddate", "3.1.2.12", False, "Date in another time zone than GMT", "INVITE", 1392934,
         "baddate.239423mnsadf3j23lj42--sedfnm234", "caller/", "user/", ("sip-bad-date",), usual("192.0.2.5")),
    Case("regbadct", "3.1.2.13", False, "Contact with a ? and no angle brackets", "REGISTER", 1,
         "regbadct.k345asrl3fdbv@10.0.0.1", "user/", "user/", ("sip-bad-uri",)),
    Case("badaspec", "3.1.2.14", False, "spaces within angle brackets", "OPTIONS", 3923239,
         "badaspec.sdf0234n2nds0a099u23h3hnnw009cdkne3", "a.g.bell/Bell, Alexander", "t.watson/Watson, Thomas", ("sip-bad-uri",)),
    Case("baddn", "3.1.2.15", False, "a comma in a name that is not quoted", "OPTIONS", 3923239, "baddn.31415@c.example.com",
         "a.g.bell/Bell, Alexander", "t.watson/Watson, Thomas", ("sip-no-blank-line", "sip-bad-display-name")),
    Case("badvers", "3.1.2.16", False, "SIP/7.0", "", odd=("sip-version",)),
    Case("mismatch01", "3.1.2.17", False, "OPTIONS, and INVITE in CSeq", "OPTIONS", 8, "mismatch01.dj0234sxdfl3", "caller/",
         "j.user/", ("sip-cseq-method",)),
    Case("mismatch02", "3.1.2.18", False, "an unknown method, and INVITE in CSeq", "NEWMETHOD", 8, "mismatch02.dj0234sxdfl3",
         "caller/", "j.user/", ("sip-cseq-method",), usual("192.0.2.1")),
    Case("bigcode", "3.1.2.19", False, "status code 4294967301", "", odd=("sip-status",)),
    # -- 3.2, 3.3, 3.4: for the layers above the parser ------------------------------------------------------------------------
    Case("badbranch", "3.2.1", False, "a branch of nothing but the magic cookie", "OPTIONS", 8,
         "badbranch.sadonfo23i420jv0as0derf3j3n", "caller/", "user/", ("sip-bad-branch",)),
    Case("insuf", "3.3.1", False, "no Call-ID, From and To", "", odd=("sip-no-call-id",)),
    Case("unkscm", "3.3.2", True, "Request-URI of a scheme that nobody knows", "OPTIONS", 3923423,
         "unkscm.nasdfasser0q239nwsdfasdkl34", "caller/", "user/"),
    Case("novelsc", "3.3.3", True, "Request-URI of a scheme that is known elsewhere", "OPTIONS", 3923423,
         "novelsc.asdfasser0q239nwsdfasdkl34", "caller/", "user/"),
    Case("unksm2", "3.3.4", True, "other schemes in From, To and Contact", "REGISTER", 234902,
         "unksm2.daksdj@hyphenated-host.example.com", "/", "/"),
    Case("bext01", "3.3.5", True, "requires extensions that nobody has", "OPTIONS", 8, "bext01.0ha0isndaksdj", "caller/",
         "j_user/"), Case("invut", "3.3.6", True, "a body of an unknown type", "INVITE", 235448,
         "invut.0ha0isndaksdjadsfij34n23d", "caller/", "j.user/"),
    Case("regaut01", "3.3.7", True, "an unknown authorization scheme", "REGISTER", 9338, "regaut01.0ha0isndaksdj", "j.user/",
         "j.user/"),
    Case("multi01", "3.3.8", False, "several values where one is allowed", "INVITE", 5, "multi01.98asdh@192.0.2.1", "caller/",
         "user/", ("sip-two-cseq", "sip-two-call-id", "sip-two-to", "sip-two-from"), usual("192.0.2.25")),
    Case("mcl01", "3.3.9", False, "two Content-Lengths", "OPTIONS", 15932, "mcl01.fhn2323orihawfdoa3o4r52o3irsdf", "other/",
         "user/", ("sip-two-content-length", "sip-content-length")),
    Case("bcast", "3.3.10", True, "a broadcast address in the second Via of a response", "200 INVITE", 35,
         "bcast.0384840201234ksdfak3j2erwedfsASdf", "user/", "user/", (), usual("192.0.2.198")),
    Case("zeromf", "3.3.11", True, "Max-Forwards: 0", "OPTIONS", 39234321, "zeromf.jfasdlfnm2o2l43r5u0asdfas", "caller/",
         "user/"), Case("cparam01", "3.3.12", True, "an unknown parameter behind a Contact", "REGISTER", 2,
         "cparam01.70710@saturn.example.com", "watson/", "watson/"),
    Case("cparam02", "3.3.13", True, "an unknown parameter in a Contact's URI", "REGISTER", 3,
         "cparam02.70710@saturn.example.com", "watson/", "watson/"),
    Case("regescrt", "3.3.14", True, "escaped header fields in a Contact's URI", "REGISTER", 14398234,
         "regescrt.k345asrl3fdbv@192.0.2.1", "user/", "user/"),
    Case("sdp01", "3.3.15", True, "accepts no type of body that anybody could answer with", "INVITE", 8, "sdp01.ndaksdj9342dasdd",
         "caller/", "j_user/", (), usual("192.0.2.5")),
    Case("inv2543", "3.4.1", True, "as RFC 2543 had it: no tag, no branch, no Content-Length", "INVITE", 56,
         "inv2543.1717@ift.client.example.com", "+13035551111/", "+16505552222/", (), "192.0.2.5:49217 0"),
    # -- RFC 5118 --------------------------------------------------------------------------------------------------------------
    Case("ipv6-good", "4.1", True, "an IPv6 address in brackets", "REGISTER", 98176, _IPV6, "user/", "user/"),
    Case("ipv6-bad", "4.2", False, "an IPv6 address without brackets as Request-URI", "REGISTER", 98176, _IPV6, "user/", "user/",
         ("sip-request-uri",)),
    Case("port-ambiguous", "4.3", True, "a port within the brackets: read as part of the address", "REGISTER", 98176, _IPV6,
         "user/", "user/"),
    Case("port-unambiguous", "4.4", True, "a port behind the brackets", "REGISTER", 98176, _IPV6, "user/", "user/"),
    Case("via-received-param-with-delim", "4.5", True, "received= in brackets, as not allowed but usual", "BYE", 321, _IPV6,
         "user/", "user/"),
    Case("via-received-param-no-delim", "4.5", True, "received= without brackets", "OPTIONS", 921, "SSG95523997077@hlau_4100",
         "user/", "user/"),
    Case("ipv6-in-sdp", "4.6", True, "IPv6 in the session description", "INVITE", 8612, _IPV6, "user/", "user/",
         ("sip-short-body",), "2001:db8::20:6000 2 + 2001:db8::20:6024 107"),
    Case("mult-ip-in-header", "4.7", True, "IPv4 and IPv6 in Via", "BYE", 89187, "997077@lau_4100", "user/", "user/"),
    Case("mult-ip-in-sdp", "4.8", True, "IPv4 and IPv6 in one session description", "INVITE", 8912, _IPV6, "user/", "user/",
         ("sip-trailing-bytes",), "192.0.2.1:22334 0 + 2001:db8::1:6024 107"),
    Case("ipv4-mapped-ipv6", "4.9", True, "IPv4 addresses mapped into IPv6", "INVITE", 612, _IPV6, "user/", "user/",
         ("sip-trailing-bytes",), "192.0.2.2:6000 2 + 192.0.2.2:6024 107"),
    Case("ipv6-bug-abnf-3-colons", "4.10", True, "a colon too many, as the grammar of RFC 3261 had it", "OPTIONS", 689,
         "G9559905523997077@hlau_4100", "user/", "user/"),
    Case("ipv6-correct-abnf-2-colons", "4.10", True, "the same as it ought to be", "OPTIONS", 689, "G9559905523997077@hlau_4100",
         "user/", "user/"),
)

JOINED = frozenset(("wsinv", "lwsruri"))
"""INVITEs with a To tag: to who has seen nothing before them, changes of a call that began before the capture."""


def _code(text: str) -> str:
    """Code in a Markdown table."""
    text = text if len(text) <= 48 else text[:40] + "…" + text[-7:]
    return "" if not text else f"`` {text} ``" if "`" in text else f"`{text}`"


def _party(text: str) -> str:
    number, _, name = text.rpartition("/")
    return ", ".join(filter(None, (_code(number), _code(name)))) or "–"


def document() -> str:
    """docs/torture.md."""
    rows = []
    for case in sorted(CASES, key=lambda case: case.section[0] == "4"):
        becomes = _code(case.what) + f", CSeq {case.cseq}" if case.what else "refused"
        call = "no" if case.what != "INVITE" else "joined" if case.name in JOINED else "yes"
        rows.append(f"| {case.name} | {case.section} | {'valid' if case.valid else 'invalid'}: {case.says} | {becomes} | "
                    f"{_code(case.call_id) or '–'} | {_party(case.caller) if case.what else '–'} | "
                    f"{_party(case.callee) if case.what else '–'} | {_code(case.sdp) if case.sdp != '-' else '–'} | "
                    f"{', '.join(map(_code, case.odd)) or '–'} | {call} |")
    return (HERE / "document.md").read_text("utf-8").replace("TABLE\n", "\n".join([
        "| message | section | the RFC | what rokuon reads | Call-ID | From: number, name | To: number, name | session | "
        "counted as | call |", "|" + "---|" * 10, *rows]) + "\n")


if __name__ == "__main__":
    print(document(), end="")
