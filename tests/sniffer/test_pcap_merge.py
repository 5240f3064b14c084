"""Several capture files are one capture in time order."""

from __future__ import annotations

import gzip
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.sniffer.captures import Packet, enhanced, interface, mixed, pcap, section

from rokuon.sniffer.pcap_file import CaptureError
from rokuon.sniffer.pcap_merge import MergedCaptures, open_captures

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def read(source: MergedCaptures) -> list[tuple[int, bytes]]:
    """Time and content of every packet."""
    found = []
    for batch in source:
        data = batch.data
        found += [(time, data[at:at + size].tobytes()) for time, at, size in zip(
            batch.time_ns.tolist(), batch.offset.tolist(), batch.captured_length.tolist(), strict=True)]
    return found


def facts(packets: list[Packet]) -> list[tuple[int, bytes]]:
    return [(p.time_ns, p.data) for p in packets]


@pytest.mark.parametrize("zipped", [False, True])
def test_ring_of_files_in_any_order(tmp_path: Path, zipped: bool) -> None:
    """A capture cut into many files is the capture."""
    packets = mixed([60, 214, 1514, 333] * 2500)
    paths = []
    for i in range(0, len(packets), 50):
        path = tmp_path / f"{i * 7919 % 10007}.pcap"
        data = pcap(packets[i:i + 50])
        path.write_bytes(gzip.compress(data, 1) if zipped else data)
        paths.append(path)
    with open_captures(sorted(paths), chunk=4096) as source:
        assert read(source) == facts(packets)
    assert not source.warnings
    assert source.bytes_read == source.size
    assert source.stats() == {"packets": 10_000, "bytes_read": source.size}


def test_against_mergecap(tmp_path: Path) -> None:
    """Files that overlap, of different formats, come out as Wireshark's mergecap writes them."""
    if not shutil.which("mergecap"):
        pytest.skip("mergecap is not installed")
    rng = np.random.default_rng(5)
    paths = []
    for number in range(5):
        times = START + np.sort(rng.integers(0, 3600 * SECOND // 1000, 4000)) * 1000 + number * 500 * SECOND
        packets = [Packet(int(time), bytes([number]) * int(size), int(size)) for time, size in zip(
            times, rng.integers(60, 1500, 4000), strict=True)]
        path = tmp_path / f"{number}.pcap"
        path.write_bytes(pcap(packets) if number % 2 else section() + interface() + b"".join(
            enhanced(p.time_ns // 1000, p.data) for p in packets))
        paths.append(path)
    subprocess.run(["mergecap", "-F", "pcap", "-w", tmp_path / "all.pcap", *paths], check=True)
    with open_captures([tmp_path / "all.pcap"]) as source:
        expected = read(source)
    with open_captures(paths, chunk=65536) as source:
        assert read(source) == expected
        assert len(expected) == 20_000


def test_same_time_keeps_the_order_of_files(tmp_path: Path) -> None:
    """Ties: the file that begins earlier first, else the one named first; whatever the size of chunks."""
    for name in "ab":
        (tmp_path / name).write_bytes(pcap([Packet(START + i // 100 * SECOND, name.encode() * 100, 100) for i in range(1000)]))
    expected = [(START + i * SECOND, name * 100) for i in range(10) for name in (b"b", b"a") for _ in range(100)]
    for chunk in (1024, 5000, 1 << 20):
        with open_captures([tmp_path / "b", tmp_path / "a"], chunk=chunk) as source:
            assert read(source) == expected


@pytest.mark.parametrize("chunk", [1024, 5000, 1 << 20])
def test_files_that_hold_the_same_packets(chunk: int, tmp_path: Path) -> None:
    """What several files hold at the same time comes once, and what one of them holds twice comes twice."""
    rng = np.random.default_rng(chunk)
    packets = [Packet(START + i // 3 * 1000, bytes([int(kind)]) * 80, 80) for i, kind in enumerate(rng.integers(0, 3, 3000))]
    packets[700:720] = [packets[700]] * 20
    for number, (begin, end) in enumerate(((0, 1500), (600, 2400), (900, 1200), (2000, 3000))):
        (tmp_path / str(number)).write_bytes(pcap(packets[begin:end]))
    with open_captures([tmp_path / str(number) for number in range(4)], chunk=chunk) as source:
        assert sorted(read(source)) == sorted(facts(packets))
        assert source.copies == 1500 + 1800 + 300 + 1000 - 3000
    with open_captures([tmp_path / "0"], chunk=chunk) as source:
        assert read(source) == facts(packets[:1500])


def test_directory(tmp_path: Path) -> None:
    """Its captures, by what they hold; the rest is named and left out."""
    packets = mixed([60] * 40)
    (tmp_path / "b.pcap").write_bytes(pcap(packets[:10]))
    (tmp_path / "a.dat").write_bytes(gzip.compress(pcap(packets[10:30])))
    (tmp_path / "notes.pcap").write_text("not a capture at all, whatever its name")
    (tmp_path / "empty.pcap").touch()
    for name in ("README.md", "notes.txt", "ring.py"):
        (tmp_path / name).write_text("nothing to record here, move along")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.pcap").write_bytes(pcap(packets[30:]))
    with open_captures([tmp_path, tmp_path / "b.pcap"]) as source:
        assert read(source) == facts(packets[:30])
    assert len(source.warnings) == 3
    assert source.warnings[-1] == f"{tmp_path}: 3 files are no captures (README.md …); skipped"
    assert all(line.endswith("; skipped") for line in source.warnings)


def test_directory_without_captures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to record here, move along")
    with pytest.raises(CaptureError, match="no capture in this directory"):
        open_captures([tmp_path])


def test_one_that_cannot_be_read_is_known_at_once(tmp_path: Path) -> None:
    """Missing, empty or no capture: before any packet of the others is given out."""
    (tmp_path / "a.pcap").write_bytes(pcap(mixed([60] * 10)))
    (tmp_path / "b.pcap").write_bytes(b"")
    for bad in ("b.pcap", "none.pcap"):
        with pytest.raises(CaptureError, match=bad):
            open_captures([tmp_path / "a.pcap", tmp_path / bad])


def test_damage_in_the_middle_is_a_warning(tmp_path: Path) -> None:
    """The file that is cut short gives what it has, the others all of theirs; a capture without packets does no harm."""
    packets = mixed([214] * 300)
    (tmp_path / "a").write_bytes(pcap(packets[:100])[:-1])
    (tmp_path / "b").write_bytes(pcap(packets[100:200]))
    (tmp_path / "c").write_bytes(pcap(packets[200:])[:30])
    with open_captures([tmp_path / "c", tmp_path / "b", tmp_path / "a"]) as source:
        assert read(source) == facts(packets[:99] + packets[100:200])
    assert len(source.warnings) == 2
    assert any("read up to packet 99," in line for line in source.warnings)


def test_file_that_vanishes_is_a_warning(tmp_path: Path) -> None:
    packets = mixed([214] * 30)
    for i in range(3):
        (tmp_path / f"{i}").write_bytes(pcap(packets[i * 10:i * 10 + 10]))
    with open_captures([tmp_path / f"{i}" for i in range(3)]) as source:
        (tmp_path / "1").unlink()
        assert read(source) == facts(packets[:10] + packets[20:])
    assert source.warnings == [f"{tmp_path / '1'}: No such file or directory"]


def test_times_that_go_backwards_stay_where_they_are(tmp_path: Path) -> None:
    """A file's own order is never changed; others are merged by the latest time it has reached."""
    def at(name: bytes, *seconds: int) -> list[Packet]:
        return [Packet(START + second * SECOND, name + bytes([second]), 2) for second in seconds]

    (tmp_path / "a").write_bytes(pcap(at(b"a", 1, 9, 3, 4, 12)))
    (tmp_path / "b").write_bytes(pcap(at(b"b", 2, 8, 10)))
    with open_captures([tmp_path / "b", tmp_path / "a"]) as source:
        order = [(data[:1], data[1]) for _, data in read(source)]
    assert order == [(b"a", 1), (b"b", 2), (b"b", 8), (b"a", 9), (b"a", 3), (b"a", 4), (b"b", 10), (b"a", 12)]


def test_hundreds_of_files_that_all_overlap(tmp_path: Path) -> None:
    """Neither descriptors nor memory run out."""
    count = 300
    for number in range(count):
        packets = [Packet(START + i * SECOND + number * 1000, bytes([number & 255]) * 400, 400) for i in range(300)]
        (tmp_path / f"{number}.pcap").write_bytes(pcap(packets))
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))
from rokuon.sniffer.pcap_merge import open_captures
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
last = total = 0
for batch in open_captures([{str(tmp_path)!r}]):
    assert batch.time_ns[0] >= last
    assert (batch.time_ns[1:] >= batch.time_ns[:-1]).all()
    last = batch.time_ns[-1]
    total += len(batch)
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    total, grown = map(int, done.stdout.split())
    assert total == count * 300
    assert grown < 150
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 96


def test_standard_input_beside_files(tmp_path: Path) -> None:
    """A pipe is merged like a file."""
    packets = mixed([214] * 3000)
    (tmp_path / "odd").write_bytes(pcap(packets[1::2]))
    program = f"""
from rokuon.sniffer.pcap_merge import open_captures
last = total = 0
with open_captures([{str(tmp_path / "odd")!r}, "-", "-"]) as source:
    for batch in source:
        assert batch.time_ns[0] >= last and (batch.time_ns[1:] >= batch.time_ns[:-1]).all()
        last = batch.time_ns[-1]
        total += len(batch)
print(total, source.size, source.warnings)
"""
    done = subprocess.run([sys.executable, "-c", program], input=pcap(packets[::2]), capture_output=True, check=True)
    assert done.stdout.decode() == "3000 None []\n"
