"""`rokuon plugins`: what is installed."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, example, stdout_bytes
from rokuon.commands.table import Column, print_table

__all__ = ["plugins"]


@click.command(epilog=example("rokuon plugins"))
@click.option("--json", "as_json", is_flag=True, help="As one array.")
@click.pass_obj
def plugins(context: Context, /, as_json: bool) -> int:
    """List codecs and other plugins, and what is wrong with them. Status 1 where one cannot be used."""
    from rokuon.decoders.registry import plugins as installed
    from rokuon.store.sidecar import dumps

    found = installed()
    if as_json:
        stdout_bytes(f"{dumps([plugin._asdict() for plugin in found])}\n".encode())
    else:
        print_table([Column("NAME"), Column("KIND", keep=2), Column("FROM", keep=5), Column("VERSION", keep=3), Column("STATUS"),
                     Column("WHY", least=20)],
                    [[p.name, p.kind, p.distribution, p.version, p.status, p.error] for p in found])
    return int(any(plugin.status in ("failed", "refused") for plugin in found))
