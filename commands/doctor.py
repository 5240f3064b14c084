"""`rokuon doctor`: is this mirror port, or this capture, any good?"""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from rokuon.commands.common import Context, clean, coloured, example, is_terminal, stdout_bytes

if TYPE_CHECKING:
    from rokuon.appliance.doctor.finding import Finding, Report

__all__ = ["doctor"]

MARKS = {"problem": ("PROBLEM", "red"), "warning": ("WARNING", "yellow"), "note": ("note", "cyan"), "ok": ("ok", "green")}
INDENT = " " * 9
WIDEST = 100


@click.command(epilog=example("rokuon doctor -i eth1", "rokuon doctor -i eth1 --duration 120 --json", "rokuon doctor -r "
                                                                                                      "office.pcap"))
@click.option("-i", "--interface", "interfaces", multiple=True, metavar="IFACE",
              help="Look at what comes in on a network interface; may be given again. Ctrl-C ends it early.")
@click.option("--duration", type=click.FloatRange(1, 86_400), metavar="S", help="With -i: look for so many seconds.  [30]")
@click.option("--filter", "bpf", metavar="BPF", default="", help="With -i: take only packets that this pcap-filter lets through.")
@click.option("-r", "--read", "read", multiple=True, metavar="FILE…", help="Look at captures, directories of them, `-`: "
                                                                           "standard input.")
@click.argument("more", nargs=-1, metavar="")
@click.option("--json", "as_json", is_flag=True, help="As one object.")
@click.pass_obj
def doctor(context: Context, /, interfaces: tuple[str, ...], duration: float | None, bpf: str, read: tuple[str, ...],
           more: tuple[str, ...], as_json: bool) -> int:
    """Say whether a recording of this mirror port, or of this capture, would be complete, and what to do where it would not.

    Status 1 if it would not.
    """
    here = click.get_current_context()
    if bool(read) == bool(interfaces):
        raise click.UsageError("either -r FILE or -i IFACE" if read else "look at what? -i IFACE or -r FILE", here)
    if (interfaces and more) or (read and (bpf or duration)):
        raise click.UsageError("--filter and --duration go with -i, files with -r", here)
    from rokuon.appliance.doctor.examine import examine_files, examine_interfaces
    from rokuon.store.layout import data_directory

    settings = context.settings
    with progress() as seen:
        if interfaces:
            data = data_directory(context.data, os.environ)  # not looked at yet: what is wrong with it is a finding
            report = examine_interfaces(interfaces, settings, duration or 30.0, data, bpf=bpf, seen=seen)
        else:
            report = examine_files([*read, *more], settings, seen)
    if as_json:
        from rokuon.store.sidecar import dumps

        stdout_bytes(f"{dumps(report.json())}\n".encode())
    else:
        show(report)
    return 1 if report.verdict == "incomplete" else 0


def show(report: Report) -> None:
    """The report for people: what is wrong first, and what to do about it."""
    from rokuon.appliance.doctor.finding import count

    colours = coloured(sys.stdout)
    colour = "red" if report.verdict == "incomplete" else "green"
    width = min(WIDEST, shutil.get_terminal_size().columns if is_terminal(sys.stdout) else WIDEST)
    for line in textwrap.wrap(clean(report.summary), width):
        click.echo(click.style(line, fg=colour, bold=True) if colours else line)
    click.echo(clean(f"{report.source}: {count(report.packets, 'packet')} in {report.seconds:,.1f} s, "
                     f"{count(report.sip_messages, 'SIP message')}, {count(report.rtp_packets, 'RTP packet')} in "
                     f"{count(report.rtp_streams, 'stream')}"))
    click.echo()
    for finding in report.findings:
        show_finding(finding, width, colours)


def show_finding(finding: Finding, width: int, colours: bool) -> None:
    word, colour = MARKS[finding.level]
    mark = word.ljust(len(INDENT))
    text = textwrap.wrap(clean(finding.text), max(width - len(INDENT), 20))
    for n, line in enumerate(text):
        click.echo((click.style(mark, fg=colour) if colours else mark) + line if n == 0 else INDENT + line)
    if finding.remedy:
        for n, line in enumerate(textwrap.wrap(clean(finding.remedy), max(width - len(INDENT) - 3, 20))):
            click.echo(f"{INDENT}{'-> ' if n == 0 else '   '}{line}")


@contextmanager
def progress() -> Iterator[Callable[[int, int, float], None] | None]:
    """A callback that shows how far the look is, where standard error is a terminal."""
    if not is_terminal(sys.stderr):
        yield None
        return
    shown = 0.0

    def show_it(packets: int, calls: int, part: float) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= 0.2:
            shown = now
            os.write(2, f"\r\x1b[K{part:4.0%}  {packets:,} packets, {calls:,} calls".encode())

    try:
        yield show_it
    finally:
        os.write(2, b"\r\x1b[K")
