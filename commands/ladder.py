"""`rokuon show --ladder`: who sent what to whom, drawn as sngrep draws it.

    10:30:12.345             │     INVITE (SDP)      │
                             │──────────────────────>│

A column is an endpoint, two lines are a message. Where they do not all fit, endpoints of one address share a column, and
what does not fit then shares the last.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

import click
from rich.cells import cell_len, set_cell_size

from rokuon.commands.common import clean, coloured
from rokuon.commands.show import clock, detail
from rokuon.commands.table import COLOURS, terminal_width
from rokuon.store.sidecar import nanoseconds, problems

__all__ = ["ladder"]

WIDEST, NARROWEST = 30, 11
"""Cells of a column, if there is room; less than that shows nothing of "180 Ringing"."""
LEAST = 4
"""Cells of a method or status that are left where it is marked."""
MOST_COLUMNS = 16
MOST_EVENTS = 200
TIME = 14
"""Cells of "10:30:12.345  "."""
NO_TIME_BELOW = 40
"""Cells of a line: without times, narrower ones still have room for arrows."""
ANSWERS = {"1": "yellow", "2": "green", "3": "cyan", "4": "red", "5": "red", "6": "red"}


class Glyphs(NamedTuple):
    rail: str = "│"
    line: str = "─"
    again: str = "╌"
    cross: str = "┬"
    corners: str = "┌└┐┘"
    mark: str = "·"
    cut: str = "…"


PLAIN = Glyphs("|", "-", ".", "+", "++++", "*", "~")
"""For terminals that have no lines."""


class Columns(NamedTuple):
    """Where things are."""

    titles: list[str]
    places: dict[str, int]
    """Endpoint of a message → its column."""
    left: int
    gap: int
    width: int

    def rail(self, column: int) -> int:
        return self.left + self.gap * column + self.gap // 2


class Line:
    """A line of the drawing, cell by cell: nothing is put beyond its width, no wide character half."""

    def __init__(self, columns: Columns, glyphs: Glyphs) -> None:
        self.cells = [" "] * columns.width
        self.styles = [""] * columns.width
        self.cut = glyphs.cut
        for column in range(len(columns.titles)):
            self.put(columns.rail(column), glyphs.rail, "dim")

    def put(self, at: int, text: str, style: str = "") -> None:
        """Text from a cell on, over what is there."""
        for character in text:
            wide = cell_len(character)
            if not wide and 0 < at <= len(self.cells):
                self.cells[at - 1] += character
            elif wide and at >= 0 and at + wide <= len(self.cells):
                if self.cells[at] == "" and at:
                    self.cells[at - 1] = " "
                self.cells[at:at + wide] = [character, *[""] * (wide - 1)]
                self.styles[at:at + wide] = [style] * wide
                if at + wide < len(self.cells) and self.cells[at + wide] == "":
                    self.cells[at + wide] = " "
            at += wide

    def centre(self, start: int, end: int, text: str, style: str = "") -> None:
        """Text in the middle of the cells from `start` to before `end`, cut where it does not fit."""
        text = cut(text, end - start, self.cut)
        self.put(start + (end - start - cell_len(text)) // 2, text, style)

    def text(self, colours: bool) -> str:
        if not colours:
            return "".join(self.cells).rstrip()
        parts = []
        for style, pairs in groupby(zip(self.styles, self.cells, strict=True), key=lambda pair: pair[0]):
            part = "".join(cell for _, cell in pairs)
            parts.append(click.style(part, **({style: True} if style in ("dim", "bold") else {"fg": style})) if style else part)
        return "".join(parts).rstrip()


def ladder(call: dict[str, Any]) -> Iterator[str]:
    """The lines for standard output. `call`: its sidecar; what is not of its shape is left out."""
    wrong = problems(call)
    call = {key: value for key, value in call.items() if key not in wrong or key in ("id", "state")}
    width, colours, glyphs = terminal_width(), coloured(sys.stdout), glyphs_of(sys.stdout.encoding)
    state = str(call.get("state"))
    first = f"{clean(call.get('id'))}  {clean(state)}"
    if width:
        first = cut(first, width, glyphs.cut)
    yield first.replace(state, click.style(state, fg=COLOURS.get(state))) if colours and state in COLOURS else first
    messages = call.get("messages") or []
    if not messages:
        yield "no SIP message of it was seen"
        return
    yield ""
    for line in drawing(call, messages, width, glyphs):
        yield line.text(colours)
    missed = (call.get("anomalies") or {}).get("messages-dropped")
    if missed:
        yield cut(f"… and {missed} more that were not kept", width or 200, glyphs.cut)


def glyphs_of(encoding: str | None) -> Glyphs:
    try:
        "".join(Glyphs()).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return Glyphs()


def drawing(call: dict[str, Any], messages: list[dict[str, Any]], width: int | None, glyphs: Glyphs) -> Iterator[Line]:
    """Titles, then messages and what happened between them, by time."""
    columns = arrange(messages, width)
    yield from head(call, columns, glyphs)
    entries = [(nanoseconds(m["time"]), m, "") for m in messages]
    between = sorted(happened(call), key=lambda entry: entry[0])
    entries += between[:MOST_EVENTS]
    entries.sort(key=lambda entry: (entry[0], bool(entry[2])))
    before: int | None = None
    seen: set[tuple[str, ...]] = set()
    for time_ns, entry, what in entries:
        if what:
            yield remark(columns, glyphs, clock(entry), what)
            continue
        key = tuple(str(entry.get(name)) for name in ("src", "dst", "call_id", "cseq", "first_line"))
        since = "" if before is None else f"{(time_ns - before) / 1e9:+.3f}"
        yield from arrow(columns, glyphs, entry, since, again=key in seen)
        seen.add(key)
        before = time_ns
    if len(between) > MOST_EVENTS:
        yield remark(columns, glyphs, "", f"and {len(between) - MOST_EVENTS} more events: --json")


def happened(call: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any], str]]:
    """What is not signalling: time, the entry, and words for it."""
    for event in call.get("events") or []:
        by = f" by {event['side']}" if event.get("side") else ""
        yield nanoseconds(event["time"]), event, " ".join(filter(None, [f"{event.get('type')}{by}", detail(event)]))
    for stream in call.get("streams") or []:
        yield (nanoseconds(stream["first"]), {"time": stream["first"]},
               f"RTP of {stream.get('direction')}: {stream.get('codec') or '?'}, {stream.get('packets')} packets")


def arrange(messages: list[dict[str, Any]], width: int | None) -> Columns:
    """Columns for the endpoints in the order in which they appear, so that they fit."""
    left = TIME if width is None or width >= NO_TIME_BELOW else 0
    most = MOST_COLUMNS if width is None else max(1, min(MOST_COLUMNS, (width - left) // NARROWEST))
    names = list(dict.fromkeys(str(m[end]) for m in messages for end in ("src", "dst")))
    titles = {name: name for name in names}
    if len(names) > most:
        titles = {name: address(name) for name in names}
    shown = list(dict.fromkeys(titles.values()))
    if len(shown) > most:
        more = f"{len(shown) - most + 1} others"
        titles = {name: title if shown.index(title) < most - 1 else more for name, title in titles.items()}
        shown = [*shown[:most - 1], more]
    wanted = max(WIDEST, *(cell_len(clean(title)[:60]) + 2 for title in shown)) if len(shown) > 1 else 60
    gap = wanted if width is None else min(wanted, (width - left) // len(shown))
    return Columns([clean(title) for title in shown], {name: shown.index(title) for name, title in titles.items()},
                   left, max(gap, 1), left + gap * len(shown) if width is None else width)


def address(endpoint: str) -> str:
    """An endpoint without its port: "10.0.0.1", "2001:db8::1"."""
    return endpoint.rpartition(":")[0].strip("[]") or endpoint


def head(call: dict[str, Any], columns: Columns, glyphs: Glyphs) -> Iterator[Line]:
    """Who is where, if it is known; endpoints; the beginning of their lines."""
    people = {}
    for side in ("callee", "caller"):
        party = call.get(side) or {}
        people[str(party.get("address"))] = " ".join(str(party[key]) for key in ("name", "number") if party.get(key)) or side
    whose = [next((people[address(name)] for name, place in columns.places.items()
                   if place == column and address(name) in people), "") for column in range(len(columns.titles))]
    long = any(cell_len(title) > columns.gap - 1 for title in columns.titles)
    rows = [whose] if any(whose) else []
    rows += [[address(t) for t in columns.titles], [t[len(t.rpartition(":")[0]):] if ":" in t else "" for t in columns.titles]] \
        if long and all(":" in t and t != address(t) for t in columns.titles) else [columns.titles]
    for row in rows:
        line = Line(columns, glyphs)
        line.cells = [" "] * columns.width
        for column, title in enumerate(row):
            text = cut(clean(title), columns.gap - 1, glyphs.cut)
            line.put(columns.rail(column) - cell_len(text) // 2, text, "bold")
        yield line
    line = Line(columns, glyphs)
    for column in range(len(columns.titles)):
        start = columns.left + columns.gap * column
        line.put(start, glyphs.line * (columns.gap - 1), "dim")
        line.put(columns.rail(column), glyphs.cross, "dim")
    yield line


def remark(columns: Columns, glyphs: Glyphs, time: str, text: str) -> Line:
    """What is no message, between the endpoints' lines; over all but the first where it is too long for that."""
    line = Line(columns, glyphs)
    if columns.left:
        line.put(0, time[:TIME - 2])
    first, last = columns.rail(0), columns.rail(len(columns.titles) - 1)
    text = f"{glyphs.mark} {clean(text)} {glyphs.mark}"
    if cell_len(text) >= last - first:
        text = cut(text[:-2], columns.width - first - 1, glyphs.cut)
        last = first + 1 + cell_len(text)
    line.centre(first + 1, last, text, "cyan")
    return line


def arrow(columns: Columns, glyphs: Glyphs, message: dict[str, Any], since: str, again: bool) -> Iterator[Line]:
    """The two lines of a message: what it is, and from where to where."""
    said, drawn = Line(columns, glyphs), Line(columns, glyphs)
    if columns.left:
        said.put(0, clock(message)[:TIME - 2])
        drawn.put(0, since[:TIME - 2].rjust(TIME - 2), "dim")
    what, style = label(message)
    mark = " (SDP)" if message.get("sdp") else ""
    dash = glyphs.again if again else glyphs.line
    source, target = columns.places[str(message["src"])], columns.places[str(message["dst"])]
    if source == target:
        itself(columns, glyphs, source, (said, drawn), what + mark, style, dash)
    else:
        start, end = sorted((columns.rail(source), columns.rail(target)))
        what = cut(what, max(end - start - 1 - len(mark), LEAST), glyphs.cut) + mark
        said.centre(start + 1, end, what, style)
        dashes = dash * (end - start - 2)
        drawn.put(start + 1, f"{dashes}>" if source < target else f"<{dashes}", style)
    yield said
    yield drawn


def itself(columns: Columns, glyphs: Glyphs, column: int, lines: tuple[Line, Line], what: str, style: str, dash: str) -> None:
    """A message from an endpoint, or from a column of several, to itself; towards the middle."""
    said, drawn = lines
    rail = columns.rail(column)
    reach = (columns.gap if len(columns.titles) > 1 else columns.gap // 2) - 2
    if column and column == len(columns.titles) - 1:
        said.put(rail - reach, glyphs.corners[0], style)
        said.centre(rail - reach + 1, rail, what, style)
        drawn.put(rail - reach, f"{glyphs.corners[1]}{dash * (reach - 2)}>", style)
    else:
        said.put(rail + reach, glyphs.corners[2], style)
        said.centre(rail + 1, rail + reach, what, style)
        drawn.put(rail + 1, f"<{dash * (reach - 2)}{glyphs.corners[3]}", style)


def label(message: dict[str, Any]) -> tuple[str, str]:
    """Method, or status and reason; and its colour."""
    line = clean(message.get("first_line"))
    if line.upper().startswith("SIP/2.0 "):
        answer = line[8:].strip() or "?"
        return answer, ANSWERS.get(answer[0], "")
    return line.split(" ")[0] or "?", "bold"


def cut(text: str, room: int, sign: str) -> str:
    """The text, or as much of it as fits into so many cells."""
    if cell_len(text) <= room:
        return text
    return set_cell_size(text, room - 1) + sign if room > 0 else ""
