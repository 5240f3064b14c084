"""What the capture stage costs by kind of traffic: `python bench/capture.py`; needs ../shared/load/make_load.py.

Prints ns of CPU a packet for reading, for capture (headers, stream numbers, sorted runs), for handing runs to the spool
(writing included), and each kind's capture beside that of plain G.711.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from rokuon.sniffer.pcap_merge import open_captures
from rokuon.store.capture import Capture
from rokuon.store.memory import keep_pages
from rokuon.store.record_files import CHUNK
from rokuon.store.segments import SpoolWriter
from rokuon.store.spool import Source, Spool

MAKE_LOAD = Path(__file__).resolve().parents[2] / "shared" / "load" / "make_load.py"
LOADS = {
    "plain G.711": "--codec pcmu",
    "Opus": "--codec opus",
    "mixed sizes": "--mixed --ptime 30 --loss 0.01 --duplicate 0.02 --reorder 0.02 --jitter 8",
    "IPv6": "--ipv6 1.0",
    "IPv4 and IPv6": "--ipv6 0.5",
    "tagged": "--vlan 100",
}


def measure(capture: Path, directory: Path) -> tuple[int, float, float, float]:
    """Packets, and CPU seconds of reading, capture and spool."""
    stage, spool = Capture(), Spool(directory)
    writes = SpoolWriter(directory)
    mine = Source("", writes)
    reading = capturing = spooling = 0.0
    packets = 0
    before = time.process_time()
    writer = [t for t in threading.enumerate() if t.name == "spool-writer"][-1]
    source = iter(open_captures([capture], chunk=CHUNK))
    while True:
        begun = time.thread_time()
        batch = next(source, None)
        reading += time.thread_time() - begun
        if batch is None:
            break
        begun = time.thread_time()
        run = stage.process(batch)
        capturing += time.thread_time() - begun
        spool.append(run, mine)
        packets += len(batch)
    spool.settle()
    spooling = time.process_time() - before - reading - capturing
    writes.close()
    spool.close()
    assert not writer.is_alive()
    return packets, reading, capturing, spooling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if not MAKE_LOAD.exists():
        sys.exit(f"no load generator at {MAKE_LOAD}")
    keep_pages()
    print(f"{'traffic':16}{'packets':>10}{'read':>8}{'capture':>9}{'spool':>8}   capture beside plain")
    plain = 0.0
    with tempfile.TemporaryDirectory() as name:
        capture, directory = Path(name) / "load.pcap", Path(name)
        for title, load in LOADS.items():
            seconds = options.seconds * (4 if "--mixed" in load else 1)  # calls of other lengths, and unanswered ones
            command = [sys.executable, str(MAKE_LOAD), str(capture), *load.split(), "--calls", str(options.calls),
                       "--seconds", str(seconds)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            measure(capture, directory)
            results = sorted(measure(capture, directory) for _ in range(options.runs))
            packets = results[0][0]
            costs = [sorted(r[i] for r in results)[len(results) // 2] / packets * 1e9 for i in (1, 2, 3)]
            plain = plain or costs[1]
            row = f"{title:16}{packets:>10,}{costs[0]:>8.0f}{costs[1]:>9.0f}{costs[2]:>8.0f}"
            print(f"{row}   {costs[1] / plain:.2f} ×", flush=True)


if __name__ == "__main__":
    main()
