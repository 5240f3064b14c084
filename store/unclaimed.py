"""The streams that correlation knows: what of them the spool has to keep, and what becomes of those that no signalling claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from rokuon.sniffer.binding import Binder, Stream
from rokuon.sniffer.careful import text_of
from rokuon.sniffer.model import Call, Side
from rokuon.sniffer.packet import Endpoint
from rokuon.store.ended import Ended, Piece
from rokuon.store.loose import Loose
from rokuon.store.marks import Marks
from rokuon.store.runs import Run
from rokuon.store.signalling import Encapsulations
from rokuon.store.strangers import CROWD, Strangers
from rokuon.store.timers import Timers

__all__ = ["NEVER", "StreamKeeper"]

NEVER = (1 << 63) - 1
_S = 1_000_000_000
_FEW = 10
"""Packets of which no voice is made."""
_BEFORE = -(1 << 62)
"""The number of whatever call had part of a stream before the correlator was started."""


class StreamKeeper:
    """All streams by number, their times, and the conversations among them that no signalling speaks of."""

    def __init__(self, binder: Binder, window_ns: int, piece_ns: int, recover_ns: int, max_loose: int | None) -> None:
        """`max_loose`: how many such conversations may be open; None: they are no calls."""
        self.encapsulations = Encapsulations()
        self.binder = binder
        self.counts: Counter[str] = Counter()
        self.now_ns = 0
        self.keep_from = Marks(NEVER)
        """By stream number: the time from which on its packets in the spool are needed; NEVER: none are."""
        self.packets = Marks(0)
        """By stream number: how many there were so far."""
        self.recognised: list[np.void] = []
        """STREAM rows of streams that came in a crowd and are looked at now, since whoever reads this last emptied it."""
        self.taken: dict[int, list[tuple[int, int]]] = {}
        """Of streams to come, by number: since and until when they were calls' before this correlator was started."""
        self.forgotten: list[int] = []
        """Streams that are needed no more, since whoever reads this last emptied it."""
        self._window, self._piece, self.recover_ns, self._max_loose = window_ns, piece_ns, recover_ns, max_loose
        self._streams: dict[int, Stream] = {}
        self._strangers = Strangers()
        self._last_ns = Marks(0)
        self._timers = Timers()
        self._at = self._timers.add
        self._loose: dict[frozenset[Endpoint | int], Loose] = {}
        self._loose_of: dict[int, frozenset[Endpoint | int]] = {}
        self._loose_numbers = count(-1, -1)
        self._loose_begun = 0
        self._dozing: set[int] = set()  # streams that are over, while a call that goes on names their addresses
        self._out: list[Ended | Piece] = []

    def _note_streams(self, run: Run) -> None:
        fresh = run.fresh
        if len(fresh) >= CROWD:
            numbers = fresh["number"].astype(np.uint32)
            self.keep_from.set_all(numbers, 0)
            until = max(run.last_ns, self.now_ns) + self._window
            fresh = self._strangers.add(fresh, self.binder.claimed(), until)
            self._at(until, "strangers", 0)
            self._part_with(self._strangers.over(self.now_ns))
        self._know(fresh)
        if len(run.streams):
            self._last_ns.raise_to(run.streams, run.last)
            self.packets.raise_to(run.streams, self.packets.of(run.streams) + (run.starts[1:] - run.starts[:-1]))

    def foresee(self, numbers: NDArray[np.uint32], last_ns: NDArray[np.int64]) -> None:
        """Streams that begin now last so long, at least: of what comes in between parts may have been let go."""
        self._last_ns.raise_to(numbers, last_ns)

    def _know(self, rows: NDArray[np.void]) -> None:
        """These streams are looked at one by one from now on."""
        for row in rows:
            number = int(row["number"])
            if number in self._streams:
                continue
            stream = _stream_of(row, self.encapsulations)
            stream.taken += [(since, until, _BEFORE) for since, until in self.taken.pop(number, ())]
            self.keep_from[number] = 0
            self._streams[number] = stream
            self.binder.add(stream)
            self._at(max(stream.first_ns + self._window, self.now_ns), "judge", number)

    def _recognise(self, end: tuple[str, int]) -> None:
        """A call names an address: strangers that send from there or to it are none any more."""
        if len(self._strangers):
            rows = self._strangers.ask(end)
            self.recognised += list(rows)
            self._know(rows)

    def _part_with(self, over: tuple[NDArray[np.uint32], NDArray[np.uint8]]) -> None:
        """Strangers that nobody claimed in time: those that sent more than a few packets are judged, the others let go."""
        numbers, rows = over
        if not len(numbers):
            return
        few = self.packets.of(numbers) < _FEW
        some = self._strangers.whole(rows[~few])
        self.recognised += list(some)
        self._know(some)
        self.keep_from.set_all(numbers[few], NEVER)
        self.forgotten += numbers[few].tolist()
        self.counts["unclaimed-streams-let-go"] += int(few.sum())

    def trim(self) -> None:
        """Takes back the room of streams that are over."""
        needed = np.union1d(np.fromiter(self._streams, np.uint32, len(self._streams)), self._strangers.numbers())
        for marks in (self._last_ns, self.packets, self.keep_from):
            marks.trim(needed)

    @property
    def stream_count(self) -> int:
        """Streams that are not done with."""
        return len(self._streams) + len(self._strangers)

    def heard_ns(self, number: int) -> int:
        """When the newest packet of a stream came, by its number."""
        return self._last_ns[number]

    def conversations(self) -> Iterator[tuple[Call, Iterator[tuple[Stream, Side]]]]:
        """The conversations in progress that no signalling speaks of, each as a call, and its streams and who speaks."""
        for loose in self._loose.values():
            call = loose.call or loose.begin()
            yield call, loose.sides(call)

    def _keep_until(self, stream: Stream, time_ns: int) -> None:
        """What came before this time is needed no more."""
        self.keep_from[stream.number] = max(self.keep_from[stream.number], time_ns)

    # -- streams that nobody claims ------------------------------------------
    def _adopt(self, stream: Stream) -> None:
        key = self._loose_of.get(stream.number)
        if key is None:
            return
        loose = self._loose[key]
        if loose.call is not None:  # part of it is in a file already: that call ends here, and what comes is the other's
            self._give_up_loose(key)
            return
        del self._loose_of[stream.number]
        loose.streams.remove(stream)
        if not loose.streams:
            del self._loose[key]
            self._loose_begun -= 1  # it was the call's that signalling knows

    def _give_up_loose(self, key: frozenset[Endpoint | int]) -> None:
        """The conversation ends here; what comes of its streams is not its own."""
        loose = self._loose.pop(key)
        call = loose.call or loose.begin()
        spans = loose.spans(call, self.now_ns + 1, self._last_ns)
        for stream in loose.streams:
            del self._loose_of[stream.number]
            stream.taken.append((stream.first_ns, self.now_ns + 1, loose.number))
            self._at(max(self.now_ns, self._last_ns[stream.number] + self._window), "judge", stream.number)
        call.end_ns = call.last_ns = self.now_ns
        self._out.append(Ended(call, spans, [], loose.fed_ns > 0))

    def _forget(self, stream: Stream) -> None:
        self.binder.forget(stream)
        self._dozing.discard(stream.number)
        del self._streams[stream.number]
        self.keep_from[stream.number] = NEVER
        self.forgotten.append(stream.number)

    def _judge(self, number: int, final: bool = False) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        last = self._last_ns[number]
        if not final and self.binder.is_claimed(stream):
            if last + self._window <= self.now_ns:
                self._dozing.add(number)
            else:
                self._at(self.now_ns + self._window, "judge", number)
            return
        if number in self._loose_of:
            key = self._loose_of[number]
            newest = self._newest(stream)
            if final or newest + self._window <= self.now_ns:
                self._close_loose(key)
            else:
                self._at(newest + self._window, "judge", number)
        elif stream.taken:
            end = max(t[1] for t in stream.taken)
            if last > end:
                self.counts["rtp-after-call"] += 1
            if final or last + self._window <= self.now_ns:
                self._forget(stream)
            else:
                self._let_go(stream)
                self._at(last + self._window, "judge", number)
        elif self._max_loose is None or (len(self._loose) >= self._max_loose and self._place(stream) not in self._loose):
            if final or last + self._window <= self.now_ns:
                self.counts["unclaimed-streams-let-go"] += 1
                self._forget(stream)
            else:  # a call may yet claim what is to come of it
                self._let_go(stream)
                stream.first_ns = max(stream.first_ns, self.keep_from[number])
                self._at(self.now_ns + self._window, "judge", number)
        else:
            key = self._place(stream)
            loose = self._loose.get(key)
            if loose is None:
                loose = self._loose[key] = Loose([], next(self._loose_numbers))
                self._loose_begun += 1
                self._at(stream.first_ns + self._piece, "piece", loose.number)
            loose.streams.append(stream)
            self._loose_of[number] = key
            if not final:
                self._at(max(self.now_ns, last + self._window), "judge", number)

    def _let_go(self, stream: Stream) -> None:
        """Nothing claimed the stream within the window: the spool need not keep what is older."""
        self._keep_until(stream, self.now_ns - self._window)

    def _place(self, stream: Stream) -> frozenset[Endpoint | int]:
        """The conversation that it belongs to: of the same ends and tags, or with other tags if a mirror brings copies."""
        there = [s for s in self.binder.streams_between(stream.src, stream.dst) if s.first_ns <= self.now_ns]
        mine = {(s.src, s.ssrc) for s in there if s.encap == stream.encap}
        copied = (self._loose_of.get(s.number) for s in there if s.encap != stream.encap and (s.src, s.ssrc) in mine)
        return next((key for key in copied if key is not None), frozenset((stream.src, stream.dst, stream.encap)))

    def _newest(self, stream: Stream) -> int:
        """When the newest packet came that a stream's ends exchanged unclaimed, also in streams that are not judged yet."""
        return max(self._last_ns[s.number] for s in self.binder.streams_between(stream.src, stream.dst)
                   if s is stream or (s.encap == stream.encap and s.first_ns <= self.now_ns and not s.taken))

    def _feed_loose(self, number: int) -> None:
        """The same for a long call without signalling."""
        loose = next((loose for loose in self._loose.values() if loose.number == number), None)
        if loose is None:
            return
        self._at(self.now_ns + self._piece, "piece", number)
        until = self.now_ns - self._window - 5 * _S  # what is younger may have streams that are not judged yet
        if until <= loose.fed_ns:
            return
        loose.call = loose.call or loose.begin()
        spans, pieced = loose.spans(loose.call, until, self._last_ns), loose.fed_ns > 0
        loose.fed_ns = until
        if spans:
            self._out.append(Piece(loose.call, spans, until, pieced))
        for stream in loose.streams:
            self._keep_until(stream, until - self.recover_ns)

    def _close_loose(self, key: frozenset[Endpoint | int]) -> None:
        loose = self._loose.pop(key)
        call = loose.call or loose.begin()
        call.end_ns = call.last_ns = max(self._last_ns[s.number] for s in loose.streams)
        spans = loose.spans(call, NEVER, self._last_ns)
        for stream in loose.streams:
            self._loose_of.pop(stream.number, None)
            self._forget(stream)
        self._out.append(Ended(call, spans, [], loose.fed_ns > 0))


def _stream_of(row: np.void, encapsulations: Encapsulations) -> Stream:
    size, tags = 16 if row["v6"] else 4, tuple(row["tags"][:row["tag_count"]].tolist())
    ends = [Endpoint(text_of(row[end][:size].tobytes()), int(row[f"{end}_port"])) for end in ("source", "destination")]
    return Stream(int(row["number"]), ends[0], ends[1], encapsulations.number(tags), int(row["ssrc"]), int(row["first_ns"]))
