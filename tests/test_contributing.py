"""What CONTRIBUTING.md shows as an example works."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from rokuon.sniffer import link
from rokuon.sniffer.packet import LINKTYPE_ETHERNET, SLACK, PacketBatch

TEXT = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
LABELS = 8


def mpls(labels: int, inner: bytes) -> bytes:
    """An Ethernet frame with so many labels, the last of them marked as the bottom (RFC 3032 section 2.1)."""
    stack = b"".join(struct.pack("!I", 1000 + n << 12 | (n == labels - 1) << 8 | 64) for n in range(labels))
    return bytes(12) + b"\x88\x47" + stack + inner


def test_encapsulation_example() -> None:
    source = re.search(r"```python\n(def _peel_mpls.*?)```", TEXT, re.DOTALL)
    assert source
    assert len(source.group(1).splitlines()) <= 50
    names = {**vars(link), "MAX_LABELS": LABELS}
    exec(compile(source.group(1), "CONTRIBUTING.md", "exec"), names)  # noqa: S102  # our own text
    packets = [mpls(1, b"\x45" + bytes(19)), mpls(3, b"\x60" + bytes(39)), mpls(LABELS + 1, b"\x45" + bytes(19))]
    lengths = np.array([len(p) for p in packets], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
    data = np.frombuffer(b"".join(packets) + bytes(SLACK), np.uint8)
    n = len(packets)
    batch = PacketBatch(data, offsets, lengths, lengths, np.zeros(n, np.int64), np.full(n, LINKTYPE_ETHERNET, np.uint16),
                        np.zeros(n, np.uint8))
    layer = link.locate(batch)
    names["_peel_mpls"](batch, layer)
    assert layer.ethertype.tolist() == [link.ETHERTYPE_IPV4, link.ETHERTYPE_IPV6, 0]
    assert (layer.start - offsets).tolist()[:2] == [14 + 4, 14 + 12]
