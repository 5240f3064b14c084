"""The careful path's headers: what scapy says, and what the vectorised path says of the same packets."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sniffer.batches import T0, batch, udp
from tests.sniffer.captures import Packet
from tests.sniffer.scapy_frames import LINKS, dissect, pool

from rokuon.sniffer.careful import decode, text_of
from rokuon.sniffer.ip import IPv6Addresses, udp_datagrams
from rokuon.sniffer.link import locate, tags_of


def test_against_scapy() -> None:
    for f in pool():
        seen, found = dissect(f.data, f.link_type), decode(f.data, f.link_type)
        if not seen.version:
            assert found is None, f
            continue
        assert found is not None, f
        assert (found.tags, found.source, found.destination, found.protocol, found.fragment) == (
            seen.tags, seen.src, seen.dst, seen.protocol, seen.fragment), f
        assert found.payload == f.data[seen.upper:seen.end], f


def test_sees_what_the_fast_path_sees() -> None:
    """Signalling and media of one call are compared by addresses and tags that two readers found."""
    frames = pool()
    taken = batch([Packet(T0, f.data, len(f.data), f.link_type) for f in frames])
    layer = locate(taken)
    groups, _ = udp_datagrams(taken, layer, IPv6Addresses())
    assert sum(map(len, groups)) > 100
    for d in groups:
        for k, row in enumerate(d.row.tolist()):
            found = decode(frames[row].data, frames[row].link_type)
            assert found is not None
            assert found.tags == tags_of(int(layer.path[row]))
            assert found.protocol == 17
            assert found.fragment is None
            assert found.payload[:4] == struct.pack("<I", int(d.ports[k]))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(pool()) - 1), st.floats(0, 1))
def test_cut_anywhere(number: int, share: float) -> None:
    f = pool()[number]
    size = round(share * len(f.data))
    found, whole = decode(f.data[:size], f.link_type), decode(f.data, f.link_type)
    if found is not None:
        assert whole is not None
        assert (found.tags, found.source, found.destination) == (whole.tags, whole.source, whole.destination)
        assert whole.payload.startswith(found.payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([*set(LINKS), 105, 65535]))
def test_any_bytes(data: bytes, link_type: int) -> None:
    found = decode(data, link_type)
    assert found is None or len(found.payload) <= len(data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(pool()) - 1), st.integers(0, 1 << 32))
def test_any_damage(number: int, seed: int) -> None:
    rng, f = random.Random(seed), pool()[number]
    data = bytearray(f.data)
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(min(len(data), 80))] = rng.choice([0, 255, rng.getrandbits(8)])
    found = decode(bytes(data), f.link_type)
    assert found is None or len(found.payload) <= len(data)


@pytest.mark.parametrize("tags", range(7))
def test_as_many_tags_as_the_fast_path(tags: int) -> None:
    frame = udp(b"payload", vlans=[5] * tags)
    layer = locate(batch([Packet(T0, frame, len(frame))]))
    assert (decode(frame, 1) is not None) == bool(layer.ethertype[0] == 0x0800) == (tags <= 4)


@pytest.mark.parametrize("size", range(34, 75))
def test_ipv6_header_cut_short(size: int) -> None:
    """Four bytes of an IPv6 address are not an IPv4 address."""
    frame = udp(b"payload" * 4, ("fd00::1", 1), ("10:20::30", 2))
    found = decode(frame[:size], 1)
    assert (found is None) == (size < 54)


def test_segment_without_length() -> None:
    """A card that cuts segments itself leaves the total length 0."""
    frame = udp(b"payload")
    found = decode(frame[:16] + b"\0\0" + frame[18:], 1)
    assert found is not None
    assert found.payload[8:] == b"payload"


def test_canonical_text() -> None:
    assert text_of(bytes([10, 0, 0, 255])) == "10.0.0.255"
    assert text_of(bytes.fromhex("20010db8000000000000000000000001")) == "2001:db8::1"
