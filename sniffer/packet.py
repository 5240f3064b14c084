"""Packets as they come from a source: thousands at a time, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LINKTYPE_ETHERNET", "LINKTYPE_IPV4", "LINKTYPE_IPV6", "LINKTYPE_LINUX_SLL", "LINKTYPE_LINUX_SLL2",
           "LINKTYPE_LOOP", "LINKTYPE_NULL", "LINKTYPE_RAW", "SLACK", "Endpoint", "PacketBatch"]

# https://www.tcpdump.org/linktypes.html
LINKTYPE_NULL = 0
LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
LINKTYPE_LOOP = 108
LINKTYPE_LINUX_SLL = 113
LINKTYPE_IPV4 = 228
LINKTYPE_IPV6 = 229
LINKTYPE_LINUX_SLL2 = 276

SLACK = 256
"""Bytes that may be read behind the end of any packet of a batch without leaving its buffer: headers are gathered
in windows of fixed size, and a packet that is shorter than the window must not fault."""


class Endpoint(NamedTuple):
    """An IP address in its canonical text form and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(slots=True)
class PacketBatch:
    """Packets of one source in the order they were captured; parallel arrays of one length n.

    Whoever reads a batch has done so before the next is asked for: a source may reuse the buffer.
    """

    data: NDArray[np.uint8]
    """One contiguous buffer that holds every packet, and `SLACK` more bytes behind the last."""
    offset: NDArray[np.int64]
    """Where each packet begins in `data`."""
    captured_length: NDArray[np.int32]
    """Bytes of it that are there."""
    wire_length: NDArray[np.int32]
    """Bytes it had on the wire."""
    time_ns: NDArray[np.int64]
    """UTC, nanoseconds since 1970."""
    link_type: NDArray[np.uint16]
    """LINKTYPE of each packet."""
    capture_point: NDArray[np.uint8]
    """Which interface of the source saw it."""

    def __len__(self) -> int:
        return len(self.offset)
