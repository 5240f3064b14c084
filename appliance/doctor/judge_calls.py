"""Judges signalling and media: what calls announce, and what was seen of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

from rokuon.appliance.doctor.calls import Lonely
from rokuon.appliance.doctor.evidence import Evidence
from rokuon.appliance.doctor.finding import Finding, Level, and_more, count, listed, share

__all__ = ["judge_calls"]

_BEGINNING_NS = 3_000_000_000
"""RTP that begins so soon after the capture belongs to a call that was going on already."""
_MANY = 0.05
_TOP = 20
_BOTH_WAYS = ("Mirror the port in both directions (rx and tx); where traffic takes two ways (a bond, two uplinks, a second "
              "switch), mirror both.")
_BACK = "If calls to there do come about, the way back is not mirrored: mirror the port in both directions."
_WHERE_MEDIA_IS = ("Mirror the ports of the phones or of the gateway with these addresses, too: sound between two phones does "
                   "not pass the PBX's port. Check that no filter leaves UDP out.")
_THEIR_SIP = ("Mirror the SIP of these calls as well (the port of their PBX or proxy), or name its port in [record] "
              "sip_ports; else they are recorded without numbers, as rtp-only.")
_PLAIN_SIP = ("Mirror a hop on which SIP is not encrypted (between PBX and trunk, or behind the SBC), or have the PBX speak "
              "SIP over UDP or TCP inside.")
_PLAIN_RTP = ("Have the PBX or SBC use plain RTP inside, or mirror a link where it does: without the keys nobody can hear it. "
              "Such calls are listed, and their packets counted, without sound.")
_CODEC = ("Install a codec plugin (rokuon plugins lists what there is), or leave the codec out in the PBX. With [record] "
          "keep_packets = true the sound can be made later (rokuon decode).")


def judge_calls(e: Evidence) -> Iterator[Finding]:
    """All findings about calls and their media."""
    yield _signalling(e)
    if e.counts["sip_messages"]:
        yield _one_way_signalling(e)
        yield _calls(e)
    yield from _announced(e)
    yield from _directions(e)
    yield from _without_signalling(e)
    yield from _tls(e)
    yield _srtp(e)
    yield from _codecs(e)


def _top(counter: Counter[str]) -> dict[str, int]:
    """The most frequent names."""
    return dict(counter.most_common(_TOP))


def _address(end: str) -> str:
    """Of an address with a port."""
    return end.rpartition(":")[0].strip("[]")


# -- signalling --------------------------------------------------------------
def _signalling(e: Evidence) -> Finding:
    messages, rtp, survey = e.counts["sip_messages"], e.streams.packets, e.survey
    facts = {"sip_messages": messages, "udp_requests": survey.requests, "udp_responses": survey.responses,
             "other": dict(survey.other_signalling)}
    if messages:
        return Finding("signalling", "ok", f"SIP is seen: {count(messages, 'message')}.", facts=facts)
    if survey.tls:
        text = f"No SIP can be read {e.where}: what there is of it is encrypted."
        return Finding("signalling", "problem", text, _PLAIN_SIP, facts)
    cut = e.anomalies["sip-cut-by-snaplen"] + e.anomalies["packet-cut-or-unknown"]
    if cut:
        text = f"No SIP can be read {e.where}: {count(cut, 'packet')} of it are cut short."
        return Finding("signalling", "problem", text, "See snaplen: capture whole packets.", facts)
    text = f"No SIP was seen {e.where}" + (f", though there is RTP ({count(rtp, 'packet')})." if rtp else ", and no RTP.")
    if survey.other_signalling:
        names = listed(sorted(survey.other_signalling))
        return Finding("signalling", "problem", f"{text} There is {names}, which rokuon does not understand.",
                       f"Mirror a link on which SIP is spoken: of calls set up with {names} only RTP is recorded, without "
                       "parties.", facts)
    ports = listed([str(port) for port in e.sip_ports], "or")
    return Finding("signalling", "problem", text,
                   f"Mirror the port of the PBX or SIP proxy; if it speaks SIP on another port than {ports}, name it in [record] "
                   "sip_ports. Check that calls were made meanwhile.", facts)


def _one_way_signalling(e: Evidence) -> Finding:
    requests, responses, calls = e.survey.requests, e.survey.responses, e.calls
    total = sum(calls.states.values())
    facts = {"udp_requests": requests, "udp_responses": responses, "invites_without_response": calls.no_response,
             "responses_without_request": e.anomalies["response-of-unknown-dialog"], "servers": _top(calls.no_response_to)}
    fewer, more = sorted((requests, responses))
    if more >= 3 and fewer * 10 < more:
        seen, unseen = ("requests", "responses") if requests > responses else ("responses", "requests")
        text = f"SIP is seen in one direction only: {more:,} {seen}, {f'{fewer:,}' if fewer else 'no'} {unseen}."
        return Finding("one-way-signalling", "problem", text, _BOTH_WAYS, facts)
    if total and calls.no_response == total:
        text = f"No response to {'any of ' if total > 1 else ''}{count(total, 'call')}: SIP is seen in one direction only."
        return Finding("one-way-signalling", "problem", text, _BOTH_WAYS, facts)
    if calls.no_response:
        where = and_more(list(_top(calls.no_response_to)), 3)
        text = f"{calls.no_response:,} of {count(total, 'INVITE')} got no response that was seen (sent to {where})."
        return Finding("one-way-signalling", "warning", text, _BACK, facts)
    return Finding("one-way-signalling", "ok", "Requests and responses are seen.", facts=facts)


def _calls(e: Evidence) -> Finding:
    states = e.calls.states
    total = sum(states.values())
    facts = {"calls": total, "states": dict(states), "answered_long_enough": e.calls.answered}
    if total:
        kinds = listed([f"{number:,} {state}" for state, number in states.most_common()])
        return Finding("calls", "ok", f"{count(total, 'call')}: {kinds}.", facts=facts)
    remedy = "Make a call through this port meanwhile, or look for longer (--duration 300)." if e.wire else \
        "Take a capture while calls are made."
    return Finding("calls", "warning", f"No call was seen {e.where}, so media could not be judged.", remedy, facts)


# -- media -------------------------------------------------------------------
def _announced(e: Evidence) -> Iterator[Finding]:
    calls = e.calls
    facts = {"answered": calls.answered, "without_media": calls.none, "without_description": calls.unanswerable,
             "addresses": _top(calls.never)}
    if calls.none:
        where = and_more(list(_top(calls.never)), 4)
        text = f"In {_of(calls.none, calls.answered)} no media was seen at all, though it was announced: {where}."
        yield Finding("announced-media", "problem", text, _WHERE_MEDIA_IS, facts)
    elif calls.unanswerable:
        text = (f"No session description was seen of {count(calls.unanswerable, 'answered call')}: nobody knows where "
                "its media is.")
        yield Finding("announced-media", "warning", text, _BOTH_WAYS, facts)
    elif calls.answered:
        yield Finding("announced-media", "ok", "Media is seen where session descriptions announce it.", facts=facts)


def _of(some: int, answered: int) -> str:
    """`3 of 12 answered calls`."""
    if some == answered:
        return "the only answered call" if some == 1 else "both answered calls" if some == 2 else f"all {some:,} answered calls"
    return f"{some:,} of {count(answered, 'answered call')}"


def _directions(e: Evidence) -> Iterator[Finding]:
    calls = e.calls
    lonely = [each for each in calls.lonely if not _is_multicast(_address(each.receiver))]
    alone = [each for each in lonely if not each.both]
    silent = Counter(_address(each.receiver) for each in alone)
    facts = {"answered": calls.answered, "both": calls.both, "one": calls.one, "none": calls.none, "on_hold": calls.held,
             "heard": dict(calls.one_of), "missing_senders": _top(calls.missing if calls.one else silent),
             "without_signalling": len(lonely), "without_signalling_one_way": len(alone)}
    if calls.one:
        names = list(_top(calls.missing)) or ["the other side"]
        text = f"In {_of(calls.one, calls.answered)} only one side is heard: what {and_more(names)} sent was not seen."
        remedy = f"Mirror the port of {names[0]} in both directions (rx and tx); where its traffic takes two ways, mirror both."
        yield Finding("both-directions", "problem", text, remedy, facts)
    elif alone and len(alone) * 2 >= len(lonely) + 2 * calls.both:
        text = (f"{len(alone):,} of {count(len(lonely), 'conversation')} without signalling: only one direction is seen; what "
                f"{and_more(list(_top(silent)))} sent is missing.")
        yield Finding("both-directions", "problem", text, _BOTH_WAYS, facts)
    elif calls.both:
        hold = f"; {calls.held:,} on hold" if calls.held else ""
        yield Finding("both-directions", "ok", f"Both directions of media are seen in {_of(calls.both, calls.answered)}{hold}.",
                      facts=facts)
    elif lonely:
        text = (f"Both directions are seen in {len(lonely) - len(alone):,} of {count(len(lonely), 'conversation')} "
                "without signalling.")
        yield Finding("both-directions", "ok", text, facts=facts)


def _is_multicast(address: str) -> bool:
    try:
        return ip_address(address).is_multicast
    except ValueError:
        return False


def _without_signalling(e: Evidence) -> Iterator[Finding]:
    calls, begin = e.calls, e.survey.first_ns
    fresh = [each for each in calls.lonely if each.start_ns - begin > _BEGINNING_NS or not e.counts["sip_messages"]]
    packets = sum(each.packets for each in fresh)
    total = calls.claimed_packets + calls.lonely_packets
    if not total:
        return
    examples = [f"{each.sender} to {each.receiver}" for each in _largest(fresh)]
    facts = {"conversations": len(calls.lonely), "already_going_on": len(calls.lonely) - len(fresh),
             "packets": calls.lonely_packets, "share": round(calls.lonely_packets / total, 4),
             "not_voice_packets": calls.not_voice, "examples": examples}
    if fresh:
        level: Level = "problem" if packets >= _MANY * total else "warning"
        text = (f"{count(len(fresh), 'conversation')} ({share(packets, total)} of RTP) without signalling: "
                f"{and_more(examples, 2)}.")
        yield Finding("media-without-signalling", level, text, _THEIR_SIP, facts)
    elif calls.lonely:
        text = (f"{count(len(calls.lonely), 'call was', 'calls were')} going on already when the capture began "
                f"({share(calls.lonely_packets, total)} of RTP).")
        yield Finding("media-without-signalling", "note", text, facts=facts)
    else:
        yield Finding("media-without-signalling", "ok", "All RTP belongs to calls that were seen.", facts=facts)


def _largest(lonely: list[Lonely]) -> list[Lonely]:
    return sorted(lonely, key=lambda each: -each.packets)[:5]


# -- what cannot be understood -----------------------------------------------
def _tls(e: Evidence) -> Iterator[Finding]:
    survey = e.survey
    if not survey.tls:
        return
    facts = {"records": survey.tls, "servers": _top(survey.tls_servers)}
    alone = not e.calls.states or any(each.start_ns - survey.first_ns > _BEGINNING_NS for each in e.calls.lonely)
    text = f"SIP is encrypted (TLS) at {and_more(list(_top(survey.tls_servers)), 3)}: who calls whom there cannot be seen."
    yield Finding("sip-tls", "problem" if alone else "warning", text, _PLAIN_SIP, facts)


def _srtp(e: Evidence) -> Finding:
    calls = e.calls
    total = sum(calls.states.values())
    dtls, zrtp = e.survey.dtls, e.survey.zrtp
    tagged = [c for c in e.streams.all() if c.voice_like and c.number not in calls.sealed_streams and c.length > 80
              and c.types and set(c.types) <= {0, 8, 9} and c.length % 80 in (4, 10)]
    facts = {"calls": calls.sealed, "share": round(calls.sealed / total, 4) if total else 0.0, "dtls_packets": dtls,
             "zrtp_packets": zrtp, "streams_with_tag": len(tagged)}
    if calls.sealed:
        text = f"{calls.sealed:,} of {count(total, 'call')} ({share(calls.sealed, total)}): media is encrypted (SRTP)."
        return Finding("srtp", "problem", text, _PLAIN_RTP, facts)
    if dtls or zrtp:
        names = listed([f"{name} ({count(n, 'packet')})" for name, n in (("DTLS", dtls), ("ZRTP", zrtp)) if n])
        return Finding("srtp", "warning", f"Keys for encrypted media are exchanged: {names}.", _PLAIN_RTP, facts)
    if tagged:
        ends = and_more([f"{c.src} to {c.dst}" for c in tagged], 3)
        text = (f"{count(len(tagged), 'stream looks', 'streams look')} encrypted: packets of G.711 are longer by an "
                f"authentication tag ({ends}).")
        return Finding("srtp", "warning", text, _PLAIN_RTP, facts)
    return Finding("srtp", "ok", "No encrypted media.", facts=facts)


def _codecs(e: Evidence) -> Iterator[Finding]:
    calls = e.calls
    facts = {"streams": _top(calls.codecs), "not_decodable": dict(calls.undecodable), "calls": calls.undecodable_calls,
             "video_calls": calls.video}
    if calls.undecodable:
        reason = next(iter(calls.undecodable.values()))
        text = (f"{count(calls.undecodable_calls, 'call')} with {and_more(list(calls.undecodable))} that cannot be "
                f"decoded: {reason}.")
        yield Finding("codecs", "problem", text, _CODEC, facts)
    elif calls.codecs:
        yield Finding("codecs", "ok", f"Codecs: {listed(list(_top(calls.codecs)))}; all can be decoded.", facts=facts)
