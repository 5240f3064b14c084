"""Where a message was seen: the same dialog passes several hops on its way through proxies, and each has its own SDP."""

from __future__ import annotations

from typing import TypeVar

from rokuon.sniffer.model import Hop
from rokuon.sniffer.packet import Endpoint

__all__ = ["Hops"]

_HOPS = 16
_BRANCHES = 64
T = TypeVar("T")


def _with(some: tuple[T, ...], more: T) -> tuple[T, ...]:
    return some if more in some else (*some, more)


class Hops:
    """The hops of one dialog.

    A hop is written in the direction from caller to callee, so that even a spiral, which passes between the same two
    hosts both ways, has two of them.
    """

    __slots__ = ("_branches", "_cancelled", "_hops", "_invited", "_refused", "first")

    def __init__(self) -> None:
        self._hops: dict[Hop, Hop] = {}
        self._branches: dict[tuple[str, int], Hop] = {}
        self._invited: tuple[Hop, ...] = ()  # tuples: most dialogs have one or none, and there are thousands
        self._refused: tuple[Endpoint, ...] = ()  # branches from the first hop on, by where they go
        self._cancelled: tuple[Endpoint, ...] = ()
        self.first: Hop | None = None
        """Where the newest INVITE was seen first: the hop nearest to the caller."""

    def of_request(self, src: Endpoint, dst: Endpoint, encap: int, branch: str, *, forward: bool, attempt: bool) -> Hop:
        """The hop of a request.

        `forward`: it goes from caller to callee; `attempt`: it is an INVITE outside a dialog, which may open a hop beside others.
        """
        hop = Hop(src, dst, encap) if forward else Hop(dst, src, encap)
        known = self._hops.get(hop)
        if known is None:
            known = (None if attempt else self._near(hop)) or self._add(hop)
        if branch and (branch, encap) not in self._branches:
            if len(self._branches) >= _BRANCHES:
                del self._branches[next(iter(self._branches))]
            self._branches[branch, encap] = known
        if attempt:
            self._invited = _with(self._invited, known)
        return known

    def of_response(self, src: Endpoint, dst: Endpoint, encap: int, branch: str, *, forward: bool) -> Hop:
        """The hop of a response: by its ends, else by the branch of its request (ports may differ: RFC 3261 18.2.2)."""
        hop = Hop(src, dst, encap) if forward else Hop(dst, src, encap)
        return self._hops.get(hop) or self._branches.get((branch, encap)) or self._near(hop) or self._add(hop)

    def has_branch(self, branch: str, encap: int) -> bool:
        """Whether a request with that branch was seen (RFC 3261 8.1.1.7)."""
        return (branch, encap) in self._branches

    def begin(self, hop: Hop) -> None:
        """A new attempt begins at that hop: nothing of it was refused yet."""
        self.first, self._invited, self._refused, self._cancelled = hop, (hop,), (), ()

    def branches_off(self, hop: Hop) -> bool:
        """Whether an INVITE at `hop` goes from where the first did, to where none went yet: another branch, or another server
        after the first has failed (RFC 3261 16.6, RFC 3263 4.3).
        """
        first = self.first
        return first is not None and hop.upstream == first.upstream and hop.downstream not in self._tried(but=hop)

    def refused(self, hop: Hop) -> bool:
        """A final refusal came at `hop`. Whether that is the attempt's end.

        What ends below the first hop may be tried elsewhere, and where the first hop is that of a proxy which forks, all its
        branches must have ended (RFC 3261 16.7).
        """
        first = self.first
        if first is None or hop not in self._invited:
            return True
        if hop.upstream != first.upstream:
            return False
        self._refused = _with(self._refused, hop.downstream)
        return self._tried() <= {*self._refused}

    def cancelled(self, hop: Hop) -> bool:
        """CANCEL was seen at `hop`. Whether the attempt is given up with it: a proxy cancels single branches."""
        first = self.first
        if first is None or hop not in self._invited:
            return True
        if hop.upstream != first.upstream:
            return False
        self._cancelled = _with(self._cancelled, hop.downstream)
        return self._tried() <= {*self._refused, *self._cancelled}

    def _tried(self, but: Hop | None = None) -> set[Endpoint]:
        """Where the INVITE went from the first hop's upstream end."""
        return {h.downstream for h in self._invited if self.first is not None and h.upstream == self.first.upstream and h != but}

    def _add(self, hop: Hop) -> Hop:
        if len(self._hops) >= _HOPS:
            return next(iter(self._hops))
        self._hops[hop] = hop
        return hop

    def _near(self, hop: Hop) -> Hop | None:
        """The hop between the same hosts where ports differ: TCP, or a phone that sends from another port than it listens on."""
        near = [h for h in self._hops if h.encap == hop.encap and h.upstream.address == hop.upstream.address
                and h.downstream.address == hop.downstream.address]
        if len(near) == 1:
            return near[0]
        near = [h for h in near if h.upstream == hop.upstream or h.downstream == hop.downstream]
        return near[0] if len(near) == 1 else None
