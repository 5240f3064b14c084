import numpy as np

from rokuon.decoders.api import PacketDecoder, PayloadFormat
from rokuon.decoders.conceal import conceal


class Humming(PacketDecoder):
    def lost(self, samples):
        return np.full(min(samples, 100), 7, np.int16)


def test_a_gap_gets_what_the_codec_offers_or_silence_of_its_length():
    decoder = Humming(PayloadFormat("X", 8000))
    assert conceal(decoder, 100).tolist() == [7] * 100
    assert conceal(decoder, 101, np.ones(800, np.int16)).tolist() == [0] * 101
    for none in (0, -5):
        assert len(conceal(decoder, none)) == 0
