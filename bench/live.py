"""What live capture costs: `python bench/live.py`, as root; prints a table, sends into a wire of its own and nowhere else.

A sender (packets made in numpy, handed to the kernel through a ring) pays out RTP of G.711, 214 bytes a frame, at a set rate
into a veth pair in a network namespace; the receiver at the other end is this source, or tcpdump beside it. CPU is that of
the receiver alone; the kernel's work of bringing a packet through the veth is done, and counted, in the sender.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import machine, table
from tests.sniffer.wires import missing, own_network, wire

from rokuon.sniffer.pcap_live import open_live

RATES = (30_000, 100_000, 300_000, 525_000)
SOL_PACKET, PACKET_VERSION, PACKET_TX_RING, PACKET_QDISC_BYPASS, TPACKET_V2 = 263, 10, 13, 20, 1
FRAME, FRAMES, BLOCK = 256, 8192, 1 << 20
DATA_AT = 32  # tpacket2_hdr: what is sent begins behind it
SEND_REQUEST = 1
SIZE = 214
STREAMS = 10_000
TICK_S = 0.002


class Sender:
    """Frames of many RTP streams, sequence numbers and timestamps going on, through PACKET_TX_RING."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.setsockopt(SOL_PACKET, PACKET_TX_RING, struct.pack("IIII", BLOCK, FRAMES * FRAME // BLOCK, FRAME, FRAMES))
        self._ring = mmap.mmap(self._socket.fileno(), FRAMES * FRAME)
        self._socket.bind((interface, 0))
        self._frames = np.frombuffer(self._ring, np.uint8).reshape(FRAMES, FRAME)
        self._status = self._frames[:, :4].view("<u4")[:, 0]
        self._frames[:, 4:8] = np.frombuffer(struct.pack("<I", SIZE), np.uint8)
        ip = struct.pack(">BBHHHBBH", 0x45, 0, SIZE - 14, 0, 0x4000, 64, 17, 0)
        head = (bytes.fromhex("020000000002020000000001") + b"\x08\x00" + ip + bytes(8)
                + struct.pack(">HHHH", 20000, 40000, 180, 0) + struct.pack(">BBHII", 0x80, 0, 0, 0, 0))
        self._frames[:, DATA_AT:DATA_AT + len(head)] = np.frombuffer(head, np.uint8)
        self._frames[:, DATA_AT + len(head):DATA_AT + SIZE] = np.arange(SIZE - len(head), dtype=np.uint8)
        self._next = self.sent = 0

    def send(self, count: int) -> None:
        """So many frames, the next of their streams each."""
        while count > 0:
            n = min(count, FRAMES - self._next)
            at = slice(self._next, self._next + n)
            while self._status[at].any():  # not taken yet: the kernel sends from where they lie
                time.sleep(0.0002)
            number = np.arange(self.sent, self.sent + n, dtype=np.uint32)
            stream, sequence = number % STREAMS, number // STREAMS
            data = self._frames[at, DATA_AT:]
            data[:, 26:30].view(">u4")[:, 0] = 0x0A000000 + stream  # source address
            data[:, 30:34].view(">u4")[:, 0] = 0x0A800000 + stream
            data[:, 44:46].view(">u2")[:, 0] = sequence
            data[:, 46:50].view(">u4")[:, 0] = sequence * 160
            data[:, 50:54].view(">u4")[:, 0] = stream + 1
            self._status[at] = SEND_REQUEST
            self._socket.send(b"")
            self._next = (self._next + n) % FRAMES
            self.sent += n
            count -= n

    def run(self, rate: int, seconds: float) -> None:
        """At this rate, as evenly as ticks of 2 ms allow."""
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            self.send(min(int(rate * passed) - self.sent, FRAMES))
            time.sleep(max(0, TICK_S - (time.monotonic() - begun - passed)))

    def close(self) -> None:
        del self._frames, self._status
        self._ring.close()
        self._socket.close()


def sending(interface: str, rate: int, seconds: float) -> tuple[int, int]:
    """A process that sends; its id, and the end of a pipe from which the number of frames is read when it is over."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        time.sleep(0.3)
        sender = Sender(interface)
        sender.run(rate, seconds)
        os.write(write, b"%d %f" % (sender.sent, time.process_time()))
        os._exit(0)
    os.close(write)
    return child, read


def sent_by(child: int, read: int) -> tuple[int, float]:
    sent, cpu = os.read(read, 100).split()
    os.close(read)
    os.waitpid(child, 0)
    return int(sent), float(cpu)


def ours(rate: int, seconds: float) -> tuple[int, float, int, int, float]:
    """Sent, sender's CPU, received, dropped, receiver's CPU."""
    with open_live(["far"]) as live:
        child, read = sending("near", rate, seconds)
        begun, end, got = time.process_time(), time.monotonic() + seconds + 1, 0
        for batch in live:
            got += len(batch)
            if time.monotonic() > end:
                live.stop()
        cpu = time.process_time() - begun
        sent, spent = sent_by(child, read)
        return sent, spent, got, live.stats()["dropped_by_kernel"], cpu


def tcpdump(rate: int, seconds: float) -> tuple[int, float, int, int, float]:
    """The same of tcpdump with a ring of the same size."""
    other = subprocess.Popen(["tcpdump", "-i", "far", "-n", "-s", "65535", "-B", str(64 << 10), "-w", "/dev/null"],
                             stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    child, read = sending("near", rate, seconds)
    sent, spent = sent_by(child, read)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    time.sleep(0.5)
    other.send_signal(2)
    said = other.communicate()[1]
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    numbers = {text: int(number) for number, text in re.findall(r"^(\d+) packets (.*)$", said, re.MULTILINE)}
    return (sent, spent, numbers.get("captured", 0), numbers.get("dropped by kernel", 0),
            end.ru_utime + end.ru_stime - after.ru_utime - after.ru_stime)


def idle(seconds: float) -> float:
    """CPU of a capture of nothing, as a share of a core."""
    with open_live(["far"]) as live:
        begun, cpu = time.monotonic(), time.process_time()
        for _ in live:
            if time.monotonic() > begun + seconds:
                break
        return (time.process_time() - cpu) / (time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rate", type=int, action="append", help="packets a second; several: one after the other")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    rows: list[list[str]] = []
    receivers: dict[str, Callable[[int, float], tuple[int, float, int, int, float]]] = {
        "rokuon": ours, "tcpdump -w /dev/null": tcpdump}
    print(machine())
    with own_network():
        wire("near", "far")
        for rate in options.rate or RATES:
            for name, receive in receivers.items():
                sent, spent, got, dropped, cpu = receive(rate, options.seconds)
                rows.append([name, f"{sent / options.seconds / 1000:,.0f}", f"{sent - got:,}", f"{dropped:,}",
                             f"{cpu / max(got, 1) * 1e9:,.0f}", f"{spent / sent * 1e9:,.0f}"])
        share = idle(options.seconds)
    print(table(["receiver", "sent, 1000/s", "lost", "dropped by kernel", "CPU ns a packet", "sender's ns"], rows))
    print(f"an idle wire: {100 * share:.2f} % of a core")


if __name__ == "__main__":
    main()
