import subprocess
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.decoders.telephone_event import DTMF, digits, parse_events


def report(event, duration, *, end=False, volume=10):
    """A payload by RFC 4733 section 2.3."""
    return bytes([event, end << 7 | volume]) + duration.to_bytes(2, "big")


def press(event, start, duration, step=160):
    """The packets (timestamp, payload) of a press as section 2.5.1 has them sent."""
    durations = [*range(step, duration, step)]
    return [(start, report(event, d)) for d in durations] + [(start, report(event, duration, end=True))] * 3


def read(packets):
    lengths = np.array([len(p) for _, p in packets], np.int32)
    data = np.frombuffer(b"".join(p for _, p in packets), np.uint8)
    rows = parse_events(data, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
    return digits(np.array([t for t, _ in packets], np.int64), rows)


def keys(packets):
    return "".join(p.key for p in read(packets))


def test_fields():
    payloads = [report(11, 0x1234, end=True, volume=63), b"\x0b\x3f\x12", b"", report(255, 65535, volume=0) + b"more",
                b"\1\x40\0\1"]
    lengths = np.array([len(p) for p in payloads], np.int32)
    rows = parse_events(np.frombuffer(b"".join(payloads), np.uint8), np.cumsum(lengths, dtype=np.int64) - lengths, lengths)
    assert rows.valid.tolist() == [True, False, False, True, True]
    assert rows.event.tolist() == [11, 0, 0, 255, 1]
    assert rows.end.tolist() == [True, False, False, False, False]
    assert rows.volume.tolist() == [63, 0, 0, 0, 0]
    assert rows.duration.tolist() == [0x1234, 0, 0, 65535, 1]
    assert rows.duration.dtype == np.uint16


def test_the_keys_have_their_faces():
    packets = [p for n in range(20) for p in press(n, 10_000 * n, 800)]
    assert keys(packets) == "0123456789*#ABCD" == DTMF


def test_a_press_in_full():
    one, two = read(press(5, 1000, 800) + press(5, 3000, 480))
    assert one == (0, 1000, 5, 800, True)
    assert two == (7, 3000, 5, 480, True)


def test_nothing():
    assert read([]) == []
    assert read([(0, b""), (0, b"abc"), (0, report(16, 100))]) == []


def test_timestamps_may_wrap_and_be_extended():
    packets = press(1, 2**32 - 300, 800) + press(1, 2**32 + 1000, 800)
    assert [p.timestamp for p in read(packets)] == [2**32 - 300, 1000]
    assert read([(t % 2**32, p) for t, p in packets]) == read(packets)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(320, 8000), st.integers(320, 20_000)), max_size=6), st.data())
def test_one_press_for_each_key_whatever_is_lost(presses, data):
    packets, at, expected = [], 4_294_900_000, []
    for event, duration, pause in presses:
        sent = press(event, at, duration)
        kept = data.draw(st.sets(st.sampled_from(range(len(sent))), min_size=1))
        expected.append((len(packets), at % 2**32, event))
        packets += [p for i, p in enumerate(sent) if i in kept]
        at += duration + pause
    found = read(packets)
    # a known doubt: what is left of two presses of one key can look like one sender that moves its timestamps
    doubtful = any(a[2] == b[2] for a, b in pairwise(expected))
    if not doubtful:
        assert [p[:3] for p in found] == expected
        assert all(p.duration <= d for p, (_, d, _) in zip(found, presses, strict=True))
    assert len(found) <= len(presses)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=6)), max_size=40))
def test_any_bytes_are_presses_or_nothing(packets):
    found = read(packets)
    assert len(found) <= len(packets)
    for p in found:
        timestamp, payload = packets[p.row]
        assert (p.timestamp, p.event) == (timestamp, payload[0])
        assert p.key in DTMF


def test_the_same_key_twice_with_both_ends_lost():
    first, second = press(5, 0, 800), press(5, 2000, 800)
    assert keys(first[:4] + second[:4]) == "55"
    assert keys(first[:1] + second[-1:]) == "55"


def test_the_same_key_twice_with_both_beginnings_lost():
    assert keys(press(5, 0, 800)[-1:] + press(5, 2000, 800)[-2:]) == "55"


def test_a_long_press_goes_on_in_segments():
    # RFC 4733 section 2.5.1.3: the next segment begins where the 65,535 ticks ended
    packets = [(0, report(3, d)) for d in (160, 320, 65535)] + [(65535, report(3, d)) for d in (160, 65535)]
    packets += [(131070, report(3, 1000)), (131070, report(3, 1600, end=True))]
    assert read(packets) == [(0, 0, 3, 131070 + 1600, True)]
    assert keys([*packets, *press(3, 200_000, 800)]) == "33"


def test_senders_that_move_the_timestamp_with_every_packet():
    moving = [(1000 + 160 * i, report(9, 160 * (i + 1), end=i >= 5)) for i in range(6)]
    moving += [(1000 + 160 * 6, report(9, 960, end=True)), (1000 + 160 * 7, report(9, 960, end=True))]
    assert keys(moving) == "9"
    again = [(t + 4000, p) for t, p in moving]
    assert keys(moving + again) == "99"
    assert keys(moving[::2] + again[1::2]) == "99"


def test_senders_that_do_not_move_it_at_all():
    assert keys(press(4, 77, 800) + press(4, 77, 800)) == "44"


def test_there_are_no_more_presses_than_the_limit():
    packets = [p for n in range(50) for p in press(n % 10, 5000 * n, 800)]
    lengths = np.full(len(packets), 4, np.int32)
    rows = parse_events(np.frombuffer(b"".join(p for _, p in packets), np.uint8), np.arange(len(packets)) * 4, lengths)
    assert len(digits(np.array([t for t, _ in packets]), rows, limit=7)) == 7


@pytest.mark.parametrize(("name", "pressed"), [("selfmade/pcma-hold-dtmf.pcap", "4719#"), ("real/SIP_DTMF2.cap", "6789123"),
                                              ("real/sipp-dtmf_2833_5.pcap", "5"), ("real/sipp-dtmf_2833_star.pcap", "*")])
def test_captures(captures, name, pressed):
    out = subprocess.run(["tshark", "-r", str(captures / name), "-d", "udp.port==0-65535,rtp", "-o",
                          "rtpevent.event_payload_type_value:101", "-Y", "rtpevent", "-T", "fields", "-e", "rtp.extseq", "-e",
                          "rtp.timestamp", "-e", "rtp.payload", "-e", "rtpevent.event_id", "-e", "rtpevent.duration"],
                         capture_output=True, check=True, text=True).stdout
    packets, expected = {}, defaultdict(int)
    for line in out.splitlines():
        sequence, timestamp, payload, event, duration = line.split("\t")
        packets[int(sequence)] = (int(timestamp), bytes.fromhex(payload.replace(":", "")))
        expected[int(timestamp), int(event)] = max(expected[int(timestamp), int(event)], int(duration))
    found = read([packets[k] for k in sorted(packets)])
    assert "".join(p.key for p in found) == pressed
    assert {(p.timestamp, p.event): p.duration for p in found} == expected
    assert all(p.ended for p in found)
