import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.decoders import api
from rokuon.decoders.api import DecoderUnavailable, PacketDecoder, PayloadFormat, gather

FORMAT = PayloadFormat("X", 8000)


def rows(payloads):
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


@given(st.binary(max_size=300), st.data())
def test_gather_is_the_rows_end_to_end(content, data):
    spans = data.draw(st.lists(st.tuples(st.integers(0, len(content)), st.integers(0, len(content))), max_size=8))
    if data.draw(st.booleans()):  # the way of equal lengths
        size = data.draw(st.integers(0, len(content)))
        spans = [(min(a, len(content) - size), min(a, len(content) - size) + size) for a, _ in spans]
    spans = [(min(s), max(s)) for s in spans]
    got = gather(np.frombuffer(content, np.uint8), np.array([a for a, _ in spans], np.int64),
                 np.array([b - a for a, b in spans], np.int32))
    assert got.dtype == np.uint8
    assert got.tobytes() == b"".join(content[a:b] for a, b in spans)
    assert got.flags.writeable


def test_gather_of_a_view_with_gaps_between_its_bytes():
    data = np.arange(40, dtype=np.uint8)[::2]
    assert gather(data, np.array([1, 4]), np.array([2, 2])).tolist() == [2, 4, 8, 10]


class Shouting(PacketDecoder):
    """A byte is a sample; bad bytes do what bad codecs do."""

    def decode(self, payload):
        match payload[:1]:
            case b"!":
                raise ZeroDivisionError
            case b"f":
                return np.zeros(5)
            case b"2":
                return np.zeros((5, 2), np.int16)
            case b"n":
                return None
            case b"L":
                return np.zeros(8000 * 3600, np.int16)
        return np.frombuffer(payload, np.uint8).astype(np.int16)


@pytest.mark.parametrize("bad", [b"!", b"f", b"2", b"n", b"L"])
def test_a_broken_payload_becomes_silence_as_long_as_the_packet_before(bad):
    decoder = Shouting(FORMAT)
    samples, counts = decoder.decode_run(*rows([b"abcd", bad, b"xy"]))
    assert samples.dtype == np.int16
    assert samples.tolist() == [*b"abcd", 0, 0, 0, 0, *b"xy"]
    assert counts.tolist() == [4, 4, 2]
    assert decoder.errors == 1


def test_a_broken_payload_before_any_other_lasts_20_ms():
    samples, counts = Shouting(FORMAT).decode_run(*rows([b"!"]))
    assert len(samples) == 160
    assert counts.tolist() == [160]


def test_no_packets_no_samples():
    samples, counts = Shouting(FORMAT).decode_run(*rows([]))
    assert (len(samples), samples.dtype, len(counts), counts.dtype) == (0, np.int16, 0, np.int32)


def test_sampling_rate_is_the_formats_or_the_codecs_own():
    class Wide(Shouting):
        sample_rate = 16_000

    assert Shouting(PayloadFormat("X", 11025)).sample_rate == 11025
    assert Wide(FORMAT).sample_rate == 16_000
    assert len(Shouting(FORMAT).lost(7)) == 7


@pytest.mark.parametrize("rate", [-1, 0, 999, 2**31])
def test_no_decoder_for_a_rate_that_no_audio_has(rate):
    with pytest.raises(DecoderUnavailable, match="clock rate"):
        Shouting(PayloadFormat("X", rate))


def test_the_interface_imports_nothing_of_rokuon():
    for node in ast.walk(ast.parse(Path(api.__file__).read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not any(n.split(".")[0] == "rokuon" for n in names)


def test_a_codec_is_imported_when_it_is_needed_and_not_before():
    code = ("import sys; from rokuon.decoders import registry as r; f = r.PayloadFormat\n"
            "early = 'rokuon.decoders.g711' in sys.modules\n"
            "r.open_decoder(f('pcmu', 8000))\n"
            "of_codecs = {'rokuon.decoders.g711', 'rokuon.decoders.g722', 'rokuon.decoders.opus', 'G722', 'opuslib'}\n"
            "print(early, *of_codecs & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "rokuon.decoders.g711"]
