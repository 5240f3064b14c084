"""The audio of one call: voice in, decoded and in its place, stereo files out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rokuon.decoders.api import Decoder
from rokuon.decoders.conceal import conceal
from rokuon.decoders.g711 import G711Decoder
from rokuon.decoders.mix import SILENCE, Channel, Sound, interleave, resample
from rokuon.decoders.playout import SECOND, Playout, Runs
from rokuon.store.audio_file import AudioFile, WavFile
from rokuon.store.stream_facts import StreamState, Voice

__all__ = ["CallAudio", "Part"]

LAWS = {"PCMU": "ulaw", "PCMA": "alaw"}
MOST_SILENCE_NS = 3600 * SECOND
"""Where nothing at all is heard for so long, another file begins instead of silence being written."""
ALLOWED_S = 600
HEARD_S = 0.4
MOST_SCATTERED = 50
"""Sound that lasts so many seconds more than this for each packet is more silence than people leave: capture times are
forged, or nothing is said for hours. Then the silence between blocks is left out and each is a file of its own; when there
are so many of these, what is left is not decoded until packets come closer again.
"""
MOST_CONCEALED_S = 0.5
"""Lost audio up to this length is offered to concealment; the rest of a longer gap is silence."""
BEFORE_S = 0.1
"""Audio before a gap that concealment is shown."""


class Part(NamedTuple):
    """A finished file and when its first sample was."""

    file: AudioFile
    start_ns: int
    number: int
    """Of the call's files."""


class _Track(NamedTuple):
    """Voice of one clock rate of a stream, in its place."""

    state: StreamState
    voice: Voice
    runs: Runs
    playout: Playout


class CallAudio:
    """Takes the voice of a call block by block and writes its files."""

    def __init__(self, path: Callable[[int], Path | str], part_s: int, numbers: Iterator[int] | None = None) -> None:
        """`path`: of the n-th file, from 1; `part_s`: seconds of audio a file holds at most; `numbers`: of the files to come,
        where others of the call's are numbered with them.
        """
        self.parts: list[Part] = []
        self.concealed_ns = 0
        self.anomalies: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        """Why voice was not decoded: how often, by reason."""
        self._path = path
        self._numbers = numbers or count(1)
        self._number = 0
        self._part_s = part_s
        self._file: WavFile | None = None
        self._kind = ""
        self._rate = 0
        self._origin_ns: int | None = None
        """When the first packet of the call came, then when the first sample of the newest grid was."""
        self._written = 0
        """Samples of the grid that were written."""
        self._made_s = 0.0
        """Seconds of sound in finished files, packets of voice so far, and how many files were begun to leave silence out."""
        self._packets = 0
        self._scattered = 0
        self._quiet_ns = 0
        """When the last packet came that makes no sound: the file lasts at least until then."""
        self._seen_ns = 0
        """When the last packet of any kind came."""
        self._channels: tuple[Channel, Channel] = (Channel("pcm16"), Channel("pcm16"))

    @property
    def silent(self) -> bool:
        """Whether nothing was heard so far."""
        return not self._kind and not self.parts

    def block(self, heard: list[tuple[StreamState, Voice | None]], final_ns: int | None, sync: bool) -> None:
        """Add a block of all streams that take part. `final_ns`: what lies before it will not change any more; None: this
        is the last block. Raises OSError.
        """
        seen_ns = self._seen_ns
        tracks, begin_ns, quiet_ns = self._place(heard)
        apart = begin_ns is not None and begin_ns - seen_ns > MOST_SILENCE_NS
        if begin_ns is not None and begin_ns - seen_ns > SECOND and self._mostly_silence():
            if self._scattered >= MOST_SCATTERED:
                self.anomalies["audio-too-scattered"] += sum(len(track.voice.start) for track in tracks)
                begin_ns = None
            self._scattered += self._kind != ""
            apart = True
        if apart and begin_ns is None and self._kind:
            self._finish(sync)
            self._origin_ns = None
        if begin_ns is not None:
            self._packets += sum(len(track.voice.start) for track in tracks)
            wanted = self._wanted(tracks)
            if self._origin_ns is None:
                self._origin_ns = begin_ns // 1000 * 1000
            elif self._kind and (apart or (wanted and not self._holds(*wanted))):
                self._origin_ns = max(begin_ns, self._finish(sync)) // 1000 * 1000
            elif not self._kind and apart:
                self._origin_ns = begin_ns // 1000 * 1000
            if wanted and not self._kind:
                self._kind, self._rate = wanted
                self._written = 0
                self._channels = Channel(self._kind), Channel(self._kind)
            self._quiet_ns = max(self._quiet_ns, quiet_ns)
            for track in tracks:
                self._add(track)
        if self._kind and final_ns is not None and self._origin_ns is not None:
            self._write(min(self._frame(final_ns), max(self._channels[0].end, self._channels[1].end)), sync)

    def _mostly_silence(self) -> bool:
        made = self._made_s + (self._file.frames / self._rate if self._file else 0)
        return made > ALLOWED_S + HEARD_S * self._packets

    def close(self, sync: bool = True) -> None:
        """Write what is left and give the last file its name. Raises OSError."""
        if self._kind:
            self._finish(sync)

    def discard(self) -> None:
        """Give up: nothing stays of the file in the making, nor of those that are finished."""
        if self._file is not None:
            self._file.discard()
            self._file = None
        for part in self.parts:
            Path(part.file.path).unlink(missing_ok=True)
        self.parts = []

    # -- placing and decoding ------------------------------------------------
    def _place(self, heard: list[tuple[StreamState, Voice | None]]) -> tuple[list[_Track], int | None, int]:
        """Places what can be decoded; the earliest moment of any packet, and the latest of one that makes no sound."""
        tracks: list[_Track] = []
        begins: list[int] = []
        quiet_ns = 0
        for state, voice in heard:
            self._seen_ns = max(self._seen_ns, state.last_ns)
            if state.other_ns is not None:
                begins.append(state.other_ns[0])
                quiet_ns = max(quiet_ns, state.other_ns[1])
            if voice is None:
                continue
            able = 0
            for track in self._tracks(state, voice):
                tracks.append(track)
                able += len(track.voice.start)
                begins.append(int((track.runs.base_ns + self._line_ns(track)).min()))
            if able < len(voice.start):
                begins.append(int(voice.time_ns.min()))
                quiet_ns = max(quiet_ns, int(voice.time_ns.max()))
        return tracks, min(begins, default=None), quiet_ns

    @staticmethod
    def _line_ns(track: _Track) -> NDArray[np.int64]:
        return track.runs.tick * SECOND // track.playout.clock

    def _tracks(self, state: StreamState, voice: Voice) -> list[_Track]:
        kinds = _kinds(voice)
        clocks: dict[int, list[int]] = {}
        for number in kinds:
            decoder = state.decoder(number)
            if isinstance(decoder, str):
                self.reasons[decoder] += 1
            elif (known := state.format(number)) is not None:
                clocks.setdefault(known.clock_rate, []).append(number)
        tracks: list[_Track] = []
        for clock, numbers in sorted(clocks.items()):
            part = voice if len(numbers) == len(kinds) else _only(voice, numbers)
            playout = state.playouts.setdefault(clock, Playout(clock))
            apart: NDArray[np.bool_] | None = None
            if isinstance(part.payload_type, int):
                decoder = state.decoder(part.payload_type)
                ticks = decoder.durations(part.data, part.start, part.length) if not isinstance(decoder, str) else part.length
            else:
                apart = part.payload_type[1:] != part.payload_type[:-1]
                ticks = np.zeros(len(part.start), np.int32)
                for number in numbers:
                    decoder, rows = state.decoder(number), np.flatnonzero(part.payload_type == number)
                    if not isinstance(decoder, str):
                        ticks[rows] = decoder.durations(part.data, part.start[rows], part.length[rows])
            tracks.append(_Track(state, part, playout.place(part.timestamp, part.time_ns, ticks, apart), playout))
        return tracks

    def _wanted(self, tracks: list[_Track]) -> tuple[str, int] | None:
        """Kind and sampling rate that hold all of these without loss; None: there is nothing."""
        laws: set[str] = set()
        rate = 0
        for state, voice, _, _ in tracks:
            kinds = _kinds(voice)
            for number in kinds:
                known, decoder = state.format(number), state.decoder(number)
                if known is None or isinstance(decoder, str):
                    continue
                rate = max(rate, decoder.sample_rate)
                laws.add(LAWS.get(known.encoding.upper(), "pcm16"))
        if not rate:
            return None
        kind = laws.pop() if len(laws) == 1 else "pcm16"
        return kind, rate

    def _holds(self, kind: str, rate: int) -> bool:
        """Whether what is wanted fits into the file in the making."""
        return rate == self._rate if self._kind == kind != "pcm16" else self._kind == "pcm16" and rate <= self._rate

    def _frame(self, time_ns: int) -> int:
        origin = self._origin_ns or 0
        return round((time_ns - origin) * self._rate / SECOND)

    def _add(self, track: _Track) -> None:
        """Decodes a track, run by run, into its channel."""
        state, voice, runs, playout = track
        channel = self._channels[0 if state.plan.direction == "caller" else 1]
        origin = self._origin_ns or 0
        away = runs.base_ns - origin
        places = (away // SECOND * self._rate + (away % SECOND * self._rate + SECOND // 2) // SECOND
                  + runs.tick * self._rate // playout.clock).tolist()
        bounds = [*runs.first.tolist(), len(voice.start)]
        gaps = self._gaps(voice, runs)
        self.concealed_ns += sum(gaps.values()) * SECOND // playout.clock
        if self._kind != "pcm16":
            ends = _ends(voice)
            for k, place in enumerate(places):
                channel.add(place, voice.payload[ends(bounds[k]):ends(bounds[k + 1])])
            return
        for k, (place, sound) in enumerate(zip(places, self._decode(state, voice, bounds, gaps, playout.clock), strict=True)):
            if sound[0] is not None:
                channel.add(place - len(sound[0]), sound[0])
            channel.add(places[k], sound[1])

    @staticmethod
    def _gaps(voice: Voice, runs: Runs) -> dict[int, int]:
        """Ticks of each run's gap before it that are due to lost packets."""
        if voice.missing is None:
            return {}
        lost = voice.missing[runs.first]
        rows = np.flatnonzero((runs.gap > 0) & (lost > 0))
        if not len(rows):
            return {}
        stamps = voice.timestamp
        step = (stamps[1:] - stamps[:-1]).view(np.int32)
        usual = int(np.median(step[step > 0])) if (step > 0).any() else 0
        ticks = np.minimum(runs.gap[rows], np.maximum(lost[rows] * usual, 0))
        return dict(zip(rows.tolist(), ticks.tolist(), strict=True))

    def _decode(self, state: StreamState, voice: Voice, bounds: list[int], gaps: dict[int, int],
                clock: int) -> list[tuple[Sound | None, Sound]]:
        """Of each run what is heard in the gap before it (None: silence), and the run itself, at the file's rate."""
        sounds: list[tuple[Sound | None, Sound]] = []
        whole: Sound | None = None
        if isinstance(voice.payload_type, int):
            decoder = state.decoder(voice.payload_type)
            if type(decoder) is G711Decoder:  # without state between packets all runs are one
                whole, _ = decoder.decode_run(voice.payload, np.zeros(1, np.int64), np.array([len(voice.payload)], np.int32))
        ends = _ends(voice)
        before: Sound | None = None
        for k, (begin, end) in enumerate(pairwise(bounds)):
            decoder = state.decoder(voice.payload_type if isinstance(voice.payload_type, int) else int(voice.payload_type[begin]))
            assert not isinstance(decoder, str)
            filling = self._fill(decoder, gaps.get(k, 0), clock, before)
            if whole is not None:
                run = whole[ends(begin):ends(end)]
            else:
                errors = decoder.errors
                run, _ = decoder.decode_run(voice.data, voice.start[begin:end], voice.length[begin:end])
                if decoder.errors > errors:
                    self.anomalies["broken-payloads"] += decoder.errors - errors
            before = run[-int(BEFORE_S * decoder.sample_rate):]
            if decoder.sample_rate != self._rate:
                run = resample(run, decoder.sample_rate, self._rate)
                filling = None if filling is None else resample(filling, decoder.sample_rate, self._rate)
            sounds.append((filling, run))
        return sounds

    @staticmethod
    def _fill(decoder: Decoder, ticks: int, clock: int, before: Sound | None) -> Sound | None:
        """What is heard where packets were lost; None where it is silence."""
        samples = ticks * decoder.sample_rate // clock
        if not 0 < samples <= MOST_CONCEALED_S * decoder.sample_rate:
            return None
        filling = conceal(decoder, samples, before)
        return filling if filling.any() else None

    # -- writing -------------------------------------------------------------
    def _write(self, until: int, sync: bool) -> None:
        """Writes the grid up to sample `until`, parts of their length each."""
        most = self._part_s * self._rate
        while self._written < until:
            if self._file is None:
                self._number = next(self._numbers)
                self._file = WavFile(self._path(self._number), self._kind, self._rate)
            end = min(until, self._written + most - self._file.frames)
            left, right = (channel.take(self._written, end, keep=True) for channel in self._channels)
            self._file.write(interleave(left, right))
            self._written = end
            if self._file.frames >= most:
                self._close_part(sync)

    def _finish(self, sync: bool) -> int:
        """Ends the grid. When its last sample was, UTC ns."""
        until = max(self._channels[0].end, self._channels[1].end, self._frame(self._quiet_ns), self._written)
        self._write(until, sync)
        if self._file is not None:
            self._close_part(sync)
        self._kind = ""
        return (self._origin_ns or 0) + until * SECOND // self._rate

    def _close_part(self, sync: bool) -> None:
        assert self._file is not None
        first = self._written - self._file.frames
        file = self._file.close(sync)
        self._file = None
        self._made_s += file.frames / file.sample_rate
        self.parts.append(Part(file, (self._origin_ns or 0) + first * SECOND // self._rate, self._number))


def _kinds(voice: Voice) -> list[int]:
    """The payload types that occur."""
    types = voice.payload_type
    return [types] if isinstance(types, int) else np.flatnonzero(np.bincount(types)).tolist()


def _only(voice: Voice, numbers: list[int]) -> Voice:
    """The packets of some payload types."""
    rows = np.flatnonzero(np.isin(voice.payload_type, numbers))
    types = voice.payload_type
    assert not isinstance(types, int)
    missing = voice.missing
    if missing is not None:
        total = np.cumsum(missing)[rows]
        missing = np.diff(total, prepend=total[:1] - missing[rows][:1])
    ends = np.cumsum(voice.length, dtype=np.int64)
    keep = np.repeat(np.isin(types, numbers), voice.length)
    assert len(keep) == ends[-1]
    return Voice(voice.data, voice.start[rows], voice.length[rows], voice.time_ns[rows], voice.timestamp[rows],
                 int(types[rows[0]]) if len(numbers) == 1 else types[rows], missing, voice.payload[keep])


def _ends(voice: Voice) -> Callable[[int], int]:
    """Where the payload of a row begins in `voice.payload`; of row n: where the last one ends."""
    length = int(voice.length[0])
    if len(voice.payload) == length * len(voice.length) and int(voice.length.min()) == length:
        return lambda row: row * length
    begins = [0, *np.cumsum(voice.length, dtype=np.int64).tolist()]
    return begins.__getitem__


assert set(SILENCE) == {"pcm16", *LAWS.values()}
