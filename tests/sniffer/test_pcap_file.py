"""Capture files: what real tools wrote is read as they read it, and what is broken says so."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.sniffer.captures import Packet, block, enhanced, interface, mixed, packet, pcap, section

from rokuon.sniffer.pcap_file import CaptureError, open_capture

SHARED = Path(__file__).parents[3] / "shared" / "captures"
REAL = sorted(p for p in SHARED.glob("*/*") if p.suffix in {".pcap", ".pcapng", ".cap"})
SECOND = 1_000_000_000


def read(path: Path | str, chunk: int = 65536) -> tuple[list[Packet], list[str]]:
    """All packets of a file, and its warnings."""
    found = []
    with open_capture(path, chunk=chunk) as file:
        for batch in file:
            data = batch.data.tobytes()
            found += [Packet(time, data[at:at + size], wire, link, point) for time, at, size, wire, link, point in zip(
                batch.time_ns.tolist(), batch.offset.tolist(), batch.captured_length.tolist(), batch.wire_length.tolist(),
                batch.link_type.tolist(), batch.capture_point.tolist(), strict=True)]
    return found, file.warnings


def tshark(path: Path, *fields: str) -> list[list[str]]:
    """Fields of every frame, as tshark sees them."""
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    asked = [word for field in fields for word in ("-e", field)]
    out = subprocess.run(["tshark", "-n", "-r", path, "-T", "fields", *asked], capture_output=True, text=True, check=False).stdout
    return [line.split("\t") for line in out.splitlines()]


def as_tshark_sees(path: Path) -> list[tuple[int, int, int, int]]:
    """Time, captured and wire length and interface of every frame."""
    rows = []
    for time, captured, wire, number in tshark(path, "frame.time_epoch", "frame.cap_len", "frame.len", "frame.interface_id"):
        seconds, _, fraction = time.partition(".")
        rows.append((int(seconds) * SECOND + int(fraction.ljust(9, "0")[:9]), int(captured), int(wire), int(number or 0)))
    return rows


def facts(packets: list[Packet]) -> list[tuple[int, int, int, int]]:
    return [(p.time_ns, len(p.data), p.wire, p.point) for p in packets]


@pytest.mark.skipif(not REAL, reason="../shared/captures is missing")
def test_real_captures_as_capinfos_counts_them() -> None:
    """Packets, bytes, first and last time of every capture that others made."""
    if not shutil.which("capinfos"):
        pytest.skip("capinfos is not installed")
    out = subprocess.run(["capinfos", "-TMrcdaeS", *REAL], capture_output=True, text=True, check=True).stdout
    for path, line in zip(REAL, out.splitlines(), strict=True):
        found, warnings = read(path)
        _, count, size, first, last = line.split("\t")
        times = [p.time_ns for p in found]
        assert (len(found), sum(p.wire for p in found)) == (int(count), int(size)), path.name
        assert [t // 1000 for t in (min(times), max(times))] == [int(t.replace(".", "")[:16]) for t in (first, last)], path.name
        assert not warnings


@pytest.mark.skipif(not REAL, reason="../shared/captures is missing")
def test_real_captures_as_tshark_reads_them() -> None:
    """Every frame of some: time to the nanosecond, lengths, interface."""
    for path in [p for p in REAL if p.suffix == ".pcapng" or p.name in {"aaa.pcap", "SIP_DTMF2.cap", "ipip.pcap"}]:
        assert facts(read(path)[0]) == as_tshark_sees(path), path.name


@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "pcapng"])
def test_what_editcap_writes(tmp_path: Path, kind: str) -> None:
    """The same packets in each format that Wireshark's tools write."""
    if not shutil.which("editcap"):
        pytest.skip("editcap is not installed")
    packets = mixed([60, 214, 0, 1514, 9000, 33] * 50, step_ns=123_456_789 if kind != "pcap" else 123_456_000)
    (tmp_path / "a.pcap").write_bytes(pcap(packets, nano=True))
    subprocess.run(["editcap", "-F", kind, tmp_path / "a.pcap", tmp_path / "b"], check=True)
    found, warnings = read(tmp_path / "b", 4096)
    assert found == packets
    assert not warnings


def test_what_scapy_writes(tmp_path: Path) -> None:
    """Plain, nanosecond, big-endian and compressed files of scapy; pcapng too."""
    utils = pytest.importorskip("scapy.utils")
    frames = [bytes([i]) * (60 + i * 11) for i in range(90)]
    for name, options in [("a.pcap", {}), ("n.pcap", {"nano": True}), ("z.gz", {"gz": True}), ("b.pcap", {"endianness": ">"}),
                          ("a.pcapng", None)]:
        path = tmp_path / name
        writer = utils.PcapNgWriter(str(path)) if options is None else utils.PcapWriter(str(path), linktype=1, **options)
        for i, frame in enumerate(frames):
            if not i:
                writer.write_header(frame)
            writer.write_packet(frame, sec=1_700_000_000 + i, usec=i, wirelen=len(frame) + 4)
        writer.close()
        found, warnings = read(path)
        assert [p.data for p in found] == frames, name
        assert [p.time_ns // SECOND for p in found] == [1_700_000_000 + i for i in range(90)]
        assert not warnings


def test_interfaces_of_several_link_types(tmp_path: Path) -> None:
    """Each packet has its own interface's link type and clock: tshark agrees on the times."""
    base = 1_700_000_000
    data = section() + interface(link_type=1) + interface(link_type=113, resolution=9) + interface(
        link_type=101, resolution=0x80 | 20, offset=3600) + b"".join([
            enhanced(base * 10**6 + 1, b"a" * 60), enhanced(base * 10**9 + 2001, b"b" * 60, number=1),
            enhanced((base << 20) + (1 << 19), b"c" * 60, number=2), enhanced(base * 10**6 + 9, b"d" * 61)])
    path = tmp_path / "a.pcapng"
    path.write_bytes(data)
    found, _ = read(path)
    assert [(p.link_type, p.point) for p in found] == [(1, 0), (113, 1), (101, 2), (1, 0)]
    assert [p.time_ns - base * SECOND for p in found] == [1000, 2001, 3600 * SECOND + SECOND // 2, 9000]
    assert facts(found) == as_tshark_sees(path)


def test_link_type_is_in_the_low_bits(tmp_path: Path) -> None:
    """Above it are the FCS length and its flag."""
    (tmp_path / "a").write_bytes(pcap([packet(0, 60)], network=0x4400_0000 & 0xF000_0000 | 276))
    assert read(tmp_path / "a")[0][0].link_type == 276


def test_empty_capture_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pcap([]))
    (tmp_path / "b").write_bytes(section() + interface())
    assert read(tmp_path / "a") == ([], [])
    assert read(tmp_path / "b") == ([], [])


@pytest.mark.parametrize(("name", "content", "reason"), [
    ("none", None, "No such file"), ("empty", b"", "empty file"), ("text", b"hello, world, this is no capture", "neither pcap"),
    ("short", pcap([])[:20], "cut short inside the file header"), ("section", section()[:10], "cut short inside the file header"),
    ("zip", gzip.compress(b""), "empty file"), ("broken-zip", b"\x1f\x8b\x08\x00" + b"\xff" * 40, "gzip data damaged"),
    ("zipped-text", gzip.compress(b"hello, world, this is no capture"), "neither pcap")])
def test_no_capture(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    """One line that names the file and what is wrong."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CaptureError) as error:
        open_capture(path)
    assert str(path) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_names_cannot_write_to_a_terminal(tmp_path: Path) -> None:
    """A file's name may hold anything."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/a\x1b[2J\n\xff.pcap")
    Path(name).write_bytes(pcap(mixed([60, 60]))[:-1])
    _, warnings = read(name)
    with pytest.raises(CaptureError) as error:
        open_capture(name + "x")
    assert len(warnings) == 1
    for line in (*warnings, str(error.value)):
        assert line.isprintable()


def test_directory_is_no_capture(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="directory"):
        open_capture(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_cut_short(tmp_path: Path, zipped: bool) -> None:
    """What is whole is kept; the warning says how far that is."""
    packets = mixed([214] * 500)
    data = pcap(packets)[:-7]
    path = tmp_path / "a.pcap"
    path.write_bytes(gzip.compress(data) if zipped else data)
    found, warnings = read(path)
    assert found == packets[:-1]
    assert warnings == [f"{path}: cut short inside a record; read up to packet 499, byte {24 + 499 * 230:,}"]


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_broken_gzip(tmp_path: Path, damage: str) -> None:
    """What could be decompressed is kept."""
    packets = [Packet(p.time_ns, os.urandom(214), 214) for p in mixed([214] * 5000)]
    data = bytearray(gzip.compress(pcap(packets)))
    if damage == "cut":
        del data[len(data) // 2:]
    else:
        data[-6] ^= 1  # the checksum
    (tmp_path / "a.gz").write_bytes(data)
    found, warnings = read(tmp_path / "a.gz")
    assert found == packets[:len(found)]
    assert len(found) > 2000 if damage == "cut" else len(found) == 5000
    assert len(warnings) == 1
    assert "gzip data" in warnings[0]


def test_gzip_members_follow_one_another(tmp_path: Path) -> None:
    packets = mixed([214, 60] * 200)
    data = pcap(packets)
    (tmp_path / "a.gz").write_bytes(b"".join(gzip.compress(data[i:i + 999]) for i in range(0, len(data), 999)) + bytes(512))
    assert read(tmp_path / "a.gz") == (packets, [])


def test_gzip_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A small file that becomes a large one is read piece by piece."""
    packets = mixed([60] * 100)
    with gzip.open(tmp_path / "a.gz", "wb") as out:
        out.write(section() + interface() + b"".join(enhanced(p.time_ns // 1000, p.data) for p in packets))
        for _ in range(40):
            out.write(block(10, bytes(1 << 20)))
        out.write(enhanced(packets[-1].time_ns // 1000, b"last"))
    with open_capture(tmp_path / "a.gz", chunk=65536) as file:
        batches = [(len(batch), batch.data.nbytes) for batch in file]
    assert sum(count for count, _ in batches) == 101
    assert max(size for _, size in batches) < 1 << 20
    assert not file.warnings


@pytest.mark.parametrize("size", [262145, 0x7FFFFFFF, 0xFFFFFFFF])
def test_absurd_length(tmp_path: Path, size: int) -> None:
    """What came before is kept; a length beyond anything is not waited for."""
    packets = mixed([60] * 10)
    data = pcap(packets)
    (tmp_path / "a").write_bytes(data + data[24:32] + size.to_bytes(4, "little") * 2 + bytes(1000))
    found, warnings = read(tmp_path / "a")
    assert found == packets
    assert warnings == [f"{tmp_path / 'a'}: record of {size:,} bytes; read up to packet 10, byte {len(data):,}"]


def test_length_far_beyond_the_snapshot_length(tmp_path: Path) -> None:
    """A little over it is how some writers are, 200 KB with a snapshot length of 96 is damage."""
    packets = mixed([60, 1514, 70_000])
    (tmp_path / "a").write_bytes(pcap(packets, snaplen=96))
    assert read(tmp_path / "a") == (packets, [])
    (tmp_path / "b").write_bytes(pcap(mixed([60, 200_000]), snaplen=96))
    found, warnings = read(tmp_path / "b")
    assert len(found) == 1
    assert "200,000" in warnings[0]


def test_packets_of_no_interface_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(section() + enhanced(1, b"x") + interface() + enhanced(1, b"x") + enhanced(1, b"x", number=1))
    found, warnings = read(tmp_path / "a")
    assert len(found) == 1
    assert warnings == [f"{tmp_path / 'a'}: 2 packets of interfaces that are not described are left out"]


def test_sections_that_keep_changing_byte_order_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes((section() + section(">")) * 10_000)
    found, warnings = read(tmp_path / "a")
    assert not found
    assert "byte order changed" in warnings[0]


def test_standard_input(tmp_path: Path) -> None:
    """A pipe is read as it comes."""
    data = pcap(mixed([214] * 3000))
    program = ("from rokuon.sniffer.pcap_file import open_capture\nf = open_capture('-')\n"
               "print(sum(map(len, f)), f.bytes_read, f.size, f.warnings)")
    for sent in (data, gzip.compress(data)):
        done = subprocess.run([sys.executable, "-c", program], input=sent, capture_output=True, check=True)
        assert done.stdout.decode() == f"3000 {len(sent)} None []\n"


def test_pipe_hands_on_what_came(tmp_path: Path) -> None:
    """Whoever writes slowly is not waited for until the buffer is full."""
    packets = mixed([214] * 20)
    data = pcap(packets)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    go_on = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(data[:24 + 230 * 5 + 100])
            go_on.wait(20)
            pipe.write(data[24 + 230 * 5 + 100:])

    writer = threading.Thread(target=write)
    writer.start()
    with open_capture(path) as file:
        counts = []
        for batch in file:
            counts.append(len(batch))
            go_on.set()
    writer.join()
    assert counts[0] == 5
    assert sum(counts) == 20


def test_progress(tmp_path: Path) -> None:
    """`bytes_read` runs up to `size`, of the file as it lies on disk."""
    data = pcap(mixed([214] * 3000))
    for name, content in (("a", data), ("a.gz", gzip.compress(data))):
        (tmp_path / name).write_bytes(content)
        with open_capture(tmp_path / name, chunk=65536) as file:
            steps = [file.bytes_read for _ in file]
        assert steps == sorted(steps)
        assert steps[-1] == file.size == len(content)
