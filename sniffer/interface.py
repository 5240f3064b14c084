"""One network interface, captured from through libpcap: opened, watched, and opened again when it has gone away and come back."""

from __future__ import annotations

import fcntl
import socket
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pcapy  # type: ignore[import-not-found]
from numpy.typing import NDArray

from rokuon.sniffer.bpf import capture_filter
from rokuon.sniffer.packet import (
    LINKTYPE_ETHERNET,
    LINKTYPE_LINUX_SLL,
    LINKTYPE_LOOP,
    LINKTYPE_NULL,
    LINKTYPE_RAW,
)
from rokuon.sniffer.pcap_file import CaptureError, CapturePermissionError, one_line

__all__ = ["TIMEOUT_MS", "WARNINGS_MAX", "CapturePermissionError", "Interface", "InterfaceStats", "Options", "check_filter"]

WARNINGS_MAX = 1000
"""Lines that are kept until somebody takes them."""
_ASK = 4096
"""Packets asked of libpcap at once; more fall out of the cache."""
_ASK_MIN = 64
TIMEOUT_MS = 10
"""When the kernel hands over a block of its ring that is not full."""
# pcap_activate(3PCAP)
_PCAP_ERROR, _NO_DEVICE, _PERMISSION, _NOT_UP, _PROMISC_PERMISSION = -1, -5, -8, -9, -11
_PROMISC_NOT_SUPPORTED = 2
# https://www.tcpdump.org/linktypes.html: libpcap's own numbers for raw IP differ between systems
_LINK_TYPES = {1: LINKTYPE_ETHERNET, 0: LINKTYPE_NULL, 12: LINKTYPE_RAW, 14: LINKTYPE_RAW, 101: LINKTYPE_RAW, 108: LINKTYPE_LOOP,
               113: LINKTYPE_LINUX_SLL}
# netdevice(7)
_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFINDEX = 0x8913, 0x8921, 0x8933
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_ETHERNET_MORE = 14 + 8
"""What a frame has beyond the MTU: Ethernet header, two VLAN tags."""
_ERRORS_MAX = 10
_ANY = "any"
_PARSE = "can't parse filter expression: "


class InterfaceStats(NamedTuple):
    """What came from one interface since the start."""

    name: str
    up: bool
    """Whether it is there, and has a link."""
    packets: int
    """Given out."""
    bytes: int
    received: int
    """Passed the filter, those the kernel dropped included."""
    dropped_by_kernel: int
    """Its ring was full: we were too slow."""
    dropped_by_interface: int
    """The card missed them."""
    unhandled: int
    """The kernel's `rx_dropped`: what it had no room for before we saw it; and, of no harm, what nobody but us wanted to
    see, such as frames with two VLAN tags."""


class Options(NamedTuple):
    """How interfaces are captured from."""

    filter: str
    """Asked for by somebody, see `capture_filter`."""
    snaplen: int
    buffer_bytes: int
    promiscuous: bool


class Interface:
    """One interface, whether it is there or not. What happens to it is told to `warn`, a line each."""

    def __init__(self, name: str, options: Options, ask_bytes: int, warnings: list[str]) -> None:
        """Nothing is opened yet. `ask_bytes`: roughly the most that one `next_batch` shall bring."""
        self.name, self.shown = name, one_line(name)
        self._options, self._ask_bytes, self._warnings = options, ask_bytes, warnings
        self.reader: Any = None
        self.fd = -1
        self.link_type = LINKTYPE_ETHERNET
        self.up = False
        self.packets = self.bytes = self.received = self.dropped_by_kernel = self.dropped_by_interface = self.unhandled = 0
        self.ask = _ASK
        self.short = True
        """Whether the last look found fewer than asked for: nothing more is waiting."""
        self.looked_ns = 0
        """UTC, before that look."""
        self._index = self._mtu = self._errors = 0
        self._seen = (0, 0, 0)
        self._card: tuple[int, int] | None = None
        self._said: set[str] = set()
        self._was_there = False

    def warn(self, text: str) -> None:
        """Bounded: an interface that comes and goes for years fills no memory."""
        if len(self._warnings) < WARNINGS_MAX:
            self._warnings.append(f"{self.shown}: {text}")

    def _once(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self.warn(text)

    def open(self) -> None:
        """Raises CaptureError; an interface that is there and down is waited for, and so is one that was there before."""
        status, reader = self._activate(self._options.promiscuous)
        if self._options.promiscuous and status in (_PCAP_ERROR, _PROMISC_PERMISSION):
            status, reader = self._activate(False)
            if status >= 0:
                status = _PROMISC_NOT_SUPPORTED
        if status == _NOT_UP:
            self._once("waiting", "is down; waiting for it")
            return
        if status == _NO_DEVICE and self._was_there:
            return
        if status == _PERMISSION:
            raise CapturePermissionError(f"{self.shown}: no permission to capture; it takes root or CAP_NET_RAW")
        if status == _NO_DEVICE:
            raise CaptureError(f"{self.shown}: no such interface{_there_are()}")
        if status < 0:
            raise CaptureError(f"{self.shown}: cannot be opened for capture (libpcap says {status})")
        try:
            self._prepare(reader)
        except BaseException:
            reader.close()
            raise
        if self._options.promiscuous and status == _PROMISC_NOT_SUPPORTED and self.name != _ANY:
            self.warn("refuses promiscuous mode: frames for other hosts are not seen")
        if self._was_there or "waiting" in self._said:
            self.warn("is back; capture goes on")
        self._said &= {"longer", "cut"}
        self._was_there = self.up = True
        self._look_at_link()

    def _activate(self, promiscuous: bool) -> tuple[int, Any]:
        try:
            reader = pcapy.create(self.name)
        except pcapy.PcapError as error:
            raise CaptureError(f"{self.shown}: {one_line(str(error))}") from None
        reader.set_snaplen(self._options.snaplen)
        reader.set_promisc(int(promiscuous))
        reader.set_timeout(TIMEOUT_MS)
        reader.set_buffer_size(self._options.buffer_bytes)
        status = int(reader.activate())
        if status < 0:
            reader.close()
        return status, reader

    def _prepare(self, reader: Any) -> None:
        kind = reader.datalink()
        if kind not in _LINK_TYPES:
            raise CaptureError(f"{self.shown}: has frames of a kind that is not understood (link type {kind})")
        self.link_type = _LINK_TYPES[kind]
        try:
            reader.setfilter(capture_filter(self._options.filter, self.link_type))
        except pcapy.PcapError as error:
            raise CaptureError(f"{self.shown}: {_bad_filter(self._options.filter, error)}") from None
        reader.setnonblock(1)  # libpcap's blocking calls hang for ever on an idle link
        self.reader, self.fd = reader, int(reader.getfd())
        self._errors, self._seen = 0, self._counters(reader)  # what was lost while it was being opened was not asked for yet
        self._index, self._mtu = self._ask_kernel(_SIOCGIFINDEX), self._ask_kernel(_SIOCGIFMTU)
        self._card = self._card_counters()

    @staticmethod
    def _counters(reader: Any) -> tuple[int, int, int]:
        try:
            received, by_kernel, unhandled = reader.stats()
        except pcapy.PcapError:
            return 0, 0, 0
        return received, by_kernel, unhandled

    def _ask_kernel(self, what: int) -> int:
        """A number that it has of the interface; -1: there is none of this name."""
        if self.name == _ANY:
            return 0
        try:
            answer = fcntl.ioctl(self.fd, what, struct.pack("16s24x", self.name.encode()))
        except OSError:
            return -1
        return int(struct.unpack_from("H" if what == _SIOCGIFFLAGS else "i", answer, 16)[0])

    def _card_counters(self) -> tuple[int, int] | None:
        """Frames that the card missed, and the kernel's `rx_dropped`; None: they cannot be seen."""
        directory = Path("/sys/class/net") / self.name
        try:
            if int((directory / "ifindex").read_text("ascii")) != self._index:  # that of another network namespace
                return None
            names = ("rx_missed_errors", "rx_fifo_errors", "rx_over_errors", "rx_dropped")
            missed, fifo, over, dropped = (int((directory / "statistics" / name).read_text("ascii")) for name in names)
        except (OSError, ValueError):
            return None
        return max(missed, fifo, over), dropped  # drivers count the same frames under several of these

    def next_batch(self) -> tuple[bytes, bytes]:
        """Packets that are there: their bytes, and 16 of header for each. None of an interface that is not there."""
        if self.reader is None:
            return b"", b""
        try:
            data, table = self.reader.next_batch(self.ask)
        except pcapy.PcapError as error:
            self._failed(one_line(str(error)))
            return b"", b""
        if table:
            self._errors = 0
            count = len(table) >> 4
            self.ask = max(_ASK_MIN, min(_ASK, self._ask_bytes * count // (len(data) + 1)))
        return data, table

    def _failed(self, reason: str) -> None:
        self._errors += 1
        if self.name != _ANY and self._ask_kernel(_SIOCGIFINDEX) != self._index:
            self._lost("is gone; waiting for it to come back")
        elif self._errors > _ERRORS_MAX:
            self._lost(f"cannot be read ({reason}); opening it again")
        elif self.up:  # the socket goes on by itself when the link does
            self.up = False
            self.warn("link is down")

    def _lost(self, text: str) -> None:
        self.count()
        self.warn(text)
        self.close()

    def look(self) -> None:
        """Once a second: what became of the interface, and its counters."""
        if self.reader is None:
            try:
                self.open()
            except CaptureError as error:
                self._once("again", f"cannot be opened again: {str(error).partition(': ')[2]}")
            return
        self.count()
        if self.name != _ANY:
            if self._ask_kernel(_SIOCGIFINDEX) != self._index:
                self._lost("is gone; waiting for it to come back")
            else:
                self._look_at_link()

    def _look_at_link(self) -> None:
        flags = self._ask_kernel(_SIOCGIFFLAGS) if self.name != _ANY else _IFF_UP | _IFF_RUNNING
        up = flags >= 0 and flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING
        if up != self.up:
            self.up, self._errors = up, 0
            self.warn("link is up" if up else "link is down")

    def count(self) -> None:
        """Take over the counters, which begin again with each opening and have 32 bits."""
        if self.reader is None:
            return
        try:
            now = self.reader.stats()
        except pcapy.PcapError:
            return
        received, by_kernel, unhandled = ((new - old) & 0xFFFFFFFF for new, old in zip(now, self._seen, strict=True))
        self._seen = now
        self.received += received
        self.dropped_by_kernel += by_kernel
        card, before = self._card_counters(), self._card
        if card and before:
            self.dropped_by_interface += max(0, card[0] - before[0])
            self.unhandled += max(0, card[1] - before[1])
        elif not card:
            self.unhandled += unhandled
        self._card = card

    def note(self, length: NDArray[np.int32]) -> None:
        """Look at the sizes of some of its packets."""
        self.packets += len(length)
        self.bytes += int(length.sum())
        longest = int(length.max(initial=0))
        if longest >= self._options.snaplen:
            self._once("cut", f"packets are cut to the snaplen of {self._options.snaplen:,} bytes")
        if self._mtu > 0 and self.link_type == LINKTYPE_ETHERNET and longest > self._mtu + _ETHERNET_MORE:
            self._once("longer", f"frames of {longest:,} bytes with an MTU of {self._mtu:,}: packets are joined before they are "
                                 f"seen; turn it off: ethtool -K {self.shown} gro off lro off")

    def stats(self) -> InterfaceStats:
        """What came so far."""
        return InterfaceStats(self.shown, self.reader is not None and self.up, self.packets, self.bytes, self.received,
                              self.dropped_by_kernel, self.dropped_by_interface, self.unhandled)

    def close(self) -> None:
        """It may be opened again."""
        if self.reader is not None:
            self.reader.close()
        self.reader, self.fd, self.up, self.short = None, -1, False, True


def check_filter(asked: str, snaplen: int) -> None:
    """Whether a filter makes sense by itself: put inside of ours, brackets that do not match could. Raises CaptureError."""
    try:
        pcapy.compile(LINKTYPE_ETHERNET, snaplen, asked, 1, 0)
    except (pcapy.PcapError, ValueError) as error:
        raise _bad_filter(asked, error) from None


def _bad_filter(asked: str, error: Exception) -> CaptureError:
    return CaptureError(f"filter {one_line(asked)!r}: {one_line(str(error)).removeprefix(_PARSE)}")


def _there_are() -> str:
    """The interfaces of this machine, for a message."""
    try:
        names = [one_line(name) for _, name in socket.if_nameindex()]
    except OSError:
        return ""
    return f"; there are {', '.join(names[:12])}{', …' if len(names) > 12 else ''}" if names else ""
