"""How fast capture files are read, beside cat, tcpdump and pcapy-ng, on the same files in the same run.

    python bench/reader.py [CAPTURE...] [--repeat N] [--write]

Without files, some are made. Packets per second of CPU time, reading from the page cache; medians, ranges in brackets.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
from offline import make

CODE = {
    "rokuon": "from rokuon.sniffer.pcap_file import open_capture\nwith open_capture(sys.argv[1]) as f:\n n = sum(map(len, f))",
    "rokuon, chunks of 1 MiB": "from rokuon.sniffer.pcap_file import open_capture\n"
                               "with open_capture(sys.argv[1], chunk=1 << 20) as f:\n n = sum(map(len, f))",
    "rokuon, merge of two halves": "from rokuon.sniffer.pcap_merge import open_captures\n"
                                   "n = sum(map(len, open_captures([sys.argv[1] + '.a', sys.argv[1] + '.b'])))",
    "pcapy-ng next_batch(4096)": "import pcapy\nr = pcapy.open_offline(sys.argv[1])\nn = 0\n"
                                 "while True:\n b = r.next_batch(4096)\n k = len(b[1]) >> 4 if b else 0\n n += k\n"
                                 " if not k:\n  break",
    "read alone": "n = 0\nb = bytearray(1 << 22)\nf = open(sys.argv[1], 'rb', buffering=0)\nwhile f.readinto(b):\n pass",
}
AROUND = """import sys, time
{imports}
def once():
    t = time.process_time()
    exec(code)
    return time.process_time() - t
code = compile({code!r}, "reader", "exec")
print(min(once() for _ in range(3)))
"""
IMPORTS = "import numpy, rokuon.sniffer.pcap_merge"


def inside(code: str) -> Callable[[Path], float]:
    """CPU seconds of a piece of Python on a file, the best of three in one process: without its start and first pages."""
    def run(path: Path) -> float:
        program = AROUND.format(imports=IMPORTS, code=code)
        return float(subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True).stdout)
    return run


def halves(path: Path) -> None:
    """Two files that overlap all along: every other packet."""
    program = ("import sys, struct\nd = open(sys.argv[1], 'rb').read()\na = 24\no = [[d[:24]], [d[:24]]]\nk = 0\n"
               "while a + 16 <= len(d):\n n = a + 16 + struct.unpack_from('<I', d, a + 8)[0]\n"
               " o[k & 1].append(d[a:n])\n a = n\n k += 1\n"
               "for w, p in zip('ab', o): open(sys.argv[1] + '.' + w, 'wb').write(b''.join(p))")
    subprocess.run([sys.executable, "-c", program, path], check=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("captures", nargs="*", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rokuon-bench-") as made:
        captures = list(args.captures)
        if not captures:
            for name, options in (("g711.pcap", "--calls 100 --seconds 90"),
                                  ("mixed.pcap", "--calls 200 --seconds 60 --codec opus --mixed --ipv6 0.25 --vlan 100")):
                captures.append(make(Path(made) / name, options))
            if shutil.which("editcap"):
                for path in list(captures):
                    subprocess.run(["editcap", "-F", "pcapng", path, path.with_suffix(".pcapng")], check=True)
                    captures.append(path.with_suffix(".pcapng"))
        readers: dict[str, Callable[[Path], float]] = {"cat >/dev/null": lambda path: measure.run(["cat", path]).cpu}
        if shutil.which("tcpdump"):
            readers["tcpdump -r -w /dev/null"] = lambda path: measure.run(["tcpdump", "-r", path, "-w", "/dev/null"]).cpu
        readers |= {name: inside(code) for name, code in CODE.items()}
        counts = [count(path) for path in captures]
        results: dict[tuple[str, int], list[float]] = {}
        for path in captures:
            measure.warm(path)
            if path.suffix == ".pcap" and not args.captures:
                halves(path)
        for _ in range(args.repeat):
            for name, reader in readers.items():
                for number, path in enumerate(captures):
                    if "halves" in name and not Path(f"{path}.a").exists():
                        continue
                    results.setdefault((name, number), []).append(counts[number] / max(reader(path), 1e-3) / 1e6)
    head = ["million packets per CPU second", *(path.name for path in captures)]
    rows = [[name, *(measure.spread(results[name, i]) if (name, i) in results else "–" for i in range(len(captures)))]
            for name in readers]
    rows.append(["packets", *(f"{each:,}" for each in counts)])
    text = f"{measure.machine()}\n\n{measure.table(head, rows)}"
    print(text)
    if args.write:
        measure.write_section("reader", text)


def count(path: Path) -> int:
    """Packets of a capture."""
    from rokuon.sniffer.pcap_file import open_capture  # noqa: PLC0415 - after the arguments are known to be right

    with open_capture(path) as file:
        return sum(map(len, file))


if __name__ == "__main__":
    begun = time.monotonic()
    main()
    print(f"\n{time.monotonic() - begun:.0f} s")
