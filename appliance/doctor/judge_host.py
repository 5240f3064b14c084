"""Judges the machine: its interface, whether it keeps up, and the disk that recordings would go to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rokuon.appliance.doctor.evidence import Disk, Evidence, Wire
from rokuon.appliance.doctor.finding import Finding, Level, count, listed, share, size

__all__ = ["judge_host"]

_DAYS_FEW, _DAYS_ENOUGH = 1.0, 14.0
_SPEED_MARGIN = 2.0
_SPAN = ("Make this port the destination of the mirror session (SPAN); in a virtual switch allow promiscuous mode, or "
         "mirroring to it.")
_REFUSED = "Use another network card; in a virtual machine allow promiscuous mode on its port group."
_NOTHING = "Is the mirror session active, with this port as its destination? Is this the right interface?"
_SLOW = ("Enlarge [capture] buffer, mirror less (what [capture] filter leaves out costs nothing), or use a faster machine.")
_ROOM = "Make room, or keep recordings for a shorter time; what happens when the disk is full is [disk] policy."


def judge_host(e: Evidence) -> Iterator[Finding]:
    """All findings about the machine; none where files are judged."""
    if e.wire is not None:
        yield _interface(e, e.wire)
        yield _drops(e, e.wire)
    if e.disk is not None:
        yield from _disk(e, e.disk)


def _interface(e: Evidence, wire: Wire) -> Finding:
    names, towards = listed(wire.names), e.survey.towards
    facts = {"names": wire.names, "up": wire.up, "packets": e.survey.packets, "for_us": towards.us,
             "for_everybody": towards.everybody, "for_others": towards.others, "warnings": wire.warnings[:20]}

    def problem(text: str, remedy: str) -> Finding:
        return Finding("interface", "problem", text, remedy, facts)

    if not wire.up:
        return problem(f"{names} is down: no link.", f"Set it up (ip link set {wire.names[0]} up); look at the cable.")
    if not e.survey.packets:
        return problem(f"Nothing came in on {names} in {e.seconds:.0f} s.", _NOTHING)
    refuses = [line for line in wire.warnings if "promiscuous" in line]
    if refuses:
        return problem(f"{refuses[0]}.", _REFUSED)
    if towards.us + towards.everybody and not towards.others and not e.counts["sip_messages"] and not e.streams.packets:
        return problem(f"On {names} there is nothing but frames from or to this machine, and broadcasts: no mirror.", _SPAN)
    changed = [line for line in wire.warnings if any(word in line for word in ("link is", "is gone", "is back", "waiting"))]
    if changed:
        return Finding("interface", "warning", f"The link was not there all the time: {changed[0]}.",
                       "Look at cable, switch port and driver (dmesg).", facts)
    rate = e.survey.bytes * 8 / max(e.seconds, 1e-9) / 1e6
    return Finding("interface", "ok", f"{names} is up: {count(e.survey.packets, 'packet')}, {rate:,.1f} Mbit/s.", facts=facts)


def _drops(e: Evidence, wire: Wire) -> Finding:
    seconds = max(e.seconds, 1e-9)
    by_card, by_kernel = wire.dropped_by_interface, wire.dropped_by_kernel
    packets_s, cpu = e.survey.packets / seconds, wire.cpu_s / seconds
    facts = {"received": wire.received, "dropped_by_kernel": by_kernel, "dropped_by_interface": by_card,
             "packets_s": round(packets_s, 1), "most_packets_s": round(wire.most_packets_s, 1), "cpu_share": round(cpu, 3)}
    rate = f"{packets_s:,.0f} packets/s (at most {wire.most_packets_s:,.0f})"
    if by_card:
        text = f"The network card missed {count(by_card, 'packet')} ({share(by_card, wire.received + by_card)}) at {rate}."
        remedy = f"Enlarge its ring (ethtool -G {wire.names[0]} rx 4096); keep other work off the processor that serves it."
        return Finding("drops", "problem", text, remedy, facts)
    if by_kernel:
        text = f"The kernel dropped {count(by_kernel, 'packet')} ({share(by_kernel, wire.received)}) at {rate}: we were too slow."
        return Finding("drops", "problem", text, _SLOW, facts)
    text = f"No packet was dropped at {rate}; looking took {share(wire.cpu_s, seconds)} of a processor."
    return Finding("drops", "ok", text, facts=facts)


# -- disk --------------------------------------------------------------------
def _disk(e: Evidence, disk: Disk) -> Iterator[Finding]:
    seconds = max(e.seconds, 1.0)
    recording = e.calls.octets / seconds
    needed = recording + sum(s.bytes for s in e.streams.all()) / seconds
    facts: dict[str, Any]
    if not disk.writable:
        yield Finding("disk-speed", "note", f"The disk's speed was not tried: {disk.reason}.",
                      "Run doctor as the user who records, with the same --data.", {"path": disk.path, "reason": disk.reason})
    elif disk.write_bytes_s is not None:
        speed = disk.write_bytes_s
        facts = {"path": disk.path, "write_bytes_s": round(speed), "needed_bytes_s": round(needed)}
        if speed < needed * _SPEED_MARGIN:
            text = f"{disk.path} writes {size(speed)}/s; packets and recordings at this rate take {size(needed)}/s."
            yield Finding("disk-speed", "problem", text, "Keep the data on a faster disk, with nothing else on it.", facts)
        else:
            text = f"The disk writes {size(speed)}/s; this rate takes {size(needed)}/s."
            yield Finding("disk-speed", "ok", text, facts=facts)
    if disk.total:
        yield _space(disk, recording)


def _space(disk: Disk, recording: float) -> Finding:
    days = disk.free / recording / 86_400 if recording else None
    facts = {"path": disk.path, "free_bytes": disk.free, "total_bytes": disk.total, "bytes_a_day": round(recording * 86_400),
             "days": None if days is None else round(days, 1)}
    if days is None:
        text = f"{size(disk.free)} are free; no voice was seen to tell how long that lasts."
        return Finding("disk-space", "ok", text, facts=facts)
    level: Level = "problem" if days < _DAYS_FEW else "warning" if days < _DAYS_ENOUGH else "ok"
    text = f"{size(disk.free)} are free: enough for {_span(days)} at this rate ({size(recording * 86_400)} a day)."
    return Finding("disk-space", level, text, "" if level == "ok" else _ROOM, facts)


def _span(days: float) -> str:
    if days < 2:
        return count(round(days * 24), "hour")
    return count(round(days), "day") if days < 1000 else f"{days / 365:,.0f} years"
