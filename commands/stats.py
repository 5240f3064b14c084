"""`rokuon stats`: counts."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rokuon.commands.common import Context, example, stdout_bytes
from rokuon.commands.show import size
from rokuon.commands.table import Column, print_table
from rokuon.commands.when import talk

if TYPE_CHECKING:
    from rokuon.store.layout import Layout
    from rokuon.store.tally import Balance

__all__ = ["stats"]


@click.command(epilog=example("rokuon stats", "rokuon stats --json"))
@click.option("--json", "as_json", is_flag=True, help="As one object.")
@click.pass_obj
def stats(context: Context, /, as_json: bool) -> None:
    """Count calls by state, what became of each call that was seen, and what was not recorded by reason."""
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
