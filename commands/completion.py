"""Completion in bash, zsh and fish by click's own mechanism: what the shell's script asks, and what is answered.

Whatever is wrong, a shell in which somebody is typing sees nothing of it: no answer is an answer.
"""

# ruff: noqa: PLC0415 -- imports what it needs when it is asked: each press of the key is a start-up

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, FishComplete, add_completion_class, get_completion_class

from rokuon.commands.common import Context, clean

if TYPE_CHECKING:
    from rokuon.store.suggest import Suggested

    Items = list[CompletionItem[str]]
    Text = click.ParamType[str]
else:
    Text = click.ParamType  # generic from click 8.4 on

__all__ = ["VARIABLE", "complete", "offer"]

VARIABLE = "_ROKUON_COMPLETE"
"""What the scripts set: `bash_complete`, and `bash_source` to get the script."""
MOST = 50
LONGEST = 24
"""Characters of a party."""
FAILED = 1


def complete(group: click.Group, instruction: str) -> int:
    """Answer a shell's question on standard output. Returns the exit status; fails silently."""
    shell, _, what = instruction.partition("_")
    kind = get_completion_class(shell)
    if kind is None or what not in ("complete", "source"):
        return FAILED
    try:
        for parameter in group.params:
            offer(parameter)
        asked = kind(group, {}, "rokuon", VARIABLE)
        text = asked.source() if what == "source" else asked.complete()
        sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n" * (what == "complete" and bool(text)))
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt):
        if os.environ.get("ROKUON_DEBUG"):
            raise
        return FAILED
    return 0


def offer(parameter: click.Parameter) -> None:
    """Let a parameter's value be completed by what its metavar says it is: CALL, FILE, PATH, DIR, IFACE."""
    named = re.sub(r"\W", "", parameter.metavar or "")
    if named in OFFERS and isinstance(parameter.type, click.types.StringParamType):
        parameter.type = Offered(OFFERS[named])
    elif parameter.name == "more":  # further files of -r, which --help does not list
        parameter.type = Offered(files)


class Offered(Text):
    """Text, with what it may be completed to."""

    name = "text"

    def __init__(self, offers: Callable[[click.Context, click.Parameter, str], Items]) -> None:
        self.offers = offers

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
        return self.offers(ctx, param, incomplete)


def files(ctx: click.Context, parameter: click.Parameter, typed: str) -> Items:
    """The shell knows better."""
    return [CompletionItem(typed, type="file")]


def directories(ctx: click.Context, parameter: click.Parameter, typed: str) -> Items:
    return [CompletionItem(typed, type="dir")]


def interfaces(ctx: click.Context, parameter: click.Parameter, typed: str) -> Items:
    from socket import if_nameindex

    names: list[str] = []
    with suppress(OSError):
        names = sorted(name for _, name in if_nameindex() if re.fullmatch(r"[\w.@-]+", name, re.ASCII))
    return [CompletionItem(name) for name in names if name.startswith(typed)]


def calls(ctx: click.Context, parameter: click.Parameter, typed: str) -> Items:
    """`last` and ids, newest first; not those that are named already."""
    from rokuon.store.suggest import suggest

    before = ctx.find_root().params
    layout = Context(before.get("config"), before.get("data")).layout
    given = ctx.params.get(str(parameter.name)) or ()
    named = {given} if isinstance(given, str) else set(given)
    found = suggest(layout, typed, MOST)
    items = [CompletionItem(call.name, help=about(call)) for call in found]
    if "last".startswith(typed) and (found or typed):
        items.insert(0, CompletionItem("last", help="the newest call"))
    return [item for item in items if item.value not in named]


def about(call: Suggested) -> str:
    """One short line for people: when, who, whom, how it went."""
    from rokuon.commands.when import local

    caller, callee = party(call.caller_name, call.caller_number), party(call.callee_name, call.callee_number)
    return f"{local(call.start)[:16]}  {caller} → {callee}  {clean(call.state)[:LONGEST]}"


def party(name: str | None, number: str | None) -> str:
    return clean((name or number or "?")[:LONGEST])


OFFERS = {"CALL": calls, "FILE": files, "PATH": files, "DIR": directories, "IFACE": interfaces}
"""By metavar, but for dots and brackets."""


class Fish(FishComplete):
    """click's, but for what is behind a comma: there it ends a call's parties and an option's help."""

    source_template = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) %(prog_name)s)
    for completion in $response
        set -l answer (string split -m 1 -- "," $completion)
        switch $answer[1]
            case dir
                __fish_complete_directories $answer[2]
            case file
                __fish_complete_path $answer[2]
            case plain
                printf '%%s\\n' $answer[2]
        end
    end
end

complete --no-files --keep-order --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


add_completion_class(Fish, "fish")
