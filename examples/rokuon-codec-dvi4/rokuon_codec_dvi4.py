"""DVI4 for rokuon: IMA ADPCM with its state at the head of every packet (RFC 3551 section 4.5.1)."""

import numpy as np

from rokuon.decoders.api import Bytes, Lengths, Offsets, PacketDecoder, Samples

STEPS = [7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 19, 21, 23, 25, 28, 31, 34, 37, 41, 45, 50, 55, 60, 66, 73, 80, 88, 97, 107, 118,
         130, 143, 157, 173, 190, 209, 230, 253, 279, 307, 337, 371, 408, 449, 494, 544, 598, 658, 724, 796, 876, 963, 1060,
         1166, 1282, 1411, 1552, 1707, 1878, 2066, 2272, 2499, 2749, 3024, 3327, 3660, 4026, 4428, 4871, 5358, 5894, 6484,
         7132, 7845, 8630, 9493, 10442, 11487, 12635, 13899, 15289, 16818, 18500, 20350, 22385, 24623, 27086, 29794, 32767]
MOVES = [-1, -1, -1, -1, 2, 4, 6, 8] * 2


class DVI4(PacketDecoder):
    def decode(self, payload: bytes) -> Samples:
        value, index = int.from_bytes(payload[:2], "big", signed=True), payload[2]
        made = []
        for code in (nibble for byte in payload[4:] for nibble in (byte >> 4, byte & 15)):
            step = STEPS[index]
            change = (step >> 3) + (step if code & 4 else 0) + (step >> 1 if code & 2 else 0) + (step >> 2 if code & 1 else 0)
            value = max(-32768, min(32767, value - change if code & 8 else value + change))
            index = max(0, min(88, index + MOVES[code]))
            made.append(value)
        return np.array(made, np.int16)

    def durations(self, data: Bytes, offsets: Offsets, lengths: Lengths) -> Lengths:
        return np.maximum(lengths - 4, 0) * 2
