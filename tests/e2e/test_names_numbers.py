"""Names and numbers from the wire to the command line: what carriers and telephones send, and what people type to find it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.e2e.scenarios import T0_US, Wire
from tests.e2e.wire import ROKUON, record, run

from rokuon.cli import main

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")

CARRIER, PBX = ("192.0.2.1", 5060), ("192.0.2.2", 5060)
JAPAN = {"TZ": "Asia/Tokyo"}
ANONYMOUS = b"<sip:anonymous@anonymous.invalid>"

CALLS: dict[str, dict[str, Any]] = {
    # Trunks of Japanese carriers.
    "plain": {"from": b"<sip:0312345678@carrier.example;user=phone>"},
    "e164": {"from": b"<sip:+81312345678@carrier.example;user=phone>"},
    "tel": {"from": b"<tel:+81-3-1234-5678>"},
    "context": {"from": b"<sip:0312345678;phone-context=+81@carrier.example;user=phone>"},
    "escaped": {"from": b"<sip:%2B81312345678@carrier.example>"},
    "two-asserted": {"from": b"<sip:0398765432@carrier.example>",
                     "more": [b'P-Asserted-Identity: "\xe6\xb8\xa1\xe9\x82\x89" <sip:main@carrier.example>, <tel:+81312345678>']},
    "asked": {"from": b'"Anonymous" ' + ANONYMOUS, "more": [b"P-Asserted-Identity: <tel:+819087654321>", b"Privacy: id"]},
    "hidden": {"from": b'"Anonymous" ' + ANONYMOUS},
    "payphone": {"from": b'"Coin line/payphone" ' + ANONYMOUS},
    "out-of-area": {"from": '"表示圏外" <sip:unavailable@carrier.example>'.encode()},
    "hitsuuchi": {"from": '"ﾋﾂｳﾁ" <sip:anonymous@carrier.example>'.encode("cp932")},
    # Calls that went on to somebody else.
    "forwarded": {"from": b"<sip:0451112222@carrier.example>", "to": b"<sip:0611113333@pbx.example>",
    "uri": b"sip:202@pbx.example",
                  "more": [b"Diversion: <sip:0522224444@carrier.example>;reason=no-answer"]},
    "picked-up": {"from": b"<sip:0451112222@carrier.example>", "to": b"<sip:201@pbx.example>",
                  "answer": [b'P-Asserted-Identity: "Suzuki" <sip:205@pbx.example>']},
    # Dialled with something in front.
    "184": {"from": b"<sip:202@pbx.example>", "to": b"<sip:1840312345678@pbx.example>"},
    "outside-line": {"from": b"<sip:203@pbx.example>", "to": b"<sip:00312345678@pbx.example>"},
    "abroad": {"from": b"<sip:203@pbx.example>", "to": b"<sip:010-44-20-7946-0958@pbx.example>"},
    "police": {"from": b"<sip:203@pbx.example>", "to": b"<sip:110@pbx.example>"},
    # Display names.
    "utf-8": {"from": '"髙橋 花子" <sip:301@pbx.example>'.encode()},
    "cp932": {"from": '"髙橋 表ソ" <sip:302@pbx.example>'.encode("cp932")},
    "half-width": {"from": '"ﾀｶﾊｼ ｼｮｳｺ" <sip:303@pbx.example>'.encode("cp932")},
    "euc-jp": {"from": '"高橋 翔太" <sip:304@pbx.example>'.encode("euc_jp")},
    "iso-2022-jp": {"from": '"高橋 誠" <sip:305@pbx.example>'.encode("iso2022_jp")},
    "encoded-word": {"from": b'"=?ISO-2022-JP?B?GyRCOWI2NhsoQg==?=" <sip:306@pbx.example>'},
    "quoted-pair": {"from": b'"O\\"Brien \\\\ J\xc3\xb6rg" <sip:307@pbx.example>'},
}


def message(name: str, status: int = 0) -> bytes:
    call = CALLS[name]
    uri, to = call.get("uri", b"sip:100@pbx.example"), call.get("to", b"<sip:100@pbx.example>")
    first = b"SIP/2.0 %d X" % status if status else b"INVITE %b SIP/2.0" % uri
    lines = [first, b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK%b" % name.encode(), b"From: %b;tag=f" % call["from"],
             b"To: %b%b" % (to, b";tag=t" if status else b""), b"Call-ID: %b" % name.encode(), b"CSeq: 1 INVITE",
             *call.get("answer" if status else "more", []), b"Content-Length: 0"]
    return b"\r\n".join([*lines, b"", b""])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of all of them, each rung and refused."""
    folder = tmp_path_factory.mktemp("names")
    wire = Wire()
    for n, name in enumerate(CALLS):
        at = T0_US + 1_000_000 * n
        wire.udp(at, CARRIER, PBX, message(name))
        wire.udp(at + 50_000, PBX, CARRIER, message(name, 180))
        wire.udp(at + 500_000, PBX, CARRIER, message(name, 486))
    done = record(folder / "data", wire.write(folder / "a.pcap"), jobs=1, env=JAPAN)
    assert done.returncode == 0, done.stderr
    return folder / "data"


def listed(data: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """Calls by Call-ID, by the command in this process: it begins slowly."""
    done = CliRunner(env=JAPAN).invoke(main, ["--data", str(data), "calls", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return {call["legs"][0]["call_id"]: call for call in json.loads(done.stdout)}


def test_what_is_kept_of_each(data: Path) -> None:
    calls = listed(data)
    assert calls.keys() == CALLS.keys()
    callers = {name: call["caller"] for name, call in calls.items()}
    got = {name: (caller["number"], caller["name"], caller.get("withheld")) for name, caller in callers.items()}
    assert got == {
        "plain": ("0312345678", None, None), "e164": ("+81312345678", None, None), "tel": ("+81-3-1234-5678", None, None),
        "context": ("0312345678", None, None), "escaped": ("+81312345678", None, None),
        "two-asserted": ("+81312345678", "渡邉", None), "asked": ("+819087654321", "Anonymous", "by-caller"),
        "hidden": ("anonymous", "Anonymous", "by-caller"), "payphone": ("anonymous", "Coin line/payphone", "payphone"),
        "out-of-area": ("unavailable", "表示圏外", "unavailable"), "hitsuuchi": ("anonymous", "ﾋﾂｳﾁ", "by-caller"),
        "forwarded": ("0451112222", None, None), "picked-up": ("0451112222", None, None), "184": ("202", None, None),
        "outside-line": ("203", None, None), "abroad": ("203", None, None), "police": ("203", None, None),
        "utf-8": ("301", "髙橋 花子", None), "cp932": ("302", "髙橋 表ソ", None), "half-width": ("303", "ﾀｶﾊｼ ｼｮｳｺ", None),
        "euc-jp": ("304", "高橋 翔太", None), "iso-2022-jp": ("305", "高橋 誠", None), "encoded-word": ("306", "高橋", None),
        "quoted-pair": ("307", 'O"Brien \\ Jörg', None)}
    also = {name: [(entry["header"], entry["number"]) for side in ("caller", "callee") for entry in call[side].get("also", [])]
            for name, call in calls.items()}
    assert {name: entries for name, entries in also.items() if entries and ("request-uri", "100") not in entries} == {
        "two-asserted": [("p-asserted-identity", "main"), ("from", "0398765432")], "asked": [("from", "anonymous")],
        "forwarded": [("request-uri", "202"), ("diversion", "0522224444")]}
    assert also["picked-up"] == [("request-uri", "100"), ("p-asserted-identity", "205")]
    assert calls["forwarded"]["callee"]["also"][1] == {
        "header": "diversion", "number": "0522224444", "name": None, "uri": "sip:0522224444@carrier.example",
        "reason": "no-answer"}


TOKYO = {"plain", "e164", "tel", "context", "escaped", "two-asserted", "184", "outside-line"}
WITHHELD = {"asked", "hidden", "payphone", "out-of-area", "hitsuuchi"}
TAKAHASHI = {"utf-8", "cp932", "euc-jp", "iso-2022-jp", "encoded-word"}


@pytest.mark.parametrize(("arguments", "want"), [
    *((["--number", text], TOKYO) for text in (
        "03-1234-5678", "0312345678", "+81312345678", "tel:+81-3-1234-5678", "184-03-1234-5678", "０３－１２３４－５６７８",
        "12345678", "03-1234*")),
    (["--caller", "0312345678"], TOKYO - {"184", "outside-line"}), (["--callee", "0312345678"], {"184", "outside-line"}),
    (["--number", "anonymous"], WITHHELD), (["--caller", "非通知"], WITHHELD), (["--number", "公衆電話"], {"payphone"}),
    (["--number", "表示圏外"], {"out-of-area"}), (["--number", "090-8765-4321"], {"asked"}),
    (["--number", "0398765432"], {"two-asserted"}),
    (["--callee", "06-1111-3333"], {"forwarded"}), (["--callee", "202"], {"forwarded"}),
    (["--number", "052-222-4444"], {"forwarded"}),
    (["--callee", "205"], {"picked-up"}), (["--number", "+44 20 7946 0958"], {"abroad"}), (["--number", "110"], {"police"}),
    (["--name", "高橋"], TAKAHASHI), (["--name", "髙橋"], TAKAHASHI), (["--name", "たかはし"], {"half-width"}),
    (["--name", "タカハシ　ショーコ"], {"half-width"}), (["--name", "翔太 高橋"], {"euc-jp"}), (["--name", "表ソ"], {"cp932"}),
    (["--name", "渡辺"], {"two-asserted"}), (["--name", "jorg"], {"quoted-pair"}), (["--text", "suzuki"], {"picked-up"})])
def test_found(data: Path, arguments: list[str], want: set[str]) -> None:
    assert listed(data, *arguments).keys() == want


def test_the_index_made_again_finds_the_same(data: Path) -> None:
    before = {text: listed(data, "--number", text).keys() for text in ("anonymous", "0312345678", "202")}
    done = run(data, "reindex", env=JAPAN)
    assert done.returncode == 0, done.stderr
    assert {text: listed(data, "--number", text).keys() for text in before} == before


def test_from_the_shell(data: Path) -> None:
    done = run(data, "calls", "--csv", "--number", "anonymous", "--name", "ﾋﾂｳﾁ", env=JAPAN)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done.stderr


def test_shown(data: Path) -> None:
    """The number with the mark that its owner did not want it seen; whom a call was for before."""
    asked, forwarded = (run(data, "show", listed(data, "--number", number)[name]["id"], env=JAPAN).stdout
                        for name, number in (("asked", "09087654321"), ("forwarded", "0611113333")))
    assert "Anonymous <+819087654321>  (withheld: by-caller)  tel:+819087654321" in asked
    assert "from: Anonymous <anonymous>  sip:anonymous@anonymous.invalid" in asked
    assert "request-uri: 202  sip:202@pbx.example" in forwarded
    assert "diversion: 0522224444  sip:0522224444@carrier.example  no-answer" in forwarded


def test_an_empty_search_is_refused(data: Path) -> None:
    done = run(data, "calls", "--number", "-")
    assert (done.returncode, done.stdout) == (2, "")
    assert "not a number" in done.stderr
