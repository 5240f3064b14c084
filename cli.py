"""The `rokuon` command: which commands there are, and how their failures become one line and an exit status."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Any, NoReturn

import click

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start threads for linear algebra, of which there is none

gc.set_threshold(200_000)  # nearly all that imports make stays: looking for garbage in it is a tenth of the start-up

from rokuon.commands.common import Context, complain  # noqa: E402
from rokuon.store.errors import (  # noqa: E402
    AmbiguousCallError,
    IndexBusyError,
    NoSuchCallError,
    NotPermittedError,
    StoreError,
    why,
)

__all__ = ["main"]

FAILED, WRONG_USAGE, NO_SUCH_CALL, BUSY, INTERRUPTED = 1, 2, 3, 4, 130

COMMANDS = {
    "record": "Record calls from the wire, or from capture files.",
    "live": "Show calls in progress, and how recording goes.",
    "doctor": "Say whether a mirror port or capture is good enough to record from.",
    "capture": "Write packets from network interfaces into the spool.",
    "correlate": "Make recordings of what is in the spool.",
    "drain": "Finish the calls in progress on purpose.",
    "calls": "List calls, newest first.",
    "show": "Show everything about one call.",
    "play": "Play a call through the sound card.",
    "export": "Write calls as audio files or as packets.",
    "decode": "Make a call's audio again from its kept packets.",
    "stats": "Count calls: by state, hour, day, number; and what was not recorded.",
    "reindex": "Make the index again from the recordings.",
    "sql": "Ask the index in SQL.",
    "plugins": "List codecs and other plugins, and what is wrong with them.",
    "metrics": "Watch the recorder: metrics for Prometheus, alarms and hooks.",
    "config": "Print the settings that are in force, and where they come from.",
}
"""Each is in the module of its name; the text is here so that --help imports none of them."""


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"rokuon.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        if ctx.resilient_parsing:  # completion
            from rokuon.commands.completion import offer  # noqa: PLC0415 -- start-up is felt

            for parameter in command.params:
                offer(parameter)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 -- start-up is felt

        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]  # a group's own would import all of them

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run a command and exit. A failure is one line on standard error; a reader that went away is none."""
        if instruction := os.environ.get("_ROKUON_COMPLETE"):
            from rokuon.commands.completion import complete  # noqa: PLC0415 -- start-up is felt

            sys.exit(complete(self, instruction))
        extra["standalone_mode"] = False
        extra.setdefault("prog_name", "rokuon")
        status = 0
        try:
            status = run(lambda: super(Commands, self).main(*args, **extra))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
            status = 0
        except OSError as error:
            if not status:  # else it has been said: a write in the command failed, and what it left to be flushed does again
                complain(f"cannot write: {why(error)}")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = FAILED
        sys.exit(status)


def run(command: Any) -> int:
    """The exit status of a command, its failure said on standard error."""
    try:
        result = command()
        return result if isinstance(result, int) else 0
    except SystemExit:  # what click makes of EPIPE
        raise BrokenPipeError from None
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.UsageError as error:
        where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
        complain(error.format_message().rstrip(".") + where)
        return WRONG_USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return INTERRUPTED
    except StoreError as error:
        complain(str(error))
        return status_of(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(f"{place}{why(error)}")
        return BUSY if isinstance(error, PermissionError) else FAILED
    except MemoryError as error:
        frames, at = [], error.__traceback__
        while at is not None:
            frames.append(f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}")
            at = at.tb_next
        where = " ({})".format("; ".join([" < ".join(reversed(frames[-4:])), *filter(None, [str(error)])]))
        complain(f"not enough memory{where}")
        return FAILED
    except Exception as error:
        from rokuon.sniffer.errors import CaptureError, CapturePermissionError  # noqa: PLC0415 -- start-up is felt

        if isinstance(error, CaptureError):
            complain(str(error))
            return BUSY if isinstance(error, CapturePermissionError) else FAILED
        if os.environ.get("ROKUON_DEBUG"):
            raise
        complain(f"{type(error).__name__}: {error} (this is a fault of rokuon; ROKUON_DEBUG=1 shows where)")
        return FAILED


def status_of(error: StoreError) -> int:
    if isinstance(error, NoSuchCallError):
        return NO_SUCH_CALL
    if isinstance(error, IndexBusyError | NotPermittedError):
        return BUSY
    if isinstance(error, AmbiguousCallError) or type(error).__name__ == "SettingsError":
        return WRONG_USAGE
    return FAILED


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]},
             epilog="Example: rokuon record -r office.pcap && rokuon calls && rokuon export last -o call.wav")
@click.version_option(package_name="rokuon", message="rokuon %(version)s")
@click.option("--config", metavar="FILE", help="Configuration file.  [$ROKUON_CONFIG, /etc/rokuon/rokuon.toml]")
@click.option("--data", metavar="DIR", help="Where recordings are.  [$ROKUON_DATA, /var/lib/rokuon, $XDG_DATA_HOME/rokuon]")
@click.pass_context
def main(ctx: click.Context, config: str | None, data: str | None) -> None:
    """Record the calls of a phone system from copies of its packets; find them and hear them."""
    ctx.obj = Context(config=config, data=data)
