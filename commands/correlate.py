"""`rokuon correlate`: from the spool to recordings."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import os

import click

from rokuon.commands.common import Context, example

__all__ = ["correlate"]


@click.command(epilog=example("rokuon correlate"))
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="How many finalisers to run.  [one a processor]")
@click.pass_obj
def correlate(context: Context, /, jobs: int | None) -> int:
    """Make recordings of what `rokuon capture` writes into the spool.

    The half of `rokuon record -i` that needs no privilege and no network, as the service runs it. SIGTERM ends it; open calls go
    on after the next start, or are finished by `rokuon drain`. SIGHUP makes it read its settings again.
    """
    from rokuon.appliance.correlating import correlate_spool

    correlate_spool(context.layout, context.settings, jobs or len(os.sched_getaffinity(0)), reload=context.read_settings)
    return 0
