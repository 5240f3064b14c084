"""The life of a dialog, from the attempt at one to its end (RFC 3261 sections 12, 13, 15), as a passive listener sees it.

Every transition there is stands in `TRANSITIONS`; an input that a state does not list changes nothing, which is what makes
retransmissions, copies from other hops and messages that come late harmless. What an input *is* (a response to which INVITE,
seen at which hop) is worked out in `rokuon.sniffer.attempt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType

from rokuon.sniffer.model import CallState

__all__ = ["DECIDED", "FOLLOWED_UP", "TRANSITIONS", "Bye", "Dialog", "Input", "State", "Waits", "outcome"]

SECOND = 1_000_000_000
FOLLOWED_UP = frozenset((401, 407, 422, 484, 494))
"""Refusals that a user agent answers by asking again, as it does after any 3xx (RFC 3261 22, 8.1.3.4, RFC 4028, RFC 3329), or by
more digits (RFC 3578).
"""


class State(Enum):
    """Where a dialog, or the attempt at one, stands."""

    CALLING = auto()
    """INVITE, and no response to it."""
    PROCEEDING = auto()
    """A provisional response came."""
    CANCELLING = auto()
    """CANCEL (or BYE before any answer); the final response is still to come."""
    CHALLENGED = auto()
    """Refused in a way that is usually followed up: 401, 407, 3xx …"""
    REFUSED = auto()
    """Refused for good; lingers, because a race may still be won by a 2xx."""
    JOINED = auto()
    """An INVITE inside a dialog whose beginning was not captured."""
    CONFIRMED = auto()
    """Answered."""
    ENDED = auto()
    """BYE; lingers for what comes late."""
    UNSEALED = auto()
    """BYE that was refused with 401 or 407: goes on until it is sent again."""
    CLOSED = auto()
    """Nothing changes any more."""


class Input(Enum):
    """What can happen to it."""

    INVITE = auto()
    """A new INVITE of the attempt, or once more the same."""
    PROVISIONAL = auto()
    ANSWER = auto()
    """2xx to INVITE."""
    ACKNOWLEDGED = auto()
    """The ACK that only a 2xx gets (RFC 3261 17.1.1.3), and the 2xx itself was not captured."""
    CHALLENGE = auto()
    """401, 407, 3xx … to INVITE."""
    REFUSAL = auto()
    """Any other final response to INVITE."""
    DECLINED = auto()
    """An INVITE inside the dialog was refused, and the dialog goes on (RFC 3261 14.1)."""
    CANCEL = auto()
    BYE = auto()
    BYE_CHALLENGED = auto()
    """401 or 407 to the BYE that ended it."""
    TIMER = auto()
    """It has stayed as it is for as long as `Waits` allows."""


_S, _I = State, Input
TRANSITIONS: Mapping[State, Mapping[Input, State]] = MappingProxyType({
    _S.CALLING: {
        _I.INVITE: _S.CALLING, _I.PROVISIONAL: _S.PROCEEDING, _I.ANSWER: _S.CONFIRMED, _I.ACKNOWLEDGED: _S.CONFIRMED,
        _I.CHALLENGE: _S.CHALLENGED, _I.REFUSAL: _S.REFUSED, _I.CANCEL: _S.CANCELLING, _I.BYE: _S.CANCELLING, _I.TIMER: _S.CLOSED,
    },
    _S.PROCEEDING: {
        _I.PROVISIONAL: _S.PROCEEDING, _I.ANSWER: _S.CONFIRMED, _I.ACKNOWLEDGED: _S.CONFIRMED,
        _I.CHALLENGE: _S.CHALLENGED, _I.REFUSAL: _S.REFUSED, _I.CANCEL: _S.CANCELLING, _I.BYE: _S.CANCELLING, _I.TIMER: _S.CLOSED,
    },
    # CANCEL may lose against a 2xx that is under way (RFC 3261 9.1).
    _S.CANCELLING: {
        _I.ANSWER: _S.CONFIRMED, _I.ACKNOWLEDGED: _S.CONFIRMED, _I.CHALLENGE: _S.REFUSED, _I.REFUSAL: _S.REFUSED,
        _I.TIMER: _S.CLOSED,
    },
    _S.CHALLENGED: {
        _I.INVITE: _S.CALLING, _I.ANSWER: _S.CONFIRMED, _I.TIMER: _S.CLOSED,
    },
    # INVITE: some ask again after what looked final (488 with another offer); ANSWER: another branch was quicker.
    _S.REFUSED: {
        _I.INVITE: _S.CALLING, _I.ANSWER: _S.CONFIRMED, _I.TIMER: _S.CLOSED,
    },
    _S.JOINED: {
        _I.INVITE: _S.JOINED, _I.ANSWER: _S.CONFIRMED, _I.DECLINED: _S.CONFIRMED, _I.REFUSAL: _S.REFUSED, _I.BYE: _S.ENDED,
        _I.TIMER: _S.CLOSED,
    },
    _S.CONFIRMED: {
        _I.BYE: _S.ENDED, _I.TIMER: _S.CLOSED,
    },
    _S.ENDED: {
        _I.BYE_CHALLENGED: _S.UNSEALED, _I.TIMER: _S.CLOSED,
    },
    _S.UNSEALED: {
        _I.BYE: _S.ENDED, _I.TIMER: _S.CLOSED,
    },
    _S.CLOSED: {},
})

_RENEWED = frozenset((State.CALLING, State.PROCEEDING, State.JOINED))
"""States in which a message of the same kind starts the wait anew: whoever repeats an INVITE or rings on is there."""

DECIDED = frozenset((State.REFUSED, State.ENDED, State.UNSEALED, State.CHALLENGED, State.CANCELLING, State.CLOSED))
"""States in which the outcome is known even if the capture ends here."""


@dataclass(slots=True, frozen=True)
class Waits:
    """How long a dialog may stay in a state, in nanoseconds of packet time."""

    linger_ns: int = SECOND
    """After BYE or a refusal."""
    response_ns: int = 32 * SECOND
    """INVITE, CANCEL or a challenged BYE without anything after it: timers B and F (RFC 3261 17.1.1.2)."""
    ringing_ns: int = 180 * SECOND
    """After the last provisional response or early media: timer C (RFC 3261 16.6)."""
    follow_up_ns: int = 64 * SECOND
    """Between a challenge or redirection and the next INVITE: phones that ask for a password were seen to take 33 and 51 s."""
    idle_ns: int = 600 * SECOND
    """Answered, and neither signalling nor media."""

    @property
    def silent_ns(self) -> int:
        """The least that an answered call may be silent: media is looked for ten times within `idle_ns`."""
        return self.idle_ns // 5

    def of(self, state: State) -> int:
        """How long `state` may last."""
        if state is State.CONFIRMED:
            return self.idle_ns
        if state is State.PROCEEDING:
            return self.ringing_ns
        if state is State.ENDED or state is State.REFUSED:
            return self.linger_ns
        return self.follow_up_ns if state is State.CHALLENGED else self.response_ns


@dataclass(slots=True, frozen=True)
class Bye:
    """The BYE that ends a dialog."""

    time_ns: int
    by_caller: bool
    cseq: int
    tag: str
    """The callee's, as it says."""


@dataclass(slots=True)
class Dialog:
    """A dialog or the attempt at one."""

    leg: int
    """Index in `Call.legs`."""
    state: State
    since_ns: int
    """When the state was entered, or renewed."""
    status: int | None = None
    """The final response to INVITE."""
    bye: Bye | None = None
    acknowledged: bool = False
    """A request was seen in it: whoever answered was heard (RFC 3261 13.3.1.4)."""

    def feed(self, what: Input, time_ns: int) -> bool:
        """Takes `what` at `time_ns`; whether that led to another state."""
        after = TRANSITIONS[self.state].get(what)
        if after is None:
            return False
        changed = after is not self.state
        if changed or after in _RENEWED:
            self.since_ns = time_ns
        self.state = after
        return changed


def outcome(status: int | None, cancelled: bool) -> CallState:
    """State of a call that was not answered.

    `status`: the final response to its INVITE, None where there was none; `cancelled`: CANCEL was seen.
    """
    if cancelled or status == 487:
        return "cancelled"
    if status in (486, 600):
        return "busy"
    if status in (408, 480, None):
        return "no-answer"
    return "failed"
