"""Live capture from interfaces that only pretend: what cannot be made to happen on a wire."""

import os
import random
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from tests.sniffer.wires import check, octets, take

from rokuon.sniffer import interface as interface_module
from rokuon.sniffer.interface import WARNINGS_MAX
from rokuon.sniffer.pcap_file import CaptureError
from rokuon.sniffer.pcap_live import CapturePermissionError, open_live


class Reader:
    """Stands for libpcap's handle: gives out what was put in, and always has something to be read."""

    def __init__(self, lots: Sequence[Sequence[tuple[int, bytes]] | str]) -> None:
        self.lots = deque(lots)
        self.counters = (0, 0, 0)
        self.asked: dict[str, Any] = {}
        self._fd = os.eventfd(1)

    def activate(self) -> int:
        return 0

    def set_promisc(self, wanted: int) -> None:
        self.asked["promisc"] = wanted

    def datalink(self) -> int:
        return 1

    def getfd(self) -> int:
        return self._fd

    def stats(self) -> tuple[int, int, int]:
        return self.counters

    def close(self) -> None:
        os.close(self._fd)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0

    def next_batch(self, most: int) -> tuple[bytes, bytes]:
        lot = self.lots.popleft() if self.lots else []
        if isinstance(lot, str):
            raise interface_module.pcapy.PcapError(lot)
        if len(lot) > most:
            self.lots.appendleft(lot[most:])
            lot = lot[:most]
        data, table = b"", b""
        for time_us, packet in lot:
            table += struct.pack("=IIII", *divmod(time_us, 1_000_000), len(data), len(packet))
            data += packet
        return data, table


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Reader]:
    """Put one in for each interface."""
    found: dict[str, Reader] = {}
    answers = {0x8913: 0x41, 0x8921: 1500, 0x8933: 7}
    monkeypatch.setattr(interface_module.pcapy, "create", found.__getitem__)
    monkeypatch.setattr(interface_module.Interface, "_ask_kernel", lambda self, what: answers[what])
    return found


def test_counters_of_32_bits_run_on(readers: dict[str, Reader]) -> None:
    one = readers["one"] = Reader([])
    with open_live(["one"], run_seconds=0.01) as live:
        for counters in ((4_000_000_000, 5, 3), (100, 4_294_967_295, 3), (2_000_000_000, 4, 4)):
            one.counters = counters
            live.stats()
        stats = live.stats()
    assert stats["received"] == 2**32 + 2_000_000_000
    assert stats["dropped"] == stats["dropped_by_kernel"] == 2**32 + 4
    assert stats["unhandled"] == 4


def test_a_batch_has_no_more_than_its_bytes(readers: dict[str, Reader]) -> None:
    chance = random.Random(7)
    packets = [(number, chance.randbytes(chance.choice((60, 214, 1514)))) for number in range(3000)]
    readers["one"] = Reader([packets[at:at + 50] for at in range(0, 3000, 50)])
    found = []
    with open_live(["one"], run_seconds=0.01, batch_bytes=1 << 18) as live:
        for batch in live:
            check(batch, 1 << 18)
            found += zip((batch.time_ns // 1000).tolist(), octets(batch), strict=True)
            if len(found) == 3000:
                break
    assert found == packets


def test_frames_that_get_far_larger_find_room(readers: dict[str, Reader]) -> None:
    small = [(number, bytes([number]) * 60) for number in range(200)]
    large = [(200 + number, bytes([number]) * 60_000) for number in range(50)]
    readers["one"] = Reader([small, large, small])
    with open_live(["one"], run_seconds=0.01, batch_bytes=1 << 18) as live:
        found = take(live, 450)
    assert found == [octet for _, octet in small + large + small]
    assert len(live.warnings) == 1  # longer than the MTU


def test_a_slower_interface_is_waited_for_but_not_for_ever(readers: dict[str, Reader], monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers never come before what they answer, though another card saw that; nor does a wrong clock hold anything up."""
    now = 1_000_000_000  # µs
    monkeypatch.setattr("rokuon.sniffer.pcap_live.time.time_ns", lambda: now * 1000)
    readers["one"] = Reader([[(now - 50_000, b"1" * 60), (now - 9_000, b"4" * 60)], [], [(now + 3600_000_000, b"5" * 60)]])
    readers["two"] = Reader([[(now - 60_000, b"0" * 60)], [(now - 20_000, b"2" * 60), (now - 10_000, b"3" * 60)]])
    batches = []
    with open_live(["one", "two"], run_seconds=0.001) as live:
        for batch in live:
            check(batch)
            batches.append([octet[:1] for octet in octets(batch)])
            if sum(map(len, batches)) == 6:
                break
    assert [batch for batch in batches if batch] == [[b"0", b"1"], [b"2", b"3", b"4"], [b"5"]]


def test_what_cannot_be_read_is_opened_again_and_little_is_said(readers: dict[str, Reader]) -> None:
    first = Reader(["bad luck"] * 11)
    readers["one"] = first
    with open_live(["one"], run_seconds=0.01) as live:
        readers["one"] = Reader([[(1, b"x" * 60)]])
        assert take(live, 1) == [b"x" * 60]
        assert live.warnings == ["one: link is down", "one: cannot be read (bad luck); opening it again",
                                 "one: is back; capture goes on"]
        for _ in range(2 * WARNINGS_MAX):
            live._interfaces[0].warn("again")
        assert len(live.warnings) == WARNINGS_MAX


def test_promiscuous_mode_that_is_refused_is_told_and_done_without(readers: dict[str, Reader]) -> None:
    class Modest(Reader):
        def activate(self) -> int:
            return -1 if self.asked["promisc"] else 0

        def close(self) -> None:
            pass

    readers["one"] = Modest([[(1, b"x" * 60)]])
    with open_live(["one"], run_seconds=0.01) as live:
        assert live.warnings == ["one: refuses promiscuous mode: frames for other hosts are not seen"]
        assert take(live, 1) == [b"x" * 60]
    readers["one"] = Modest([])
    with open_live(["one"], promiscuous=False) as live:
        assert live.warnings == []


@pytest.mark.parametrize(("status", "kind", "told"), [
    (-8, CapturePermissionError, "one: no permission"), (-5, CaptureError, "one: no such interface"),
    (-1, CaptureError, "one: cannot be opened for capture (libpcap says -1)")])
def test_what_libpcap_refuses_is_told(readers: dict[str, Reader], status: int, kind: type[Exception], told: str) -> None:
    class Refusing(Reader):
        def activate(self) -> int:
            return status

        def close(self) -> None:
            pass

    readers["one"] = Refusing([])
    with pytest.raises(CaptureError) as error:
        open_live(["one"])
    assert type(error.value) is kind
    assert str(error.value).startswith(told)


def test_a_kind_of_frame_that_nobody_here_understands_is_refused(readers: dict[str, Reader]) -> None:
    readers["one"] = Reader([])
    readers["one"].datalink = lambda: 105  # type: ignore[method-assign]
    with pytest.raises(CaptureError, match="link type 105"):
        open_live(["one"])
