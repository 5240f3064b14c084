"""The appliance for half an hour: `python bench/soak.py`, as root; samples to a CSV, curves to a PNG (docs/live.png).

Calls come and go; what its processes hold is looked at every five seconds. Flat means: what the last third of the time held in
the mean is not more than a few percent above the third before it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance_run import ROLES, Appliance, Sample, Watch, facts, recorded_calls, sender_said, start_sender, waits
from measure import ROOT, machine, table, write_section
from plot import Panel, write_png
from tests.sniffer.wires import missing, own_network, wire

COLUMNS: dict[str, Callable[[Sample], float]] = {
    "seconds": lambda s: s.at, "pss_mib": lambda s: s.pss_mib, "anonymous_mib": lambda s: s.anonymous_mib,
    "handles": lambda s: s.handles, "processes": lambda s: s.processes, "spool_mib": lambda s: s.spool_mib,
    "index_mib": lambda s: s.index_mib}


def cores(samples: Sequence[Sample], role: str) -> list[float]:
    """What processes of a role took between each sample and the one before it."""
    taken = [0.0]
    for before, after in pairwise(samples):
        taken.append(max(0.0, after.cpu.get(role, 0) - before.cpu.get(role, 0)) / max(after.at - before.at, 1e-3))
    return taken


def write_csv(path: Path, samples: Sequence[Sample]) -> None:
    roles = {role: cores(samples, role) for role in ROLES if any(role in s.cpu for s in samples)}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *(f"cores_{role}" for role in roles)])
        for n, sample in enumerate(samples):
            writer.writerow([*(f"{get(sample):.1f}" for get in COLUMNS.values()),
                             *(f"{taken[n]:.3f}" for taken in roles.values())])


def draw(path: Path, samples: Sequence[Sample], title: str) -> None:
    def column(name: str) -> list[float]:
        return [COLUMNS[name](s) for s in samples]

    write_png(path, column("seconds"), [
        Panel(f"{title}: memory, MiB", {"PSS of all": column("pss_mib"), "of that anonymous": column("anonymous_mib")}),
        Panel("file handles", {"": column("handles")}),
        Panel("spool, MiB", {"": column("spool_mib")}),
        Panel("index, MiB", {"": column("index_mib")}),
        Panel("cores", {role: cores(samples, role) for role in ROLES[:3]})])


def growth(samples: Sequence[Sample], begin: float, end: float, name: str) -> tuple[float, float]:
    """The mean of the middle and of the last third of the time at full number."""
    third = (end - begin) / 3
    parts = [[COLUMNS[name](s) for s in samples if begin + n * third <= s.at < begin + (n + 1) * third] for n in (1, 2)]
    return statistics.fmean(parts[0] or [0]), statistics.fmean(parts[1] or [0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--calls", type=int, default=300, help="at a time")
    parser.add_argument("--duration", type=float, default=60, help="seconds of talk of a call")
    parser.add_argument("--every", type=float, default=5, metavar="S")
    parser.add_argument("--png", type=Path, default=ROOT / "docs" / "live.png")
    parser.add_argument("--csv", type=Path, help="default: none")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--inject", action="store_true", help="see sender.py")
    parser.add_argument("--work", type=Path, help="directory for data (16 kB a second and call)")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    work = Path(tempfile.mkdtemp(prefix="soak-", dir=options.work))
    seconds, ramp = options.minutes * 60, 10.0
    try:
        with own_network():
            wire("near", "far")
            appliance = Appliance(work / "data", "far")
            try:
                appliance.wait_ready()
                watch = Watch(appliance.process.pid, appliance.data, options.every)
                sender = start_sender("--calls", str(options.calls), "--duration", str(options.duration), "--ramp", str(ramp),
                                      "--seconds", str(seconds), "--manifest", str(work / "manifest.json"),
                                      *(["--inject", "far"] if options.inject else []))
                said = sender_said(sender)
                manifest = json.loads((work / "manifest.json").read_text())
                appliance.wait_recorded(len(manifest["calls"]), 60)
                watch.close()
                word = appliance.stop()
            finally:
                appliance.kill()
        calls = recorded_calls(work / "data")
        judged = facts().against_manifest(manifest, calls, live=True)
        took = waits(work / "data", calls) or [0.0]
        samples = watch.samples
        rows = [("calls at a time", f"{options.calls} of {options.duration:g} s, {options.minutes:g} minutes"),
                ("packets sent, captured", f"{said['packets']:,}, "
                 + f"{sum(each['packets'] for state in appliance.state('capture-*.json') for each in state['interfaces']):,}"),
                ("calls sent, recorded; facts right", f"{len(manifest['calls']):,}, {len(calls):,}; "
                                                      f"{judged.right:,} of {judged.total:,}"),
                ("BYE to queryable, 50 %, 99 %, most", f"{took[len(took) // 2]:.2f} s, {took[len(took) * 99 // 100]:.2f} s, "
                                                       f"{took[-1]:.2f} s")]
        for name in ("pss_mib", "anonymous_mib", "handles", "spool_mib", "index_mib"):
            before, after = growth(samples, ramp, ramp + seconds, name)
            change = 100 * (after / before - 1) if before else 0.0
            rows.append((f"{name}: mean of the second and the last third", f"{before:,.1f}, {after:,.1f} ({change:+.1f} %)"))
        text = f"{machine()}\n\n{table(['what', 'measured'], rows)}"
        print(text)
        if options.write:
            write_section("wire-soak", text)
        for line in [*judged.wrong[:5], *word.splitlines()[:-1]]:
            print(line, file=sys.stderr)
        if options.csv:
            write_csv(options.csv, samples)
        draw(options.png, samples, f"{options.calls} calls of {options.duration:g} s")
        print(f"\n{options.png}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
