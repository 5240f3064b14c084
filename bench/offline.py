"""What it costs to record captures, beside tcpdump, tshark and sngrep, on the same files in the same run.

    python bench/offline.py [--quick] [--only NAME,...] [--capture FILE...] [--rokuon COMMAND] [--jobs 1,2] [--repeat N] [--write]

Loads come from ../shared/load/make_load.py where it is there, else from bench/calls.py (G.711 only). Each is read into the
page cache first; recordings are written to the directory of --work (default: where temporary files go) and thrown away.
CPU seconds are user and system time of a command with all its children; "of tcpdump" is that of `rokuon record -r FILE`
divided by that of `tcpdump -r FILE -w OTHER`, the figure that docs/performance.md promises.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import measure

MAKE_LOAD = measure.ROOT.parent / "shared" / "load" / "make_load.py"
LOADS = {
    "pcmu 300 × 90 s": "--calls 300 --seconds 90",
    "pcmu 30 × 90 s": "--calls 30 --seconds 90",
    "pcmu 300 × 10 s": "--calls 300 --seconds 10",
    "pcmu 3,000 × 10 s": "--calls 3000 --seconds 10 --spread 60",
    "pcmu 10 ms": "--calls 100 --seconds 90 --ptime 10",
    "pcmu 30 ms": "--calls 100 --seconds 90 --ptime 30",
    "pcma 100 × 90 s": "--calls 100 --seconds 90 --codec pcma",
    "g722 100 × 90 s": "--calls 100 --seconds 90 --codec g722",
    "opus 100 × 90 s": "--calls 100 --seconds 90 --codec opus",
    "pcmu mixed, IPv6, VLAN": "--calls 100 --seconds 90 --mixed --loss 0.01 --reorder 0.02 --ipv6 0.25 --vlan 100",
    "opus mixed, IPv6, VLAN": "--calls 100 --seconds 90 --codec opus --mixed --loss 0.01 --ipv6 0.25 --vlan 100",
    "two legs": "--calls 50 --seconds 90 --legs 2 --mixed",
}
QUICK = {
    "pcmu 50 × 60 s": "--calls 50 --seconds 60",
    "pcmu 200 × 10 s": "--calls 200 --seconds 10",
    "pcmu mixed, IPv6, VLAN": "--calls 20 --seconds 30 --mixed --loss 0.01 --ipv6 0.25 --vlan 100",
}
SLOW = 400_000
"""Packets beyond which peers that take 50 µs each are left out, unless --all."""


@dataclass
class Result:
    """One command on one capture."""

    name: str
    costs: list[measure.Cost]

    @property
    def cost(self) -> measure.Cost:
        """The middle one of the runs."""
        return measure.middle(self.costs)


def make(path: Path, options: str) -> Path:
    """A capture of calls as `options` of make_load.py say, at `path`."""
    if MAKE_LOAD.exists():
        command = [MAKE_LOAD, path, *shlex.split(options)]
    else:
        words = shlex.split(options)
        plain = {word: words[i + 1] for i, word in enumerate(words) if word in {"--calls", "--seconds", "--ptime", "--spread"}}
        command = [measure.ROOT / "bench" / "calls.py", path, *(word for pair in plain.items() for word in pair)]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return path


def packets_of(path: Path) -> int:
    """How many packets a capture has."""
    program = ("import sys\nfrom rokuon.sniffer.pcap_file import open_capture\n"
               "with open_capture(sys.argv[1]) as f:\n print(sum(map(len, f)))")
    return int(subprocess.run([sys.executable, "-c", program, path], capture_output=True, check=True).stdout)


def peers(path: Path, packets: int, work: Path, everything: bool) -> dict[str, list[str | Path]]:
    """Commands that read the same file, of those that are installed."""
    commands: dict[str, list[str | Path]] = {"tcpdump": ["tcpdump", "-r", path, "-w", work / "copy.pcap"]}
    if packets <= SLOW or everything:
        commands["tshark rtp,streams"] = ["tshark", "-n", "-q", "-r", path, "-z", "rtp,streams"]
    commands["sngrep"] = ["sngrep", "-N", "-q", "-I", path]  # signalling only; ends with the file
    return {name: command for name, command in commands.items() if shutil.which(str(command[0]))}


def measure_one(path: Path, packets: int, args: argparse.Namespace, work: Path) -> list[Result]:
    """All commands on one capture, in turns, so that a change of the machine's mood meets each of them."""
    commands = peers(path, packets, work, args.all)
    for jobs in args.jobs:
        data = work / "data"
        commands[f"rokuon --jobs {jobs}"] = [*args.rokuon, "--data", data, "record", "-r", path, "--jobs", str(jobs)]
    results = {name: Result(name, []) for name in commands}
    for _ in range(args.repeat):
        for name, command in commands.items():
            shutil.rmtree(work / "data", ignore_errors=True)
            (work / "copy.pcap").unlink(missing_ok=True)
            results[name].costs.append(measure.run(command, args.limit))
    return list(results.values())


def rows_of(name: str, packets: int, calls: int | None, results: Sequence[Result]) -> list[list[str]]:
    """A row for each command."""
    base = next((result.cost.cpu for result in results if result.name == "tcpdump"), None)
    rows = []
    for result in results:
        cost = result.cost
        if cost.status:
            rows.append([name, result.name, f"failed ({cost.status}): {cost.said[:60]}", *[""] * 6])
            continue
        records = calls is not None and result.name.startswith("rokuon")
        rows.append([name, result.name, measure.spread([each.cpu for each in result.costs]), f"{cost.cpu / packets * 1e9:,.0f}",
                     f"{packets / cost.cpu:,.0f}", f"{cost.cpu / base:.2f}" if base else "",
                     f"{(calls or 0) / cost.cpu:,.0f}" if records else "", f"{cost.wall:.2f}",
                     f"{cost.peak_mib:,.0f}" if cost.peak_mib else ""])
        name = ""
    return rows


HEAD = ["capture", "command", "CPU s", "ns a packet", "packets a CPU s", "of tcpdump", "calls a CPU s", "wall s", "peak MiB"]


def marginal(results: dict[str, tuple[int, list[Result]]]) -> list[str]:
    """What a further packet costs once a command has started: from the same calls, few and many."""
    small, large = results.get("pcmu 30 × 90 s"), results.get("pcmu 300 × 90 s")
    if not small or not large:
        return []
    few = {result.name: result.cost for result in small[1]}
    lines = []
    for result in large[1]:
        cost, less = result.cost, few.get(result.name)
        if less and not cost.status and not less.status:
            lines.append((result.name, (cost.cpu - less.cpu) / (large[0] - small[0]) * 1e9))
    base = dict(lines).get("tcpdump")
    return [f"- {name}: {cost:,.0f} ns a further packet" + (f", {cost / base:.2f} of tcpdump's" if base else "")
            for name, cost in lines]


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small loads, one run each: less than a minute")
    parser.add_argument("--only", default="", help="loads whose name contains one of these words, separated by commas")
    parser.add_argument("--capture", nargs="*", type=Path, default=[], help="these captures instead of loads")
    parser.add_argument("--rokuon", default=str(Path(sys.executable).parent / "rokuon"), help="the command to measure")
    parser.add_argument("--jobs", default="1,2", help="processes to record with, separated by commas")
    parser.add_argument("--repeat", type=int, default=0, help="runs of each command (3, with --quick 1)")
    parser.add_argument("--work", type=Path, help="where to write")
    parser.add_argument("--limit", type=float, default=1800, help="seconds a command may take")
    parser.add_argument("--all", action="store_true", help="slow peers on large captures too")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    args.rokuon = shlex.split(args.rokuon)
    args.jobs = [int(each) for each in args.jobs.split(",")]
    args.repeat = args.repeat or (1 if args.quick else 3)
    return args


def main() -> int:
    """Measure and print; 1 if a command of rokuon failed."""
    args = arguments()
    chosen = {path.name: path for path in args.capture} or {
        name: options for name, options in (QUICK if args.quick else LOADS).items()
        if not args.only or any(word in name for word in args.only.split(","))}
    results: dict[str, tuple[int, list[Result]]] = {}
    rows: list[list[str]] = []
    print(measure.machine(), flush=True)
    for name, what in chosen.items():
        with tempfile.TemporaryDirectory(prefix="rokuon-bench-", dir=args.work) as where:
            work = Path(where)
            path = what if isinstance(what, Path) else make(work / "load.pcap", what)
            measure.warm(path)
            packets = packets_of(path)
            results[name] = packets, measure_one(path, packets, args, work)
            calls = None if isinstance(what, Path) else int(shlex.split(what)[1])
            found = rows_of(f"{name}, {packets:,}", packets, calls, results[name][1])
            print("\n" + measure.table(HEAD, found), flush=True)
            rows += found
    further = marginal(results)
    head = f"{measure.machine()}; {args.repeat} run{'s' if args.repeat > 1 else ''} each"
    text = "\n".join([head, "", measure.table(HEAD, rows), *([""] if further else []), *further])
    if further:
        print("\n" + "\n".join(further))
    if args.write:
        measure.write_section("offline", text)
    return int(any(each.cost.status for _, found in results.values() for each in found if each.name.startswith("rokuon")))


if __name__ == "__main__":
    begun = time.monotonic()
    code = main()
    print(f"\n{time.monotonic() - begun:.0f} s")
    sys.exit(code)
