"""`rokuon record`: from captures to calls."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from rokuon.commands.common import Context, complain, example, is_terminal

__all__ = ["record"]

WARNINGS = 50
"""Shown at most."""
INTERRUPTED, TERMINATED = 130, 143
"""What a shell makes of SIGINT and SIGTERM: 128 and the signal's number."""


@click.command(epilog=example("rokuon record -r office.pcap", "rokuon record -r ring-*.pcapng.gz", "rokuon record -i eth1"))
@click.option("-r", "--read", "read", multiple=True, metavar="FILE…",
              help="Captures (pcap, pcapng, also .gz), directories of them, `-`: standard input. "
                   "Several are one capture in time order.")
@click.option("-i", "--interface", "interfaces", multiple=True, metavar="IFACE",
              help="Record from a network interface until Ctrl-C or SIGTERM, which finish open calls; may be given again.")
@click.option("--filter", "bpf", metavar="BPF", default="", help="With -i: take only packets that this pcap-filter lets through.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), metavar="S", help="With -i: stop after so many seconds.")
@click.argument("more", nargs=-1, metavar="")
@click.option("--jobs", type=click.IntRange(1, 256), metavar="N", help="How many processors to use.  [all]")
@click.pass_obj
def record(context: Context, /, read: tuple[str, ...], interfaces: tuple[str, ...], bpf: str, duration: float | None,
           more: tuple[str, ...], jobs: int | None) -> int:
    """Record the calls in captures, or from network interfaces. The same capture again adds nothing."""
    here = click.get_current_context()
    if bool(read) == bool(interfaces):
        raise click.UsageError("either -r FILE or -i IFACE" if read else "from where? -r FILE or -i IFACE", here)
    if (interfaces and more) or (read and (bpf or duration)):
        raise click.UsageError("--filter and --duration go with -i, files with -r", here)
    from rokuon.store.errors import ChildFailedError
    from rokuon.store.record_files import record_files
    from rokuon.store.tally import Ledger, add

    settings, layout = context.settings, context.layout
    layout.prepare()
    side_by_side = jobs or len(os.sched_getaffinity(0))
    try:
        with progress_bar() as progress:
            if interfaces:
                from rokuon.appliance.supervisor import supervise

                summary = supervise(context.before, layout, interfaces, side_by_side, bpf=bpf, duration_s=duration,
                                    progress=progress, warn=lambda line: complain(f"warning: {line}"))
            else:
                with terminable():
                    summary = record_files([*read, *more], layout.root, settings, side_by_side, progress)
    except ChildFailedError as error:
        return error.status
    except KeyboardInterrupt as interrupt:
        complain("interrupted; what is finished is kept, the same command again does the rest")
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    Ledger(layout).post(summary.balance)
    add(layout, summary.not_recorded)
    for warning in summary.warnings[:WARNINGS]:
        complain(f"warning: {warning}")
    if len(summary.warnings) > WARNINGS:
        complain(f"warning: and {len(summary.warnings) - WARNINGS:,} more such lines")
    click.echo(sentence(summary) + (f"; see: rokuon{context.options} calls" if summary.calls_found else ""))
    return 1 if summary.quarantined else 0


class Terminated(KeyboardInterrupt):
    """SIGTERM: the same as Ctrl-C but for the exit status."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM is no sudden death in here."""
    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def sentence(summary: Any) -> str:
    """What was done, on one line."""
    def calls(count: int) -> str:
        return f"{count:,} call{'' if count == 1 else 's'}"

    known = f", {calls(summary.calls_known)} known already" if summary.calls_known else ""
    fuller = f" ({summary.calls_revised:,} now fuller)" if summary.calls_revised else ""
    return f"{calls(summary.calls_added)} recorded{known}{fuller}, {summary.packets:,} packets read"


@contextmanager
def progress_bar() -> Iterator[Callable[[Any], None] | None]:
    """A callback that draws how far the recorder is, where standard error is a terminal."""
    if not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), TaskProgressColumn(), TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[calls]}"),
               TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("record", total=None, rate="", calls="")

        def show(state: Any) -> None:
            elapsed = bar.tasks[0].elapsed or 0
            rate = f"{state.packets / elapsed:,.0f} packets/s" if elapsed > 0.2 else ""
            bar.update(task, completed=state.bytes_read, total=state.bytes_total, rate=rate, calls=f"{state.calls_found:,} calls")

        yield show
