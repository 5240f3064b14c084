from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from tests.decoders.packets import MS, Rtp, talk

from rokuon.decoders.jitter import Jitter


def by_the_book(packets: list[Rtp], clock: int) -> list[float]:
    """RFC 3550 appendix A.8, packet by packet, in ns."""
    value, values = 0.0, []
    for one, other in pairwise(packets):
        stamps = ((other.timestamp - one.timestamp + (1 << 31)) % (1 << 32)) - (1 << 31)
        difference = abs((other.time_ns - one.time_ns) - stamps * 1e9 / clock)
        value += (difference - value) / 16
        values.append(value)
    return values


@pytest.mark.parametrize("count", [2, 3, 255, 256, 257, 258, 1000])
@pytest.mark.parametrize("pieces", [1, 3])
def test_as_the_rfc_computes_it(count: int, pieces: int) -> None:
    rng = random.Random(count)
    packets = [p.at(p.time_ns + rng.randrange(40 * MS)) for p in talk(count)]
    wanted = by_the_book(packets, 8000)
    jitter = Jitter()
    size = -(-count // pieces)
    for begin in range(0, count, size):
        some = packets[begin:begin + size]
        jitter.add(np.array([p.time_ns for p in some]), np.array([p.timestamp & 0xFFFFFFFF for p in some], np.uint32), 8000)
    assert jitter.value == pytest.approx(wanted[-1], rel=1e-9)
    assert jitter.mean_ms == pytest.approx(sum(wanted) / len(wanted) / 1e6, rel=1e-9)
    assert jitter.max_ms == pytest.approx(max(wanted) / 1e6, rel=1e-9)


def test_a_pause_is_no_jitter() -> None:
    packets = talk(100) + talk(100, begin_ns=talk(1)[0].time_ns + 30_000 * MS, timestamp=0xFFFFF000 + 100 * 160)
    jitter = Jitter()
    jitter.add(np.array([p.time_ns for p in packets]), np.array([p.timestamp & 0xFFFFFFFF for p in packets], np.uint32), 8000)
    assert jitter.max_ms == 0


def test_nothing_is_known_of_one_packet() -> None:
    jitter = Jitter()
    jitter.add(np.zeros(0, np.int64), np.zeros(0, np.uint32), 8000)
    jitter.add(np.zeros(1, np.int64), np.zeros(1, np.uint32), 8000)
    assert jitter.mean_ms is None
    assert jitter.max_ms is None
