"""Groups of calls that are one: when it is too late, who carries whose voice, and what the whole says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rokuon.sniffer.linking import Link
from rokuon.sniffer.model import Call, CallEvent, Hop, Leg, MediaClaim, Party
from rokuon.sniffer.packet import Endpoint
from rokuon.store.joining import Group, Groups, Member, merged

S = 1_000_000_000
HOP = Hop(Endpoint("10.0.0.1", 5060), Endpoint("10.0.0.9", 5060), 0)


def call(number: int, start_s: float, hosts: tuple[str, str] = ("10.0.0.1", "10.0.0.9"), answer_s: float | None = None) -> Call:
    caller, callee = (Party(f"{number}{n}", "", "", host) for n, host in enumerate(hosts))
    answer_ns = None if answer_s is None else int(answer_s * S)
    leg = Leg(f"{number}@x", "f", "t", caller, callee, int(start_s * S), answer_ns)
    return Call([leg], caller, callee, leg.start_ns, "in-progress" if answer_ns is None else "answered", answer_ns=answer_ns,
                last_ns=leg.start_ns, number=number)


def link(older: Call, younger: Call, evidence: str = "refer", *, relayed: bool = False, flipped: bool = False,
         replaced_at: str = "") -> Link:
    return Link(older.number, younger.number, evidence, relayed, flipped, replaced_at)


def talks(group: Group) -> list[int]:
    return [leg.talk for leg in merged(group, [[]] * len(group.members))[0].legs]


def test_what_rang_while_a_part_was_given_out_joins_if_nobody_spoke_yet() -> None:
    waits = call(1, 0, answer_s=1)
    for began, answered, said_s, joins in ((590, 602, 602, True), (590, 594, 594, False), (590, None, None, True),
                                           (590, 602, 591, False), (600, 602, 602, True)):
        agent = call(2, began, answer_s=answered)
        if said_s is not None:
            agent.claims.append(MediaClaim("callee", 0, HOP, "audio", "10.0.0.2", 4000, 0, "RTP/AVP", {}, said_s * S))
        assert Groups().join(link(waits, agent), waits, agent, {1: 595 * S}) is joins
        assert not Groups().join(link(waits, agent), waits, agent, {1: 595 * S, 2: 595 * S})


def test_talks_keep_their_numbers_once_parts_were_given_out() -> None:
    groups, first, third, second = Groups(), call(1, 0, answer_s=1), call(3, 100, answer_s=101), call(2, 50, answer_s=700)
    assert groups.join(link(first, third), first, third, {})
    assert talks(groups.of(first)) == [0, 1]
    assert groups.join(link(first, second), first, second, {1: 595 * S, 3: 595 * S})
    whole, _ = merged(groups.of(first), [[]] * 3)
    assert [(leg.call_id, leg.talk) for leg in whole.legs] == [("1@x", 0), ("2@x", 2), ("3@x", 1)]


def test_a_leg_that_a_relay_puts_in_anothers_place_goes_on_with_its_talk() -> None:
    a, b, c = (call(1, 0, ("10.0.1.1", "10.0.0.9"), 1), call(2, 0.1, ("10.0.0.9", "10.0.1.2"), 1),
               call(3, 9, ("10.0.0.9", "10.0.1.3"), 10))
    groups = Groups()
    assert groups.join(link(a, b, "twin-signalling", relayed=True), a, b, {})
    assert groups.join(link(b, c, replaced_at="10.0.0.9"), b, c, {})
    assert talks(groups.of(a)) == [0, 0, 0]
    alone, then = call(1, 0, ("10.0.0.9", "10.0.1.2"), 1), call(2, 9, ("10.0.0.9", "10.0.1.3"), 10)
    groups = Groups()
    assert groups.join(link(alone, then, replaced_at="10.0.0.9"), alone, then, {})
    assert talks(groups.of(alone)) == [0, 1]


def test_what_a_relay_passes_on_is_told_once_and_what_others_do_is_not_left_out() -> None:
    a, b, c = call(1, 0), call(2, 1), call(3, 2)
    for each, times in ((a, (10.0, 10.3)), (b, (10.01, 10.31, 12.0)), (c, (10.0,))):
        each.events += [CallEvent(int(at * S), "hold", "caller") for at in times]
    group = Group([Member(a, 1), Member(b, 1, "session-id"), Member(c, 3, "refer")])
    b.related.append(("x", "late-evidence"))
    c.related.append(("x", "late-evidence"))
    whole, _ = merged(group, [[], [], []])
    assert [round(e.time_ns / S, 2) for e in whole.events] == [10.0, 10.0, 10.3, 12.0]
    assert whole.related == [("x", "late-evidence")]
    assert a.related == []


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.booleans(), st.booleans()), max_size=60),
       st.sets(st.integers(1, 30)))
def test_counts_agree_and_nothing_stays(links: list[tuple[int, int, bool, bool]], given_out: set[int]) -> None:
    calls = {n: call(n, n, answer_s=n + 1) for n in range(1, 31)}
    groups = Groups()
    fed = {n: (n + 5) * S for n in given_out}
    for one, other, relayed, flipped in links:
        a, b = sorted((one, other))
        if a == b or groups.is_same(a, b):
            continue
        before = [groups.of(calls[n]) for n in (a, b)]
        sizes = [len(group.members) for group in before]
        done = groups.join(link(calls[a], calls[b], relayed=relayed, flipped=flipped), calls[a], calls[b], fed)
        assert done == groups.is_same(a, b)
        assert len(groups.of(calls[a]).members) == (sum(sizes) if done else sizes[0]) <= 16
        if done:  # who stands across of whom stays as it was within each
            whole = groups.of(calls[a])
            assert (whole.member(a).flipped != whole.member(b).flipped) == flipped
            assert (whole.member(a).talk == whole.member(b).talk) == relayed
            assert whole.root is min((m.call for m in whole.members), key=lambda c: c.start_ns)
    seen = {id(group): group for group in map(groups.of, calls.values())}
    assert sum(len(group.members) for group in {m.members[0].call.number: m for m in seen.values()}.values()) == 30
    assert groups.joined == groups.found == 30 - len({group.root.number for group in seen.values()})
    for root in {group.root.number for group in seen.values()}:
        groups.over(groups.of(calls[root]))
    assert groups.joined == 0
    assert not groups._groups
