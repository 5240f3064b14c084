"""`rokuon metrics`: numbers for Prometheus, alarms and hooks."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, example, stdout_bytes

__all__ = ["metrics"]


@click.command(epilog=example("rokuon metrics --once", "rokuon metrics --listen 127.0.0.1:9741",
                              "rokuon metrics --textfile /var/lib/prometheus/node-exporter/rokuon.prom"))
@click.option("--listen", metavar="ADDR:PORT", help="Serve metrics for Prometheus there.  [metrics] listen")
@click.option("--textfile", metavar="PATH", help="Write metrics to that file every 15 s.  [metrics] textfile")
@click.option("--once", is_flag=True, help="Print the metrics and exit.")
@click.pass_obj
def metrics(context: Context, /, listen: str | None, textfile: str | None, once: bool) -> None:
    """Watch the recorder: metrics for Prometheus, alarms, and the commands of [hooks] when something happens."""
    from rokuon.appliance.metrics import exposition, registry

    if once:
        stdout_bytes(exposition(registry(context.layout)))
        return
    import os
    from pathlib import Path

    from rokuon.appliance.logs import Log
    from rokuon.appliance.notify import Notifier
    from rokuon.appliance.watch import Watch
    from rokuon.store.settings import address, load

    settings = context.settings
    if listen is None:
        listen = settings.metrics.listen
    else:
        try:
            address(listen, settings.metrics.public)
        except ValueError as error:
            raise click.UsageError(f"--listen: {error}") from None
    if textfile is not None and not textfile.endswith(".prom"):
        raise click.UsageError("--textfile: its name must end in .prom, or collectors leave it out")
    given = Path(textfile).absolute() if textfile else settings.metrics.textfile
    Watch(context.layout, settings, Log("metrics"), Notifier(), listen, str(given),
          lambda: load(context.config, os.environ)).run()
