"""Wires for tests of live capture: veth pairs in a network namespace of the test's own, which nothing leaves; and what came."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rokuon.sniffer.packet import SLACK, PacketBatch
from rokuon.sniffer.pcap_live import LiveCapture

CLONE_NEWNET = 0x40000000
PROC_NET = Path("/proc/thread-self/ns/net")


def missing() -> str:
    """Why there can be no wires here; "" where there can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root only"
    if shutil.which("ip") is None:
        return "no ip command (iproute2) here"
    libc = ctypes.CDLL(None, use_errno=True)
    here = os.open(PROC_NET, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(CLONE_NEWNET):
            return f"no network namespaces here: {os.strerror(ctypes.get_errno())}"
        _enter(here)
        return ""
    finally:
        os.close(here)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def own_network() -> Iterator[None]:
    """The calling thread, and what it starts, is in an empty network namespace meanwhile."""
    here = os.open(PROC_NET, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            for family in ("default", "all"):  # else the kernel sends packets of its own
                path = Path(f"/proc/sys/net/ipv6/conf/{family}/disable_ipv6")
                if path.exists():
                    path.write_text("1")
            yield
        finally:
            _enter(here)
    finally:
        os.close(here)


def ip(command: str) -> None:
    """Change something about interfaces, in the words of iproute2."""
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def wire(near: str, far: str) -> None:
    """Both ends of a wire, up."""
    ip(f"link add name {near} type veth peer name {far}")
    ip(f"link set {near} up")
    ip(f"link set {far} up")


def send(interface: str, frames: Sequence[bytes], *, burst: int = 50, pause_s: float = 0.001) -> None:
    """Put frames on the wire at one end, in bursts."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((interface, 0))
        for number, frame in enumerate(frames):
            out.send(frame)
            if number % burst == burst - 1:
                time.sleep(pause_s)


def octets(batch: PacketBatch) -> list[bytes]:
    """Each packet of a batch."""
    return [batch.data[at:at + n].tobytes() for at, n in zip(batch.offset.tolist(), batch.captured_length.tolist(), strict=True)]


def check(batch: PacketBatch, batch_bytes: int = 16 << 20) -> None:
    """What every batch has to fulfil."""
    n = len(batch)
    kinds = {"offset": np.int64, "captured_length": np.int32, "wire_length": np.int32, "time_ns": np.int64,
             "link_type": np.uint16, "capture_point": np.uint8}
    for name, kind in kinds.items():
        column = getattr(batch, name)
        assert column.shape == (n,)
        assert column.dtype == kind
    assert batch.data.dtype == np.uint8
    if n:
        assert batch.offset.min() >= 0
        assert int((batch.offset + batch.captured_length).max()) + SLACK <= len(batch.data)
        assert int(batch.captured_length.sum()) <= batch_bytes


def take(live: LiveCapture, count: int, limit: int = 100) -> list[bytes]:
    """So many packets, or what came in so many batches."""
    found: list[bytes] = []
    for batch in live:
        check(batch)
        found += octets(batch)
        limit -= 1
        if len(found) >= count or not limit:
            break
    return found
