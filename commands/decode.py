"""`rokuon decode`: the audio again."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, example

__all__ = ["decode"]


@click.command(epilog=example("rokuon decode k7q2", "rokuon decode last"))
@click.argument("calls", metavar="CALL…", nargs=-1, required=True)
@click.pass_obj
def decode(context: Context, /, calls: tuple[str, ...]) -> None:
    """Make the audio of calls again from the packets that were kept: with a new codec plugin, or other settings."""
    from rokuon.store.decode import decode_call
    from rokuon.store.query import resolve

    for call_id in [resolve(context.layout, call) for call in calls]:
        decode_call(context.layout.root, call_id, context.settings)
        click.echo(f"{call_id} decoded")
