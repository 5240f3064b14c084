"""What advice costs the capture stage: `python bench/advice.py`; needs ../shared/load/make_load.py.

Prints ns of CPU a packet, the median of several passes over the same batches, and what advice adds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_merge import open_captures
from rokuon.store.advice import MOST, Action, Advice, Entry
from rokuon.store.capture import Capture
from rokuon.store.memory import keep_pages
from rokuon.store.record_files import CHUNK

MAKE_LOAD = Path(__file__).resolve().parents[2] / "shared" / "load" / "make_load.py"


def pass_ns(batches: Sequence[PacketBatch], advice: Advice | None) -> float:
    """CPU of one pass by a stage that knows no stream yet, ns a packet."""
    stage = Capture()
    stage.advice = advice
    begun = time.thread_time()
    for batch in batches:
        stage.process(batch)
    return (time.thread_time() - begun) / sum(map(len, batches)) * 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--codec", default="pcmu", help="pcmu: all packets of one size; opus: of many, as those of video")
    options = parser.parse_args()
    if not MAKE_LOAD.exists():
        sys.exit(f"no load generator at {MAKE_LOAD}")
    keep_pages()
    tenth, half = range(1, 2 * options.calls + 1, 10), range(1, 2 * options.calls + 1, 2)
    kinds: dict[str, Advice | None] = {
        "no advice": None,
        f"{MOST:,} other streams": Advice.of(1, [Entry(n, Action.HEADERS) for n in range(1_000_000, 1_000_000 + MOST)]),
        "a tenth looked at, none meant": Advice.of(1, [Entry(n, Action.HEADERS, 1 << 96) for n in tenth]),
        "a tenth, headers": Advice.of(1, [Entry(n, Action.HEADERS) for n in tenth]),
        "half, headers": Advice.of(1, [Entry(n, Action.HEADERS) for n in half]),
        "a tenth dropped": Advice.of(1, [Entry(n, Action.DROP) for n in tenth]),
    }
    with tempfile.TemporaryDirectory() as name:
        capture = Path(name) / "load.pcap"
        command = [sys.executable, str(MAKE_LOAD), str(capture), "--codec", options.codec, "--calls", str(options.calls),
                   "--seconds", str(options.seconds)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open_captures([str(capture)], chunk=CHUNK) as source:
            batches = [deepcopy(batch) for batch in source]  # a source uses its buffer again
        costs: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(options.runs + 1):
            for kind, advice in kinds.items():
                costs[kind].append(pass_ns(batches, advice))
    plain = statistics.median(costs["no advice"][1:])
    for kind, all_of_them in costs.items():
        cost = statistics.median(all_of_them[1:])
        print(f"{kind:32}{cost:8.0f}{cost - plain:+8.0f}")


if __name__ == "__main__":
    main()
