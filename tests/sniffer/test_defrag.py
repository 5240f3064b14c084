"""IP defragmentation: RFC 791, RFC 8200, RFC 5722."""

from __future__ import annotations

import pytest

from rokuon.sniffer.defrag import Defragmenter

KEY4 = ("192.0.2.1", "192.0.2.2", 7, 17, 0)
KEY6 = ("2001:db8::1", "2001:db8::2", 7, 17, 0)
SECOND = 1_000_000_000
DATA = bytes(range(250)) * 8  # 2,000 bytes


def feed(defragmenter: Defragmenter, key: tuple[object, ...], *spans: tuple[int, int], data: bytes = DATA,
         time: int = 0) -> list[bytes]:
    got = [defragmenter.receive(time, key, a, b < len(DATA), data[a:b]) for a, b in spans]
    return [whole for whole in got if whole is not None]


@pytest.mark.parametrize("key", [KEY4, KEY6])
@pytest.mark.parametrize("spans", [
    [(0, 1000), (1000, 2000)], [(1000, 2000), (0, 1000)], [(1200, 2000), (400, 1200), (0, 400)],
    [(0, 1000), (0, 1000), (1000, 2000)], [(0, 1000), (1000, 2000), (1000, 2000)], [(0, 1000), (1000, 2000), (0, 1000), (1000,
                                                                                                                         2000)],
])
def test_any_order_and_copies(key: tuple[object, ...], spans: list[tuple[int, int]]) -> None:
    assert feed(Defragmenter(), key, *spans) == [DATA]


def test_datagrams_are_apart_by_key() -> None:
    d = Defragmenter()
    assert feed(d, KEY4, (0, 1000)) == []
    assert feed(d, (*KEY4[:2], 8, 17, 0), (1000, 2000)) == []
    assert feed(d, (*KEY4[:4], 1), (1000, 2000)) == []
    assert feed(d, KEY4, (1000, 2000)) == [DATA]


def test_an_atomic_fragment_stands_for_itself() -> None:
    d = Defragmenter()
    feed(d, KEY6, (0, 1000))
    assert d.receive(0, KEY6, 0, False, b"abc") == b"abc"  # RFC 6946
    assert feed(d, KEY6, (1000, 2000)) == [DATA]


def test_ipv4_overlap_first_wins() -> None:
    d = Defragmenter()
    assert feed(d, KEY4, (0, 1000)) == []
    assert feed(d, KEY4, (800, 1600), data=b"#" * 800 + b"#" * 200 + DATA[1000:]) == []
    assert feed(d, KEY4, (1200, 2000)) == [DATA]
    assert d.anomalies == {"fragment-overlap": 1}


def test_ipv4_overlap_that_agrees_is_no_anomaly() -> None:
    d = Defragmenter()
    assert feed(d, KEY4, (0, 1000), (400, 1600), (1600, 2000)) == [DATA]
    assert "fragment-overlap" not in d.anomalies


def test_ipv6_overlap_spoils_the_datagram() -> None:
    d = Defragmenter()
    assert feed(d, KEY6, (0, 1000), (800, 2000), (0, 1000), (1000, 2000)) == []
    assert d.anomalies == {"fragment-overlap": 1}
    d.expire(60 * SECOND)
    assert feed(d, KEY6, (0, 1000), (1000, 2000), time=61 * SECOND) == [DATA]


def test_two_ends_that_differ() -> None:
    for key in (KEY4, KEY6):
        d = Defragmenter()
        assert d.receive(0, key, 1000, False, bytes(1000)) is None
        assert d.receive(0, key, 800, False, bytes(100)) is None
        assert d.receive(0, key, 2000, True, bytes(8)) is None
        assert d.anomalies["fragment-lengths-differ"] == (2 if key is KEY4 else 1)


@pytest.mark.parametrize(("offset", "more", "payload", "anomaly"), [
    (65_528, False, bytes(8), "fragment-too-long"), (0, True, bytes(65_536), "fragment-too-long"), (-8, True, bytes(8),
                                                                                                    "fragment-too-long"),
    (0, True, bytes(9), "fragment-bad-length"), (8, False, b"", "fragment-bad-length"), (8, True, b"", "fragment-bad-length"),
])
def test_impossible_fragments(offset: int, more: bool, payload: bytes, anomaly: str) -> None:
    d = Defragmenter()
    assert d.receive(0, KEY4, offset, more, payload) is None
    assert d.anomalies == {anomaly: 1}
    assert len(d) == 0


def test_time_out_by_packet_time() -> None:
    d = Defragmenter()
    feed(d, KEY4, (0, 1000), time=0)
    feed(d, KEY6, (0, 1000), time=20 * SECOND)
    assert feed(d, KEY6, (1000, 2000), time=40 * SECOND) == [DATA]
    assert feed(d, KEY4, (1000, 2000), time=40 * SECOND) == []
    assert d.anomalies == {"fragment-timeout": 1}


def test_an_identification_used_again_after_a_second_is_a_new_datagram() -> None:
    d = Defragmenter()
    assert feed(d, KEY4, (0, 1000), (1000, 2000)) == [DATA]
    assert feed(d, KEY4, (0, 1000), (1000, 2000), time=2 * SECOND) == [DATA]


def test_tables_are_bounded() -> None:
    d = Defragmenter(datagram_limit=100, size_limit=50_000)
    for i in range(1000):
        d.receive(i, (*KEY4, i), 0, True, bytes(1000))
        d.receive(i, (*KEY4, -i), 8, False, bytes(999))
    assert len(d) <= 50
    assert d._size <= 50_000
    assert d.anomalies["fragment-evicted"] >= 1900
    for i in range(0, 40_000, 16):
        d.receive(0, KEY4, i, True, bytes(8))
    assert d.anomalies["fragment-too-many"] == 1
    for i in range(1000):
        assert d.receive(0, ("h", i), 0, True, bytes(8)) is None
        assert d.receive(0, ("h", i), 8, False, bytes(8)) == bytes(16)
    assert len(d._whole) <= 100
