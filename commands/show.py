"""`rokuon show`: one call on one screen."""

# ruff: noqa: PLC0415 -- a command imports what it needs when it is called: start-up is felt

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from rokuon.commands.common import Context, clean, coloured, example, stdout_bytes
from rokuon.commands.table import COLOURS, Column, table_lines, terminal_width
from rokuon.commands.when import duration, local, talk

__all__ = ["show"]

MOST_MESSAGES = 40
MOST_EVENTS = 40
MOST_IDENTITIES = 8
LONGEST = 300
"""Characters of one text that is not in a table: the sidecar has all of it."""


@click.command(epilog=example("rokuon show last", "rokuon show k7q2 --ladder", "rokuon show k7q2 --json"))
@click.argument("call", metavar="CALL")
@click.option("--json", "as_json", is_flag=True, help="All that is known, as one object.")
@click.option("--ladder", "as_ladder", is_flag=True, help="Its SIP messages as arrows between their endpoints.")
@click.pass_obj
def show(context: Context, /, call: str, as_json: bool, as_ladder: bool) -> None:
    """Show everything about one call: parties, times, streams and their quality, events, files, SIP messages.

    CALL is the beginning of its id or of the id's last part, or `last`.
    """
    from rokuon.store.query import resolve
    from rokuon.store.sidecar import dump, read

    if as_json and as_ladder:
        raise click.UsageError("--json and --ladder: one of them", click.get_current_context())
    call_id = resolve(context.layout, call)
    sidecar = read(context.layout.sidecar(call_id))
    if as_json:
        stdout_bytes(dump(sidecar))
        return
    if as_ladder:
        from rokuon.commands.ladder import ladder

        lines = ladder(sidecar)
    else:
        lines = screen(context, sidecar)
    for line in lines:
        click.echo(line)


def screen(context: Context, call: dict[str, Any]) -> Iterator[str]:
    """The lines of the screen."""
    colours = coloured(sys.stdout)
    state = str(call.get("state"))
    state = click.style(state, fg=COLOURS.get(state)) if colours else clean(state)
    revision = f"  revision {call['revision']}" if call.get("revision", 1) != 1 else ""
    yield f"{clean(call['id'])}  {state}{revision}"
    for label, value in facts(context, call):
        if value:
            yield f"  {click.style(f'{label:9}', dim=True) if colours else f'{label:9}'} {clean(value)[:LONGEST]}"
    for title, columns, rows, more in tables(call):
        if rows:
            yield ""
            yield click.style(title, bold=True) if colours else title
            width = terminal_width()
            for line in table_lines(columns, rows, width - 2 if width else None):
                yield f"  {line}"
            if more > 0:
                yield f"  … and {more} more: --json"


def facts(context: Context, call: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Labels and what stands behind them; empty where there is nothing to say."""
    for label, key in (("From", "caller"), ("To", "callee")):
        yield label, party(call.get(key))
        for entry in ((call.get(key) or {}).get("also") or [])[:MOST_IDENTITIES]:
            reason = f"  {entry['reason']}" if entry.get("reason") else ""
            yield "", f"{entry.get('header')}: {party(entry)}{reason}"
    for other in call.get("parties") or []:
        yield "With", party(other)
    yield "Start", local(call.get("start"), fraction=True)
    setup = call.get("setup_s")
    yield "Answer", local(call.get("answer"), fraction=True) + (f"  after {setup:.3f} s" if setup is not None else "")
    ended = [f"after {talk(call['duration_s'])}"] if call.get("duration_s") is not None else []
    ended += [str(call["end_reason"])] if call.get("end_reason") else []
    ended += [f"by {call['hangup_by']}"] if call.get("hangup_by") else []
    if call.get("end") or ended:
        yield "End", "  ".join([local(call.get("end"), fraction=True) or "not seen", *ended])
    yield "SIP", str(call["sip_status"]) if call.get("sip_status") else ""
    yield from sound(context, call)
    if context.layout.packets(call["id"]).exists():
        yield "Packets", str(context.layout.packets(call["id"]))
    yield "Sidecar", str(context.layout.sidecar(call["id"]))
    for related in call.get("related") or []:
        yield "Related", f"{related.get('id')}  {related.get('how')}"
    yield "Tags", " ".join(map(str, call.get("tags") or []))
    for note in call.get("notes") or []:
        yield "Note", str(note)
    yield "Hold", str(call["hold"]) if call.get("hold") else ""
    yield "Odd", ", ".join(f"{name} {count}×" for name, count in (call.get("anomalies") or {}).items())


def sound(context: Context, call: dict[str, Any]) -> Iterator[tuple[str, str]]:
    audio = call.get("audio")
    if not audio:
        yield "Audio", f"none: {call.get('audio_reason') or 'no media'}"
        return
    if audio.get("pending"):
        yield "Audio", "being made"
        return
    channels = {1: "mono", 2: "stereo"}.get(audio.get("channels"), f"{audio.get('channels')} channels")
    yield "Audio", str(context.layout.resolve(audio["path"]))
    about = [str(audio.get("format")), f"{audio.get('sample_rate')} Hz", channels, duration(audio.get("duration_s")),
             size(audio.get("bytes"))]
    about += [f"{audio['concealed_ms']:g} ms concealed"] if audio.get("concealed_ms") else []
    yield "", ", ".join(about)
    for part in call.get("parts") or []:
        yield "Part", f"{context.layout.resolve(part['path'])}  {duration(part.get('duration_s'))}"


def tables(call: dict[str, Any]) -> Iterator[tuple[str, Sequence[Column], list[list[object]], int]]:
    """Title, columns, rows, and how many rows more there are."""
    legs = call.get("legs") or []
    if len(legs) > 1 or any(leg.get("linked_by") for leg in legs):
        yield "Legs", LEG, [leg_row(leg) for leg in legs], 0
    yield "Streams", STREAM, [stream_row(stream) for stream in call.get("streams") or []], 0
    events = call.get("events") or []
    yield "Events", EVENT, [event_row(event) for event in events[:MOST_EVENTS]], len(events) - MOST_EVENTS
    messages = call.get("messages") or []
    yield "Messages", MESSAGE, [message_row(m) for m in messages[:MOST_MESSAGES]], len(messages) - MOST_MESSAGES


LEG = [Column("FROM", least=6), Column("TO", least=6), Column("START"), Column("STATUS", keep=5), Column("LINKED BY", keep=4),
       Column("CALL-ID", keep=3, least=12)]
STREAM = [Column("SPEAKER"), Column("FROM", keep=5), Column("TO", keep=4), Column("VLAN", keep=2), Column("CODEC"),
          Column("PACKETS", right=True), Column("LOST", right=True), Column("JITTER", keep=6, right=True),
          Column("MOS", keep=8, right=True), Column("SSRC", keep=1)]
EVENT = [Column("TIME"), Column("WHAT"), Column("BY"), Column("DETAIL", least=10)]
MESSAGE = [Column("TIME"), Column("FROM", keep=4), Column("TO", keep=3), Column("MESSAGE", least=10), Column("CSEQ", keep=2)]


def leg_row(leg: dict[str, Any]) -> list[object]:
    return [number(leg.get("caller")), number(leg.get("callee")), local(leg.get("start")), leg.get("sip_status"),
            leg.get("linked_by"), str(leg.get("call_id"))[:100]]


def stream_row(stream: dict[str, Any]) -> list[object]:
    return [stream.get("direction"), stream.get("src"), stream.get("dst"), "/".join(map(str, stream.get("vlan") or [])),
            str(stream.get("codec") or "?")[:40], stream.get("packets"), share(stream),
            decimals(stream.get("jitter_ms"), 1, " ms"), decimals(stream.get("mos"), 2), f"{stream.get('ssrc') or 0:08x}"]


def message_row(message: dict[str, Any]) -> list[object]:
    return [clock(message), message.get("src"), message.get("dst"), str(message.get("first_line"))[:200],
            str(message.get("cseq"))[:40]]


def event_row(event: dict[str, Any]) -> list[object]:
    return [clock(event), event.get("type"), event.get("side"), detail(event)]


def clock(entry: dict[str, Any]) -> str:
    """The time of day of an entry; the date stands at the top."""
    return local(entry.get("time"), fraction=True)[11:]


def party(value: object) -> str:
    if not isinstance(value, dict):
        return ""
    name, given, uri, address = (str(value.get(key) or "")[:100] for key in ("name", "number", "uri", "address"))
    shown = f"{name} <{given}>" if name and given else name or given or "unknown"
    withheld = f"(withheld: {value['withheld']})"[:100] if value.get("withheld") else ""
    return "  ".join(filter(None, [shown, withheld, uri, address]))


def number(value: object) -> str:
    return str(value.get("number") or "")[:40] if isinstance(value, dict) else str(value or "")[:40]


def detail(event: dict[str, Any]) -> str:
    text = str(event["detail"])[:200] if event.get("detail") is not None else "(masked)" if event.get("type") == "dtmf" else ""
    lasted = event.get("duration_ms")
    return f"{text} {lasted} ms".strip() if lasted is not None else text


def share(stream: dict[str, Any]) -> str:
    lost, packets = stream.get("lost") or 0, stream.get("packets") or 0
    return f"{lost} ({100 * lost / (packets + lost):.1f} %)" if lost and packets else str(lost)


def decimals(value: float | None, places: int, unit: str = "") -> str:
    return "" if value is None else f"{value:.{places}f}{unit}"


def size(count: float | None) -> str:
    value = float(count or 0)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
