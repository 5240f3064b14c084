"""Where a message was seen: the same dialog passes several hops on its way through proxies, and each has its own SDP."""

from __future__ import annotations

from rokuon.sniffer.model import Hop
from rokuon.sniffer.packet import Endpoint

__all__ = ["Hops"]

_HOPS = 16
_BRANCHES = 64


class Hops:
    """The hops of one dialog.

    A hop is written in the direction from caller to callee, so that even a spiral, which passes between the same two
    hosts both ways, has two of them.
    """

    __slots__ = ("_branches", "_hops", "_invited", "first")

    def __init__(self) -> None:
        self._hops: dict[Hop, Hop] = {}
        self._branches: dict[tuple[str, int], Hop] = {}
        self._invited: set[Hop] = set()
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
            self._invited.add(known)
        return known

    def of_response(self, src: Endpoint, dst: Endpoint, encap: int, branch: str, *, forward: bool) -> Hop:
        """The hop of a response: by its ends, else by the branch of its request (ports may differ: RFC 3261 18.2.2)."""
        hop = Hop(src, dst, encap) if forward else Hop(dst, src, encap)
        return self._hops.get(hop) or self._branches.get((branch, encap)) or self._near(hop) or self._add(hop)

    def has_branch(self, branch: str, encap: int) -> bool:
        """Whether a request with that branch was seen (RFC 3261 8.1.1.7)."""
        return (branch, encap) in self._branches

    def is_inner(self, hop: Hop) -> bool:
        """Whether the INVITE passed here on its way on from the first hop: what ends here may be tried elsewhere (forking)."""
        first = self.first
        return (first is not None and hop in self._invited
                and (hop.upstream != first.upstream or hop.downstream != first.downstream))

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
