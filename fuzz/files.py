"""What the targets of the two capture formats share: a file read in one piece, in many, and by the plainest code there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fuzz.harness import instrumented
from tests.sniffer.captures import Reference

with instrumented():
    from rokuon.sniffer.packet import SLACK, PacketBatch
    from rokuon.sniffer.pcap_file import CaptureError, CaptureFile
    from rokuon.sniffer.pcap_format import MAGIC_SIZE, format_of
    from rokuon.sniffer.pcap_times import Times

__all__ = ["compare"]

Told = tuple[int, bytes, int, int, int]


def told(batch: PacketBatch, begin: int, end: int) -> list[Told]:
    """The packets of a batch; all have to lie within these bytes of its buffer."""
    assert (batch.captured_length >= 0).all()
    assert (batch.wire_length >= batch.captured_length).all()
    assert (batch.offset >= begin).all(), "a packet before the bytes that were shown"
    assert (batch.offset + batch.captured_length <= end).all(), "a packet behind the bytes that were shown"
    assert end + SLACK <= len(batch.data) or not len(batch)
    view = batch.data.data
    return [(t, bytes(view[at:at + size]), wire, link, point) for t, at, size, wire, link, point in zip(
        batch.time_ns.tolist(), batch.offset.tolist(), batch.captured_length.tolist(), batch.wire_length.tolist(),
        batch.link_type.tolist(), batch.capture_point.tolist(), strict=True)]


def at_once(octets: bytes, lanes: int | None) -> list[Told]:
    """All packets, with the whole file in memory."""
    form = format_of(octets[:MAGIC_SIZE], lanes)
    data = np.concatenate([np.frombuffer(octets, np.uint8), np.full(SLACK, 0x5A, np.uint8)])
    found: list[Told] = []
    begin = form.header
    while begin < len(octets):
        parsed = form.parse(data, begin, len(octets))
        if parsed.batch is not None:
            found += told(parsed.batch, begin, len(octets))
        assert parsed.end >= begin
        if parsed.damage or parsed.end == begin:
            break
        begin = parsed.end
    return found


def piecemeal(octets: bytes, chunk: int) -> list[Told]:
    """All packets, as read from a file by so many bytes at once."""
    descriptor = os.memfd_create("capture")
    try:
        os.write(descriptor, octets)
        with CaptureFile(Path(f"/proc/self/fd/{descriptor}"), chunk=chunk) as file:
            found = [each for batch in file for each in told(batch, 0, len(batch.data) - SLACK)]
            assert all("\n" not in line for line in file.warnings)
            assert len(found) == file.packets
        return found
    finally:
        os.close(descriptor)


def compare(octets: bytes, reference: Callable[[bytes], Reference], lanes: int, chunk: int) -> None:
    """Whether all agree; and no time is later than the file says."""
    try:
        form = format_of(octets[:MAGIC_SIZE])
    except ValueError:
        form = None
    if form is None:
        try:
            piecemeal(octets, chunk)
        except CaptureError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert octets[:2] == b"\x1f\x8b", "read though it is no capture"
        return
    right = [(p.time_ns, p.data, p.wire, p.link_type, p.point) for p in reference(octets).packets]
    assert at_once(octets, None) == right
    assert at_once(octets, lanes) == right
    found = piecemeal(octets, chunk)
    assert [each[1:] for each in found] == [each[1:] for each in right]
    assert all(one[0] <= other[0] for one, other in zip(found, right, strict=True))
    times = np.array([each[0] for each in right], np.int64)
    Times().mend(times)
    if len(octets) < min(chunk, 4096):  # in one batch
        assert [each[0] for each in found] == times.tolist()
