"""`rokuon capture`: from interfaces to the spool."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import click

from rokuon.commands.common import Context, example

__all__ = ["capture"]


@click.command(epilog=example("rokuon capture -i eth1"))
@click.option("-i", "--interface", "interfaces", multiple=True, metavar="IFACE", required=True,
              help="Network interface; may be given again.")
@click.option("--filter", "bpf", metavar="BPF", default="", help="Take only packets that this pcap-filter lets through.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), metavar="S", help="Stop after so many seconds.")
@click.pass_obj
def capture(context: Context, /, interfaces: tuple[str, ...], bpf: str, duration: float | None) -> int:
    """Write packets from network interfaces into the spool, for `rokuon correlate` to make recordings of.

    The half of `rokuon record -i` that needs CAP_NET_RAW, as the service runs it. SIGTERM ends it; calls go on after the next
    start. SIGHUP makes it read its settings again.
    """
    from rokuon.appliance.capturing import capture_packets

    capture_packets(interfaces, context.layout, context.settings, bpf=bpf, duration_s=duration, reload=context.read_settings)
    return 0
