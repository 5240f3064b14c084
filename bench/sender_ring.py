"""Rows of frames that the kernel sends from where they lie (packet(7), PACKET_TX_RING): what the senders are made of.

A frame is written once; before it is sent again only what has changed in it is written anew.
"""

from __future__ import annotations

import mmap
import socket
import struct
import time
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

SOL_PACKET, PACKET_VERSION, PACKET_TX_RING, PACKET_LOSS, PACKET_QDISC_BYPASS, TPACKET_V2 = 263, 10, 13, 14, 20, 1
BLOCK = 4096
HEADER = 32  # tpacket2_hdr, aligned: what is sent begins behind it
SEND_REQUEST = 1
SKIP = 1
"""A length that no frame of Ethernet has: with PACKET_LOSS the kernel goes on with the next one, and says nothing."""
STUCK_S = 5.0
ETHERNET = bytes.fromhex("020000000002020000000001") + b"\x08\x00"

Bytes = NDArray[np.uint8]


def raw_socket(interface: str) -> socket.socket:
    """For single frames."""
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    out.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    out.bind((interface, 0))
    return out


def checksum(head: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    return 0xFFFF - (sum(struct.unpack(f">{len(head) // 2}H", head)) % 0xFFFF or 0xFFFF)


def udp_head(src: tuple[int, int], dst: tuple[int, int], size: int) -> bytes:
    """Ethernet, IPv4 and UDP headers of a datagram of `size` payload bytes; addresses as numbers; no UDP checksum."""
    head = struct.pack(">BBHHHBBHII", 0x45, 0, 28 + size, 0, 0x4000, 64, 17, 0, src[0], dst[0])
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return ETHERNET + head + struct.pack(">HHHH", src[1], dst[1], 8 + size, 0)


class Ring:
    """`count` rows of at most `width` - 32 bytes, sent in order, around and around.

    data: what each row sends, shape (rows, width - 32). length: bytes of each, SKIP: nothing. Both are shared with the kernel.
    """

    def __init__(self, interface: str, count: int, width: int = 256) -> None:
        per_block = BLOCK // width
        self.rows = -(-count // per_block) * per_block
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.setsockopt(SOL_PACKET, PACKET_LOSS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, 32, 64 << 20)  # SO_SNDBUFFORCE
        self._socket.setsockopt(SOL_PACKET, PACKET_TX_RING, struct.pack("IIII", BLOCK, self.rows // per_block, width, self.rows))
        self._map = mmap.mmap(self._socket.fileno(), self.rows * width)
        self._socket.bind((interface, 0))
        frames = np.frombuffer(self._map, np.uint8).reshape(self.rows, width)
        self._status = frames[:, :4].view("<u4")[:, 0]
        self.length = frames[:, 4:8].view("<u4")[:, 0]
        self.data = frames[:, HEADER:]
        self.length[:] = SKIP
        self._next = 0

    def reserve(self, begin: int, end: int) -> None:
        """Waits until these rows may be written: a row that is still on its way is sent from where it lies."""
        until = time.monotonic() + STUCK_S
        while self._status[begin:end].any():
            time.sleep(0.0001)
            if time.monotonic() > until:
                raise TimeoutError("the kernel does not send any more")

    def send(self, begin: int, end: int) -> None:
        """Sends these rows, reserved before; `begin` is where the last ones ended."""
        assert begin == self._next
        self._status[begin:end] = SEND_REQUEST
        self._socket.send(b"", socket.MSG_DONTWAIT)
        self._next = end % self.rows

    def close(self) -> None:
        del self._status, self.length, self.data
        with suppress(BufferError):  # a view of it is still in somebody's hands: it goes with the process
            self._map.close()
        self._socket.close()
