"""What alarms say, in words for whoever is woken by them: what happened, and what to do. By kind, with facts to fill in."""

from __future__ import annotations

__all__ = ["TEXTS"]

TEXTS = {
    "process-gone/capture":
        "The process capture-{name} is gone or hangs: nothing is recorded meanwhile. See `systemctl status "
        "rokuon-capture@{name}` and `journalctl -u rokuon-capture@{name}`.",
    "process-gone/correlate":
        "The process correlate is gone or hangs: calls are not finished meanwhile, and the spool fills. See `systemctl status"
        " rokuon` and `journalctl -u rokuon`.",
    "never-ran/capture":
        "No capture process has ever run: nothing is recorded. `systemctl enable --now rokuon-capture@IFACE` starts one.",
    "never-ran/correlate":
        "No correlate process has ever run: packets are captured, but calls are not finished. `systemctl enable --now rokuon`"
        " starts it.",
    "drops/kernel":
        "{interface}: the kernel dropped {packets:,} packets that were not taken off in time: calls of that time have gaps. "
        "Raise [capture] buffer, narrow [capture] filter, or give the machine more processor.",
    "drops/interface":
        "{interface}: the network card dropped {packets:,} packets: calls of that time have gaps. Enlarge its ring (`ethtool "
        "-G {interface} rx 4096`); the mirror port may also send more than the line carries.",
    "link-down":
        "{interface} has no link, or is gone: nothing is recorded from it. Look at the cable, the switch's port and its "
        "mirror session; recording goes on by itself when it is back.",
    "not-written/spool-full":
        "{capture}: {packets:,} packets were captured and not kept, because the spool is at its bound. See whether calls are "
        "finished (`systemctl status rokuon`) and whether the disk is full, then raise [spool] limit.",
    "not-written/disk-full":
        "{capture}: {packets:,} packets were captured and not kept, because the disk of the spool is full. Make room there."
        " See `df`.",
    "not-written/disk-slow":
        "{capture}: {packets:,} packets were captured and not kept, because the disk does not take them as fast as they come."
        " See what else writes to it, or use a faster one.",
    "not-written/disk-error":
        "{capture}: {packets:,} packets were captured and not kept, because the disk refuses writes. See `dmesg` and `df`.",
    "not-written":
        "{capture}: {packets:,} packets were captured and not kept: {reason}.",
    "spool":
        "{capture}: the spool is {percent} % full; at its bound, packets are not kept. See whether the service that finishes "
        "calls runs and keeps up (`systemctl status rokuon`), or raise [spool] limit.",
    "clock-step":
        "{capture}: the clock was set by more than 5 s while recording: times of calls around now are not to be trusted. See "
        "whether NTP runs (`timedatectl`).",
    "backlog/behind":
        "Recording is {behind_s:,.0f} s behind: calls can be found that much later, and the spool fills. The machine has too "
        "little processor or disk for this many calls, or something else uses it: `top` and `iostat` show which.",
    "backlog/grows":
        "{jobs:,} calls wait to be finished, more each minute: they can be found later, and the spool fills. The machine has "
        "too little processor or disk for this many calls, or something else uses it: `top` and `iostat` show which.",
    "quarantine":
        "{calls:,} call(s) could not be finished and were set aside with their packets, in quarantine/ under the data "
        "directory: most likely a codec crashed. The reason stands beside each; please report it.",
    "disk/full/refusing":
        "The disk of the {what} is full ({percent_free:.1f} % free{files}): no new calls are recorded. Move recordings away, "
        "delete some, or enlarge the disk.",
    "disk/full/deleting":
        "The disk of the {what} is full ({percent_free:.1f} % free{files}): the oldest calls are deleted to make room. Move "
        "recordings away, or enlarge the disk.",
    "disk/full/stuck":
        "The disk of the {what} is full ({percent_free:.1f} % free{files}), and no call is left that may be deleted: soon "
        "nothing can be recorded. Make room, or enlarge the disk.",
    "disk/low/keep-oldest":
        "The disk of the {what} fills up ({percent_free:.1f} % free{files}{lasts}); when it is full, no new calls will be "
        "recorded. Move recordings away, delete some, or enlarge the disk.",
    "disk/low/keep-newest":
        "The disk of the {what} fills up ({percent_free:.1f} % free{files}{lasts}); when it is full, the oldest calls will be "
        "deleted. Move recordings away, or enlarge the disk.",
    "silence":
        "No packet of a call has been seen for {minutes:.0f} minutes, in business hours. The mirror session may have been "
        "removed: look at the switch, and let `rokuon doctor -i {interfaces}` judge what comes.",
    "call-hook/skipped":
        "{calls:,} finished call(s) were never given to the call command: it does not keep up. Make it faster, or let it only"
        " note the call and do the work elsewhere.",
    "call-hook/given-up":
        "{calls:,} finished call(s) were given up: the call command failed each time. `journalctl -u rokuon-metrics` tells "
        "what it said.",
}
"""Figures in braces come from an alarm's facts; names among them are made harmless before."""
