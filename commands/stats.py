"""`rokuon stats`: what there is and what there is not; `stats_by` has the counts by hour, day, number …"""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rokuon.commands.common import Context, example, stdout_bytes
from rokuon.commands.filters import chosen_by, filter_options
from rokuon.commands.show import size
from rokuon.commands.table import Column, print_table
from rokuon.commands.when import talk

if TYPE_CHECKING:
    from rokuon.store.layout import Layout
    from rokuon.store.tally import Balance

__all__ = ["stats"]

KINDS = ("hour", "day", "weekday", "number", "caller", "callee", "codec", "state")


@click.command(epilog=example("rokuon stats --by hour --since 7d      # unanswered calls by hour of the day, a week's",
                              "rokuon stats --by day --number 200 --csv > days.csv",
                              "rokuon stats --by number --state no-answer", "rokuon stats --json"))
@click.option("--by", type=click.Choice(KINDS), metavar="KIND",
              help=f"Count by KIND: {', '.join(KINDS)}. Hours are those of the day.")
@filter_options
@click.option("--limit", type=click.IntRange(1), metavar="N",
              help="The N lines with most calls, the rest as one.  [20 of numbers and codecs on a terminal, else all]")
@click.option("--json", "form", flag_value="json", help="As one object.")
@click.option("--csv", "form", flag_value="csv", help="A line for each hour, day …, for spreadsheets.")
@click.pass_obj
def stats(context: Context, /, by: str | None, limit: int | None, form: str | None, **options: Any) -> None:
    """Count calls: answered and unanswered ones by hour, day, number …; what was not recorded, by reason.

    With --by, or with options that choose calls: how many there were, answered, unanswered (cancelled, busy, no-answer,
    failed), and how long was talked, for each hour of the day, day, number … Times are local.

    Else: calls by state, what became of each call that was ever seen, and what was not recorded by reason.
    """
    which = chosen_by(options)
    if by or limit or which.chosen or form == "csv":
        from rokuon.commands.stats_by import show_counts

        show_counts(context, which, by or "state", limit, form)
    else:
        whole(context, as_json=form == "json")


def whole(context: Context, as_json: bool) -> None:
    """All calls by state, and all that was not recorded."""
    from rokuon.store.query import state_counts
    from rokuon.store.sidecar import dumps
    from rokuon.store.tally import read, read_balance

    layout = context.layout
    states, lost, balance, going = state_counts(layout), read(layout), read_balance(layout), in_progress(layout)
    if as_json:
        known = {state: {"calls": calls, "talk_s": round(seconds, 3), "audio_bytes": octets}
                 for state, calls, seconds, octets in states}
        seen = {"seen": balance.seen + going, "recorded": balance.recorded, "known": balance.known,
                "not_recorded": dict(balance.not_recorded), "in_progress": going, "unaccounted": balance.unaccounted}
        stdout_bytes(f"{dumps({'states': known, 'calls': seen, 'not_recorded': lost})}\n".encode())
        return
    total = ("all", sum(row[1] for row in states), sum(row[2] for row in states), sum(row[3] for row in states))
    print_table([Column("STATE", colour=True), *(Column(title, right=True) for title in ("CALLS", "TALK", "AUDIO"))],
                [[state, f"{calls:,}", talk(seconds), size(octets)] for state, calls, seconds, octets in [*states, total]])
    if balance.seen or going or balance.unaccounted:
        click.echo()
        click.echo(sum_of(balance, going))
    for title, counts in (("CALLS NOT RECORDED", balance.not_recorded), ("ALSO NOT RECORDED", lost)):
        if counts:
            click.echo()
            print_table([Column(title, least=10), Column("COUNT", right=True)],
                        [[reason, f"{count:,}"] for reason, count in counts.items()])


def in_progress(layout: Layout) -> int:
    """Calls that the service has not done with, if it runs."""
    from rokuon.appliance.live_view import view
    from rokuon.appliance.state import captures, correlation

    now = view(captures(layout), correlation(layout))
    return int(now.unfinished or 0) if now.correlate == "running" else 0


def sum_of(balance: Balance, going: int) -> str:
    """What became of the calls that were seen, as a sum."""
    parts = [f"{balance.recorded:,} recorded"]
    parts += [f"{balance.known:,} known already"] if balance.known else []
    parts.append(f"{sum(balance.not_recorded.values()):,} not recorded")
    parts += [f"{going:,} in progress"] if going else []
    odd = balance.unaccounted
    parts += [f"{odd:,} of which nobody knows what became (a fault of rokuon)"] if odd > 0 else []
    twice = f", {-odd:,} counted twice (a fault of rokuon)" if odd < 0 else ""
    seen = balance.seen + going
    return f"{seen:,} call{'' if seen == 1 else 's'} seen = {' + '.join(parts)}{twice}"
