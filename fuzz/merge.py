"""Fuzzes the merging of captures: no packet is lost, made up or given out twice, and each file keeps its own order."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import os
from collections import Counter

from fuzz import harness, seeds
from fuzz.files import Told, told
from fuzz.harness import Input, split

with harness.instrumented():
    from rokuon.sniffer.packet import SLACK
    from rokuon.sniffer.pcap_file import CaptureError, CaptureFile
    from rokuon.sniffer.pcap_merge import MergedCaptures


def alone(path: str) -> list[Told]:
    """What one file holds."""
    try:
        with CaptureFile(path) as file:
            return [each for batch in file for each in told(batch, 0, len(batch.data) - SLACK)]
    except CaptureError:
        return []


def check(data: bytes) -> None:
    """The target."""
    given = Input(data)
    chunk = 1024 << given.number(3)
    descriptors = []
    try:
        for n, octets in enumerate(split(given.rest, 4)):
            descriptors.append(os.memfd_create(f"capture-{n}"))
            os.write(descriptors[-1], octets)
        paths = [f"/proc/self/fd/{descriptor}" for descriptor in descriptors]
        apart = [alone(path) for path in paths]
        try:
            with MergedCaptures(paths, chunk=chunk) as merged:
                together = [each for batch in merged for each in told(batch, 0, len(batch.data) - SLACK)]
                assert all("\n" not in line for line in merged.warnings)
                assert merged.stats()["packets"] == len(together)
        except CaptureError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    hold(apart, together)


def hold(apart: list[list[Told]], together: list[Told]) -> None:
    """What holds of the packets of several files, each by itself, and of all of them merged."""
    counts = [Counter(found) for found in apart]
    out, every = Counter(together), sum(counts, Counter[Told]())
    for packet, most in every.items():
        assert max(count[packet] for count in counts) <= out[packet] <= most, "lost, or more than there are"
    assert out.keys() <= every.keys(), "made up"
    for found, count in zip(apart, counts, strict=True):
        own = {packet for packet in count if every[packet] == count[packet]}
        assert [p for p in together if p in own] == [p for p in found if p in own], "the order of a file"


if __name__ == "__main__":
    harness.fuzz(check, seeds.merged)
