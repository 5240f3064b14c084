"""Rows of frames put into the kernel where a network card's driver puts them, past a wire's sending half.

A frame that goes through a veth pair costs as much to send as to receive. Here a program of eBPF, run by the kernel in its mode
for live frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES), takes row after row out of memory that is shared with this
process and has each received at the interface: what is left is what any receiver pays for a packet, less a card's interrupts.
The interface's own counters do not see these frames.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import platform
import socket
import struct
import subprocess
from contextlib import suppress

import numpy as np
from sender_ring import HEADER

SYSCALLS = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, PROG_LOAD, PROG_TEST_RUN, LINK_CREATE = 0, 5, 10, 28
MAP_ARRAY, MMAPABLE, PROG_XDP = 2, 1 << 10, 6
ATTACH_XDP, GENERIC_MODE, LIVE_FRAMES = 37, 1 << 1, 1 << 1
LOOKUP, STORE_BYTES = 1, 190  # bpf_map_lookup_elem, bpf_xdp_store_bytes
DROP, PASS = 1, 2
BATCH = 64
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes, what: str) -> int:
    """bpf(2)."""
    result = int(_libc.syscall(SYSCALLS[platform.machine()], command, attributes, len(attributes)))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _map(size: int, entries: int) -> tuple[int, mmap.mmap]:
    """An array that the kernel's programs and this process share."""
    made = _bpf(MAP_CREATE, struct.pack("<IIIII", MAP_ARRAY, 4, size, entries, MMAPABLE) + bytes(100), "an eBPF map")
    pages = -(-size * entries // mmap.PAGESIZE) * mmap.PAGESIZE
    return made, mmap.mmap(made, pages)


def _program(cursor: int, frames: int, size: int) -> bytes:
    """Takes the row that the cursor is at: its bytes become those of the frame; a length of another size drops it."""
    def op(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
        return struct.pack("<BBhi", code, src << 4 | dst, off, imm)

    def load_map(dst: int, of: int) -> bytes:
        return op(0x18, dst, 1, 0, of) + op(0)

    def lookup(of: int) -> bytes:  # r0 = the row whose number is on the stack
        return load_map(1, of) + op(0xBF, 2, 10) + op(0x07, 2, imm=-4) + op(0x85, imm=LOOKUP)

    rest = (op(0xBF, 1, 6) + op(0xB7, 2) + op(0xBF, 3, 0) + op(0x07, 3, imm=HEADER) + op(0xB7, 4, imm=size)
            + op(0x85, imm=STORE_BYTES) + op(0xB7, 0, imm=PASS) + op(0x95))
    row = lookup(frames)
    checks = op(0x15, 0, off=1 + 1 + len(rest) // 8) + op(0x61, 8, 0, 4) + op(0x55, 8, off=len(rest) // 8, imm=size)
    body = op(0x61, 7, 0) + op(0xBF, 8, 7) + op(0x07, 8, imm=1) + op(0x63, 0, 8) + op(0x63, 10, 7, -4) + row + checks + rest
    begin = op(0xBF, 6, 1) + op(0x62, 10, off=-4) + lookup(cursor) + op(0x15, 0, off=len(body) // 8)
    return begin + body + op(0xB7, 0, imm=DROP) + op(0x95)


class Injector:
    """As `sender_ring.Ring`, for frames of one size that `interface` receives."""

    def __init__(self, interface: str, count: int, size: int = 214, width: int = 256) -> None:
        self.rows = count
        self._cursor_map, self._cursor_memory = _map(8, 1)
        self._frames_map, self._memory = _map(width, count)
        self._cursor = np.frombuffer(self._cursor_memory, "<u4", 1)
        frames = np.frombuffer(self._memory, np.uint8, count * width).reshape(count, width)
        self.length, self.data = frames[:, 4:8].view("<u4")[:, 0], frames[:, HEADER:]
        code = ctypes.create_string_buffer(_program(self._cursor_map, self._frames_map, size))
        licence, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(65536)
        try:
            self._loaded = _bpf(PROG_LOAD, struct.pack("<IIQQIIQ", PROG_XDP, (len(code) - 1) // 8, ctypes.addressof(code),
                                                       ctypes.addressof(licence), 1, len(log), ctypes.addressof(log)) + bytes(88),
                                "an eBPF program")
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; {log.value.decode(errors='replace')[-300:]}") from None
        self._link = self._attach()
        self._frame = ctypes.create_string_buffer(size)
        where = socket.if_nametoindex(interface)
        self._context = ctypes.create_string_buffer(struct.pack("<IIIIII", 0, size, 0, where, 0, 0), 24)
        self._size = size

    def _attach(self) -> int:
        """To an interface that nothing comes to: else the kernel changes its dispatcher of such programs before and after each
        run of this one, which takes some 25 ms.
        """
        self._idle = f"idle{os.getpid()}x{next(_numbers)}"
        subprocess.run(["ip", "link", "add", "name", self._idle, "type", "veth", "peer", "name", f"{self._idle}b"], check=True)
        where = socket.if_nametoindex(self._idle)
        return _bpf(LINK_CREATE, struct.pack("<IIII", self._loaded, where, ATTACH_XDP, GENERIC_MODE) + bytes(48), "an eBPF link")

    def reserve(self, begin: int, end: int) -> None:
        """Rows may be written at any time: frames are copies."""

    def send(self, begin: int, end: int) -> None:
        """Has these rows received."""
        if end > begin:
            self._cursor[0] = begin
            _bpf(PROG_TEST_RUN, struct.pack("<IIIIQQIIIIQQIII", self._loaded, 0, self._size, 0, ctypes.addressof(self._frame), 0,
                                            end - begin, 0, 24, 0, ctypes.addressof(self._context), 0, LIVE_FRAMES, 0, BATCH)
                 + bytes(4), "live frames")

    def close(self) -> None:
        del self.length, self.data, self._cursor
        for memory in (self._memory, self._cursor_memory):
            with suppress(BufferError):
                memory.close()
        for made in (self._link, self._loaded, self._cursor_map, self._frames_map):
            os.close(made)
        subprocess.run(["ip", "link", "delete", self._idle], check=True)
