import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.decoders import g722 as module
from rokuon.decoders.api import DecoderUnavailable, PayloadFormat
from rokuon.decoders.g722 import G722Decoder, g722

FORMAT = PayloadFormat("G722", 8000)

pytest.importorskip("G722")


def rows(payloads):
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


def test_made_up_speech_is_what_ffmpeg_makes_of_it(oracle):
    payloads = oracle.encode("G722", oracle.speech(16_000, 10), 160)
    snr, lag = oracle.compare(oracle.run(g722(FORMAT), payloads), oracle.reference(FORMAT, payloads))
    assert lag == 0
    assert snr > 60


def test_noise_is_what_ffmpeg_makes_of_it(oracle):
    payloads = [np.random.default_rng(7).integers(0, 256, 16_000, np.uint8).tobytes()]
    assert np.array_equal(oracle.run(g722(FORMAT), payloads), oracle.reference(FORMAT, payloads))


@pytest.mark.parametrize("name", ["selfmade/g722-udp.pcap", "real/sip-rtp-g722.pcap"])
def test_captures_are_what_ffmpeg_makes_of_them(oracle, captures, name):
    found = oracle.streams(captures / name)
    assert found
    for format, payloads in found.values():
        assert format == FORMAT._replace(encoding="G722")
        snr, lag = oracle.compare(oracle.run(g722(format), payloads), oracle.reference(format, payloads))
        assert lag == 0
        assert snr > 60


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=10), st.data())
def test_state_carries_over_wherever_runs_end(payloads, data):
    whole, counts = G722Decoder().decode_run(*rows(payloads))
    assert counts.tolist() == [2 * len(p) for p in payloads]
    assert counts.sum() == len(whole)
    cut = data.draw(st.integers(0, len(payloads)))
    decoder = G722Decoder()
    parts = [decoder.decode_run(*rows(part))[0] for part in (payloads[:cut], payloads[cut:])]
    assert np.concatenate(parts).tolist() == whole.tolist()
    decoder.reset()
    assert decoder.decode_run(*rows(payloads))[0].tolist() == whole.tolist()


def test_the_rtp_clock_ticks_at_half_the_sampling_rate():
    decoder = g722(FORMAT)
    samples, counts = decoder.decode_run(*rows([bytes(160), bytes(80)]))
    assert decoder.sample_rate == 16_000
    assert decoder.durations(*rows([bytes(160), bytes(80)])).tolist() == [160, 80]
    assert counts.tolist() == [320, 160]
    assert samples.flags.writeable
    assert len(decoder.lost(320)) == 320


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "G722", None)
    for attempt in (lambda: g722(FORMAT), module.available):
        with pytest.raises(DecoderUnavailable, match="package G722 is missing"):
            attempt()


def test_two_channels():
    with pytest.raises(DecoderUnavailable, match="2 channels"):
        g722(FORMAT._replace(channels=2))
