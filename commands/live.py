"""`rokuon live`: calls in progress, in place."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import math
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rokuon.commands.common import Context, coloured, complain, example, is_terminal, stdout_bytes

if TYPE_CHECKING:
    from rokuon.appliance.live_view import View
    from rokuon.store.layout import Layout

__all__ = ["live"]

EACH_S, WATCHED_S, DUMB_S, MEASURING_S = 1.0, 2.0, 5.0, 3.0
"""Seconds: between two looks, between two words that somebody watches, between two prints on a terminal that can do nothing else,
and until loss and jitter are there."""
BLIND = "loss and jitter are worked out for those who may write to state/watched in the data directory, such as root"
PLAIN_TERMINALS = {"", "dumb", "unknown"}


@click.command(epilog=example("rokuon live", "rokuon live --once", "rokuon live --jsonl | jq .correlate.calls_in_progress"))
@click.option("--once", is_flag=True, help="Print it once. So it is where the output is no terminal.")
@click.option("--json", "form", flag_value="json", help="What the processes say of themselves, once, as one object.")
@click.option("--jsonl", "form", flag_value="jsonl", help="The same each second, an object a line, until Ctrl-C.")
@click.pass_obj
def live(context: Context, /, once: bool, form: str | None) -> int:
    """Show calls in progress and how recording goes, until q or Ctrl-C.

    TIME is since the answer, or since the start where there was none. PACKETS, LOST % and JITTER (ms) are those from the caller
    and those from the callee.
    """
    layout = context.layout
    readable(layout)
    watch = Watch(layout.state)
    try:
        if form:
            return write_json(layout, watch, each_second=form == "jsonl")
        now = look(layout)
        if not now.running:
            complain(idle(context, now))
            return 1
        if once or not is_terminal(sys.stdout):
            return print_once(layout, watch)
        if os.environ.get("TERM", "") in PLAIN_TERMINALS:
            return print_again(layout, watch)
    except KeyboardInterrupt:
        return 0
    return in_place(layout, watch)


def readable(layout: Layout) -> None:
    """Raises NotPermittedError where the state may not be read, which would look as if nothing ran."""
    from rokuon.store.errors import NotPermittedError

    if layout.state.exists() and not os.access(layout.state, os.R_OK | os.X_OK):
        raise NotPermittedError(f"cannot read {layout.state}: permission denied")


def look(layout: Layout) -> View:
    from rokuon.appliance.live_view import view
    from rokuon.appliance.state import captures, correlation

    return view(captures(layout), correlation(layout))


def idle(context: Context, now: View) -> str:
    """What to say where nothing runs."""
    if now.warnings:
        return now.warnings[0]
    return (f"nothing records into {context.layout.root}: start rokuon{context.options} record -i IFACE, or "
            "systemctl start rokuon-capture@IFACE.service rokuon.service")


class Watch:
    """Says that somebody watches: only then loss and jitter of calls in progress are worked out."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "watched"
        self._said_s = -math.inf
        self.heard = False
        """Whether it could be said."""

    def say(self) -> None:
        """The file's time becomes now, if this user may and it was not just now."""
        if time.monotonic() - self._said_s < WATCHED_S - 0.1:
            return
        self._said_s = time.monotonic()
        try:  # a link that somebody put there leads nowhere
            try:
                os.utime(self._file, follow_symlinks=False)
            except PermissionError:  # another user's: a file of our own in its place
                self._file.unlink()
                raise FileNotFoundError from None
        except FileNotFoundError:
            try:
                os.close(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640))
            except OSError:
                self.heard = False
                return
        except OSError:
            self.heard = False
            return
        self.heard = True


# -- prints ----------------------------------------------------------------------
def write_json(layout: Layout, watch: Watch, each_second: bool) -> int:
    """Objects for programs. The status of a single one is 1 where nothing runs."""
    from rokuon.appliance.live_view import view
    from rokuon.appliance.state import age_s, captures, correlation
    from rokuon.store.sidecar import dumps

    due = time.monotonic()
    while True:
        watch.say()
        there, calls = captures(layout), correlation(layout)
        shown = view(there, calls)
        processes = {name: {**state, "age_s": age_s(state)} for name, state in there.items()}
        report = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "running": shown.running, "warnings": shown.warnings,
                  "captures": processes, "correlate": None if calls is None else {**calls, "age_s": age_s(calls)}}
        stdout_bytes(f"{dumps(finite(report))}\n".encode())
        sys.stdout.flush()
        if not each_second:
            return 0 if shown.running else 1
        due = max(due + EACH_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list) else value


def print_once(layout: Layout, watch: Watch) -> int:
    watch.say()
    now = look(layout)
    until = time.monotonic() + MEASURING_S
    while watch.heard and now.calls and now.correlate == "running" and not now.measured and time.monotonic() < until:
        time.sleep(0.2)
        now = look(layout)
    print_lines(now, watch)
    return 0


def print_again(layout: Layout, watch: Watch) -> int:
    """For a terminal without control sequences."""
    while True:
        print_once(layout, watch)
        begun = time.monotonic()
        while (left := begun + DUMB_S - time.monotonic()) > 0:
            watch.say()
            time.sleep(min(WATCHED_S, left))
        click.echo()


def print_lines(now: View, watch: Watch) -> None:
    from rokuon.commands.live_screen import lines
    from rokuon.commands.table import terminal_width

    for text in lines(now, datetime.now(UTC), terminal_width(), None, coloured(sys.stdout), hints(now, watch)):
        click.echo(text)


def hints(now: View, watch: Watch) -> list[str]:
    return [BLIND] if now.calls and not now.measured and not watch.heard else []


# -- in place --------------------------------------------------------------------
def in_place(layout: Layout, watch: Watch) -> int:
    from rokuon.commands.live_screen import Screen, lines

    screen = Screen()
    with screen.open():
        due = time.monotonic()
        while True:
            watch.say()
            now, size = look(layout), screen.size
            screen.draw(lines(now, datetime.now(UTC), *size, coloured(sys.stdout), hints(now, watch)), size)
            if time.monotonic() >= due:
                due = max(due + EACH_S, time.monotonic())
            ended = screen.wait(due - time.monotonic())
            if ended is not None:
                return ended
