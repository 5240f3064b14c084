"""`rokuon export`: calls as files for somebody else."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from rokuon.commands.common import Context, complain, example, is_terminal
from rokuon.commands.filters import chosen_by, filter_options

__all__ = ["export"]


@click.command(epilog=example("rokuon export last -o call.wav",
                              "rokuon export --since today --name 田中 -o folder/ --format flac",
                              "rokuon export k7q2 --layout mono -o - | ffplay -"))
@click.argument("calls", metavar="[CALL]…", nargs=-1)
@filter_options
@click.option("-o", "output", metavar="PATH", required=True, help="File, directory (for many calls), or `-`: standard output.")
@click.option("--format", "format_", type=click.Choice(["wav", "flac", "opus", "pcap"]), help="[what PATH ends with, else wav]")
@click.option("--layout", "channels", type=click.Choice(["stereo", "mono", "split", "caller", "callee"]), default="stereo",
              help="Caller left and callee right, both in one channel, a file each, or one side alone.  [stereo]")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.pass_obj
def export(context: Context, /, calls: tuple[str, ...], output: str, format_: Any, channels: Any, force: bool,
           **options: Any) -> int:
    """Write calls as audio files, or their packets where they are kept.

    Which calls: CALL is the beginning of an id or of its last part, or `last`; or the options that `rokuon calls` has.
    """
    from rokuon.store.errors import StoreError
    from rokuon.store.export import NoAudioError, Request, export_call, format_of, to_stream
    from rokuon.store.query import find, resolve

    which = chosen_by(options)
    if bool(calls) == which.chosen:
        wrong("name calls, or say which with options" if not calls else "name calls or say which with options, not both")
    ids = find(context.layout, which, context.region) if which.chosen else [resolve(context.layout, call) for call in calls]
    ids = list(dict.fromkeys(ids))
    if not ids:
        complain("no such calls")
        return 0
    target = Path(output)
    into = output.endswith("/") or target.is_dir() or (len(ids) > 1 and output != "-")
    request = Request(format_ or (None if into or output == "-" else format_of(target)) or "wav", channels, force)
    if output == "-":
        if len(ids) > 1 or (channels == "split" and request.format != "pcap"):
            wrong("standard output takes one file")
        if is_terminal(sys.stdout):
            wrong("standard output is a terminal: -o FILE")
        to_stream(context.layout, ids[0], sys.stdout.buffer, request)
        return 0
    if not into and not format_ and target.suffix and format_of(target) is None:
        wrong(f"no format is named {target.suffix[1:]!r:.20}: --format wav, flac, opus or pcap")
    if into:
        make_directory(target)
    status = 0
    for call_id in ids:
        try:
            paths = export_call(context.layout, call_id, target / f"{call_id}.{request.format}" if into else target, request)
        except StoreError as error:
            from rokuon.store.retention import is_deleted

            if not calls and is_deleted(context.layout, call_id):
                continue
            if not isinstance(error, NoAudioError):
                raise
            complain(str(error))
            status = 1 if calls else status
            continue
        for path in paths:
            click.echo(path)
    return status


def make_directory(path: Path) -> None:
    from rokuon.store.layout import refused

    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        wrong(f"several calls go into a directory; {str(path)!r:.200} is a file")
    except OSError as error:
        raise refused(error, f"cannot make {path}") from None


def wrong(message: str) -> NoReturn:
    raise click.UsageError(message, click.get_current_context())
