import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.e2e.wire import udp
from tests.sniffer.wires import check, ip, missing, octets, own_network, send, take, wire

from rokuon.sniffer.pcap_file import CaptureError
from rokuon.sniffer.pcap_live import LiveCapture, open_live

REASON = missing()
needs_wires = pytest.mark.skipif(bool(REASON), reason=REASON)
ENDS = ("10.0.0.1", 5000), ("10.0.0.2", 6000)
TAGS = b"", b"\x81\x00\x00\x64", b"\x88\xa8\x00\x05\x81\x00\x00\x64"
MAC = bytes.fromhex("020000000002020000000001")


def frames(count: int, size: int = 160, first: int = 0) -> list[bytes]:
    return [udp(*ENDS, number.to_bytes(4, "big") + bytes(size)) for number in range(first, first + count)]


def until(live: LiveCapture, told: str, limit: int = 100) -> None:
    """Goes on until something was told."""
    for batch in live:
        assert not len(batch)
        limit -= 1
        if any(told in line for line in live.warnings):
            return
        assert limit, live.warnings
    raise AssertionError("ended")


@pytest.fixture
def network() -> Iterator[None]:
    with own_network():
        yield


@needs_wires
@pytest.mark.usefixtures("network")
def test_all_that_was_sent_comes_in_order_and_whole() -> None:
    wire("near", "far")
    chance = random.Random(5)
    sent = [udp(*ENDS, number.to_bytes(4, "big") + chance.randbytes(chance.randrange(1400))) for number in range(3000)]
    with open_live(["far"], run_seconds=0.1) as live:
        sender = threading.Thread(target=send, args=("near", sent))
        sender.start()
        found = take(live, len(sent))
        sender.join()
        stats = live.stats()
    assert found == sent
    assert stats == {"packets": 3000, "bytes": sum(map(len, sent)), "received": 3000, "dropped": 0, "dropped_by_kernel": 0,
                     "dropped_by_interface": 0, "unhandled": stats["unhandled"]}
    assert live.warnings == []


@needs_wires
@pytest.mark.usefixtures("network")
def test_tags_come_as_they_were_on_the_wire() -> None:
    wire("near", "far")
    plain = frames(3)
    tagged = [frame[:12] + tags + frame[12:] for frame in plain for tags in TAGS]
    noise = MAC + b"\x88\xcc" + bytes(46)
    with open_live(["far"], run_seconds=0.05) as live:
        send("near", [noise, *tagged, noise])
        assert take(live, 9, limit=10) == tagged
    unwanted = [MAC + tags + udp(("10.0.0.9", 5000), ENDS[1], b"")[12:] for tags in TAGS]
    with open_live(["far"], run_seconds=0.05, filter="not host 10.0.0.9") as live:
        send("near", [*unwanted, *tagged])
        assert take(live, 9, limit=10) == tagged


@needs_wires
@pytest.mark.usefixtures("network")
def test_a_silent_wire_gives_empty_batches() -> None:
    wire("near", "far")
    with open_live(["far"], run_seconds=0.05) as live:
        for _ in range(5):
            batch = next(live)
            check(batch)
            assert len(batch) == 0
        assert live.stats()["packets"] == 0
        send("near", frames(1))
        assert take(live, 1) == frames(1)


@needs_wires
@pytest.mark.usefixtures("network")
def test_several_interfaces_are_merged_by_time() -> None:
    wire("near1", "far1")
    wire("near2", "far2")
    sent = frames(2000)

    def alternate() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as two:
            one.bind(("near1", 0))
            two.bind(("near2", 0))
            for number, frame in enumerate(sent):
                (two if number % 2 else one).send(frame)
                if number % 20 == 19:
                    time.sleep(0.003)

    found: list[bytes] = []
    points: list[int] = []
    with open_live(["far1", "far2"], run_seconds=0.05) as live:
        sender = threading.Thread(target=alternate)
        sender.start()
        for batch in live:
            check(batch)
            found += octets(batch)
            points += batch.capture_point.tolist()
            if len(found) == len(sent):
                break
        sender.join()
        assert [each.packets for each in live.by_interface()] == [1000, 1000]
    assert found == sent
    assert points == [0, 1] * 1000


@needs_wires
@pytest.mark.usefixtures("network")
def test_an_interface_that_goes_and_comes_back_goes_on() -> None:
    wire("near", "far")
    with open_live(["far"], run_seconds=0.05) as live:
        send("near", frames(10))
        assert take(live, 10) == frames(10)
        ip("link del far")
        until(live, "gone")
        assert not live.by_interface()[0].up
        wire("near", "far")
        until(live, "is back")
        send("near", frames(10, first=10))
        assert take(live, 10) == frames(10, first=10)
        assert live.stats()["packets"] == 20
        assert live.stats()["received"] == 20
        assert live.warnings == ["far: is gone; waiting for it to come back", "far: is back; capture goes on"]


@needs_wires
@pytest.mark.usefixtures("network")
def test_a_link_that_goes_down_is_told_and_goes_on() -> None:
    wire("near", "far")
    with open_live(["far"], run_seconds=0.05) as live:
        ip("link set far down")
        until(live, "link is down")
        ip("link set far up")
        until(live, "link is up")
        live.warnings.clear()
        ip("link set near down")  # as a cable that is pulled
        until(live, "link is down")
        live.warnings.clear()
        ip("link set near up")
        until(live, "link is up")
        assert live.warnings == ["far: link is up"]
        send("near", frames(10))
        assert take(live, 10) == frames(10)


@needs_wires
@pytest.mark.usefixtures("network")
def test_an_interface_that_is_down_is_waited_for() -> None:
    wire("near", "far")
    ip("link set far down")
    with open_live(["far"], run_seconds=0.05) as live:
        assert live.warnings == ["far: is down; waiting for it"]
        assert len(next(live)) == 0
        ip("link set far up")
        until(live, "is back")
        send("near", frames(10))
        assert take(live, 10) == frames(10)


@needs_wires
@pytest.mark.usefixtures("network")
def test_packets_that_are_cut_or_joined_are_told() -> None:
    wire("near", "far")
    with open_live(["far"], run_seconds=0.05, snaplen=100) as live:
        send("near", frames(10))
        assert take(live, 10) == [frame[:100] for frame in frames(10)]
        assert live.warnings == ["far: packets are cut to the snaplen of 100 bytes"]
    # what a card with LRO, or the kernel with GRO, hands up: several segments as one (virtio_net_hdr, type TCPV4)
    segments = struct.pack("<BBHHHH", 1, 1, 54, 1448, 34, 16) + MAC + b"\x08\x00" + struct.pack(
        ">BBHHHBBH", 0x45, 0, 40 + 14480, 1, 0x4000, 64, 6, 0) + bytes([10, 0, 0, 1, 10, 0, 0, 2]) + struct.pack(
        ">HHIIHHHH", 5060, 5060, 1, 1, 0x5018, 1000, 0, 0) + bytes(14480)
    with open_live(["far"], run_seconds=0.05) as live, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("near", 0))
        out.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
        out.send(segments)
        out.send(segments)
        assert [len(each) for each in take(live, 2)] == [14534, 14534]
        assert len(live.warnings) == 1
        assert "14,534 bytes with an MTU of 1,500" in live.warnings[0]


@needs_wires
@pytest.mark.usefixtures("network")
def test_what_had_arrived_is_given_out_after_stop() -> None:
    wire("near", "far")
    with open_live(["far"], run_seconds=30) as live:
        timer = threading.Timer(0.1, lambda: (send("near", frames(200)), live.stop(), live.stop()))
        timer.start()
        assert [each for batch in live for each in octets(batch)] == frames(200)
        timer.join()
        assert list(live) == []
    live.stop()
    live.close()
    assert live.stats()["received"] == 200
    assert sum(second.received for second in live.history) == 200
    assert list(live) == []


@needs_wires
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(("interfaces", "options", "told"), [
    (["nope"], {}, "nope: no such interface; there are lo, "),
    (["far", "nope"], {}, "nope: no such interface; there are lo, "),
    (["far", "far"], {}, "far: named twice"),
    (["far" + 20 * "r"], {}, "is no name of an interface"),
    (["far\0"], {}, "is no name of an interface"),
    (["../far"], {}, "../far: no such interface"),
    (["a\nb\x1b[2J"], {}, "a�b�[2J: no such interface"),
    ([""], {}, "is no name of an interface"),
    ([], {}, "0 interfaces"),
    (["far"], {"filter": "hots 10.0.0.1"}, "filter 'hots 10.0.0.1': "),
    (["far"], {"filter": "udp) or (tcp"}, "filter 'udp) or (tcp': syntax error"),
    (["far"], {"filter": "udp\0"}, "filter 'udp�': "),
    (["far"], {"snaplen": 10}, "snaplen of 10 bytes"),
    (["far"], {"buffer_bytes": 1 << 31}, "buffer of 2,147,483,648 bytes"),
])
def test_what_cannot_be_captured_is_told_in_one_line(interfaces: Sequence[str], options: dict[str, Any], told: str) -> None:
    wire("near", "far")
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CaptureError) as error:
        open_live(interfaces, **options)
    assert told in str(error.value)
    assert str(error.value).isprintable()
    assert len(os.listdir("/proc/self/fd")) == open_files


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_capture_is_told() -> None:
    code = ("import os; from rokuon.sniffer.pcap_live import CapturePermissionError, open_live\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try:\n open_live(['lo'])\nexcept CapturePermissionError as error:\n print(error)")
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said == "lo: no permission to capture; it takes root or CAP_NET_RAW\n"
