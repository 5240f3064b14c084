"""The lines of `rokuon live`, for a terminal of any size, and the terminal itself."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

import click
from rich.cells import cell_len, set_cell_size

from rokuon.appliance.live_view import CallLine, CaptureLine, Sides, View
from rokuon.commands.common import clean, is_terminal
from rokuon.commands.show import size
from rokuon.commands.table import COLOURS, GAP, line

__all__ = ["Screen", "lines"]

PARTY_LEAST, PARTY_MOST = 10, 40
CAPTURES = 4
"""Lines for captures where the screen has an end."""
SINGLE = "   "
"""Between what stands on one line of the head."""


# -- lines ---------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Place:
    """A column of calls. Its width is fixed, so that nothing moves when a value gets longer."""

    title: str
    width: int
    keep: int
    """Where the terminal is too narrow, columns go in the order of this, lowest first."""
    cell: Callable[[CallLine], str]
    right: bool = False
    colour: bool = False


def clock(call: CallLine) -> str:
    try:
        return f"{call.start.astimezone():%H:%M:%S}" if call.start else ""
    except (OverflowError, ValueError):  # no local time has that year
        return ""


def lasting(call: CallLine) -> str:
    """m:ss, from an hour on 1h02m."""
    if call.lasts_s is None:
        return ""
    minutes, seconds = divmod(int(call.lasts_s), 60)
    if minutes < 60:
        return f"{minutes}:{seconds:02}"
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes < 6000 else f"{minutes // 60}h"


def count(value: float) -> str:
    """Five characters at most."""
    for limit, divisor, unit in ((1e5, 1, ""), (1e7, 1e3, "k"), (1e10, 1e6, "M"), (1e13, 1e9, "G")):
        if value < limit:
            return f"{int(value / divisor)}{unit}"
    return "many"


def figure(value: float) -> str:
    """Three characters at most."""
    return f"{value:.1f}" if value < 9.95 else f"{min(value, 999):.0f}"


def both(sides: Sides, form: Callable[[float], str]) -> str:
    """From the caller and from the callee."""
    return "-" if sides == (None, None) else "/".join("-" if value is None else form(value) for value in sides)


CALLER = Place("CALLER", 0, 9, lambda call: call.caller)
CALLEE = Place("CALLEE", 0, 9, lambda call: call.callee)
PLACES = (Place("START", 8, 1, clock), Place("TIME", 6, 7, lasting, right=True), CALLER, CALLEE,
          Place("STATE", 8, 6, lambda call: call.state, colour=True), Place("CODEC", 5, 2, lambda call: call.codec),
          Place("PACKETS", 11, 5, lambda call: both(call.packets, count), right=True),
          Place("LOST %", 7, 4, lambda call: both(call.lost_percent, figure), right=True),
          Place("JITTER", 7, 3, lambda call: both(call.jitter_ms, figure), right=True))


def lines(view: View, now: datetime, width: int | None = None, height: int | None = None, colours: bool = False,
          hints: Sequence[str] = ()) -> list[str]:
    """The screen: at most `height` lines of at most `width` cells, without colours free of control characters; None: as it comes.

    now: of the clock. hints: what else there is to say, at the end of the head.
    """
    head = list(head_lines(view, now, width, height))
    most = None if height is None else max(2, height // 3)
    told = [(text, "red") for text in wrapped(view.warnings, width, "! ", most)]
    left = None if most is None else max(0, most - len(told))
    told += [(text, "") for text in wrapped([*view.notices, *hints], width, "- ", left)]
    above = [click.style(text, bold=True) if colours and not n else text for n, text in enumerate(head)]
    above += [click.style(text, fg=colour) if colours and colour else text for text, colour in told]
    above.append("")
    shown, fit = [], len(view.calls)
    if height is not None:
        room = height - len(above) - 1
        fit = min(fit, room if view.in_progress <= room else room - 1)
    if fit > 0:
        shown = table(view.calls[:fit], width, colours)
    if more := view.in_progress - max(fit, 0):
        shown.append(fitted(f"and {more:,} more", width))
    elif not shown:
        shown.append(fitted("no call in progress", width))
    return [*above, *shown][:height]


def head_lines(view: View, now: datetime, width: int | None, height: int | None) -> Iterator[str]:
    calls = "1 call" if view.in_progress == 1 else f"{view.in_progress:,} calls"
    facts = [f"rokuon live {now.astimezone():%H:%M:%S}", f"{calls} in progress"]
    if view.waiting is not None:
        facts.append(f"{view.waiting:,.0f} to be written")
    if view.behind_s is not None:
        facts.append(f"{view.behind_s:,.1f} s behind")
    captures = [c for c in view.captures if c.process != "stopped"]
    if view.spool_bytes and not captures:
        facts.append(f"spool {size(view.spool_bytes)}")
    yield from packed(facts, width)
    most = len(captures) if height is None or len(captures) <= CAPTURES else CAPTURES - 1
    for capture in captures[:most]:
        yield from packed(capture_facts(capture), width)
    if rest := captures[most:]:
        rate = sum(c.packets_s or 0 for c in rest)
        lost = sum(c.dropped or 0 for c in rest)
        yield from packed([f"and {len(rest)} more captures", f"{rate:,.0f} packets/s", f"{lost:,.0f} dropped"], width)
    facts = []
    if view.recorded is not None:
        facts += [f"{view.recorded:,.0f} recorded", f"{view.not_recorded or 0:,.0f} not recorded"]
    if view.disk_free is not None:
        facts.append(f"disk {size(view.disk_free)} free")
    if view.days_left is not None:
        facts.append(f"{view.days_left:,.0f} days left" if view.days_left >= 10 else f"{view.days_left:.1f} days left")
    yield from packed(facts, width)


def capture_facts(capture: CaptureLine) -> list[str]:
    links = [f"{name} {'?' if up is None else 'up' if up else 'DOWN'}" for name, up in capture.interfaces] or [capture.name]
    if capture.process == "stale":
        return [*links, "no word"]
    facts = []
    if capture.packets_s is not None:
        facts.append(f"{capture.packets_s:,.0f} packets/s")
    if capture.bytes_s is not None:
        facts.append(f"{capture.bytes_s * 8 / 1e6:,.1f} Mbit/s")
    if capture.dropped is not None:
        facts.append(f"{capture.dropped:,.0f} dropped" + (f" ({capture.dropped_s:,.0f}/s)" if capture.dropped_s else ""))
    if capture.spool_bytes is not None:
        facts.append(f"spool {size(capture.spool_bytes)}")
    if capture.not_written:
        facts.append(f"{capture.not_written:,.0f} not written")
    return [*links, *facts]


def fitted(text: str, width: int | None) -> str:
    """One line of text, cut where it is too long."""
    harmless = clean(text)
    return harmless if width is None or cell_len(harmless) <= width else set_cell_size(harmless, max(0, width - 1)).rstrip() + "…"


def packed(facts: Sequence[str], width: int | None) -> Iterator[str]:
    """Facts on as few lines as hold them."""
    now = ""
    for fact in facts:
        longer = f"{now}{SINGLE}{fact}" if now else fact
        if now and width is not None and cell_len(clean(longer)) > width:
            yield fitted(now, width)
            longer = fact
        now = longer
    if now:
        yield fitted(now, width)


def wrapped(texts: Sequence[str], width: int | None, mark: str, most: int | None) -> list[str]:
    """Texts broken into lines between words; at most so many lines."""
    result: list[str] = []
    for text in texts:
        now = mark
        empty = True
        for word in clean(text).split(" "):
            if not empty and width is not None and cell_len(now) + 1 + cell_len(word) > width:
                result.append(fitted(now, width))
                now, empty = " " * len(mark), True
            now, empty = now + word if empty else f"{now} {word}", False
        result.append(fitted(now, width))
    return result if most is None else result[:most]


def table(calls: Sequence[CallLine], width: int | None, colours: bool) -> list[str]:
    """A line of titles and a line a call."""
    rows = [[clean(place.cell(call)) for place in PLACES] for call in calls]
    shown = list(range(len(PLACES)))
    widths = [place.width for place in PLACES]
    if width is None:
        widths = [max([place.width, len(place.title), *(cell_len(row[n]) for row in rows)]) for n, place in enumerate(PLACES)]
    else:
        while (left := room_for_parties(shown, width)) < 2 * PARTY_LEAST and len(shown) > 2:
            shown.remove(min(shown, key=lambda n: PLACES[n].keep))
        if left < 2:
            shown, left = shown[:1], 2 * width
        widths[PLACES.index(CALLER)] = min(left // 2, PARTY_MOST)
        widths[PLACES.index(CALLEE)] = min(left - left // 2, PARTY_MOST)
    titles = line([(PLACES[n].title, widths[n], PLACES[n].right, "") for n in shown])
    return [click.style(titles, bold=True) if colours else titles,
            *(line([(row[n], widths[n], PLACES[n].right, COLOURS.get(row[n], "") if colours and PLACES[n].colour else "")
                    for n in shown]) for row in rows)]


def room_for_parties(shown: Sequence[int], width: int) -> int:
    return width - sum(PLACES[n].width for n in shown) - len(GAP) * (len(shown) - 1)


# -- the terminal ----------------------------------------------------------------
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
"""The other screen, no cursor, no wrapping at the right edge; and back (xterm's control sequences)."""
ENDING = {signal.SIGINT: 0, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""Signals that end it, and the exit status then: Ctrl-C is how one ends it."""


class Screen:
    """A terminal that shows lines in place. Only what changed is sent, in one piece."""

    def __init__(self) -> None:
        self._out = sys.stdout
        self._keys: int | None = sys.stdin.fileno() if sys.stdin and is_terminal(sys.stdin) else None
        self._before: list[Any] | None = None
        self._shown: list[str] = []
        self._size = (0, 0)
        self._came: list[int] = []
        self._wake = -1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height; 80 × 24 where the terminal does not say."""
        try:
            width, height = os.get_terminal_size(self._out.fileno())
        except OSError:
            width = height = 0
        return width or 80, height or 24

    @contextmanager
    def open(self) -> Iterator[None]:
        """Takes the terminal, and gives it back whatever happens."""
        wake, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = wake
        watched = (*ENDING, signal.SIGWINCH, signal.SIGTSTP)
        handlers = {number: signal.signal(number, self._note) for number in watched}
        waker = signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        try:
            self._take()
            yield
        finally:
            self._give_back()
            signal.set_wakeup_fd(waker)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(wake)
            os.close(wakes)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._came.append(number)

    def _take(self) -> None:
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            tty.setcbreak(self._keys)  # keys come one by one, unseen
        self._shown, self._size = [], (0, 0)
        self._send(ENTER)

    def _give_back(self) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._send(LEAVE)
        if self._keys is not None and self._before is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    def _send(self, text: str) -> None:
        self._out.flush()
        octets = memoryview(text.encode(self._out.encoding or "utf-8", "replace"))
        while octets:
            octets = octets[os.write(self._out.fileno(), octets):]

    def draw(self, new: Sequence[str], at_size: tuple[int, int]) -> None:
        """Show the lines, which fit the size."""
        sent = []
        if at_size != self._size:
            sent.append("\x1b[2J")
            self._shown, self._size = [], at_size
        width, height = at_size
        new = new[:height]
        for row in range(max(len(new), len(self._shown))):
            text = new[row] if row < len(new) else ""
            if row < len(self._shown) and self._shown[row] == text:
                continue
            # in the last column the cursor stays on the last character, which must not be erased
            rest = "\x1b[K" if cell_len(click.unstyle(text)) < width else ""
            sent.append(f"\x1b[{row + 1};1H{text}{rest}")
        self._shown = list(new)
        if sent:
            self._send("".join(sent))

    def wait(self, seconds: float) -> int | None:
        """Until so many seconds are over, the window has another size, or somebody ends it: the exit status then, else None."""
        from_whom = [self._wake] if self._keys is None else [self._wake, self._keys]
        ready, _, _ = select.select(from_whom, [], [], max(0.0, seconds))
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 4096)
        came, self._came = self._came, []
        for number in came:
            if number in ENDING:
                return ENDING[signal.Signals(number)]
        if signal.SIGTSTP in came:
            self._stop()
        if self._keys is not None and self._keys in ready:
            try:
                typed = os.read(self._keys, 64)
            except OSError:
                typed = b""
            if not typed:
                self._keys = None
            elif typed[:1] in b"qQ\x03\x04":
                return 0
        return None

    def _stop(self) -> None:
        """Ctrl-Z: the shell has the terminal until it says `fg`."""
        self._give_back()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._take()
