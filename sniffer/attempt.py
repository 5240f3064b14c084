"""One Call-ID and From tag in the making: what each message of it means for the call, its legs, claims and events."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from rokuon.sniffer.dialog import FOLLOWED_UP, Bye, Dialog, Input, State, Waits
from rokuon.sniffer.exchange import Exchange
from rokuon.sniffer.hop import Hops
from rokuon.sniffer.legs import GONE, Legs
from rokuon.sniffer.model import Call, Hop, Leg, SipMessage
from rokuon.sniffer.noting import Notes, Sighting
from rokuon.sniffer.offer_answer import Changes, OfferAnswer
from rokuon.sniffer.party import callee_of, caller_of, connect, reach

__all__ = ["Attempt"]

_LEGS = 8
_UNANSWERED = frozenset((State.CALLING, State.PROCEEDING, State.CANCELLING, State.CHALLENGED, State.REFUSED))
_DESCRIBING = frozenset(("INVITE", "ACK", "PRACK", "UPDATE"))
_FAILED = frozenset((State.CHALLENGED, State.REFUSED))
_UNTAGGED = " "
"""Stands for the tag of a callee that gives none (RFC 2543) or the caller's own."""
SECOND = 1_000_000_000


class Attempt(Legs):
    """A call from its first INVITE on.

    Begun by an INVITE outside any dialog, or (`joined`) by whatever is the first that is seen of a dialog that began before the
    capture: an INVITE or UPDATE inside it, or its 2xx.
    """

    __slots__ = ("_hops", "_media", "_vouched", "former", "notes", "scheduled_ns")

    def __init__(self, number: int, sighting: Sighting, waits: Waits, joined: bool = False) -> None:
        message, time_ns = sighting.message, sighting.time_ns
        response = bool(message.status)
        upstream, downstream = (sighting.dst, sighting.src) if response else (sighting.src, sighting.dst)
        caller, self._vouched = caller_of(message, upstream.address)
        callee = callee_of(message, downstream.address)
        leg = Leg(message.call_id, message.from_.tag, message.to.tag, replace(caller), replace(callee), time_ns)
        super().__init__(Call([leg], caller, callee, time_ns, last_ns=time_ns, number=number), message, waits, joined)
        self.scheduled_ns = -1
        """For who keeps the timers: when this is looked at next."""
        self.notes = Notes()
        self.former: Collection[str] = ()
        """Callee's tags of an earlier call of the same Call-ID and From tag: what carries one is none of this call's."""
        self._hops = Hops()
        self._media = OfferAnswer(self.call, self.caller_tag)
        if joined:
            self.call.anomalies["begun-in-mid-call"] += 1

    # -- messages --------------------------------------------------------------
    def receive(self, seen: Sighting, changes: Changes, *, by_caller: bool, note: bool) -> None:
        """Takes a message. `by_caller`: the caller sent the request that this is, or answers; `note`: it may be noted."""
        message, time_ns, call = seen.message, seen.time_ns, self.call
        call.last_ns = max(call.last_ns, time_ns)
        self.notes.take(call, seen, note)
        if message.status:
            self._response(seen, message, time_ns, by_caller, changes)
        else:
            self._request(seen, message, time_ns, by_caller, changes)

    def _request(self, seen: Sighting, message: SipMessage, time_ns: int, by_caller: bool, changes: Changes) -> None:
        method = message.method
        fresh = method == "INVITE" and by_caller and self._is_attempt(message)
        acknowledged = (method == "ACK" and by_caller and message.cseq == self.cseq and message.to.tag and message.branch
                        and not self._inner and not self._hops.has_branch(message.branch, seen.encap))
        hop = self._hops.of_request(seen.src, seen.dst, seen.encap, message.branch, forward=by_caller, attempt=fresh)
        peer = message.to.tag if by_caller else message.from_.tag
        if method not in ("INVITE", "CANCEL") and (dialog := self.tags.get(peer)):
            dialog.acknowledged = True
        if fresh:
            self._invite(seen, message, hop)
        elif method == "INVITE":
            self._media.exchange(by_caller, message.cseq, time_ns, peer)
            self._renew_session(message)
            if self._hops.first is None:
                self._hops.first = hop
        elif method == "CANCEL":
            if by_caller and message.cseq == self.cseq and self._hops.cancelled(hop):
                self._cancelled = self.dialogs[0].feed(Input.CANCEL, time_ns) or self._cancelled
        elif method == "BYE":
            self._bye(message, time_ns, by_caller)
        if message.sdp is not None and method in _DESCRIBING:
            if method == "ACK" and message.to.tag:
                self._learn(message.to.tag)
            exchange = self._described_in(message, time_ns, by_caller, peer)
            tag = message.from_.tag
            what = by_caller, message.cseq, method, message.to.tag
            self._media.describe(exchange, time_ns, message.sdp, changes, hop=hop, tag=tag, leg=self._leg_of(tag), what=what)
        if acknowledged and self.dialogs[0].feed(Input.ACKNOWLEDGED, time_ns):
            self._learn(message.to.tag)
            self.call.legs[0].to_tag = message.to.tag
            self.call.anomalies["answer-not-captured"] += 1
            self._answered(self.dialogs[0], self.call.legs[0], time_ns)
            self._media.agree(self._media.exchange(True, message.cseq, time_ns), "caller", time_ns, changes)
            self._media.answer(message.to.tag, 0, time_ns, changes)
        if self.dialogs[0].state is State.JOINED and message.to.tag:
            callee = message.to.tag if by_caller else message.from_.tag
            self._learn(callee)
            self._media.answer(callee, 0, time_ns, changes)

    def _described_in(self, message: SipMessage, time_ns: int, by_caller: bool, peer: str) -> Exchange:
        """The exchange that a request with a session description is part of."""
        if message.method == "ACK":
            answered = self._media.awaiting(by_caller, message.cseq, peer)
            if answered is not None:
                self.call.anomalies["ack-cseq-differs"] += 1
                return answered
        return self._media.exchange(by_caller, message.cseq, time_ns, peer)

    def _is_attempt(self, message: SipMessage) -> bool:
        """Whether an INVITE of the caller tries to make the dialog, rather than change it.

        Some clients keep the To tag of a 401 when they ask again; it means nothing then.
        """
        state, tag = self.dialogs[0].state, message.to.tag
        if not tag or state is State.JOINED:
            return not tag and state is not State.JOINED
        if state not in _UNANSWERED or tag in self.tags:
            return False
        if message.cseq > self.cseq:
            self.call.anomalies["to-tag-of-refusal-kept"] += 1
        return True

    def _invite(self, seen: Sighting, message: SipMessage, hop: Hop) -> None:
        """An INVITE outside a dialog: the first, a further attempt, or one of these once more."""
        dialog, call, leg = self.dialogs[0], self.call, self.call.legs[0]
        newer = message.cseq > self.cseq
        if dialog.state in _UNANSWERED and (newer or (
                message.cseq == self.cseq and dialog.state in _FAILED and self._hops.branches_off(hop))):
            if newer:
                self.cseq, self._cancelled, self._inner = message.cseq, False, {}
                self._hops.begin(hop)
                self._dialled(message, seen)
            dialog.status = None
            if dialog.feed(Input.INVITE, seen.time_ns):
                leg.end_ns = leg.sip_status = call.end_ns = call.sip_status = call.end_reason = None
                call.state = "in-progress"
        elif message.cseq == self.cseq:
            if dialog.state is State.CALLING:
                dialog.feed(Input.INVITE, seen.time_ns)
            if self._hops.first is None:
                self._hops.begin(hop)
        self._media.exchange(True, message.cseq, seen.time_ns)
        if not self._vouched:
            caller, self._vouched = caller_of(message, call.caller.address)
            if self._vouched:
                call.caller, leg.caller = caller, replace(caller)
        reach(message, call.callee, leg.callee)

    def _dialled(self, message: SipMessage, seen: Sighting) -> None:
        """More digits of the number that is called (overlap dialling, RFC 3578)."""
        callee, call = callee_of(message, seen.dst.address), self.call
        if len(callee.number) > len(call.callee.number) and callee.number.startswith(call.callee.number):
            call.callee, call.legs[0].callee = callee, replace(callee)

    def _bye(self, message: SipMessage, time_ns: int, by_caller: bool) -> None:
        tag = message.to.tag if by_caller else message.from_.tag
        dialog = self._dialog_of(tag)
        leg, bye, state = self.call.legs[dialog.leg], dialog.bye, dialog.state
        if bye is not None and bye.by_caller == by_caller and message.cseq <= bye.cseq:
            return  # once more the same
        if not dialog.feed(Input.BYE, time_ns):
            return
        dialog.bye = Bye(time_ns, by_caller, message.cseq, tag)
        if dialog.state is State.ENDED:
            if state is State.JOINED:
                self._answered(dialog, leg, leg.start_ns)
            self._hang_up(dialog, leg)
        elif dialog.state is State.CANCELLING:
            self._cancelled = True
            if not by_caller:  # it must not (RFC 3261 15)
                self.call.anomalies["bye-before-answer-by-callee"] += 1

    def _response(self, seen: Sighting, message: SipMessage, time_ns: int, by_caller: bool, changes: Changes) -> None:
        status, method, tag = message.status, message.method, message.to.tag
        hop = self._hops.of_response(seen.src, seen.dst, seen.encap, message.branch, forward=not by_caller)
        if method == "BYE":
            if status in (401, 407):
                self._bye_challenged(message, by_caller)
            return
        if method not in ("INVITE", "UPDATE", "PRACK"):
            return
        attempt = method == "INVITE" and by_caller and self._is_of_attempt(message.cseq)
        peer = "" if attempt else tag if by_caller else message.from_.tag
        exchange = self._media.exchange(by_caller, message.cseq, time_ns, peer)
        if attempt and tag and status < 300:
            self._learn(tag)
        describer = self.caller_tag if not by_caller else tag if tag != self.caller_tag else _UNTAGGED
        if message.sdp is not None and (200 <= status < 300 or (status < 200 and exchange.agreed is None)):
            if attempt and exchange.agreed and tag not in self.tags and tag:
                return  # more branches than are followed
            what = by_caller, message.cseq, method, status, describer
            self._media.describe(exchange, time_ns, message.sdp, changes, hop=hop, tag=describer, leg=self._leg_of(describer),
                                 what=what)
        if 200 <= status < 300:
            self._gone = False
            self._renew_session(message)
            self._media.agree(exchange, "caller" if by_caller else "callee", time_ns, changes)
        if attempt:
            self._response_to_attempt(message, status, time_ns, hop, changes)
        elif self.dialogs[0].state is State.JOINED and method == "UPDATE" and status >= 200:
            if status < 300:
                self._answer(message, time_ns, changes)
            else:
                self._response_to_joined(status, time_ns)
        elif status >= 300:
            self._media.refuse(exchange, time_ns, changes)
            if status in GONE and method != "PRACK" and exchange.agreed is False and not self._gone:
                self._gone = True
                self.call.anomalies["dialog-gone-at-peer"] += 1

    def _is_of_attempt(self, cseq: int) -> bool:
        """Whether a response to an INVITE of the caller is to one that makes the dialog, be it one that was not captured."""
        if cseq > self.cseq and self.dialogs[0].state in _UNANSWERED:
            self.cseq = cseq
        return cseq == self.cseq

    def _response_to_attempt(self, message: SipMessage, status: int, time_ns: int, hop: Hop, changes: Changes) -> None:
        dialog = self.dialogs[0]
        if 100 < status < 300:
            connect(message, self.call.callee, self.call.legs[0].callee)
        if status < 200:
            dialog.feed(Input.PROVISIONAL, time_ns)
            if status == 199:
                self._media.abandon(message.to.tag, time_ns, changes)
        elif status < 300:
            self._answer(message, time_ns, changes)
        elif dialog.state is State.JOINED:
            self._response_to_joined(status, time_ns)
        elif not self._hops.refused(hop):
            if status not in self._inner or self._inner[status][1] != hop:
                self._inner.pop(status, None)
                self._inner[status] = time_ns, hop
        else:
            followed_up = status < 400 or status in FOLLOWED_UP
            if dialog.feed(Input.CHALLENGE if followed_up else Input.REFUSAL, time_ns):
                dialog.status = status
                inner = self._inner.get(status)
                if inner is not None and 0 <= time_ns - inner[0] < SECOND:
                    dialog.since_ns = time_ns = inner[0]  # the same refusal, as first captured
                if dialog.state is State.REFUSED:
                    self._refused(dialog, status, time_ns)

    def _answer(self, message: SipMessage, time_ns: int, changes: Changes) -> None:
        """2xx to the INVITE that makes the dialog; a second one with another To tag makes another (RFC 3261 13.2.2.4)."""
        first, tag, call = self.dialogs[0], message.to.tag, self.call
        if first.feed(Input.ANSWER, time_ns):
            leg = call.legs[0]
            leg.to_tag, leg.end_ns, call.end_ns, call.end_reason = tag, None, None, None
            if message.method == "INVITE":
                first.status = leg.sip_status = call.sip_status = message.status
            self._answered(first, leg, time_ns)
            self.tags[tag] = first
            bye, first.bye = first.bye, None
            if bye is not None and bye.tag == tag and first.feed(Input.BYE, time_ns):  # it overtook the 2xx, or crossed it
                first.bye = replace(bye, time_ns=time_ns)
                self._hang_up(first, leg)
        elif first.status is not None and 200 <= first.status < 300 and tag not in (call.legs[0].to_tag, ""):
            dialog = self.tags.get(tag)
            if dialog is first and len(call.legs) < _LEGS and first.state is not State.CLOSED:
                leg = replace(call.legs[0], to_tag=tag, caller=replace(call.legs[0].caller), callee=replace(call.legs[0].callee),
                              answer_ns=time_ns, end_ns=None, sip_status=message.status)
                dialog = Dialog(len(call.legs), State.CONFIRMED, time_ns, message.status)
                call.legs.append(leg)
                self.dialogs.append(dialog)
                self.tags[tag] = dialog
                call.end_ns = None
            elif dialog is None or dialog is first:
                call.anomalies["branches-dropped"] += 1
                return
        elif first.status is None and "answer-not-captured" in call.anomalies:  # its ACK was captured first
            leg = call.legs[0]
            first.status = leg.sip_status = call.sip_status = message.status
            leg.answer_ns = call.answer_ns = time_ns
            call.anomalies.pop("answer-not-captured", None)
        else:
            return
        self._media.answer(tag if tag != self.caller_tag else _UNTAGGED, self._leg_of(tag), time_ns, changes)
