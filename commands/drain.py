"""`rokuon drain`: finish calls in progress."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import os
import time

import click

from rokuon.commands.common import Context, complain, example

__all__ = ["drain"]


@click.command(epilog=example("rokuon drain", "rokuon drain --timeout 30"))
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=300, metavar="S", help="How long to wait.  [300]")
@click.pass_obj
def drain(context: Context, /, timeout: float) -> int:
    """Finish the calls in progress on purpose: before the box is taken away, or its data is moved.

    What of them is captured later is not recorded; stop capture first.
    """
    from rokuon.appliance.draining import drain_spool
    from rokuon.appliance.state import age_s, captures

    layout = context.layout
    running = [name for name, state in captures(layout).items() if not state.get("stopped") and age_s(state) < 5]
    if running:
        complain(f"warning: capture of {', '.join(running)} goes on; calls in progress are cut here")
    if not drain_spool(layout, context.before, len(os.sched_getaffinity(0)), timeout, time.sleep):
        complain(f"calls are not finished after {timeout:g} s; `rokuon live` shows how far it is")
        return 1
    return 0
