"""Tables stay aligned and inside the terminal."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from rokuon.commands.common import clean
from rokuon.commands.table import Column, table_lines

COLUMNS = [Column("START", keep=8), Column("CALLER", least=8), Column("CALLEE", least=8), Column("STATE", keep=5, colour=True),
           Column("MOS", keep=3, right=True), Column("CALL")]
ROWS = [["2026-11-24 10:30:12", "田中 太郎 0312345678", "ﾔﾏﾀﾞ", "answered", "4.41", "k7q2m5x4"],
        ["2026-11-24 10:30:13", "Alice", "株式会社　録音 100", "busy", None, "z7q2m5x4"],
        ["2026-11-24 10:30:14", "\x1b[31mred\x1b[0m\r\n", "[bold]x[/bold]", "no-answer", "1.00", "a7q2m5x4"]]
PLAIN = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.sampled_from("田中太郎ヤマダＡ１　"), max_size=40)


def cells(text: str) -> int:
    """Cells of a terminal, by Unicode's East Asian Width."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def test_columns_are_aligned() -> None:
    lines = table_lines(COLUMNS, ROWS, None)
    at = [cells(line[:line.index(word)]) for line, word in zip(lines, ["CALL", "k7q2", "z7q2", "a7q2"], strict=True)
          if word != "CALL"]
    assert len(set(at)) == 1
    assert cells(lines[0][:lines[0].rindex("CALL")]) == at[0]
    assert all(row[0] in line and row[3] in line for row, line in zip(ROWS, lines[1:], strict=True))  # type: ignore[operator]


@given(st.lists(st.lists(PLAIN, min_size=6, max_size=6), max_size=8), st.integers(20, 120))
def test_no_line_is_wider_than_the_terminal(rows: list[list[str]], width: int) -> None:
    for line in table_lines(COLUMNS, rows, width):
        assert cells(line) <= width


def test_less_important_columns_go_first() -> None:
    titles = [table_lines(COLUMNS, ROWS, width)[0].split() for width in (120, 70, 60, 30)]
    assert titles[0] == ["START", "CALLER", "CALLEE", "STATE", "MOS", "CALL"]
    assert "MOS" not in titles[2]
    assert titles[3] == ["CALLER", "CALLEE", "CALL"]
    assert all("CALL" in title for title in titles)


@given(st.text())
@example("\u3040\u3098\uffc8\uffef")  # not assigned, amid blocks that most text is made of
def test_nothing_reaches_the_terminal_that_it_obeys(text: str) -> None:
    shown = clean(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for c in shown)
    assert len(shown) == len(text)
    assert clean("田中 [red]é") == "田中 [red]é"


def test_colours_do_not_move_columns() -> None:
    plain = table_lines(COLUMNS, ROWS, 100)
    coloured = table_lines(COLUMNS, ROWS, 100, colours=True)
    assert "\x1b[32m" in coloured[1]
    assert [re.sub("\x1b\\[[0-9]+m", "", line) for line in coloured] == plain
