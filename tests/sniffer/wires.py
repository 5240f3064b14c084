"""Wires for tests of live capture: veth pairs in a network namespace of the test's own, which nothing leaves."""

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
    """Run ip(8)."""
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
