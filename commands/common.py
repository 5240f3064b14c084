"""What commands share: where things are, how text reaches a terminal, how times and durations are read."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import os
import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rokuon.store.layout import Layout
    from rokuon.store.settings import Settings

__all__ = ["Context", "clean", "coloured", "complain", "example", "is_terminal", "stdout_bytes"]


@dataclass
class Context:
    """What the options before the command say; looked at when a command needs it."""

    config: str | None
    data: str | None

    @cached_property
    def layout(self) -> Layout:
        """The archive's paths, checked for reading. Raises StoreError."""
        from rokuon.store.layout import Layout, data_directory

        layout = Layout(data_directory(self.data, os.environ))
        layout.check()
        return layout

    @cached_property
    def settings(self) -> Settings:
        """Raises SettingsError."""
        return self.read_settings()

    def read_settings(self) -> Settings:
        """The settings as they stand in the file now. Raises SettingsError."""
        from rokuon.store.settings import load

        return load(self.config, os.environ)

    @property
    def region(self) -> str | None:
        return self.settings.index.region or None

    @property
    def before(self) -> list[str]:
        """The options before the command as they have to be given again."""
        return [part for name, value in (("--config", self.config), ("--data", self.data)) if value for part in (name, value)]

    @property
    def options(self) -> str:
        """The same for a shell, with a space before each."""
        from shlex import join

        return f" {join(self.before)}" if self.before else ""


def example(*lines: str) -> str:
    """The end of a command's --help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# -- terminals ---------------------------------------------------------------
SHOWN = {0x0A: "⏎", 0x0D: "␍", 0x09: " ", 0x1B: "␛", 0x00: "␀", 0x7F: "␡"}
INVISIBLE = re.compile("[^ -~\u00a1-\u00ac\u00ae-\u02af\u3000-\u303f\u3041-\u3096\u3099-\u30ff\u4e00-\u9fff\uff01-\uff9f]")
"""Everything but the characters that most texts are made of: a first, fast look."""


def clean(text: object) -> str:
    """Text from the network or a file's name so that a terminal shows it and obeys none of it.

    Control characters, marks of direction, invisible and unassigned characters become signs; line ends too, so that it
    stays one line.
    """
    return INVISIBLE.sub(lambda match: harmless(match[0]), str(text))


def harmless(character: str) -> str:
    code = ord(character)
    if code in SHOWN:
        return SHOWN[code]
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return "\N{REPLACEMENT CHARACTER}"
    return character


def is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def coloured(stream: TextIO) -> bool:
    """Whether colours are welcome (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def complain(message: str) -> None:
    """One line on standard error."""
    line = f"rokuon: {clean(message)}"
    try:
        click.echo(line, err=True)
    except UnicodeEncodeError:
        click.echo(line.encode("ascii", "backslashreplace").decode(), err=True)
    except OSError:
        pass  # nobody listens


def stdout_bytes(content: bytes) -> None:
    """Write to standard output as it is: data for programs is UTF-8 whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
