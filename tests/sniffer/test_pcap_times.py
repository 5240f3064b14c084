"""Packets of a file that claim to be later than what follows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sniffer.captures import Packet, enhanced, interface, packet, pcap, section

from rokuon.sniffer.pcap_file import CHUNK_MIN, open_capture
from rokuon.sniffer.pcap_times import AHEAD_NS, FEW, Times

S = 1_000_000_000
T0 = 1_780_000_000 * S
YEAR = 365 * 86_400 * S


def mended(*batches: list[int]) -> list[int]:
    times = Times()
    out = []
    for each in batches:
        array = np.array(each, np.int64)
        assert times.mend(array)
        out += array.tolist()
    return out


def even(count: int, step: int = S // 50, start: int = T0) -> list[int]:
    return [start + n * step for n in range(count)]


@pytest.mark.parametrize("ahead", [11 * S, 3600 * S, YEAR])
@pytest.mark.parametrize("count", [1, 2, 50])
@pytest.mark.parametrize("at", [1, 7, 200])
def test_few_packets_ahead_get_the_time_before_them(at: int, count: int, ahead: int) -> None:
    times = even(400)
    forged = [t + ahead if at <= n < at + count else t for n, t in enumerate(times)]
    right = [times[at - 1] if at <= n < at + count else t for n, t in enumerate(times)]
    if at < count - FEW:
        right = forged
    assert mended(forged) == right


def test_packets_far_apart_are_no_reason_to_believe_one_of_next_year() -> None:
    times = even(40, 300 * S)
    forged = [t + YEAR if n == 20 else t for n, t in enumerate(times)]
    assert mended(forged) == [times[19] if n == 20 else t for n, t in enumerate(times)]


def test_one_of_another_decade_does_not_confirm_one_of_next_year() -> None:
    times = even(40)
    forged = [t + 20 * YEAR if n == 20 else t + YEAR if n == 21 else t for n, t in enumerate(times)]
    assert mended(forged) == [times[19] if n in {20, 21} else t for n, t in enumerate(times)]


def test_the_first_packet_of_a_file_may_be_one() -> None:
    assert mended([T0 + YEAR, *even(20)]) == [T0, *even(20)]


@pytest.mark.parametrize("times", [
    [*even(300), *even(300, start=T0 + YEAR)],  # nothing was captured for a year
    [*even(300), *even(3, start=T0 + YEAR)],
    [*even(300), *even(FEW + 1, start=T0 + 3600 * S), *even(300, start=T0 + 7 * S)],  # the clock was wrong for a while
    [*even(300), *even(300, start=T0 - 3600 * S)],  # and was set back
    [*even(300), *even(3, start=T0 + 3600 * S), *even(300, start=T0 - 86_400 * S)],  # an older file behind it
    [*even(5), 0, *even(300, start=T0 + S)],
    [0, 0, 0, T0 + 4 * S, T0, 0, *even(200)],
    [0, *even(29), 0, *even(300, start=T0 + 3 * S)],  # two that claim to be of 1970
    [t + n % 2 * 3600 * S for n, t in enumerate(even(20_000))][10_000:],
])
def test_what_may_be_true_is_believed(times: list[int]) -> None:
    changed = sum(a != b for a, b in zip(mended(times), times, strict=True))
    assert changed == 0 or (len(times) == 10_000 and changed < 1000)


@given(st.lists(st.integers(0, AHEAD_NS - 1), max_size=300), st.integers(1, 50))
def test_times_that_never_go_back_stay(steps: list[int], factor: int) -> None:
    times = [T0 + int(t) * factor for t in np.cumsum(steps)]
    assert mended(times) == times


@given(st.lists(st.one_of(st.integers(T0, T0 + S), st.integers(0, T0 * 2)), min_size=1, max_size=200), st.integers(0, 200))
def test_any_times(times: list[int], cut: int) -> None:
    """Packets only ever become earlier, to a time that the file has; and time goes on from batch to batch."""
    for out in (mended(times), mended(times[:cut], times[cut:])):
        assert all(new == old or (new < old and new in times) for new, old in zip(out, times, strict=True))


@pytest.mark.parametrize("ng", [False, True])
def test_what_decides_may_be_in_the_next_batch(ng: bool, tmp_path: Path) -> None:
    packets = [packet(t, 600, fill=n) for n, t in enumerate(even(400))]
    for forged in (5, 6, 7, 60, 109, 110):  # pcapng: the first batch is of 4 KiB, the second of 64
        each = [p._replace(time_ns=p.time_ns + YEAR) if n == forged else p for n, p in enumerate(packets)]
        octets = _ng(each) if ng else pcap(each, nano=True)
        (path := tmp_path / "c.pcap").write_bytes(octets)
        with open_capture(path) as capture:
            times = [t for batch in capture for t in batch.time_ns.tolist()]
            assert len(capture.warnings) == 1
            assert "1 of 400 packets are dated long after" in capture.warnings[0]
        assert times == [packets[max(n - (n == forged), 0)].time_ns for n in range(400)]


def test_a_small_buffer_loses_no_packet(tmp_path: Path) -> None:
    packets = [packet(t + YEAR * (n % 17 == 3), 100, fill=n) for n, t in enumerate(even(500))]
    (path := tmp_path / "c.pcap").write_bytes(pcap(packets, nano=True))
    with open_capture(path, chunk=CHUNK_MIN) as capture:
        found = [bytes(batch.data[o:o + n]) for batch in capture
                 for o, n in zip(batch.offset.tolist(), batch.captured_length.tolist(), strict=True)]
    assert found == [p.data for p in packets]


def _ng(packets: list[Packet]) -> bytes:
    return b"".join([section(), interface(resolution=9), *(enhanced(p.time_ns, p.data) for p in packets)])
