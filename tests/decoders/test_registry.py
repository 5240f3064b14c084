import numpy as np
import pytest

from rokuon.decoders import registry
from rokuon.decoders.api import DecoderUnavailable, PayloadFormat

BUILT_IN = {"PCMU": 8000, "PCMA": 8000, "G722": 8000, "opus": 48000, "L16": 44100, "CN": 8000}

PLUGIN = """
import numpy as np
from rokuon.decoders.api import PacketDecoder, DecoderUnavailable

class Plain(PacketDecoder):
    def decode(self, payload):
        return np.frombuffer(payload, np.uint8).astype(np.int16)

class Own(Plain):
    mode = "fine"
    def decode_run(self, data, offsets, lengths):
        if self.mode == "fine":
            return super().decode_run(data, offsets, lengths)
        if self.mode == "raises":
            if any(data[o] == 33 for o in offsets):
                raise KeyError("!")
            return super().decode_run(data, offsets, lengths)
        return {"float": (np.zeros(4), np.array([4])), "none": None, "counts": (np.zeros(4, np.int16), np.array([5])),
                "negative": (np.zeros(4, np.int16), np.full(len(offsets), -1)),
                "absurd": (np.zeros(10**6, np.int16), np.array([10**6]))}[self.mode]
    def durations(self, *a):
        raise OSError
    def lost(self, samples):
        return np.zeros(samples + 1, np.int16)
    def reset(self):
        if self.mode != "raises":
            raise OSError

class Stereo(Plain):
    channels = 2

def unavailable(format):
    raise DecoderUnavailable("needs a dongle\\x1b[31m\\nand a licence")

def broken(format):
    raise RuntimeError("no\\nluck")

def available():
    raise DecoderUnavailable("nothing here today")

number = 5
"""


def rows(payloads):
    lengths = np.array([len(p) for p in payloads], np.int32)
    return np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_codecs_are_found_in_any_case(name):
    for spelling in (name, name.lower(), name.upper()):
        factory = registry.find(PayloadFormat(spelling, BUILT_IN[name]))
        assert factory is not None
        decoder = factory(PayloadFormat(spelling, BUILT_IN[name]))
        assert decoder.channels == 1
        assert decoder.sample_rate == {"G722": 16_000}.get(name, BUILT_IN[name])


def test_a_codec_that_nobody_has():
    format = PayloadFormat("G729\x1b[2J" + "x" * 5000, 8000)
    assert registry.find(format) is None
    with pytest.raises(DecoderUnavailable) as caught:
        registry.open_decoder(format)
    line = str(caught.value)
    assert line.startswith("no codec is installed for G729")
    assert line.isprintable()
    assert len(line) < 100


def test_plugins_lists_the_built_in_ones():
    listed = {p.name: p for p in registry.plugins()}
    assert set(BUILT_IN) <= set(listed)
    for name in BUILT_IN:
        assert listed[name].kind == "decoder"
        assert listed[name].distribution == "rokuon"
        assert listed[name].version
        assert listed[name].status in {"ok", "unavailable"}  # a package or library may be missing on this machine


def test_a_plugin_of_another_distribution(install):
    install("rokuon-foo", {"Foo": "foo_codec:Plain"}, "foo_codec", PLUGIN)
    decoder = registry.open_decoder(PayloadFormat("FOO", 8000))
    samples, counts = decoder.decode_run(*rows([b"ab", b"c"]))
    assert samples.tolist() == [*b"abc"]
    assert counts.tolist() == [2, 1]
    assert [tuple(p)[2:5] for p in registry.plugins() if p.name == "Foo"] == [("rokuon-foo", "1.2", "unavailable")]


@pytest.mark.parametrize(("value", "status", "error"), [
    ("foo_codec:missing", "failed", "no attribute"), ("nowhere:Plain", "failed", "ModuleNotFoundError"),
    ("foo_codec:number", "failed", "is no factory"), ("bad_codec:x", "failed", "SyntaxError")])
def test_a_plugin_that_does_not_load_is_reported_and_skipped(install, value, status, error):
    install("rokuon-foo", {"Foo": value}, "foo_codec", PLUGIN)
    install("rokuon-bad", {"Bad": "bad_codec:x"}, "bad_codec", "this is no python")
    assert registry.find(PayloadFormat("foo", 8000)) is None
    with pytest.raises(DecoderUnavailable, match="Foo of rokuon-foo"):
        registry.open_decoder(PayloadFormat("foo", 8000))
    info = next(p for p in registry.plugins() if p.name == "Foo")
    assert info.status == status
    if "bad" not in value:
        assert error in info.error
    assert info.error.isprintable()
    assert registry.find(PayloadFormat("PCMU", 8000)) is not None


def test_two_distributions_that_claim_one_name_are_refused_and_both_named(install):
    install("rokuon-foo", {"Foo": "foo_codec:Plain", "pcmu": "foo_codec:Plain"}, "foo_codec", PLUGIN)
    install("rokuon-oof", {"FOO": "foo_codec:Plain"})
    for name, both in (("foo", ("rokuon-foo", "rokuon-oof")), ("PCMU", ("rokuon", "rokuon-foo"))):
        assert registry.find(PayloadFormat(name, 8000)) is None
        with pytest.raises(DecoderUnavailable, match=f"claimed by {both[0]} and {both[1]}"):
            registry.open_decoder(PayloadFormat(name, 8000))
    refused = [p for p in registry.plugins() if p.status == "refused"]
    assert sorted((p.name.upper(), p.distribution) for p in refused) == [
        ("FOO", "rokuon-foo"), ("FOO", "rokuon-oof"), ("PCMU", "rokuon"), ("PCMU", "rokuon-foo")]
    assert registry.find(PayloadFormat("PCMA", 8000)) is not None


@pytest.mark.parametrize(("factory", "message"), [
    ("unavailable", r"needs a dongle \[31m and a licence"), ("broken", "codec Foo of rokuon-foo failed: RuntimeError: no luck"),
    ("Stereo", "2 channels")])
def test_a_factory_that_refuses_says_so_in_one_printable_line(install, factory, message):
    install("rokuon-foo", {"Foo": f"foo_codec:{factory}"}, "foo_codec", PLUGIN)
    with pytest.raises(DecoderUnavailable, match=message) as caught:
        registry.open_decoder(PayloadFormat("Foo", 8000))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("mode", ["float", "none", "counts", "negative", "absurd", "no such mode"])
def test_whatever_a_plugin_returns_becomes_silence_and_is_counted(install, mode):
    install("rokuon-foo", {"Foo": "foo_codec:Own"}, "foo_codec", PLUGIN)
    decoder = registry.open_decoder(PayloadFormat("Foo", 8000))
    decoder.decode_run(*rows([b"ab", b"cde"]))
    decoder._inner.mode = mode
    samples, counts = decoder.decode_run(*rows([b"fg", b"h"]))
    assert samples.dtype == np.int16
    assert samples.tolist() == [0] * 6
    assert counts.tolist() == [3, 3]
    assert decoder.errors >= 2


def test_a_plugin_that_raises_loses_the_packet_and_not_the_run(install):
    install("rokuon-foo", {"Foo": "foo_codec:Own"}, "foo_codec", PLUGIN)
    decoder = registry.open_decoder(PayloadFormat("Foo", 8000))
    decoder._inner.mode = "raises"
    samples, counts = decoder.decode_run(*rows([b"ab", b"!", b"cd"]))
    assert samples.tolist() == [*b"ab", 0, 0, *b"cd"]
    assert counts.tolist() == [2, 2, 2]
    assert decoder.errors == 1


def test_the_rest_of_a_plugin_is_held_to_the_contract_too(install):
    install("rokuon-foo", {"Foo": "foo_codec:Own"}, "foo_codec", PLUGIN)
    decoder = registry.open_decoder(PayloadFormat("Foo", 8000))
    assert decoder.durations(*rows([b"ab", b"c"])).tolist() == [0, 0]
    assert decoder.lost(5).tolist() == [0] * 5
    decoder.reset()
    assert decoder.decode_run(*rows([]))[0].tolist() == []
