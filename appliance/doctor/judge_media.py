"""Judges RTP itself: what is missing of it, what comes twice, and whether RTCP tells more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from rokuon.appliance.doctor.evidence import Evidence
from rokuon.appliance.doctor.finding import Finding, Level, and_more, count, listed, share
from rokuon.appliance.doctor.streams import StreamCounts, together

__all__ = ["judge_media"]

_LOSS, _LOSS_MIRROR, _LOSS_MUCH = 0.0005, 0.001, 0.01
_TELLING = 5
"""Packets missing from which on reports of loss are compared."""
_COPIES = 0.01
_BEGINNING_NS = 2_000_000_000
_LESS = ("The mirror port is given more than it carries, or the switch copies only when it has time: mirror fewer ports, or "
         "each in one direction, or to a faster port; look at the switch's counters of discarded mirror packets.")
_ASK = "Lost in the network or by the mirror: ask both ends; RTCP, which would tell, was not seen for these streams."
_ONCE = ("Nothing is recorded twice, but it takes twice the bandwidth of the mirror port: mirror each port in one direction "
         "only (rx), or leave out one of the two VLANs or ports.")


def judge_media(e: Evidence) -> Iterator[Finding]:
    """All findings about RTP as such."""
    voice = [s for s in e.streams.all() if s.voice_like]
    if voice:
        yield _loss(e, voice)
    yield from _duplicates(e, voice)
    yield _rtcp(e)


def _loss(e: Evidence, voice: list[StreamCounts]) -> Finding:
    lost, sent = sum(s.lost for s in voice), sum(s.distinct + s.lost for s in voice)
    ratio = lost / sent
    gaps = np.concatenate(e.streams.gaps) if e.streams.gaps else np.zeros((0, 3), np.int64)
    gaps = gaps[np.isin(gaps[:, 1], [s.number for s in voice])]
    ends = {s.number: hash(frozenset((s.src.address, s.dst.address))) for s in voice}
    pairs, by_chance = together(gaps, np.array([ends[n] for n in gaps[:, 1].tolist()], np.int64))
    ours, theirs = _reported(e, voice)
    facts = {"lost": lost, "expected": sent, "share": round(ratio, 6), "streams": sum(s.lost > 0 for s in voice),
             "gaps": len(gaps), "at_once": pairs, "at_once_by_chance": round(by_chance, 1),
             "reported_lost": theirs, "seen_lost_of_reported": ours}
    if ratio < _LOSS:
        return Finding("rtp-loss", "ok", f"RTP is complete: {lost:,} of {count(sent, 'packet')} missing.", facts=facts)
    text = f"{share(lost, sent)} of RTP is missing ({lost:,} of {count(sent, 'packet')})"
    by_us: Level = "problem" if ratio >= _LOSS_MIRROR else "warning"
    if e.wire is not None and e.wire.dropped_by_kernel + e.wire.dropped_by_interface:
        return Finding("rtp-loss", by_us, f"{text}: this machine dropped packets.", "See drops.", facts)
    if ours >= _TELLING and theirs * 3 < ours:
        return Finding("rtp-loss", by_us, f"{text}, but of {ours:,} that are missing here the phones report {theirs:,} "
                       "(RTCP): the mirror loses them.", _LESS, facts)
    if ours >= _TELLING and theirs * 10 >= ours * 7:
        return Finding("rtp-loss", "note", f"{text}; the phones report as much (RTCP): the network loses it, not the mirror.",
                       facts=facts)
    if pairs >= _TELLING and pairs > 3 * by_chance:
        return Finding("rtp-loss", by_us, f"{text}, of several conversations at once: the mirror loses it.", _LESS, facts)
    worst = sorted((s for s in voice if s.lost), key=lambda s: -s.lost)
    names = and_more([f"{s.src} to {s.dst} ({share(s.lost, s.lost + s.distinct)})" for s in worst[:3]])
    return Finding("rtp-loss", "warning" if ratio >= _LOSS_MUCH else "note", f"{text}, most of it from {names}.", _ASK, facts)


def _reported(e: Evidence, voice: list[StreamCounts]) -> tuple[int, int]:
    """What we miss of the streams that receivers report of, and what they say they miss."""
    missed: Counter[int] = Counter()
    begun: dict[int, int] = {}
    for s in voice:
        missed[s.ssrc] += s.lost
        begun[s.ssrc] = min(begun.get(s.ssrc, s.first_ns), s.first_ns)
    ours = theirs = 0
    for ssrc, (first, newest) in e.reports.found.items():
        if ssrc in missed:
            was_there = begun[ssrc] - e.survey.first_ns < _BEGINNING_NS and first != newest
            ours += missed[ssrc]
            theirs += max(newest.lost - (first.lost if was_there else 0), 0)
    return ours, theirs


def _duplicates(e: Evidence, voice: list[StreamCounts]) -> Iterator[Finding]:
    places: dict[object, Counter[tuple[tuple[int, ...], int]]] = {}
    for s in voice:
        places.setdefault((s.src, s.dst, s.ssrc), Counter())[s.tags, s.point] += s.packets
    twins = [place for place in places.values() if len(place) > 1]
    elsewhere = sum(sum(place.values()) - max(place.values()) for place in twins)
    copies, routed = sum(s.copies for s in voice), sum(s.routed for s in voice)
    total, twice = sum(s.packets for s in voice), copies + elsewhere
    survey = e.survey
    sip, messages = survey.sip_copies, survey.requests + survey.responses
    facts = {"rtp": copies, "rtp_other_vlan_or_interface": elsewhere, "rtp_routed": routed,
             "share": round(twice / total, 4) if total else 0.0, "sip": sip,
             "sip_share": round(sip / messages, 4) if messages else 0.0}
    if not total and not messages:
        return
    if twice <= _COPIES * total and sip <= _COPIES * messages:
        yield Finding("duplicates", "ok", "Each packet is seen once.", facts=facts)
        return
    text = (f"{share(twice, total)} of RTP are copies" if twice > _COPIES * total else f"{share(sip, messages)} of SIP "
            "messages are copies")
    why = []
    if elsewhere:
        tags = sorted({tags for place in twins for tags, _ in place})
        points = {point for place in twins for _, point in place}
        names = [".".join(map(str, t)) if t else "none" for t in tags]
        why.append(f"with VLAN tags {listed(names)}" if len(tags) > 1 else f"on {count(len(points), 'interface')}")
    if routed or survey.sip_copies_routed:
        why.append("before and behind a router (its time to live differs)")
    text += f": the mirror shows each packet at several places{', ' + listed(why) if why else ''}."
    yield Finding("duplicates", "warning", text, _ONCE, facts)


def _rtcp(e: Evidence) -> Finding:
    packets, reported = e.counts["rtcp"], len(e.reports.found)
    facts = {"packets": packets, "streams_reported": reported}
    if packets:
        text = f"RTCP is seen: {count(packets, 'packet')}, with reports of {count(reported, 'stream')}."
        return Finding("rtcp", "ok", text, facts=facts)
    return Finding("rtcp", "note", "No RTCP was seen; it would tell loss in the network from loss by the mirror.", facts=facts)
