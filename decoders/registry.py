"""Which codec decodes what: the entry points of the group ``rokuon.decoders``, the built-in ones among them.

A module is imported when the first stream needs its codec, never before. What other distributions bring is wrapped, so
that neither its import nor a packet in it can hurt a recording.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rokuon.decoders.api import (
    MAX_PACKET_S,
    NOMINAL_S,
    Bytes,
    Decoder,
    DecoderFactory,
    DecoderUnavailable,
    Lengths,
    Offsets,
    PayloadFormat,
    Samples,
    is_audio,
)

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "GuardedDecoder", "PluginInfo", "claimed", "find", "forget", "open_decoder", "plugins"]

GROUP = "rokuon.decoders"
BUILT_IN = "rokuon"
"""The distribution whose codecs are trusted not to raise, and not wrapped."""


class PluginInfo(NamedTuple):
    """One line of ``rokuon plugins``."""

    name: str
    kind: str
    """"decoder"."""
    distribution: str
    version: str
    status: str
    """"ok"; "unavailable": it loads, but something it needs is missing here; "failed": it cannot be loaded;
    "refused": another distribution claims the same name."""
    error: str
    """One printable line; "" where the status is ok."""


def find(format: PayloadFormat) -> DecoderFactory | None:
    """The factory for an encoding name (in any case), or None: nobody decodes it, its plugin is broken or refused.

    `open_decoder` says which of these it is. Raises nothing.
    """
    try:
        return _factory(format.encoding.upper())
    except DecoderUnavailable:
        return None


def claimed(name: str) -> bool:
    """Whether somebody says to decode this encoding (its name in any case); nothing is imported to find out."""
    return name.upper() in _claims()


def open_decoder(format: PayloadFormat) -> Decoder:
    """A decoder for this format. Raises DecoderUnavailable with one printable line: what an ``audio_reason`` can say."""
    return _factory(format.encoding.upper())(format)


def plugins() -> list[PluginInfo]:
    """Every codec that is installed, by name, with what is wrong with it. Imports all of them."""
    infos = []
    for name, claims in sorted(_claims().items()):
        for point in claims:
            status, error = "ok", ""
            if len(claims) > 1:
                status, error = "refused", _conflict(name, claims)
            else:
                try:
                    _factory(name)
                    available = getattr(sys.modules[point.module], "available", None)
                    if callable(available):
                        available()
                except DecoderUnavailable as e:
                    status, error = "failed" if isinstance(e, _LoadError) else "unavailable", str(e)
                except Exception as e:
                    status, error = "failed", _line(e)
            infos.append(PluginInfo(point.name, "decoder", *_origin(point), status, error))
    return infos


def forget() -> None:
    """Look at the installed distributions anew (after one was installed; in tests)."""
    _claims.cache_clear()
    _factory.cache_clear()


class _LoadError(DecoderUnavailable):
    pass


@cache
def _claims() -> dict[str, list[EntryPoint]]:
    """Entry points by upper-case encoding name; more than one of a name is a conflict."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - 15 ms that `rokuon --help` need not wait for
    claims: defaultdict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        claims[point.name.upper()].append(point)
    return dict(claims)


@cache
def _factory(name: str) -> DecoderFactory:
    claims = _claims().get(name, [])
    if not claims:
        raise DecoderUnavailable(f"no codec is installed for {_printable(name, 40)}")
    if len(claims) > 1:
        raise DecoderUnavailable(_conflict(name, claims))
    point = claims[0]
    distribution, _ = _origin(point)
    try:
        factory = point.load()
    except Exception as e:
        raise _LoadError(f"codec {point.name} of {distribution} cannot be loaded: {_line(e)}") from e
    if not callable(factory):
        raise _LoadError(f"codec {point.name} of {distribution} cannot be loaded: {point.value} is no factory")
    if distribution == BUILT_IN:
        return factory  # type: ignore[no-any-return]

    def guarded(format: PayloadFormat) -> Decoder:
        try:
            return GuardedDecoder(factory(format))
        except DecoderUnavailable as e:
            raise DecoderUnavailable(_line(e)) from e
        except Exception as e:
            raise DecoderUnavailable(f"codec {point.name} of {distribution} failed: {_line(e)}") from e
    return guarded


def _origin(point: EntryPoint) -> tuple[str, str]:
    dist = point.dist
    return (dist.name, dist.version) if dist is not None else ("unknown", "")


def _conflict(name: str, claims: list[EntryPoint]) -> str:
    return f"codec {name} is claimed by {' and '.join(sorted(_origin(p)[0] for p in claims))}: uninstall all but one of them"


def _line(error: BaseException) -> str:
    return _printable(f"{error}" if isinstance(error, DecoderUnavailable) else f"{type(error).__name__}: {error}", 300)


def _printable(text: str, limit: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:limit]).strip()


class GuardedDecoder:
    """Somebody else's decoder, held to the contract of `Decoder`: what it does wrong becomes silence and is counted."""

    channels = 1

    def __init__(self, inner: Decoder) -> None:
        """Raises DecoderUnavailable where sampling rate or channels are not usable."""
        self.sample_rate = int(inner.sample_rate)
        if not 1000 <= self.sample_rate <= 384_000:
            raise DecoderUnavailable(f"{type(inner).__name__} makes audio of {self.sample_rate} Hz")
        if inner.channels != 1:
            raise DecoderUnavailable(f"{type(inner).__name__} makes {inner.channels} channels, not one")
        self._inner = inner
        self._own_errors = 0
        self._last = int(NOMINAL_S * self.sample_rate)

    @property
    def errors(self) -> int:
        """See `Decoder.errors`: the codec's own count and what was caught here."""
        try:
            return int(self._inner.errors) + self._own_errors
        except Exception:
            return self._own_errors

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`. A run that fails is tried again packet by packet, so that one bad packet costs one."""
        if not len(offsets):
            return np.zeros(0, np.int16), np.zeros(0, np.int32)
        result = self._try(data, offsets, lengths)
        if result is not None:
            return result
        if len(offsets) > 1:
            self.reset()
        parts, counts = [], np.zeros(len(offsets), np.int32)
        for row in range(len(offsets)):
            one = slice(row, row + 1)
            result = self._try(data, offsets[one], lengths[one]) if len(offsets) > 1 else None
            if result is None:
                self._own_errors += 1
                samples = np.zeros(self._last, np.int16)
            else:
                samples = result[0]
            parts.append(samples)
            counts[row] = len(samples)
        return np.concatenate(parts), counts

    def _try(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths] | None:
        try:
            samples, counts = self._inner.decode_run(data, offsets, lengths)
            if not (is_audio(samples) and isinstance(counts, np.ndarray) and counts.shape == offsets.shape
                    and counts.dtype.kind in "iu"):
                return None
            counts = counts.astype(np.int32, copy=False)
            if counts.min() < 0 or counts.max() > MAX_PACKET_S * self.sample_rate or int(counts.sum()) != len(samples):
                return None
        except Exception:  # hostile bytes in somebody else's code: whatever it is, it is these packets'
            return None
        self._last = int(counts[-1]) or self._last
        return samples if samples.flags.writeable else samples.copy(), counts

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`; zeros (unknown) where the codec fails."""
        try:
            ticks = self._inner.durations(data, offsets, lengths)
            if ticks.shape == offsets.shape and ticks.dtype.kind in "iu" and (not len(ticks) or ticks.min() >= 0):
                return ticks.astype(np.int32, copy=False)
        except Exception:
            self._own_errors += 1
        return np.zeros(len(offsets), np.int32)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`; silence where the codec fails."""
        try:
            filling = self._inner.lost(samples)
            if is_audio(filling) and len(filling) == samples:
                return filling
        except Exception:
            self._own_errors += 1
        return np.zeros(samples, np.int16)

    def reset(self) -> None:
        """See `Decoder.reset`."""
        try:
            self._inner.reset()
        except Exception:
            self._own_errors += 1
