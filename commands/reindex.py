"""`rokuon reindex`: the index again from the recordings."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, complain, example

__all__ = ["reindex"]


@click.command(epilog=example("rokuon reindex"))
@click.pass_obj
def reindex(context: Context, /) -> int:
    """Make the index again from the recordings' sidecars; nothing is lost with it."""
    from rokuon.store.index import reindex as rebuild
    from rokuon.store.revision import finish_revisions

    finish_revisions(context.layout)
    count, warnings = rebuild(context.layout, context.region)
    for warning in warnings:
        complain(f"warning: {warning}")
    click.echo(f"{count:,} call{'' if count == 1 else 's'} in the index")
    return 1 if warnings else 0
