"""The options that say which calls: the same for every command that takes them."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from rokuon.commands.when import DURATION, SINCE, UNTIL
from rokuon.store.sidecar import STATES

__all__ = ["chosen_by", "filter_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

UNANSWERED = "unanswered"

OPTIONS = [
    click.option("--since", callback=SINCE, metavar="T",
                 help="Started at T or later: 2026-11-24T09:30, tuesday, today, 2h, 30m …"),
    click.option("--until", callback=UNTIL, metavar="T", help="Started before T; a whole day is included."),
    click.option("--number", "numbers", multiple=True, metavar="N",
                 help="Caller's or callee's in any writing, its last digits, its first ones (03-12*), or `anonymous`."),
    click.option("--caller", "callers", multiple=True, metavar="N", help="The caller's number."),
    click.option("--callee", "callees", multiple=True, metavar="N", help="The callee's number."),
    click.option("--name", metavar="TEXT", help="Part of the caller's or callee's name; words in any order, kana of any kind."),
    click.option("--state", "states", multiple=True, type=click.Choice([*STATES, UNANSWERED]), metavar="S",
                 help=f"{', '.join(STATES)}, or {UNANSWERED}: cancelled, busy, no-answer or failed."),
    click.option("--min-duration", "min_duration_s", callback=DURATION, metavar="D", help="Lasted D: 90, 1m30s, 1:30."),
    click.option("--codec", metavar="C", help="With a stream of this codec: PCMU, opus …"),
    click.option("--max-mos", type=float, metavar="M", help="The worst stream sounded like M (1 to 5) or worse."),
    click.option("--tag", metavar="T", help="With this tag."),
    click.option("--text", metavar="TEXT", help="With this text in a name, number, URI, tag or note."),
]


def filter_options(command: Command) -> Command:
    """Give a command the options that `chosen_by` reads."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def chosen_by(options: dict[str, Any], sort: str = "start", limit: int | None = None) -> Any:
    """The `CallFilter` that the options say. Raises click.UsageError."""
    from rokuon.store import statistics
    from rokuon.store.numbers import wanted
    from rokuon.store.query import CallFilter

    for number in (*options["numbers"], *options["callers"], *options["callees"]):
        try:
            wanted(number, None)
        except ValueError as error:
            raise click.UsageError(str(error), click.get_current_context()) from None
    states = [state for name in options["states"] for state in (statistics.UNANSWERED if name == UNANSWERED else [name])]
    options = {**options, "states": tuple(dict.fromkeys(states))}
    return CallFilter(**options, sort=sort, limit=limit)
