"""`rokuon play`: through the sound card, or how to get the file."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import click

from rokuon.commands.common import Context, complain, example

__all__ = ["play"]

PLAYERS = (["pw-play"], ["paplay"], ["ffplay", "-nodisp", "-autoexit", "-loglevel", "error"], ["play", "-q"], ["aplay", "-q"])


@click.command(epilog=example("rokuon play last", "rokuon play last --side callee"))
@click.argument("call", metavar="CALL")
@click.option("--side", type=click.Choice(["caller", "callee"]), help="This side alone.")
@click.pass_obj
def play(context: Context, /, call: str, side: Any) -> int:
    """Play a call through the sound card; where there is none, say how to get the file."""
    from rokuon.store.errors import DataError
    from rokuon.store.export import Request, audio_files, export_call
    from rokuon.store.query import resolve

    call_id = resolve(context.layout, call)
    paths = audio_files(context.layout, call_id)
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing")
    player = next((command for command in PLAYERS if shutil.which(command[0])), None)
    if player is None or not has_sound():
        why = "no sound card here" if player else "no player here (aplay, paplay, ffplay, play)"
        click.echo(f"{why}; the call is in {' '.join(map(str, paths))}, or: rokuon{context.options} export {call_id}"
                   f"{f' --layout {side}' if side else ''} -o call.wav")
        return 0
    with tempfile.TemporaryDirectory(prefix="rokuon-") as folder:
        if side:
            paths = export_call(context.layout, call_id, Path(folder) / "call.wav", Request(channels=side))
        return _heard(player, paths)


def _heard(player: list[str], paths: list[Path]) -> int:
    for path in paths:
        done = subprocess.run([*player, str(path)], check=False)
        if done.returncode:
            complain(f"{player[0]} failed with status {done.returncode}; the file is {path}")
            return 1
    return 0


def has_sound() -> bool:
    """Whether there is a sound card or a sound server."""
    if os.environ.get("PULSE_SERVER"):
        return True
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and any((Path(runtime) / name).exists() for name in ("pulse/native", "pipewire-0")):
        return True
    return any(Path("/dev/snd").glob("pcm*p"))
