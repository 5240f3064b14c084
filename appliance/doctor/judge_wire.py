"""Judges the packets as they come: what wraps them, cuts them, joins them, and the clock that stamps them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import Any

import numpy as np

from rokuon.appliance.doctor.evidence import Evidence
from rokuon.appliance.doctor.finding import Finding, and_more, count, listed, share

__all__ = ["judge_wire"]

_RTP_IN_TUNNEL = 10
_DRIFT_PPM, _ERROR_PPM = 300, 60
_STEP_WITHIN_NS = 2_000_000_000
_NEVER_SILENT_NS = 30 * 86_400 * 1_000_000_000
_WHOLE = "Capture whole packets (tcpdump -s 0)."
_UNWRAP = {
    "GRE": "ip link add gre1 type gretap local HERE remote SWITCH",
    "ERSPAN": "ip link add span1 type erspan local HERE remote SWITCH erspan_ver 1 seq key N",
    "VXLAN": "ip link add vx1 type vxlan id VNI dstport 4789",
    "GENEVE": "ip link add gnv1 type geneve id VNI remote SWITCH",
    "IP in IP": "ip link add tun1 type ipip local HERE remote THERE",
}
_CLOCK = "Let chrony or ntpd slew the clock of the machine that captures, and set it right before recording begins."
_SYNCHRONISE = "Synchronise the machine that captures (chrony or ntpd); a virtual machine may need another clock source."


def judge_wire(e: Evidence) -> Iterator[Finding]:
    """All findings about packets as such."""
    yield _encapsulation(e)
    yield _snaplen(e)
    yield from _fragments(e)
    yield _offload(e)
    yield from _clock(e)
    yield _vlans(e)
    yield from _files(e)


# -- what packets are in -----------------------------------------------------
def _encapsulation(e: Evidence) -> Finding:
    found, strange = e.survey.tunnels.found, e.survey.not_understood
    facts = {"tunnels": {name: {"packets": t.packets, "rtp": t.rtp, "sip": t.sip} for name, t in sorted(found.items())},
             "not_understood": strange}
    hiding = sorted((name for name, t in found.items() if t.sip or t.rtp >= _RTP_IN_TUNNEL), key=lambda name: -found[name].rtp)
    if hiding:
        what = listed([f"{name} ({count(found[name].rtp, 'packet')} like RTP, {found[name].sip:,} of SIP)" for name in hiding])
        remedy = "Mirror in front of or behind the tunnel"
        ways = [f"let Linux unwrap {name} ({_UNWRAP[name]}) and record from that interface" for name in hiding if name in _UNWRAP]
        return Finding("encapsulation", "problem", f"Calls are hidden in {what}: rokuon does not look into it.",
                       f"{', or '.join([remedy, *ways])}.", facts)
    if strange * 100 > e.survey.packets:
        text = (f"{share(strange, e.survey.packets)} of the frames are of no kind that is understood: too many tags, or "
                "another link layer.")
        return Finding("encapsulation", "warning", text, "Capture on an Ethernet port, with at most four VLAN tags.", facts)
    if found:
        names = listed([f"{name} ({count(t.packets, 'packet')})" for name, t in sorted(found.items())])
        text = f"Tunnels that rokuon does not look into: {names}; nothing like calls is seen in there."
        return Finding("encapsulation", "note", text, facts=facts)
    return Finding("encapsulation", "ok", "No tunnels that hide calls.", facts=facts)


def _vlans(e: Evidence) -> Finding:
    paths = Counter({".".join(map(str, tags)): n for tags, n in e.survey.paths.items() if tags})
    facts = {"vlans": dict(paths.most_common(100)), "untagged": e.survey.paths[()], "calls_crossing": e.calls.crossed}
    if not paths:
        return Finding("vlans", "ok", "No VLAN tags.", facts=facts)
    text = f"VLANs: {and_more([name for name, _ in paths.most_common()], 8)}; all of them are looked into."
    if e.calls.crossed:
        text += f" In {count(e.calls.crossed, 'call')} media runs in another VLAN than signalling."
    return Finding("vlans", "note", text, facts=facts)


# -- what was done to them ---------------------------------------------------
def _snaplen(e: Evidence) -> Finding:
    survey = e.survey
    sip = e.anomalies["sip-cut-by-snaplen"] + e.anomalies["packet-cut-or-unknown"]
    said = [line for line in e.wire.warnings if "cut to the snaplen" in line] if e.wire else []
    facts = {"cut": survey.cut, "cut_rtp": survey.cut_rtp, "cut_sip": sip, "cut_to": survey.cut_at}
    if survey.cut_rtp or sip:
        what = [f"{n:,} of {name}" for n, name in ((survey.cut_rtp, "RTP"), (sip, "signalling")) if n]
        text = f"Packets are cut short, {listed(what)}" + (f", to {survey.cut_at:,} bytes at most." if survey.cut_at else ".")
        return Finding("snaplen", "problem", text, "Raise [capture] snaplen (65535)." if e.wire else _WHOLE, facts)
    if said:
        return Finding("snaplen", "warning", f"Packets are cut short: {said[0]}.", "Raise [capture] snaplen (65535).", facts)
    if survey.cut:
        text = f"{count(survey.cut, 'packet')} were cut short; those of calls are whole."
        return Finding("snaplen", "warning", text, _WHOLE, facts)
    return Finding("snaplen", "ok", "All packets are whole.", facts=facts)


def _fragments(e: Evidence) -> Iterator[Finding]:
    voice, fragments = e.counts["rtp-in-fragments"], e.counts["fragments"]
    facts = {"fragments": fragments, "rtp": voice}
    if voice:
        yield Finding("fragments", "warning", f"{count(voice, 'packet')} of RTP came in IP fragments, which are not recorded.",
                      "Have phones send packets below the MTU (video: smaller packets), or raise the MTU on the way.", facts)
    elif fragments:
        yield Finding("fragments", "note", f"{count(fragments, 'IP fragment')}; signalling is put together again.", facts=facts)


def _offload(e: Evidence) -> Finding:
    survey = e.survey
    said = [line for line in e.wire.warnings if "joined before" in line] if e.wire else []
    facts = {"long_udp": survey.long_udp, "long_tcp": survey.long_tcp, "longest": survey.longest}
    name = e.wire.names[0] if e.wire else "IFACE"
    remedy = f"Turn it off where packets are captured: ethtool -K {name} gro off lro off rx-udp-gro-forwarding off"
    if survey.long_udp:
        text = (f"{count(survey.long_udp, 'UDP packet is', 'UDP packets are')} longer than Ethernet carries (up to "
                f"{survey.longest:,} bytes): the network card joins packets before they are captured, or these are jumbo frames.")
        return Finding("offload", "warning", text, remedy, facts)
    if survey.long_tcp or said:
        text = (f"TCP segments are joined before they are captured (up to {survey.longest:,} bytes); SIP in them is read "
                "all the same.")
        return Finding("offload", "note", text, remedy, facts)
    return Finding("offload", "ok", "No packets that the network card joined.", facts=facts)


# -- time --------------------------------------------------------------------
def _clock(e: Evidence) -> Iterator[Finding]:
    survey = e.survey
    if not survey.packets:
        return
    steps = _steps(e)
    clocks = [c for c in e.streams.clocks() if c.error_ppm < _ERROR_PPM]
    drift = median(c.ppm for c in clocks) if len(clocks) >= 2 else None
    listed_steps = [{"time": _moment(at), "seconds": round(size / 1e9, 3)} for at, size in steps[:20]]
    facts: dict[str, Any] = {
        "backwards": survey.back, "backwards_most_s": round(survey.back_most_ns / 1e9, 3), "steps": listed_steps,
        "streams_measured": len(clocks), "drift_ppm": None if drift is None else round(drift, 1),
        "silence_most_s": round(survey.silence_most_ns / 1e9, 3)}
    if e.wire and abs(e.wire.clock_step_ns) > 500_000_000:
        text = f"This machine's clock was set by {e.wire.clock_step_ns / 1e9:+.1f} s meanwhile: times of calls go wrong."
        yield Finding("clock", "warning", text, _CLOCK, facts)
    elif survey.back or steps:
        largest = max([size for _, size in steps] + [-survey.back_most_ns], key=abs)
        at = f" at {_moment(steps[0][0])}" if steps else ""
        text = f"The clock of the packets jumps by {largest / 1e9:+,.1f} s{at}: times and durations of calls go wrong."
        yield Finding("clock", "warning", text, _CLOCK, facts)
    elif survey.silence_most_ns > _NEVER_SILENT_NS:
        text = (f"Between two packets lie {survey.silence_most_ns / 86_400e9:,.0f} days: the clock was not set "
                "when the capture began.")
        yield Finding("clock", "warning", text, _CLOCK, facts)
    elif drift is not None and abs(drift) > _DRIFT_PPM:
        text = (f"The capture's clock runs {'slower' if drift > 0 else 'faster'} than those of the phones, by "
                f"{abs(drift):,.0f} ppm ({abs(drift) * 0.0036:.1f} s an hour; median of {count(len(clocks), 'stream')}).")
        yield Finding("clock", "warning", text, _SYNCHRONISE, facts)
    else:
        against = f" ({drift:+,.0f} ppm against the phones')" if drift is not None else ""
        yield Finding("clock", "ok", f"The clock goes evenly{against}.", facts=facts)


def _steps(e: Evidence) -> list[tuple[int, int]]:
    """When the clock jumped, and by how much: several streams, or a time that went back, and no pause of a single one."""
    rows = e.streams.jumps()
    if not len(rows):
        return []
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    parts = np.split(rows, np.flatnonzero(np.diff(rows[:, 0]) > _STEP_WITHIN_NS) + 1)
    return [(int(part[0, 0]), int(np.median(part[:, 2]))) for part in parts
            if len(np.unique(part[:, 1])) > 1 or int(part[:, 2].min()) < 0]


def _moment(time_ns: int) -> str:
    """UTC, ISO 8601, to the second."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "an unknown time"


# -- files -------------------------------------------------------------------
def _files(e: Evidence) -> Iterator[Finding]:
    drops = e.file_drops
    if drops is not None:
        facts = {"received": drops.received, "dropped_by_kernel": drops.by_kernel, "dropped_by_interface": drops.by_interface}
        lost = drops.by_kernel + drops.by_interface
        if lost:
            text = f"Who took the capture lost {count(lost, 'packet')} ({share(lost, max(drops.received, lost))}), the file says."
            remedy = "Capture with a larger buffer (dumpcap -B 64), fewer packets, or a faster disk."
            yield Finding("drops", "problem", text, remedy, facts)
        else:
            yield Finding("drops", "ok", "The file says that no packet was dropped.", facts=facts)
    lines = [line for line in e.warnings if "snap length" not in line]
    if lines:
        more = f" And {len(lines) - 1:,} more." if len(lines) > 1 else ""
        yield Finding("capture-file", "warning", f"Not all could be read: {lines[0]}.{more}",
                      "What was read is judged; take the capture again if the rest matters.", {"warnings": lines[:20]})
