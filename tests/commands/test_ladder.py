"""`rokuon show --ladder`: an arrow a message, between its endpoints, inside the terminal."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.store.sidecars import HOSTILE, NOON, SECOND, sidecar

from rokuon.cli import main
from rokuon.commands import ladder as module
from rokuon.commands.ladder import Glyphs, Line, drawing, ladder
from rokuon.store.sidecar import Sidecar, iso

Json = dict[str, Any]

PCAPS = Path(__file__).resolve().parent.parent.parent / "fixtures" / "pcaps"
RIGHT, LEFT, ROUND = re.compile("[─╌]+>"), re.compile("<[─╌]+(?!┘)"), re.compile("└[─╌]*>|<[─╌]*┘")
GLYPHS = Glyphs()
A, B = "10.0.0.1:5060", "10.0.0.2:5060"
LINES = ["SIP/2.0 486 話し中です", "SIP/2.0 180 呼び出し中", "BYE sip:a@b SIP/2.0"]
TEXT = st.text(max_size=60) | st.sampled_from([*HOSTILE[:-1], *LINES])


def cells(text: str) -> int:
    """Cells of a terminal, by Unicode's East Asian Width and combining marks."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def run(data: Path, *args: object) -> str:
    result = CliRunner().invoke(main, ["--data", str(data), *map(str, args)], env={"ROKUON_CONFIG": None})
    assert result.exit_code == 0, result.stderr
    return result.stdout


def call(messages: list[tuple[str, str, str]], **changes: Any) -> Sidecar:
    """A call of messages (source, destination, first line), a tenth of a second apart."""
    made = [{"time": iso(NOON + n * SECOND // 10), "src": src, "dst": dst, "transport": "udp", "call_id": "1",
             "cseq": f"{n} INVITE", "first_line": line} for n, (src, dst, line) in enumerate(messages)]
    return sidecar(1, messages=made, streams=[], events=[], **changes)


def drawn(made: Sidecar, width: int | None) -> list[str]:
    return [line.text(colours=False) for line in drawing(made, made["messages"], width, GLYPHS)]


def arrows(lines: list[str]) -> list[tuple[int, int]]:
    """The cells from which and to which each arrow goes; the same twice for one that comes back."""
    found = []
    for line in lines:
        if match := ROUND.search(line):
            found.append((cells(line[:match.start()]),) * 2)
        elif match := RIGHT.search(line):
            found.append((cells(line[:match.start()]) - 1, cells(line[:match.end()])))
        elif match := LEFT.search(line):
            found.append((cells(line[:match.end()]), cells(line[:match.start()]) - 1))
    return found


def rails(lines: list[str]) -> list[int]:
    (line,) = [line for line in lines if "┬" in line]
    return [n for n, character in enumerate(line) if character == "┬"]


@pytest.mark.parametrize("name", ["office-morning", "softphones-pcma-hold-dtmf", "softphones-pcma-tcp", "ipv6", "early-media",
                                  "mirror-duplicates"])
def test_an_arrow_a_message_between_its_endpoints(name: str, tmp_path: Path) -> None:
    run(tmp_path, "record", "--jobs", 1, "-r", PCAPS / f"{name}.pcap")
    for listed in json.loads(run(tmp_path, "calls", "--json")):
        told = json.loads(run(tmp_path, "show", listed["id"], "--json"))
        lines = run(tmp_path, "show", listed["id"], "--ladder").splitlines()
        assert lines[0].split() == [told["id"], told["state"]]
        messages = told["messages"]
        ends = list(dict.fromkeys(end for message in messages for end in (message["src"], message["dst"])))
        at = dict(zip(ends, rails(lines), strict=True))
        assert arrows(lines) == [(at[message["src"]], at[message["dst"]]) for message in messages]
        text = "\n".join(lines)
        assert text.count("(SDP)") == sum(message["sdp"] for message in messages) >= 1
        assert text.count("RTP of") == len(told["streams"])
        assert len(re.findall(" (?:dtmf|hold|resume) by ", text)) == len(told["events"])
        assert all(end in text for end in ends)


def test_it_is_drawn_so() -> None:
    made = call([(A, B, "INVITE sip:100@pbx SIP/2.0"), (B, A, "SIP/2.0 486 話し中")])
    made["caller"] = {"name": "田中", "number": "200", "uri": None, "address": "10.0.0.1"}
    made["callee"] = {"name": None, "number": "100", "uri": None, "address": "10.0.0.2"}
    made["messages"][0]["sdp"] = True
    assert [line[14:] for line in drawn(made, 60)] == [
        "       田中 200                  100",
        "     10.0.0.1:5060          10.0.0.2:5060",
        "───────────┬────────── ───────────┬──────────",
        "           │     INVITE (SDP)     │",
        "           │─────────────────────>│",
        "           │      486 話し中      │",
        "           │<─────────────────────│"]


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=12), st.integers(1, 130) | st.none())
def test_no_line_is_wider_than_the_terminal(messages: list[tuple[str, str, str]], width: int | None) -> None:
    made = call(messages)
    lines = drawn(made, width)
    assert len(lines) >= 2 * len(messages)
    for line in lines:
        assert width is None or cells_as_drawn(line) <= width
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in line)


def cells_as_drawn(line: str) -> int:
    from rich.cells import cell_len  # noqa: PLC0415 -- the measure of the tables

    return cell_len(line)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30), st.integers(26, 200) | st.none())
def test_any_number_of_endpoints(pairs: list[tuple[int, int]], width: int | None) -> None:
    made = call([(f"10.0.{a % 7}.{a}:50{a:02}", f"10.0.{b % 7}.{b}:50{b:02}", "INVITE sip:a@b SIP/2.0") for a, b in pairs])
    lines = drawn(made, width)
    found = arrows(lines)
    assert len(found) == len(pairs)
    assert len(rails(lines)) <= module.MOST_COLUMNS
    assert all(cells(line) <= (width or 10**6) for line in lines)
    room = module.MOST_COLUMNS if width is None else (width - (14 if width >= 40 else 0)) // module.NARROWEST
    ends = list(dict.fromkeys(end for pair in pairs for end in pair))
    if len(ends) <= room:
        at = dict(zip(ends, rails(lines), strict=True))
        assert [pair for pair in found if pair[0] != pair[1]] == [(at[a], at[b]) for a, b in pairs if a != b]
    else:
        assert all({start, end} <= set(rails(lines)) for start, end in found if start != end)


def test_one_address_is_one_column_where_ports_do_not_fit() -> None:
    made = call([(f"10.0.0.1:{port}", "10.0.0.2:5060", "INVITE sip:a@b SIP/2.0") for port in range(5000, 5012)])
    assert len(rails(drawn(made, 80))) == 2
    assert len(rails(drawn(made, 200))) == 13


def test_what_comes_again_is_dashed() -> None:
    made = call([(A, B, "INVITE sip:a@b SIP/2.0")] * 2)
    made["messages"][1]["cseq"] = made["messages"][0]["cseq"]
    first, again = [line for line in drawn(made, 80) if ">" in line]
    assert ("╌" in first, "╌" in again) == (False, True)


def test_a_call_without_signalling() -> None:
    lines = list(ladder(call([])))
    assert lines[1:] == ["no SIP message of it was seen"]


@pytest.mark.parametrize("damage", [
    {"messages": [{"src": 1}]}, {"messages": "x"}, {"events": [{}]}, {"streams": [None]}, {"caller": "x", "callee": None},
    {"state": "\x1b[2J"}, {"anomalies": 3}])
def test_a_sidecar_that_is_not_of_its_shape(damage: Json) -> None:
    lines = list(ladder(call([(A, B, "INVITE sip:a@b SIP/2.0")]) | damage))
    assert not any("\x1b" in line for line in lines)
    assert len(arrows(lines)) == ("messages" not in damage)


def test_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = call([(A, B, "INVITE sip:a@b SIP/2.0"), (B, A, "SIP/2.0 503 \x1b[31mx")])
    plain = list(ladder(made))
    assert not any("\x1b" in line for line in plain)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    painted = list(ladder(made))
    assert any("\x1b[31m" in line for line in painted)
    for line in painted:
        bare = re.sub("\x1b\\[[0-9]+m", "", line)
        assert "\x1b" not in bare
        assert cells(bare) <= 80
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any("\x1b" in line for line in ladder(made))


def test_lines_for_terminals_that_have_none() -> None:
    assert module.glyphs_of("utf-8") == Glyphs()
    for encoding in ("ascii", "iso8859-1", "no-such", None):
        assert "".join(module.glyphs_of(encoding)).isascii()


@given(st.lists(st.tuples(st.integers(-3, 12), st.sampled_from(["a", "田", "é", "e\u0301", "田中x"])), max_size=8))
def test_wide_characters_are_whole(puts: list[tuple[int, str]]) -> None:
    line = Line(module.Columns([], {}, 0, 1, 10), GLYPHS)
    for at, text in puts:
        line.put(at, text)
    assert sum(map(cells, line.cells)) == 10


def test_json_and_ladder_are_two_things(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(tmp_path), "show", "last", "--json", "--ladder"])
    assert result.exit_code == 2
