import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.decoders.api import DecoderUnavailable, PayloadFormat
from rokuon.decoders.l16 import l16


def rows(payloads):
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


def test_samples_are_what_ffmpeg_reads(oracle):
    format = PayloadFormat("L16", 8000)
    payloads = oracle.encode("L16", oracle.speech(8000, 2), 320)
    assert np.array_equal(oracle.run(l16(format), payloads), oracle.reference(format, payloads))


@given(st.lists(st.binary(max_size=20), max_size=6), st.integers(1, 3))
def test_whole_samples_are_read_and_cut_ones_counted(payloads, channels):
    decoder = l16(PayloadFormat("L16", 44_100, channels))
    samples, counts = decoder.decode_run(*rows(payloads))
    expected = []
    for payload in payloads:
        words = [int.from_bytes(payload[i:i + 2], "big", signed=True) for i in range(0, len(payload) - 1, 2)]
        frames = [words[i:i + channels] for i in range(0, len(words) - channels + 1, channels)]
        expected += [int(sum(f) / channels) for f in frames]
    assert np.abs(samples - np.array(expected, int)).max(initial=0) <= (channels > 2)  # thirds round either way
    assert counts.tolist() == [len(p) // (2 * channels) for p in payloads] == decoder.durations(*rows(payloads)).tolist()
    assert decoder.errors == sum(len(p) % (2 * channels) != 0 for p in payloads)
    assert decoder.sample_rate == 44_100
    assert decoder.channels == 1


@pytest.mark.parametrize("format", [PayloadFormat("L16", 0), PayloadFormat("L16", 10**7), PayloadFormat("L16", 8000, 0),
                                    PayloadFormat("L16", 8000, 255)])
def test_what_is_no_audio(format):
    with pytest.raises(DecoderUnavailable):
        l16(format)
