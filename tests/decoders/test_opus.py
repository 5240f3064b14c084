import ctypes
import sys
from ctypes import util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.decoders import opus as module
from rokuon.decoders.api import DecoderUnavailable, PayloadFormat
from rokuon.decoders.opus import OpusDecoder, opus, packet_duration_48k

FORMAT = PayloadFormat("opus", 48000, 2)

try:
    module.available()
except DecoderUnavailable as missing:
    pytest.skip(str(missing), allow_module_level=True)

VARIETY = {
    "CELT": ["-b:a", "64k", "-application", "lowdelay"],
    "CELT 5 ms": ["-b:a", "96k", "-frame_duration", "5"],
    "hybrid": ["-b:a", "24k", "-application", "voip"],
    "SILK 60 ms": ["-b:a", "12k", "-application", "voip", "-frame_duration", "60"],
    "SILK 120 ms": ["-b:a", "12k", "-application", "voip", "-frame_duration", "120"],
}


def rows(payloads):
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


def below(samples, hertz):
    spectrum = np.fft.rfft(samples.astype(float))
    spectrum[int(hertz * len(samples) / 48_000):] = 0
    return np.fft.irfft(spectrum, len(samples))


@pytest.fixture(scope="module", params=VARIETY)
def packets(request, oracle):
    return oracle.encode_opus(oracle.speech(48_000, 6), VARIETY[request.param])


def test_made_up_speech_is_what_libopus_makes_of_it_in_ffmpeg(oracle, packets):
    ours, counts = opus(FORMAT).decode_run(*oracle.rows(packets))
    assert np.array_equal(ours, oracle.reference(FORMAT, packets, "libopus"))
    assert counts.tolist() == [packet_duration_48k(p) for p in packets]


def test_made_up_speech_is_what_ffmpegs_own_decoder_makes_of_it(oracle, packets):
    # Below 1 kHz, and 2 samples apart: ffmpeg brings SILK's 16 kHz to 48 kHz by another filter, of which RFC 6716 section 4.2.9
    # leaves the choice to the decoder (docs/codecs.md).
    ours, theirs = oracle.run(opus(FORMAT), packets), oracle.reference(FORMAT, packets)
    assert len(ours) == len(theirs)
    snr, lag = oracle.compare(below(ours, 1000), below(theirs, 1000))
    assert -3 <= lag <= 0
    assert snr > 25


def test_captures_are_what_ffmpeg_makes_of_them(oracle, captures):
    found = oracle.streams(captures / "selfmade/opus-udp.pcap")
    assert len(found) == 2
    for format, payloads in found.values():
        ours = oracle.run(opus(format), payloads)
        assert np.array_equal(ours, oracle.reference(format, payloads, "libopus"))
        snr, lag = oracle.compare(ours, oracle.reference(format, payloads))
        assert -3 <= lag <= 3
        assert snr > 18


def test_durations_are_what_libopus_reads(oracle, packets):
    from opuslib.api import decoder as api  # noqa: PLC0415 - libopus may be missing
    decoder = OpusDecoder()
    state = decoder._codec.decoder_state
    tails = [b"", b"\1", b"\2\7", b"\3\0\0", b"\x3f\0\0", b"\xc4\1\2\3\4", b"\x0c"]
    made_up = [bytes([toc]) + tail for toc in range(256) for tail in tails]
    for packet in packets + made_up:
        assert packet_duration_48k(packet) == max(api.libopus_get_nb_samples(state, packet, len(packet)), 0), packet[:8]
    assert packet_duration_48k(b"") == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_give_sound_or_counted_silence(payloads):
    decoder = OpusDecoder()
    samples, counts = decoder.decode_run(*rows(payloads))
    assert samples.dtype == np.int16
    assert counts.sum() == len(samples)
    for payload, count in zip(payloads, counts.tolist(), strict=True):
        assert 120 <= count <= 5760
        assert packet_duration_48k(payload) in {0, count}
    assert 0 <= decoder.errors <= len(payloads)


def test_a_broken_packet_is_silence_as_long_as_the_one_before(oracle):
    good = oracle.encode_opus(oracle.speech(48_000, 1), ["-b:a", "24k", "-frame_duration", "40"])[:5]
    decoder = opus(FORMAT)
    samples, counts = decoder.decode_run(*rows([*good, b"", *good]))
    assert counts.tolist() == [1920] * 11
    assert not samples[5 * 1920:6 * 1920].any()
    assert decoder.errors == 1


def test_state_carries_over_wherever_runs_end(oracle):
    payloads = oracle.encode_opus(oracle.speech(48_000, 1), VARIETY["hybrid"])
    whole = oracle.run(opus(FORMAT), payloads)
    decoder = opus(FORMAT)
    parts = [decoder.decode_run(*rows(part))[0] for part in (payloads[:1], payloads[1:1], payloads[1:30], payloads[30:])]
    assert np.array_equal(np.concatenate(parts), whole)
    decoder.reset()
    assert np.array_equal(decoder.decode_run(*rows(payloads))[0], whole)


def without(monkeypatch, *, library=True, binding=True):
    for name in [m for m in sys.modules if m == "opuslib" or m.startswith("opuslib.")]:
        monkeypatch.delitem(sys.modules, name)
    if not binding:
        monkeypatch.setitem(sys.modules, "opuslib", None)
    if not library:
        def refuse(name, *_, **__):
            raise OSError(name)
        monkeypatch.setattr(ctypes, "CDLL", refuse)
        monkeypatch.setattr(util, "find_library", lambda _: None)


def test_without_libopus(monkeypatch):
    without(monkeypatch, library=False)
    for attempt in (lambda: opus(FORMAT), module.available):
        with pytest.raises(DecoderUnavailable, match=r"^libopus is missing: install the Debian package libopus0$"):
            attempt()


def test_without_opuslib(monkeypatch):
    without(monkeypatch, binding=False)
    with pytest.raises(DecoderUnavailable, match="package opuslib is missing"):
        opus(FORMAT)


def test_neither_ldconfig_nor_a_compiler_is_asked_for_libopus(monkeypatch):
    without(monkeypatch)

    def refuse(name):
        raise AssertionError(f"find_library({name!r})")
    monkeypatch.setattr(util, "find_library", refuse)
    assert opus(FORMAT).sample_rate == 48_000
    assert util.find_library is refuse
