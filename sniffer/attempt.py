"""One Call-ID and From tag in the making: what each message of it means for the call, its legs, claims and events."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rokuon.sniffer.dialog import DECIDED, FOLLOWED_UP, Bye, Dialog, Input, State, Waits, outcome
from rokuon.sniffer.hop import Hops
from rokuon.sniffer.model import Call, Hop, Leg, MessageNote, SipMessage
from rokuon.sniffer.offer_answer import Changes, OfferAnswer
from rokuon.sniffer.packet import Endpoint
from rokuon.sniffer.party import callee_of, caller_of, connect

__all__ = ["Attempt", "Sighting"]

MESSAGES = 512
_FIRST_LINE = 256
_COPY_NS = 100_000_000
"""Once more the same between the same ends so soon is a mirror's copy, not sent again (RFC 3261 17.1.1.1: T1 is 500 ms)."""
_NEAR = 16
_TAGS = 16
_LEGS = 8
_UNANSWERED = frozenset((State.CALLING, State.PROCEEDING, State.CANCELLING, State.CHALLENGED, State.REFUSED))
_DESCRIBING = frozenset(("INVITE", "ACK", "PRACK", "UPDATE"))
_LONGEST_SESSION = 86_400
_UNTAGGED = " "
"""Stands for the tag of a callee that gives none (RFC 2543) or the caller's own."""
SECOND = 1_000_000_000


@dataclass(slots=True, frozen=True)
class Sighting:
    """A message and where it was seen."""

    time_ns: int
    src: Endpoint
    dst: Endpoint
    encap: int
    transport: str
    message: SipMessage


class Attempt:
    """A call from its first INVITE on.

    Begun by an INVITE outside any dialog, or (`joined`) by whatever is the first that is seen of a dialog that began before the
    capture: an INVITE inside it, or its 2xx.
    """

    __slots__ = ("_cancelled", "_hops", "_idle_ns", "_inner", "_media", "_recent", "_vouched", "_waits", "call", "caller_tag",
                 "cseq", "dialogs", "noted", "scheduled_ns", "tags")

    def __init__(self, number: int, sighting: Sighting, waits: Waits, joined: bool = False) -> None:
        message, time_ns = sighting.message, sighting.time_ns
        response = bool(message.status)
        upstream, downstream = (sighting.dst, sighting.src) if response else (sighting.src, sighting.dst)
        caller, self._vouched = caller_of(message, upstream.address)
        callee = callee_of(message, downstream.address)
        leg = Leg(message.call_id, message.from_.tag, message.to.tag, replace(caller), replace(callee), time_ns)
        self.call = Call([leg], caller, callee, time_ns, last_ns=time_ns, number=number)
        self.caller_tag = message.from_.tag
        self.tags: dict[str, Dialog] = {}
        """The callee's tags, and the dialog that each belongs to."""
        self.dialogs = [Dialog(0, State.JOINED if joined else State.CALLING, time_ns)]
        self.scheduled_ns = -1
        """For who keeps the timers: when this is looked at next."""
        self.noted = 0
        """How many of its messages are noted."""
        self.cseq = message.cseq
        """Of the newest INVITE that tries to make the dialog."""
        self._hops = Hops()
        self._media = OfferAnswer(self.call, self.caller_tag)
        self._waits = waits
        self._recent: list[tuple[int, tuple[str, str, str, Endpoint, Endpoint]]] = []  # when and which messages were noted last
        self._idle_ns = waits.idle_ns
        self._cancelled = False
        self._inner: tuple[int, int, Hop] | None = None  # status, time and place of the newest refusal beyond the first hop
        if joined:
            self.call.anomalies["begun-in-mid-call"] += 1

    # -- timers ----------------------------------------------------------------
    def deadline_ns(self) -> int | None:
        """When the first of its dialogs has waited long enough; None: all are closed."""
        if len(self.dialogs) == 1:
            return self._deadline_ns(self.dialogs[0])
        return min((at for at in map(self._deadline_ns, self.dialogs) if at is not None), default=None)

    def _deadline_ns(self, dialog: Dialog) -> int | None:
        state = dialog.state
        if state is State.CONFIRMED:
            return self.call.last_ns + self._idle_ns
        if state is State.PROCEEDING:
            return self.call.last_ns + self._waits.ringing_ns
        return None if state is State.CLOSED else dialog.since_ns + self._waits.of(state)

    def expire(self, now_ns: int) -> bool:
        """Lets dialogs go that have waited until `now_ns`; whether the call is over."""
        for dialog in self.dialogs:
            at = self._deadline_ns(dialog)
            if at is not None and at <= now_ns:
                self._close(dialog, now_ns, "timeout")
        return self._closed()

    def close(self, now_ns: int, reason: str) -> None:
        """Ends what is still open, because `reason`."""
        for dialog in self.dialogs:
            if dialog.state is not State.CLOSED:
                self._close(dialog, now_ns, reason)
        self._closed()

    def _close(self, dialog: Dialog, now_ns: int, reason: str) -> None:
        call, leg, before, since_ns = self.call, self.call.legs[dialog.leg], dialog.state, dialog.since_ns
        dialog.feed(Input.TIMER, now_ns)
        if before is State.REFUSED or before is State.ENDED:
            return
        if before is State.UNSEALED:  # the BYE was not sent again: it is the best that is known
            self._hang_up(dialog, leg)
            return
        if before in DECIDED:
            status, leg.end_ns = (dialog.status, since_ns) if dialog.status or not self._inner else self._inner[:2]
            leg.sip_status = status
            if dialog.bye:
                leg.end_ns = dialog.bye.time_ns
            call.state = outcome(status, before is State.CANCELLING)
            call.end_reason = "reject" if before is State.CHALLENGED else "bye" if dialog.bye else "cancel"
        else:
            leg.end_ns = call.last_ns
            call.end_reason = reason
            if before is not State.CONFIRMED and reason == "timeout":
                status, leg.end_ns = self._inner[:2] if self._inner else (None, leg.end_ns)
                leg.sip_status = status
                call.state = outcome(status, cancelled=False)
                call.end_reason = "timeout" if status is None else "reject"
        if call.answer_ns is None:
            call.sip_status = leg.sip_status

    def _closed(self) -> bool:
        """Whether all dialogs are; the call's end is then that of the last."""
        if any(dialog.state is not State.CLOSED for dialog in self.dialogs):
            return False
        ends = [leg.end_ns for leg in self.call.legs if leg.end_ns is not None]
        self.call.end_ns = max(ends, default=self.call.last_ns)
        return True

    # -- messages --------------------------------------------------------------
    def receive(self, seen: Sighting, changes: Changes, *, by_caller: bool, note: bool) -> None:
        """Takes a message. `by_caller`: the caller sent the request that this is, or answers; `note`: it may be noted."""
        message, time_ns, call = seen.message, seen.time_ns, self.call
        call.last_ns = max(call.last_ns, time_ns)
        line = MessageNote(time_ns, seen.src, seen.dst, seen.transport, message.call_id, f"{message.cseq} {message.method}",
                           message.first_line[:_FIRST_LINE], message.sdp is not None)
        # Forked responses differ in their To tag alone (RFC 3261 section 16.7).
        key, recent = (line.first_line, line.cseq, message.to.tag, seen.src, seen.dst), self._recent
        while recent and recent[0][0] <= time_ns - _COPY_NS:
            del recent[0]
        if recent and any(noted == key and at <= time_ns for at, noted in recent):
            call.anomalies["message-copies"] += 1
        elif note and self.noted < MESSAGES:
            self.noted += 1
            call.messages.append(line)
            recent.append((time_ns, key))
            if len(recent) > _NEAR:
                del recent[0]
        else:
            call.anomalies["messages-dropped"] += 1
        for name in message.anomalies:
            call.anomalies[name] += 1
        if message.status:
            self._response(seen, message, time_ns, by_caller, changes)
        else:
            self._request(seen, message, time_ns, by_caller, changes)

    def _request(self, seen: Sighting, message: SipMessage, time_ns: int, by_caller: bool, changes: Changes) -> None:
        method = message.method
        fresh = method == "INVITE" and by_caller and self._is_attempt(message)
        acknowledged = (method == "ACK" and by_caller and message.cseq == self.cseq and message.to.tag and message.branch
                        and self._inner is None and not self._hops.has_branch(message.branch, seen.encap))
        hop = self._hops.of_request(seen.src, seen.dst, seen.encap, message.branch, forward=by_caller, attempt=fresh)
        if fresh:
            self._invite(seen, message, hop)
        elif method == "INVITE":
            self._media.exchange(by_caller, message.cseq, time_ns)
            self._renew_session(message)
            if self._hops.first is None:
                self._hops.first = hop
        elif method == "CANCEL":
            if by_caller and message.cseq == self.cseq and not self._hops.is_inner(hop):
                self._cancelled = self.dialogs[0].feed(Input.CANCEL, time_ns) or self._cancelled
        elif method == "BYE":
            self._bye(message, time_ns, by_caller)
        if message.sdp is not None and method in _DESCRIBING:
            if method == "ACK" and message.to.tag:
                self._learn(message.to.tag)
            exchange = self._media.exchange(by_caller, message.cseq, time_ns)
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

    def _is_attempt(self, message: SipMessage) -> bool:
        """Whether an INVITE of the caller tries to make the dialog, rather than change it.

        Some clients keep the To tag of a 401 when they ask again; it means nothing then.
        """
        state = self.dialogs[0].state
        return state is not State.JOINED and (not message.to.tag or (state in _UNANSWERED and message.to.tag not in self.tags))

    def _invite(self, seen: Sighting, message: SipMessage, hop: Hop) -> None:
        """An INVITE outside a dialog: the first, a further attempt, or one of these once more."""
        dialog, call, leg = self.dialogs[0], self.call, self.call.legs[0]
        if message.cseq > self.cseq and dialog.state in _UNANSWERED:
            self.cseq, self._cancelled, self._inner, dialog.status = message.cseq, False, None, None
            self._hops.first = hop
            if dialog.feed(Input.INVITE, seen.time_ns):
                leg.end_ns = leg.sip_status = call.end_ns = call.sip_status = call.end_reason = None
                call.state = "in-progress"
        elif message.cseq == self.cseq:
            if dialog.state is State.CALLING:
                dialog.feed(Input.INVITE, seen.time_ns)
            if self._hops.first is None:
                self._hops.first = hop
        self._media.exchange(True, message.cseq, seen.time_ns)
        if not self._vouched:
            caller, self._vouched = caller_of(message, call.caller.address)
            if self._vouched:
                call.caller, leg.caller = caller, replace(caller)

    def _bye(self, message: SipMessage, time_ns: int, by_caller: bool) -> None:
        dialog = self._dialog_of(message.to.tag if by_caller else message.from_.tag)
        leg, bye, state = self.call.legs[dialog.leg], dialog.bye, dialog.state
        if bye is not None and bye.by_caller == by_caller and message.cseq <= bye.cseq:
            return  # once more the same
        if not dialog.feed(Input.BYE, time_ns):
            return
        dialog.bye = Bye(time_ns, by_caller, message.cseq)
        if dialog.state is State.ENDED:
            if state is State.JOINED:
                self._answered(dialog, leg, leg.start_ns)
            self._hang_up(dialog, leg)
        elif dialog.state is State.CANCELLING:
            self._cancelled = True

    def _hang_up(self, dialog: Dialog, leg: Leg) -> None:
        bye, call = dialog.bye, self.call
        assert bye is not None
        leg.end_ns = bye.time_ns
        call.end_reason, call.hangup_by = "bye", "caller" if bye.by_caller else "callee"
        if all(d.state in (State.ENDED, State.CLOSED, State.UNSEALED) for d in self.dialogs):
            call.end_ns = max(leg.end_ns for leg in call.legs if leg.end_ns is not None)

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
        exchange = self._media.exchange(by_caller, message.cseq, time_ns)
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
            self._renew_session(message)
            self._media.agree(exchange, "caller" if by_caller else "callee", time_ns, changes)
        if attempt:
            self._response_to_attempt(message, status, time_ns, hop, changes)
        elif status >= 300:
            self._media.refuse(exchange, time_ns, changes)

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
        elif status < 300:
            self._answer(message, time_ns, changes)
        elif self._hops.is_inner(hop):
            if self._inner is None or (self._inner[0], self._inner[2]) != (status, hop):
                self._inner = status, time_ns, hop
        elif dialog.state is State.JOINED:
            gone = status in (408, 481)  # RFC 3261 12.2.1.2
            if dialog.feed(Input.REFUSAL if gone else Input.DECLINED, time_ns):
                if gone:
                    self._refused(dialog, status, time_ns)
                else:
                    self._answered(dialog, self.call.legs[0], self.call.start_ns)
        else:
            followed_up = status < 400 or status in FOLLOWED_UP
            if dialog.feed(Input.CHALLENGE if followed_up else Input.REFUSAL, time_ns):
                dialog.status = status
                if self._inner is not None and self._inner[0] == status and 0 <= time_ns - self._inner[1] < SECOND:
                    dialog.since_ns = time_ns = self._inner[1]  # the same refusal, as first captured
                if dialog.state is State.REFUSED:
                    self._refused(dialog, status, time_ns)

    def _refused(self, dialog: Dialog, status: int, time_ns: int) -> None:
        call, leg = self.call, self.call.legs[dialog.leg]
        dialog.status = leg.sip_status = call.sip_status = status
        leg.end_ns = call.end_ns = time_ns
        call.state = outcome(status, self._cancelled)
        call.end_reason = "cancel" if call.state == "cancelled" else "timeout" if status == 408 else "reject"

    def _answer(self, message: SipMessage, time_ns: int, changes: Changes) -> None:
        """2xx to the INVITE that makes the dialog; a second one with another To tag makes another (RFC 3261 13.2.2.4)."""
        first, tag, call = self.dialogs[0], message.to.tag, self.call
        if first.feed(Input.ANSWER, time_ns):
            leg = call.legs[0]
            leg.to_tag, leg.end_ns, call.end_ns, call.end_reason = tag, None, None, None
            first.status, first.bye, leg.sip_status, call.sip_status = message.status, None, message.status, message.status
            self._answered(first, leg, time_ns)
            self.tags[tag] = first
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
        elif first.status is None and first.state is State.CONFIRMED:  # its ACK was captured first
            leg = call.legs[0]
            first.status = leg.sip_status = call.sip_status = message.status
            leg.answer_ns = call.answer_ns = time_ns
            call.anomalies.pop("answer-not-captured", None)
        else:
            return
        self._media.answer(tag if tag != self.caller_tag else _UNTAGGED, self._leg_of(tag), time_ns, changes)

    def _answered(self, dialog: Dialog, leg: Leg, time_ns: int) -> None:
        leg.answer_ns = time_ns
        self.call.state = "answered"
        if self.call.answer_ns is None:
            self.call.answer_ns = time_ns

    def _bye_challenged(self, message: SipMessage, by_caller: bool) -> None:
        dialog = self._dialog_of(message.to.tag if by_caller else message.from_.tag)
        bye = dialog.bye
        if (bye is not None and bye.by_caller == by_caller and bye.cseq == message.cseq
                and dialog.feed(Input.BYE_CHALLENGED, bye.time_ns)):
            leg, call = self.call.legs[dialog.leg], self.call
            leg.end_ns = call.end_ns = call.end_reason = call.hangup_by = None

    def _renew_session(self, message: SipMessage) -> None:
        """A session that is refreshed less often than calls go idle (RFC 4028) is alive for as long as it says."""
        for value in message.headers.get("session-expires", ())[:1]:
            seconds = value.partition(";")[0].strip()
            if seconds.isascii() and seconds.isdigit() and len(seconds) <= 6:
                self._idle_ns = max(self._waits.idle_ns, min(int(seconds), _LONGEST_SESSION) * SECOND)

    # -- tags ------------------------------------------------------------------
    def _learn(self, tag: str) -> None:
        """Notes a tag of the callee's."""
        if tag not in self.tags and tag != self.caller_tag:
            if len(self.tags) < _TAGS:
                self.tags[tag] = self.dialogs[0]
            else:
                self.call.anomalies["tags-dropped"] += 1
        if not self.call.legs[0].to_tag:
            self.call.legs[0].to_tag = tag

    def _dialog_of(self, tag: str) -> Dialog:
        return self.tags.get(tag) or self.dialogs[0]

    def _leg_of(self, tag: str) -> int:
        return 0 if tag == self.caller_tag else self._dialog_of(tag).leg


