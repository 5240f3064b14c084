import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.decoders.api import PayloadFormat
from rokuon.decoders.comfort_noise import comfort_noise

FORMAT = PayloadFormat("CN", 8000)


def rows(payloads):
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


def test_silence_before_the_first_packet_and_after_a_reset():
    decoder = comfort_noise(FORMAT)
    assert not decoder.lost(160).any()
    decoder.decode_run(*rows([bytes([40])]))
    assert decoder.lost(160).any()
    decoder.reset()
    assert not decoder.lost(160).any()


@pytest.mark.parametrize("level", [30, 45, 60, 78])
def test_noise_has_the_level_that_was_signalled(level):
    decoder = comfort_noise(FORMAT)
    assert [len(a) for a in decoder.decode_run(*rows([bytes([20]), bytes([level, 1, 2, 3])]))] == [0, 2]
    noise = decoder.lost(80_000).astype(float)
    # RFC 3389 section 3: in dB under the overload point; a full-scale square wave is 0 dBov
    measured = 20 * np.log10(np.sqrt((noise ** 2).mean()) / 32768)
    assert abs(measured + level) < (0.1 if level < 70 else 1)
    assert abs(noise.mean()) < 0.05 * noise.std()
    spectrum = np.abs(np.fft.rfft(noise[:65536])) ** 2
    bands = spectrum[1:32769].reshape(8, -1).mean(axis=1)
    assert bands.max() < 1.2 * bands.min()


def test_a_hostile_level_does_not_hurt():
    decoder = comfort_noise(FORMAT)
    decoder.decode_run(*rows([b"\0"]))
    assert np.abs(decoder.lost(10_000)).max() < 2000


@given(st.lists(st.binary(max_size=12), max_size=6), st.lists(st.integers(0, 300), max_size=5))
def test_the_same_packets_make_the_same_noise_however_it_is_asked_for(payloads, asked):
    one, other = comfort_noise(FORMAT), comfort_noise(FORMAT)
    for decoder in (one, other):
        samples, counts = decoder.decode_run(*rows(payloads))
        assert len(samples) == 0
        assert counts.tolist() == [0] * len(payloads) == decoder.durations(*rows(payloads)).tolist()
        assert decoder.errors == payloads.count(b"")
    parts = [one.lost(n) for n in asked]
    assert [len(p) for p in parts] == asked
    assert np.array_equal(np.concatenate([np.zeros(0, np.int16), *parts]), other.lost(sum(asked)))


def test_level_127_is_silence():
    decoder = comfort_noise(PayloadFormat("CN", 0))
    decoder.decode_run(*rows([b"\x7f"]))
    assert not decoder.lost(100).any()
    assert decoder.sample_rate == 8000
