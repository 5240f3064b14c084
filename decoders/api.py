"""The codec plugin interface of rokuon, version 1. It imports nothing of rokuon and stays as it is within a version.

A codec is an entry point of the group ``rokuon.decoders``: its name is the RTP encoding name (RFC 8866 section 6.6,
compared without regard to case), its value a `DecoderFactory`. The least that works is a `PacketDecoder` with one
method; a codec that can take many packets in one step implements `Decoder` itself.

Packets are handed over as *runs*: rows of one byte buffer, `data[offsets[i] : offsets[i] + lengths[i]]`, that follow
one another in the sender's order with nothing missing between them. The caller guarantees that every row lies within
`data`; everything inside a row comes from the network and is hostile until proven otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["API_VERSION", "Bytes", "Decoder", "DecoderFactory", "DecoderUnavailable", "Lengths", "Offsets", "PacketDecoder",
           "PayloadFormat", "Samples", "gather", "is_audio"]

API_VERSION = 1

Samples: TypeAlias = NDArray[np.int16]
Bytes: TypeAlias = NDArray[np.uint8]
Offsets: TypeAlias = NDArray[np.int64]
Lengths: TypeAlias = NDArray[np.int32]

NOMINAL_S = 0.02
"""What a packet lasts whose length nobody can tell, in seconds (RFC 3551 section 4.2: the default packetisation)."""
MAX_PACKET_S = 2.0
"""What one packet may last at most, in seconds: ten times what RFC 3551 section 4.2 asks a receiver to accept. Otherwise
a few hostile bytes could become minutes of audio."""


class DecoderUnavailable(Exception):  # noqa: N818 - it is a state, told to people in one line, not a programming error
    """No decoder can be made for this format here; the message is one line that says why and what helps."""


class PayloadFormat(NamedTuple):
    """What a payload type number means in one session (RFC 8866 section 6.6, RFC 3551 section 6)."""

    encoding: str
    """RTP encoding name, its case as signalled: "PCMU", "opus"."""
    clock_rate: int
    """Ticks a second of the RTP timestamp; not always the sampling rate of the audio (G722: 8000, audio 16,000)."""
    channels: int = 1
    fmtp: str = ""
    """Format parameters as signalled, "" where there are none."""
    payload_type: int = -1
    """The number itself; -1: unknown."""


class Decoder(Protocol):
    """Decodes one direction of one call. Not shared between threads; one is made for each stream."""

    @property
    def sample_rate(self) -> int:
        """Samples a second of the audio it makes."""

    @property
    def channels(self) -> int:
        """Always 1 in version 1: a decoder of a codec with more channels mixes them down."""

    @property
    def errors(self) -> int:
        """Packets so far whose payload was broken and became silence."""

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """Decode n packets that follow one another without loss; state carries over from run to run.

        Returns all samples, concatenated (int16, fresh, the caller's to write in), and how many of them each packet gave
        (int32[n], its sum is the number of samples). A payload that cannot be decoded gives silence of the length it
        should have had and is counted in `errors`. Raises nothing whatever the packets hold.
        """

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """How long each packet lasts in ticks of the RTP clock, without decoding and without touching the state.

        int32[n]; 0 where the payload does not tell (comfort noise, garbage). ticks / clock_rate = samples / sample_rate.
        """

    def lost(self, samples: int) -> Samples:
        """What to play in a gap of so many samples (at `sample_rate`, >= 0) after the last run: int16[samples].

        Silence unless the codec knows better (comfort noise: noise of the level last signalled). The caller bounds `samples`.
        """

    def reset(self) -> None:
        """Forget all state except `errors`: the sender has started anew (another SSRC, a restart)."""


DecoderFactory: TypeAlias = Callable[[PayloadFormat], Decoder]
"""Makes a decoder for a format, or raises `DecoderUnavailable`. Called once for each stream; must be cheap."""


class PacketDecoder:
    """Base class for a codec that decodes packet by packet: a subclass implements `decode`, and is a `Decoder`.

    ``class Foo(PacketDecoder): def decode(self, payload): ...`` with ``Foo`` itself as the entry point is a whole plugin;
    `sample_rate` is the format's clock rate unless a subclass sets another.
    """

    sample_rate: int
    channels: int = 1
    """Of the audio it makes: stays 1."""
    errors: int = 0

    def __init__(self, format: PayloadFormat) -> None:
        """Keep the format as `self.format`. Raises DecoderUnavailable for a clock rate that no audio has."""
        if not 1000 <= format.clock_rate <= 384_000:
            raise DecoderUnavailable(f"{format.encoding[:40]!r} with a clock rate of {format.clock_rate} Hz cannot be decoded")
        self.format = format
        if "sample_rate" not in vars(type(self)):
            self.sample_rate = format.clock_rate
        self._last = 0

    def decode(self, payload: bytes) -> Samples:
        """Decode one packet's payload to int16 samples (one dimension). Any exception means: this payload is broken."""
        raise NotImplementedError

    def decode_run(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> tuple[Samples, Lengths]:
        """See `Decoder.decode_run`; calls `decode` for each packet, what fails or is no audio becomes silence."""
        parts: list[Samples] = []
        counts = np.zeros(len(offsets), np.int32)
        limit = int(MAX_PACKET_S * self.sample_rate)
        view = np.ascontiguousarray(data).data
        for row, (offset, length) in enumerate(zip(offsets.tolist(), lengths.tolist(), strict=True)):
            try:
                samples = self.decode(bytes(view[offset:offset + length]))
                good = is_audio(samples) and len(samples) <= limit
            except Exception:  # hostile bytes in somebody else's code: whatever it is, it is this packet's
                good = False
            if good:
                self._last = len(samples)
            else:
                self.errors += 1
                samples = np.zeros(self._last or int(NOMINAL_S * self.sample_rate), np.int16)
            parts.append(samples)
            counts[row] = len(samples)
        return np.concatenate(parts) if parts else np.zeros(0, np.int16), counts

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        """See `Decoder.durations`; here 0 for every packet: unknown without decoding. A subclass may know better."""
        return np.zeros(len(offsets), np.int32)

    def lost(self, samples: int) -> Samples:
        """See `Decoder.lost`; silence."""
        return np.zeros(samples, np.int16)

    def reset(self) -> None:
        """See `Decoder.reset`; a subclass with state between packets overrides it."""


def is_audio(samples: object) -> bool:
    """Whether that is what a decoder has to return: an int16 array of one dimension."""
    return isinstance(samples, np.ndarray) and samples.dtype == np.int16 and samples.ndim == 1


def gather(data: Bytes, offsets: Offsets, lengths: Lengths) -> Bytes:
    """The rows `data[offsets[i] : offsets[i] + lengths[i]]`, end to end, as a fresh uint8 array of sum(lengths) bytes."""
    if not len(offsets):
        return np.zeros(0, np.uint8)
    first = int(lengths[0])
    if (lengths == first).all():
        if not first:
            return np.zeros(0, np.uint8)
        if len(data) < first:
            raise IndexError("row outside of data")
        # Every window of `first` bytes as a row of one overlapping view: numpy copies whole rows and checks the bounds.
        windows: Bytes = np.ndarray((len(data) - first + 1, first), np.uint8, np.ascontiguousarray(data).data, strides=(1, 1))
        return windows[offsets].reshape(-1)
    ends = np.cumsum(lengths, dtype=np.int64)
    index = np.arange(ends[-1])
    index += np.repeat(offsets - (ends - lengths), lengths)
    return data[index]
