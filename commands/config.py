"""`rokuon config`: what is set, and where."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, example

__all__ = ["config"]


@click.command(epilog=example("rokuon config", "rokuon --config new.toml config --check"))
@click.option("--check", is_flag=True, help="Only say whether the configuration file is right.")
@click.pass_obj
def config(context: Context, /, check: bool) -> None:
    """Print the settings that are in force, and where each comes from."""
    from rokuon.store.settings import describe

    settings = context.settings
    if not check:
        click.echo(describe(settings), nl=False)
