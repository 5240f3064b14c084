"""From the packets of a finished (or still running) call to its files: audio first, then the sidecar.

A call may come in pieces of any length. Inside, it is worked on in blocks of packet time that depend on its first packet
only, so that the same packets make the same files however they were cut, and memory is bounded by a piece and a block.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from rokuon.decoders.playout import SECOND
from rokuon.decoders.rtp import RtpRecords
from rokuon.store import sidecar
from rokuon.store.audio_file import make_directories
from rokuon.store.call_audio import CallAudio, Part
from rokuon.store.sidecar import iso
from rokuon.store.stream_facts import KeyPress, Side, StreamPlan, StreamState, Voice

__all__ = ["CallFinalizer", "CallPlan", "FinalizeSettings", "RtpRecords", "StreamPlan"]

Json = dict[str, Any]

HOLD_NS = 2 * SECOND
"""How late a packet may come at the end of a block and still find its place."""
SAME_KEY_NS = SECOND // 2
"""Two streams that tell of the same key within this time tell of one press."""


@dataclass(slots=True, frozen=True)
class FinalizeSettings:
    """What people may choose."""

    show_digits: bool = False
    """DTMF keys stand in the sidecar; they may be card numbers or PINs."""
    part_s: int = 3600
    """Seconds of audio in one file at most."""
    block_s: int = 120
    """Seconds of packet time that are worked on at once."""


@dataclass(slots=True)
class CallPlan:
    """What is known of a call beside its packets."""

    facts: Json
    """The sidecar as far as signalling tells it."""
    stem: str
    """Path of its files without the suffix, relative to the data directory, with slashes."""
    streams: list[StreamPlan] = field(default_factory=list)
    """May grow while the call goes on."""


class CallFinalizer:
    """Makes the files of one call."""

    def __init__(self, data: Path, plan: CallPlan, settings: FinalizeSettings | None = None) -> None:
        """`data`: the data directory. Nothing is written before there is something to write.

        Raises ValueError where `plan.stem` would lead out of the data directory.
        """
        if not {"", ".", ".."}.isdisjoint(plan.stem.split("/")):
            raise ValueError(f"not a path below the data directory: {plan.stem!r:.80}")
        self.plan = plan
        self.settings = settings or FinalizeSettings()
        self._path = partial(_path, os.path.join(data, plan.stem))  # no method: nothing of a call may hold itself
        self._streams: list[StreamState] = []
        self._numbers = count(1)
        self._audios = {0: CallAudio(self._path, self.settings.part_s, self._numbers)}
        self._begin_ns: int | None = None
        self._block = -1
        self._done = False

    def add(self, records: Sequence[RtpRecords | None], until_ns: int | None) -> None:
        """A piece of the call in order of time: packets by stream, as `plan.streams` has them (None: none).

        `until_ns`: everything that arrived before it has been given; the buffers may be used again afterwards. None: this
        was the last piece. Raises OSError (disk full …); then `discard` what there is.
        """
        for stream in self.plan.streams[len(self._streams):]:
            self._streams.append(StreamState(stream))
        for state, stream in zip(self._streams, self.plan.streams, strict=True):
            state.plan = stream  # signalling may have told more of it
        for state, packets in zip(self._streams, records, strict=False):
            if packets is not None:
                state.feed(packets)
        while (span := self._held()) is not None:
            if self._begin_ns is None:
                self._begin_ns = span[0]
            size = self.settings.block_s * SECOND
            block = max(self._block + 1, (span[0] - self._begin_ns) // size)
            end_ns = self._begin_ns + (block + 1) * size
            if until_ns is None:
                if span[1] < end_ns:
                    break
            elif until_ns < end_ns + HOLD_NS:
                break
            self._block = block
            self._work(end_ns)
        if until_ns is None:
            self._work(None)
            self._done = True
        else:
            for state in self._streams:
                state.own()

    def finish(self, facts: Json | None = None, sync: bool = True) -> Json:
        """Write the files and return the sidecar. `facts`: what signalling tells by now, in place of `plan.facts`'.

        `sync`: flush each file to disk before it gets its name. Raises OSError, then no file of the call is left.
        """
        try:
            if not self._done:
                self.add([], None)
            for audio in self._audios.values():
                audio.close(sync)
            call = self._sidecar({**self.plan.facts, **(facts or {})})
            path = self._path(0)
            try:
                sidecar.write(path, call, sync)
            except FileNotFoundError:
                make_directories(Path(path).parent)
                sidecar.write(path, call, sync)
        except BaseException:
            self.discard()
            raise
        return call

    def discard(self) -> None:
        """Give up: no audio of the call stays on disk."""
        for audio in self._audios.values():
            audio.discard()

    @property
    def silent(self) -> bool:
        """Whether no audio was made of the call so far."""
        return all(audio.silent for audio in self._audios.values())

    # -- blocks --------------------------------------------------------------
    def _held(self) -> tuple[int, int] | None:
        spans = [span for state in self._streams if (span := state.held_span()) is not None]
        return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None

    def _work(self, end_ns: int | None) -> None:
        """One block: all packets before `end_ns`, or all there are."""
        heard: list[tuple[StreamState, Voice | None]] = []
        for state in self._streams:
            voice = state.take(end_ns, 0 if end_ns is None else end_ns + HOLD_NS)
            if state.plan.voice:
                heard.append((state, voice))
        heard.sort(key=lambda h: (h[0].first_ns, h[0].plan.src, h[0].plan.ssrc))
        for path in sorted({0, *self._audios, *(state.plan.path for state, _ in heard)}):
            mine = [each for each in heard if each[0].plan.path == path]
            self._of(path).block(mine, None if end_ns is None else end_ns - HOLD_NS, sync=True)

    def _of(self, path: int) -> CallAudio:
        """The audio of a talk path; all number their files by what the others have."""
        audio = self._audios.get(path)
        if audio is None:
            audio = self._audios[path] = CallAudio(self._path, self.settings.part_s, self._numbers)
        return audio

    # -- the sidecar ---------------------------------------------------------
    def _sidecar(self, facts: Json) -> Json:
        seen = sorted((s for s in self._streams if s.packets), key=lambda s: (s.first_ns, s.plan.src, s.plan.dst, s.plan.ssrc))
        call = dict(facts)
        call["streams"] = [state.entry() for state in seen]
        events = [*(facts.get("events") or []), *self._keys(seen), *self._changes(seen)]
        call["events"] = sorted(events, key=lambda e: str(e["time"]))
        anomalies = Counter({str(k): int(v) for k, v in (facts.get("anomalies") or {}).items()})
        for state in seen:
            anomalies.update(state.anomalies)
        for audio in self._audios.values():
            anomalies.update(audio.anomalies)
        call["anomalies"] = dict(sorted((k, v) for k, v in anomalies.items() if v))
        parts = [(path, part) for path, audio in sorted(self._audios.items()) for part in audio.parts]
        call["audio"] = self._audio_entry(*parts[0]) if parts else None
        if parts:
            call.pop("audio_reason", None)
        else:
            call["audio_reason"] = self._reason(seen)
        call["parts"] = [self._part_entry(path, part, facts) for path, part in parts[1:]]
        return call

    def _audio_entry(self, path: int, part: Part) -> Json:
        file = part.file
        corrections = [{"time": iso(c.time_ns), "side": state.plan.direction, "ms": round(c.by_ns / 1e6, 3)}
                       for state in self._streams if state.plan.voice and state.plan.path == path
                       for p in state.playouts.values() for c in p.corrections]
        return {"path": self.plan.stem + _suffix(part.number), "format": file.format, "channels": file.channels,
                "sample_rate": file.sample_rate, "duration_s": round(file.frames / file.sample_rate, 6),
                "start": iso(part.start_ns), "bytes": file.bytes, "sha256": file.sha256,
                "corrections": sorted(corrections, key=lambda c: str(c["time"])),
                "concealed_ms": round(self._audios[path].concealed_ns / 1e6, 3)}

    def _part_entry(self, path: int, part: Part, facts: Json) -> Json:
        file = part.file
        parties = next((s.plan.parties for s in self._streams if path and s.plan.talk == path), None)
        left, right = parties or tuple((facts.get(side) or {}).get("number") or None for side in ("caller", "callee"))
        return {"path": self.plan.stem + _suffix(part.number), "start": iso(part.start_ns), "format": file.format,
                "sample_rate": file.sample_rate, "duration_s": round(file.frames / file.sample_rate, 6), "bytes": file.bytes,
                "sha256": file.sha256, "left": left, "right": right}

    def _reason(self, seen: list[StreamState]) -> str:
        """Why there is no audio, in one line."""
        if reasons := {reason for audio in self._audios.values() for reason in audio.reasons}:
            return "; ".join(sorted(reasons))
        if not seen:
            return "no media seen"
        return "no audio among the media" if not any(s.plan.voice for s in seen) else "no voice in the media"

    def _keys(self, seen: Iterable[StreamState]) -> list[Json]:
        """One event for each key pressed, however many streams carry it."""
        events: list[Json] = []
        for side in ("caller", "callee"):
            known: list[list[KeyPress]] = [p for s in seen if s.plan.direction == side and (p := s.presses())]
            known.sort(key=len, reverse=True)
            merged: list[KeyPress] = []
            for presses in known:
                merged += _unmatched(merged, presses)
            for press in merged:
                events.append({"time": iso(press.time_ns), "type": "dtmf", "side": side,
                               "detail": press.key if self.settings.show_digits else None, "duration_ms": press.duration_ms})
        return events

    def _changes(self, seen: list[StreamState]) -> list[Json]:
        """Changes of codec within a stream, and of the SSRC within a direction."""
        events: list[Json] = []
        before: dict[tuple[Side, str, str, tuple[int, ...]], StreamState] = {}
        for state in seen:
            plan = state.plan
            if not plan.voice:
                continue
            events += [{"time": iso(when), "type": "codec-change", "side": plan.direction, "detail": f"{old} to {new}"}
                       for when, old, new in state.changes]
            way = plan.direction, plan.src, plan.dst, tuple(plan.vlan)
            last = before.get(way)
            if last is not None:
                events.append({"time": iso(state.first_ns), "type": "ssrc-change", "side": plan.direction,
                               "detail": f"{last.plan.ssrc} to {plan.ssrc}"})
            before[way] = state
        return events


def _unmatched(known: list[KeyPress], presses: list[KeyPress]) -> list[KeyPress]:
    """Those of `presses` that are none of `known`: each of these may be seen once more, at about the same time."""
    free = list(known)
    fresh = []
    for press in presses:
        near = [k for k in free if k.key == press.key and abs(k.time_ns - press.time_ns) <= SAME_KEY_NS]
        if near:
            free.remove(min(near, key=lambda k: abs(k.time_ns - press.time_ns)))
        else:
            fresh.append(press)
    return fresh


def _path(stem: str, number: int) -> str:
    """A call's n-th audio file, or with 0 its sidecar."""
    return stem + _suffix(number)


def _suffix(number: int) -> str:
    """Of the n-th audio file, or with 0 of the sidecar."""
    return ".json" if number == 0 else ".wav" if number == 1 else f"-{number}.wav"
