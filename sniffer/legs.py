"""The dialogs of one call: their timers, and what becomes of the call and its legs when they are answered and end."""

from __future__ import annotations

from rokuon.sniffer.dialog import DECIDED, Dialog, Input, State, Waits, outcome
from rokuon.sniffer.model import Call, Hop, Leg, SipMessage

__all__ = ["GONE", "Legs"]

_TAGS = 16
_ANSWERED = frozenset((State.CONFIRMED, State.ENDED, State.UNSEALED, State.CLOSED))
GONE = frozenset((408, 481))
"""To a request inside a dialog: who sent it ends the dialog (RFC 3261 12.2.1.2)."""
_LONGEST_SESSION = 86_400
SECOND = 1_000_000_000


class Legs:
    """Its dialogs by the callee's tags; `attempt` tells what happens to them."""

    __slots__ = ("_cancelled", "_gone", "_idle_ns", "_inner", "_waits", "call", "caller_tag", "cseq", "dialogs", "tags")

    def __init__(self, call: Call, message: SipMessage, waits: Waits, joined: bool) -> None:
        self.call = call
        self.caller_tag = message.from_.tag
        self.tags: dict[str, Dialog] = {}
        """The callee's tags, and the dialog that each belongs to."""
        self.dialogs = [Dialog(0, State.JOINED if joined else State.CALLING, call.start_ns)]
        self.cseq = message.cseq
        """Of the newest INVITE that tries to make the dialog."""
        self._waits = waits
        self._idle_ns = waits.idle_ns
        self._cancelled = False
        self._gone = False  # the peer knows nothing of the dialog (481), or does not answer (408)
        self._inner: dict[int, tuple[int, Hop]] = {}  # refusals that ended only a branch, by status: when and where; newest last

    def deadline_ns(self) -> int | None:
        """When the first of its dialogs has waited long enough; None: all are closed."""
        if len(self.dialogs) == 1:
            return self._deadline_ns(self.dialogs[0])
        return min((at for at in map(self._deadline_ns, self.dialogs) if at is not None), default=None)

    def _deadline_ns(self, dialog: Dialog) -> int | None:
        state = dialog.state
        if state is State.CONFIRMED:
            if self._is_unwanted(dialog):
                return dialog.since_ns + self._waits.response_ns
            return self.call.last_ns + (self._waits.silent_ns if self._gone else self._idle_ns)
        if state is State.PROCEEDING:
            return self.call.last_ns + self._waits.ringing_ns
        return None if state is State.CLOSED else dialog.since_ns + self._waits.of(state)

    def _is_unwanted(self, dialog: Dialog) -> bool:
        """Whether nobody acknowledges that 2xx while another one's dialog is used: a phone that answers under ever new tags.

        Who answers gives up after 32 s then (RFC 3261 13.3.1.4).
        """
        return len(self.dialogs) > 1 and not dialog.acknowledged and any(d.acknowledged for d in self.dialogs)

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
        unwanted = before is State.CONFIRMED and self._is_unwanted(dialog)
        dialog.feed(Input.TIMER, now_ns)
        if before is State.REFUSED or before is State.ENDED:
            return
        if unwanted:
            ends = [other.bye.time_ns for other in self.dialogs if other.bye]
            leg.end_ns = max(max(ends, default=now_ns), since_ns)
            call.anomalies["answer-not-acknowledged"] += 1
            call.end_reason = call.end_reason or reason
            return
        if before is State.UNSEALED:  # the BYE was not sent again: it is the best that is known
            self._hang_up(dialog, leg)
            return
        if before in DECIDED:
            status, leg.end_ns = (dialog.status, since_ns) if dialog.status or not self._inner else self._newest_inner()
            leg.sip_status = status
            if dialog.bye:
                leg.end_ns = dialog.bye.time_ns
            call.state = outcome(status, before is State.CANCELLING)
            call.end_reason = "reject" if before is State.CHALLENGED else "bye" if dialog.bye else "cancel"
        else:
            leg.end_ns = call.last_ns
            call.end_reason = reason
            if before is not State.CONFIRMED and reason == "timeout":
                status, leg.end_ns = self._newest_inner() if self._inner else (None, leg.end_ns)
                leg.sip_status = status
                call.state = outcome(status, cancelled=False)
                call.end_reason = "timeout" if status is None else "reject"
        if call.answer_ns is None:
            call.sip_status = leg.sip_status

    def _newest_inner(self) -> tuple[int, int]:
        status, (time_ns, _) = next(reversed(self._inner.items()))
        return status, time_ns

    def _closed(self) -> bool:
        """Whether all dialogs are; the call's end is then that of the last."""
        if any(dialog.state is not State.CLOSED for dialog in self.dialogs):
            return False
        ends = [leg.end_ns for leg in self.call.legs if leg.end_ns is not None]
        self.call.end_ns = max(ends, default=self.call.last_ns)
        return True

    def is_followed_by(self, cseq: int) -> bool:
        """Whether an INVITE outside of dialogs with that number is another call: this one was answered (RFC 3261 12.2)."""
        return cseq > self.cseq and self.dialogs[0].state in _ANSWERED

    def _answered(self, dialog: Dialog, leg: Leg, time_ns: int) -> None:
        leg.answer_ns = time_ns
        self.call.state = "answered"
        if self.call.answer_ns is None:
            self.call.answer_ns = time_ns

    def _hang_up(self, dialog: Dialog, leg: Leg) -> None:
        bye, call = dialog.bye, self.call
        assert bye is not None
        leg.end_ns = bye.time_ns
        call.end_reason, call.hangup_by = "bye", "caller" if bye.by_caller else "callee"
        if all(d.state in (State.ENDED, State.CLOSED, State.UNSEALED) for d in self.dialogs):
            call.end_ns = max(leg.end_ns for leg in call.legs if leg.end_ns is not None)

    def _refused(self, dialog: Dialog, status: int, time_ns: int) -> None:
        call, leg = self.call, self.call.legs[dialog.leg]
        dialog.status = leg.sip_status = call.sip_status = status
        leg.end_ns = call.end_ns = time_ns
        call.state = outcome(status, self._cancelled)
        call.end_reason = "cancel" if call.state == "cancelled" else "timeout" if status == 408 else "reject"

    def _response_to_joined(self, status: int, time_ns: int) -> None:
        """The INVITE or UPDATE that the call was first seen by is refused: the dialog goes on, or is none (RFC 3261 12.2.1.2)."""
        dialog, gone = self.dialogs[0], status in GONE
        if dialog.feed(Input.REFUSAL if gone else Input.DECLINED, time_ns):
            if gone:
                self._refused(dialog, status, time_ns)
            else:
                self._answered(dialog, self.call.legs[0], self.call.start_ns)

    def _bye_challenged(self, message: SipMessage, by_caller: bool) -> None:
        dialog = self._dialog_of(message.to.tag if by_caller else message.from_.tag)
        bye = dialog.bye
        if (bye is not None and bye.by_caller == by_caller and bye.cseq == message.cseq
                and dialog.feed(Input.BYE_CHALLENGED, bye.time_ns)):
            leg, call = self.call.legs[dialog.leg], self.call
            leg.end_ns = call.end_ns = call.end_reason = call.hangup_by = None

    def _renew_session(self, message: SipMessage) -> None:
        """A session that is to be refreshed (RFC 4028) is alive for as long as it says, shorter or longer than calls go idle."""
        for value in message.headers.get("session-expires", ())[:1]:
            seconds = value.partition(";")[0].strip()
            if seconds.isascii() and seconds.isdigit() and len(seconds) <= 6:
                self._idle_ns = max(min(int(seconds), _LONGEST_SESSION) * SECOND, self._waits.silent_ns)

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
