"""REFERs that ask for an INVITE (RFC 3515), until it comes. Sans-I/O, in packet time; looked up by whom they ask and for what."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from rokuon.sniffer.model import Side

__all__ = ["Referral", "Referrals"]

_REFERRED_NS = 32_000_000_000
"""How long after a REFER the INVITE may come that it asks for."""
_MOST = 65_536
_OF_CALL = 16
_REFEREES = 8
_NEAR = 64
"""Of those that one host was asked by alike: beyond that the oldest is left out."""

@dataclass(slots=True, eq=False)
class Referral:
    """What a party of a call asks the other to do."""

    time_ns: int
    call: int
    side: Side
    """Who is asked, in the call."""
    cseq: int
    number: str
    """That is to be called."""
    by: str
    """Who asks, by the URI of Referred-By or From."""
    referees: list[str] = field(default_factory=list)
    """IP addresses that the REFER went to: behind a proxy it passes several."""
    done: bool = False
    """The INVITE came."""
    keys: list[tuple[str, str, str]] = field(default_factory=list)
    """By which it is looked up: host, "number" or "by", and what."""


class Referrals:
    """All of calls that are not given out."""

    def __init__(self) -> None:
        self._all: OrderedDict[int, Referral] = OrderedDict()  # by id, oldest first
        self._of: dict[int, list[Referral]] = {}
        self._at: dict[tuple[str, str, str], OrderedDict[int, Referral]] = {}

    def __len__(self) -> int:
        return len(self._all) + len(self._of) + len(self._at)

    def add(self, fresh: Referral, referee: str, ending: str) -> bool:
        """A REFER goes to a host. Whether it is none that is known: once more the same, or seen at another hop. `ending`: of its
        number, by which it is found.
        """
        self._expire(fresh.time_ns)
        mine = self._of.setdefault(fresh.call, [])
        known = next((r for r in mine if r.side == fresh.side and (r.cseq == fresh.cseq or (
            not r.done and r.number == fresh.number))), None)
        if known is None and len(mine) >= _OF_CALL:
            return False
        if known is None:
            known = fresh
            mine.append(fresh)
            self._all[id(fresh)] = fresh
            if len(self._all) > _MOST:
                self._drop(next(iter(self._all.values())))
        if not known.done and referee not in known.referees and len(known.referees) < _REFEREES:
            known.referees.append(referee)
            for key in ((referee, "number", ending), (referee, "by", known.by)):
                known.keys.append(key)
                there = self._at.setdefault(key, OrderedDict())
                there[id(known)] = known
                if len(there) > _NEAR:
                    there.popitem(last=False)
        return known is fresh

    def asked(self, referee: str, endings: Iterable[str], by: str, now_ns: int) -> list[Referral]:
        """What a host was asked for and has not done yet: of numbers that end so, or by whom."""
        self._expire(now_ns)
        keys = [(referee, "number", ending) for ending in endings] + ([(referee, "by", by)] if by else [])
        return list({key: r for k in keys for key, r in self._at.get(k, {}).items()}.values())

    def came(self, referral: Referral) -> None:
        """What it asked for was done."""
        referral.done = True
        self._leave(referral)

    def waits(self, call: int) -> bool:
        """Whether something that was asked for in a call was not done yet."""
        return any(not r.done for r in self._of.get(call, ()))

    def over(self, call: int) -> None:
        """Nothing joins the call any more."""
        for referral in list(self._of.get(call, ())):
            self._drop(referral)
        self._of.pop(call, None)

    # -- tables ----------------------------------------------------------------
    def _expire(self, now_ns: int) -> None:
        while self._all:
            oldest = next(iter(self._all.values()))
            if now_ns - oldest.time_ns <= _REFERRED_NS:
                return
            self._drop(oldest)

    def _drop(self, referral: Referral) -> None:
        self._leave(referral)
        self._all.pop(id(referral), None)
        mine = self._of.get(referral.call)
        if mine is not None:
            mine[:] = [r for r in mine if r is not referral]
            if not mine:
                del self._of[referral.call]

    def _leave(self, referral: Referral) -> None:
        for key in referral.keys:
            there = self._at.get(key)
            if there is not None and there.pop(id(referral), None) is not None and not there:
                del self._at[key]
        referral.keys.clear()
