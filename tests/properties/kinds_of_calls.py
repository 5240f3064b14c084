"""Calls of many kinds, each with addresses of its own, as packets."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tests.e2e.scenarios import T0_US, Address, Dialog, Frame, S, Wire, both, sdp
from tests.sniffer.captures import Packet

MS = S // 1000


class Place:
    """Who talks: phones and the addresses of their media."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.a, self.b = (f"10.1.{n}.1", 5060), (f"10.2.{n}.1", 5060)
        self.ssrc = 1000 * (n + 1)

    def media(self, k: int = 0) -> tuple[Address, Address]:
        return (self.a[0], 4000 + 2 * k), (self.b[0], 6000 + 2 * k)

    def dialog(self, wire: Wire, k: int = 0, kind: type[Dialog] = Dialog) -> Dialog:
        return kind(wire, f"call{self.n}.{k}@x", ((self.a, self.b),), f"f{self.n}.{k}", f"t{self.n}.{k}")

    def answer(self, dialog: Dialog, at: int, k: int = 0, after: int = S // 2) -> None:
        a, b = self.media(k)
        dialog.answered(at, (sdp(a),), (sdp(b),), after)

    def talk(self, wire: Wire, at: int, seconds: float, k: int = 0, ssrc: int = 0, **more: object) -> None:
        a, b = self.media(k)
        ssrc = ssrc or self.ssrc + 2 * k
        both(wire, at, int(50 * seconds), a, b, (ssrc, ssrc + 1), **more)


def short(wire: Wire, at: int, p: Place) -> None:
    d = p.dialog(wire)
    p.answer(d, at)
    p.talk(wire, at + S // 2, 1.5)
    d.bye(at + 2 * S + 100 * MS)


def early(wire: Wire, at: int, p: Place) -> None:
    """Early media of the callee, and some packets before the offer."""
    d = p.dialog(wire)
    a, b = p.media()
    wire.rtp(at - S // 2, b, a, p.ssrc + 1, 100, sequence=10)
    d.request(at, "INVITE", sdp(a))
    d.response(at + 100 * MS, 183, sdp(b))
    d.response(at + 5 * S, 200, sdp(b))
    d.request(at + 5 * S + 50 * MS, "ACK")
    p.talk(wire, at + 5 * S, 2)
    d.bye(at + 7 * S + 100 * MS)


def rings_for_long(wire: Wire, at: int, p: Place) -> None:
    d = p.dialog(wire)
    p.answer(d, at, after=17 * S)
    p.talk(wire, at + 17 * S, 1)
    d.bye(at + 19 * S)


def moved(wire: Wire, at: int, p: Place) -> None:
    """Held, then resumed at other ports, with a silence between that makes other streams of it."""
    d = p.dialog(wire)
    (a, b), (c, e) = p.media(), p.media(1)
    p.answer(d, at)
    p.talk(wire, at + S // 2, 2)
    d.reinvite(at + 3 * S, (sdp(a, direction="sendonly"),), (sdp(b, direction="recvonly"),))
    d.reinvite(at + 21 * S, (sdp(c),), (sdp(e),), by_caller=False)
    p.talk(wire, at + 22 * S, 2, 1, p.ssrc)
    d.bye(at + 25 * S, by_caller=False)


def gateway(wire: Wire, at: int, p: Place) -> None:
    """Call after call on the same addresses, with the same SSRCs, packets going on in between."""
    p.talk(wire, at + 200 * MS, 17, ssrc=p.ssrc)
    for k in range(3):
        d = p.dialog(wire, k)
        a, b = p.media()
        d.answered(at + k * 6 * S, (sdp(a),), (sdp(b),), 300 * MS)
        d.bye(at + k * 6 * S + 4 * S)


def lent(wire: Wire, at: int, p: Place) -> None:
    """A call moves to other ports and goes on; another one has the first ports, and the stream there, from then on."""
    d, other = p.dialog(wire), p.dialog(wire, 5)
    (a, b), (c, e) = p.media(), p.media(1)
    p.answer(d, at)
    p.talk(wire, at + S // 2, 14)
    d.reinvite(at + 4 * S, (sdp(c),), (sdp(e),))
    p.talk(wire, at + 4 * S + 200 * MS, 24, 1)
    other.answered(at + 7 * S, (sdp(a),), (sdp(b),), 300 * MS)
    other.bye(at + 12 * S)
    d.bye(at + 28 * S + 300 * MS)


def unsignalled(wire: Wire, at: int, p: Place) -> None:
    p.talk(wire, at, 3)


def unsignalled_for_long(wire: Wire, at: int, p: Place) -> None:
    p.talk(wire, at, 30)


def for_long(wire: Wire, at: int, p: Place) -> None:
    """Long enough for several pieces; somebody pauses for long."""
    d = p.dialog(wire)
    p.answer(d, at)
    a, b = p.media()
    p.talk(wire, at + S // 2, 10)
    wire.rtp(at + 10 * S + S // 2, a, b, p.ssrc, 1500, sequence=600, stamp=5_000 + 500 * 160)
    wire.rtp(at + 25 * S, b, a, p.ssrc + 1, 750, sequence=600, stamp=5_000 + 1225 * 160)
    d.bye(at + 40 * S + 600 * MS)


def refused(wire: Wire, at: int, p: Place) -> None:
    d = p.dialog(wire)
    d.request(at, "INVITE", sdp(p.media()[0]))
    d.response(at + 50 * MS, 486)
    d.request(at + 80 * MS, "ACK", fresh=False)


def cancelled(wire: Wire, at: int, p: Place) -> None:
    d = p.dialog(wire)
    d.request(at, "INVITE", sdp(p.media()[0]))
    d.response(at + 100 * MS, 180)
    d.request(at + 9 * S, "CANCEL")
    d.response(at + 9 * S + 10 * MS, 200, method="CANCEL")
    d.response(at + 9 * S + 20 * MS, 487)
    d.request(at + 9 * S + 30 * MS, "ACK", fresh=False)


def unanswered(wire: Wire, at: int, p: Place) -> None:
    d = p.dialog(wire)
    d.request(at, "INVITE", sdp(p.media()[0]))
    d.response(at + 100 * MS, 180)


class TcpDialog(Dialog):
    """Its messages go over connections that other calls of the same phones use as well."""

    def deliver(self, at_us: int, src: Address, dst: Address, message: bytes) -> None:
        for n in range(0, len(message), 400):
            sent = self.link.setdefault(src, 1)
            assert isinstance(sent, int)
            self.wire.tcp(at_us + n // 400, src, dst, sent, message[n:n + 400])
            self.link[src] = sent + len(message[n:n + 400])


def over_tcp(wire: Wire, at: int, p: Place) -> None:
    """Three calls over one connection, the second and third while the first goes on; messages cross each other."""
    link: dict[object, int] = {}
    dialogs = []
    for k in range(3):
        d = p.dialog(wire, k, TcpDialog)
        d.link = link  # type: ignore[assignment]
        dialogs.append(d)
    a, b, c = dialogs
    p.answer(a, at, 0)
    p.talk(wire, at + S // 2, 3, 0)
    p.answer(b, at + 3 * S, 1)
    p.talk(wire, at + 3 * S + S // 2, 2, 1)
    b.bye(at + 6 * S)
    p.answer(c, at + 20 * S, 2)
    p.talk(wire, at + 20 * S + S // 2, 2, 2)
    c.bye(at + 23 * S)
    p.talk(wire, at + 24 * S, 1, 0, p.ssrc + 10)
    a.bye(at + 26 * S)


def through_pbx(wire: Wire, at: int, p: Place, stays: int = 0) -> None:
    """Both sides of a PBX, which transcodes: two dialogs that are one call. The caller stays on for so many seconds."""
    a, b = p.media()
    pbx = f"10.3.{p.n}.1"
    before = Dialog(wire, f"call{p.n}.0@x", ((p.a, (pbx, 5060)),), f"f{p.n}.0", f"t{p.n}.0")
    behind = Dialog(wire, f"call{p.n}.1@x", (((pbx, 5060), p.b),), f"f{p.n}.1", f"t{p.n}.1")
    before.request(at, "INVITE", sdp(a))
    behind.request(at + 40 * MS, "INVITE", sdp((pbx, 9100)))
    behind.response(at + 900 * MS, 200, sdp(b))
    before.response(at + 950 * MS, 200, sdp((pbx, 9000)))
    both(wire, at + S, 50 * (4 + stays), a, (pbx, 9000), (p.ssrc, p.ssrc + 1))
    both(wire, at + S + 2 * MS, 200, (pbx, 9100), b, (p.ssrc + 2, p.ssrc + 3), payload_type=8)
    behind.bye(at + 5 * S + 100 * MS, by_caller=False)
    before.bye(at + (5 + stays) * S + 130 * MS, by_caller=not stays)


def through_pbx_and_on(wire: Wire, at: int, p: Place) -> None:
    """The callee hangs up; the PBX has something to say to the caller yet."""
    through_pbx(wire, at, p, 20)


KINDS: tuple[Callable[[Wire, int, Place], None], ...] = (
    short, early, rings_for_long, moved, gateway, lent, unsignalled, unsignalled_for_long, for_long, refused, cancelled,
    unanswered, over_tcp, through_pbx, through_pbx_and_on)


@lru_cache(128)
def frames_of(kind: int, n: int) -> tuple[Frame, ...]:
    wire = Wire()
    KINDS[kind](wire, S, Place(n))
    return tuple(wire.sorted())


def packets_of(kind: int, n: int, at_us: int) -> list[Packet]:
    """One call, or what goes with it, of a kind, by the n-th phones."""
    return [Packet((T0_US + at_us + f.at_us) * 1000, f.data, len(f.data)) for f in frames_of(kind, n)]


def silence(at_us: int) -> Packet:
    """Something on the wire that is nobody's: time goes on."""
    return Packet((T0_US + at_us) * 1000, bytes(12) + b"\x88\xcc" + bytes(46), 60)
