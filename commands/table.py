"""Tables that stay aligned: with full-width names, on narrow terminals, in pipes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click
from rich.cells import cell_len, set_cell_size

from rokuon.commands.common import clean, coloured, is_terminal

__all__ = ["Column", "print_table", "table_lines", "terminal_width"]

GAP = "  "
COLOURS = {"answered": "green", "cancelled": "yellow", "busy": "yellow", "no-answer": "yellow", "failed": "red",
           "rtp-only": "cyan", "in-progress": "blue", "excluded": "bright_black"}


@dataclass(slots=True, frozen=True)
class Column:
    """A column of a table."""

    title: str
    keep: int = 9
    """Where the terminal is too narrow, columns go in the order of this, lowest first; 9 stays."""
    least: int = 0
    """Cells that it may be cut down to before columns go; 0: never cut."""
    right: bool = False
    colour: bool = False


def terminal_width() -> int | None:
    """Cells of a line on standard output; None where it is no terminal and lines are as long as they are."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on standard output, as wide as the terminal allows."""
    for line in table_lines(columns, rows, terminal_width(), coloured(sys.stdout)):
        click.echo(line)


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[object]], width: int | None,
                colours: bool = False) -> list[str]:
    """The lines of a table, none wider than `width` cells. Text is made harmless; None is empty."""
    cells = [["" if value is None else clean(value) for value in row] for row in rows]
    widths = [max([cell_len(c.title), *(cell_len(row[n]) for row in cells)]) for n, c in enumerate(columns)]
    shown = list(range(len(columns)))
    if width is not None:
        shown = fit(columns, widths, width)
    lines = [line([(columns[n].title, widths[n], columns[n].right, "") for n in shown])]
    if colours:
        lines = [click.style(text, bold=True) for text in lines]
    for row in cells:
        lines.append(line([(row[n], widths[n], columns[n].right, COLOURS.get(row[n], "") if colours and columns[n].colour else "")
                           for n in shown]))
    return lines


def fit(columns: Sequence[Column], widths: list[int], width: int) -> list[int]:
    """Which columns fit; `widths` are cut down where that helps: first the long ones, then columns go."""
    shown = list(range(len(columns)))

    def excess() -> int:
        return sum(widths[n] for n in shown) + len(GAP) * (len(shown) - 1) - width

    natural = list(widths)
    while True:
        widths[:] = natural
        flexible = [n for n in shown if columns[n].least]
        while excess() > 0 and (longest := max(flexible, key=lambda n: widths[n] - columns[n].least, default=None)) is not None:
            spare = widths[longest] - columns[longest].least
            if spare <= 0:
                break
            widths[longest] -= 1 if len(flexible) > 1 else min(spare, excess())
        going = min((n for n in shown if columns[n].keep < 9), key=lambda n: columns[n].keep, default=None)
        if excess() <= 0 or going is None:
            break
        shown.remove(going)
    while excess() > 0 and (last := next((n for n in reversed(shown) if widths[n] > 1), None)) is not None:
        widths[last] -= min(excess(), widths[last] - 1)
    return shown


def line(cells: list[tuple[str, int, bool, str]]) -> str:
    parts = []
    for text, width, right, colour in cells:
        length = cell_len(text)
        if length > width:
            text, length = set_cell_size(text, width - 1) + "…", width  # noqa: PLW2901
        padding = " " * (width - length)
        styled = click.style(text, fg=colour) if colour else text
        parts.append(padding + styled if right else styled + padding)
    return GAP.join(parts).rstrip()
