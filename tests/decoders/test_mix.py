from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.decoders.mix import SILENCE, Channel, interleave, resample


@pytest.mark.parametrize("kind", SILENCE)
@given(pieces=st.lists(st.tuples(st.integers(-20, 80), st.integers(0, 30)), max_size=8),
       cuts=st.lists(st.integers(0, 120), max_size=4))
def test_pieces_lie_in_their_places(kind: str, pieces: list[tuple[int, int]], cuts: list[int]) -> None:
    """However it is taken out, a channel holds the last piece of each place, and silence."""
    dtype = np.int16 if kind == "pcm16" else np.uint8
    wanted = np.full(200, SILENCE[kind], dtype)
    channel = Channel(kind)
    for k, (place, length) in enumerate(pieces):
        sound = np.arange(length, dtype=dtype) + 7 * k
        channel.add(place, sound)
        for i, value in enumerate(sound):
            if place + i >= 0:
                wanted[place + i] = value
    begin, got = 0, []
    for end in [*sorted(cuts), 130]:
        got.append(channel.take(begin, end, keep=True))
        begin = end
    assert np.concatenate(got).tolist() == wanted[:130].tolist()
    assert channel.end == max([p + n for p, n in pieces if n] + [0])


def test_one_piece_that_fits_is_not_copied() -> None:
    channel, sound = Channel("ulaw"), np.arange(100, dtype=np.uint8)
    channel.add(0, sound)
    assert channel.take(0, 100, keep=False) is sound


def test_what_is_kept_does_not_depend_on_buffers() -> None:
    channel, sound = Channel("ulaw"), np.arange(100, dtype=np.uint8)
    channel.add(0, sound)
    channel.take(0, 50, keep=True)
    sound[:] = 0
    assert channel.take(50, 100, keep=True).tolist() == list(range(50, 100))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_left_comes_first(dtype: type) -> None:
    rng = np.random.default_rng(1)
    info = np.iinfo(dtype)
    left, right = (rng.integers(info.min, info.max + 1, 1001).astype(dtype) for _ in range(2))
    frames = interleave(left, right)
    both = frames.view(np.dtype(dtype).newbyteorder("<"))
    assert (both[0::2] == left).all()
    assert (both[1::2] == right).all()
    assert len(interleave(left[:0], right[:0])) == 0


@pytest.mark.parametrize("wanted", [16_000, 48_000])
def test_a_multiple_of_the_rate_keeps_every_sample(wanted: int) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 500).astype(np.int16)
    out = resample(samples, 8000, wanted)
    assert len(out) == 500 * wanted // 8000
    assert (out[::wanted // 8000] == samples).all()
    assert (np.abs(np.diff(out.astype(int))) <= np.abs(np.diff(samples.astype(int))).max()).all()


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 48_000), (8000, 44_100), (48_000, 8000)])
def test_any_other_rate_keeps_a_tone(rate: int, wanted: int) -> None:
    tone = np.rint(10_000 * np.sin(2 * np.pi * 300 * np.arange(rate) / rate)).astype(np.int16)
    out = resample(tone, rate, wanted).astype(float)
    true = 10_000 * np.sin(2 * np.pi * 300 * np.arange(wanted) / wanted)
    assert len(out) == wanted
    assert np.abs(out - true)[:-10].max() < 150


def test_nothing_to_resample() -> None:
    nothing = np.zeros(0, np.int16)
    assert resample(nothing, 8000, 16_000) is nothing
    one = np.ones(1, np.int16)
    assert resample(one, 8000, 16_000).tolist() == [1, 1]
