import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.decoders.api import DecoderUnavailable, PayloadFormat
from rokuon.decoders.g711 import ALAW, ALAW_SILENCE, ULAW, ULAW_SILENCE, pcma, pcmu

MAKERS = {"PCMU": (pcmu, ULAW), "PCMA": (pcma, ALAW)}


def ulaw(code: int) -> int:
    """ITU-T G.711 table 2, at 16 bits: y = ±((33 + 2m)·2^e − 33), the code word inverted."""
    code ^= 0xFF
    value = ((33 + 2 * (code & 15)) * 2 ** (code >> 4 & 7) - 33) * 4
    return -value if code & 0x80 else value


def alaw(code: int) -> int:
    """ITU-T G.711 table 1, at 16 bits: y = ±(2m + 1) or ±(2m + 33)·2^(e − 1), even bits inverted."""
    code ^= 0x55
    m, e = code & 15, code >> 4 & 7
    value = (2 * m + 1 if e == 0 else (2 * m + 33) * 2 ** (e - 1)) * 8
    return value if code & 0x80 else -value


def test_every_code_word_by_the_formula():
    assert ULAW.tolist() == [ulaw(c) for c in range(256)]
    assert ALAW.tolist() == [alaw(c) for c in range(256)]
    assert (ULAW[ULAW_SILENCE], ALAW[ALAW_SILENCE]) == (0, 8)


@pytest.mark.parametrize("law", MAKERS)
def test_every_pair_of_code_words_by_ffmpeg(oracle, law):
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    payloads = [b"".join(pairs[i:i + 80]) for i in range(0, len(pairs), 80)]
    format = PayloadFormat(law, 8000)
    assert np.array_equal(oracle.run(MAKERS[law][0](format), payloads), oracle.reference(format, payloads))


@given(st.lists(st.binary(max_size=9), max_size=12), st.binary(max_size=5), st.sampled_from(list(MAKERS)))
def test_a_run_is_its_packets(payloads, header, law):
    make, table = MAKERS[law]
    decoder = make(PayloadFormat(law, 8000))
    data = np.frombuffer(b"".join(header + p for p in payloads), np.uint8)
    lengths = np.array([len(p) for p in payloads], np.int32)
    offsets = np.cumsum(lengths + len(header), dtype=np.int64) - lengths
    samples, counts = decoder.decode_run(data, offsets, lengths)
    assert samples.tolist() == [table[b] for p in payloads for b in p]
    assert samples.dtype == np.int16
    assert counts.tolist() == lengths.tolist() == decoder.durations(data, offsets, lengths).tolist()
    assert samples.flags.writeable


@pytest.mark.parametrize("format", [PayloadFormat("PCMU", 8000, 2), PayloadFormat("PCMU", 0), PayloadFormat("PCMU", 2**31)])
def test_what_is_no_g711(format):
    for make, _ in MAKERS.values():
        with pytest.raises(DecoderUnavailable):
            make(format)
