"""`rokuon stats`: counts."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, example, stdout_bytes
from rokuon.commands.show import size
from rokuon.commands.table import Column, print_table
from rokuon.commands.when import talk

__all__ = ["stats"]


@click.command(epilog=example("rokuon stats", "rokuon stats --json"))
@click.option("--json", "as_json", is_flag=True, help="As one object.")
@click.pass_obj
def stats(context: Context, /, as_json: bool) -> None:
    """Count calls by state, and what was seen and not recorded by reason."""
    from rokuon.store.query import state_counts
    from rokuon.store.sidecar import dumps
    from rokuon.store.tally import read

    states, lost = state_counts(context.layout), read(context.layout)
    if as_json:
        known = {state: {"calls": calls, "talk_s": round(seconds, 3), "audio_bytes": octets}
                 for state, calls, seconds, octets in states}
        stdout_bytes(f"{dumps({'states': known, 'not_recorded': lost})}\n".encode())
        return
    total = ("all", sum(row[1] for row in states), sum(row[2] for row in states), sum(row[3] for row in states))
    print_table([Column("STATE", colour=True), *(Column(title, right=True) for title in ("CALLS", "TALK", "AUDIO"))],
                [[state, f"{calls:,}", talk(seconds), size(octets)] for state, calls, seconds, octets in [*states, total]])
    if lost:
        click.echo()
        print_table([Column("NOT RECORDED", least=10), Column("COUNT", right=True)],
                    [[reason, f"{count:,}"] for reason, count in lost.items()])
