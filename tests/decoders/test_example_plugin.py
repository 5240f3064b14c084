"""The worked third-party codec of examples/, installed by pip as a distribution of its own and found by its entry point."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rokuon.decoders import registry
from rokuon.decoders.api import PayloadFormat

FORMAT = PayloadFormat("DVI4", 8000, payload_type=5)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory with the example installed in it."""
    pytest.importorskip("pip")
    pytest.importorskip("hatchling")
    example = Path(__file__).parents[2] / "examples" / "rokuon-codec-dvi4"
    target = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps",
                    "--no-build-isolation", "--no-compile", "--target", str(target), str(example)],
                   check=True, capture_output=True)
    return target


@pytest.fixture
def dvi4(site, monkeypatch):
    """The decoder, as a recording would get it."""
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    registry.forget()
    yield registry.open_decoder(FORMAT)
    monkeypatch.undo()
    registry.forget()
    sys.modules.pop("rokuon_codec_dvi4", None)


def as_wav(payloads):
    """The payloads as blocks of IMA ADPCM in WAV, which ffmpeg reads: state little-endian, nibbles the other way round."""
    block = len(payloads[0])
    swap = bytes((b >> 4 | b << 4) & 0xFF for b in range(256))
    body = b"".join(bytes([p[1], p[0], p[2], 0]) + p[4:].translate(swap) for p in payloads)
    per_block = 1 + 2 * (block - 4)

    def little(*numbers):
        return b"".join(n.to_bytes(size, "little") for n, size in numbers)
    form = little((0x11, 2), (1, 2), (8000, 4), (8000 * block // per_block, 4), (block, 2), (4, 2), (2, 2), (per_block, 2))
    chunks = b"WAVEfmt " + little((len(form), 4)) + form + b"data" + little((len(body), 4)) + body
    return b"RIFF" + little((len(chunks), 4)) + chunks


def ffmpeg_decodes(oracle, payloads):
    made = np.frombuffer(oracle.ffmpeg(["-f", "wav", "-i", "-", "-f", "s16le", "-"], as_wav(payloads)), np.int16)
    return made.reshape(len(payloads), -1)[:, 1:].reshape(-1)  # WAV gives the state as a sample of its own


def test_it_is_at_most_30_lines(site):
    assert len((site / "rokuon_codec_dvi4.py").read_text().splitlines()) <= 30


def test_it_is_listed(dvi4):
    listed = [tuple(p) for p in registry.plugins() if p.name == "DVI4"]
    assert listed == [("DVI4", "decoder", "rokuon-codec-dvi4", "1.0", "ok", "")]


def test_made_up_speech_is_what_ffmpeg_makes_of_it(oracle, dvi4):
    speech = oracle.speech(8000, 5)
    wav = oracle.ffmpeg(["-f", "s16le", "-ar", "8000", "-ac", "1", "-i", "-", "-c:a", "adpcm_ima_wav", "-f", "wav", "-"],
                        speech.tobytes())
    blocks = wav[wav.index(b"data") + 8:]
    swap = bytes((b >> 4 | b << 4) & 0xFF for b in range(256))
    payloads = [bytes([b[1], b[0], b[2], 0]) + b[4:].translate(swap)
                for b in (blocks[i:i + 1024] for i in range(0, len(blocks) - 1023, 1024))]
    ours, theirs = oracle.run(dvi4, payloads), ffmpeg_decodes(oracle, payloads)
    snr, lag = oracle.compare(ours, theirs)
    assert (len(ours), lag) == (len(theirs), 0)
    assert snr > 35  # ffmpeg rounds the step once where the recommendation adds up rounded parts
    assert dvi4.errors == 0


def test_a_capture_is_what_ffmpeg_makes_of_it(oracle, captures, dvi4):
    out = subprocess.run(["tshark", "-r", str(captures / "real/sip-rtp-dvi4.pcap"), "-Y", "rtp.p_type == 5", "-T", "fields", "-e",
                          "rtp.payload"], capture_output=True, check=True, text=True).stdout
    payloads = [bytes.fromhex(line.replace(":", "")) for line in out.split()]
    assert len(payloads) > 400
    samples, counts = dvi4.decode_run(*oracle.rows(payloads))
    assert set(counts.tolist()) == {160} == set(dvi4.durations(*oracle.rows(payloads)).tolist())
    snr, lag = oracle.compare(samples, ffmpeg_decodes(oracle, payloads))
    assert lag == 0
    assert snr > 35


def test_hostile_payloads_are_silence(oracle, dvi4):
    samples, counts = dvi4.decode_run(*oracle.rows([b"", b"\0", b"\0\0\xff\0\x77", b"\x7f\xff\x58\0\x77"]))
    assert dvi4.errors == 3
    assert counts.tolist() == [160, 160, 160, 2]
    assert samples[-1] == 32767


def test_the_codec_in_the_documentation_works(install, oracle):
    text = (Path(__file__).parents[2] / "docs" / "codecs.md").read_text()
    source = text.partition("```python\n")[2].partition("```")[0]
    point = text.partition('[project.entry-points."rokuon.decoders"]\n')[2].splitlines()[0]
    name, _, value = point.replace('"', "").partition(" = ")
    install("rokuon-codec-l8", {name: value}, value.partition(":")[0], source)
    samples = oracle.run(registry.open_decoder(PayloadFormat("l8", 8000)), [b"\x00\x80", b"\xff"])
    assert samples.tolist() == [-32768, 0, 32512]
