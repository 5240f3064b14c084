"""What the appliance holds: `python bench/appliance.py --calls 300 --seconds 60`, as root; prints a table.

`rokuon record -i` listens at one end of a wire in a network namespace of the bench's own, bench/sender.py sends into the other,
on the same processors; then the calls are held against the sender's manifest. Beside it, with --peer, `tcpdump -w` on the same
traffic. The end of a run is waited for: what was still to be recorded then, and for how long, is told.

    --flood sip:20000:20:10     20,000 SIP messages a second from second 20 to 30, beside the calls (see sender.py)
    --freeze 5                  the disk (ext4 on a loop device, made for this) is frozen for so many seconds in mid-run
    --inject                    the sender puts RTP where a card's driver would: leaves more of the processors to the appliance
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance_run import (
    Appliance,
    Watch,
    facts,
    freeze,
    missing_packets,
    of_flood,
    own_disk,
    read_json,
    recorded_calls,
    sender_said,
    start_sender,
    waits,
)
from measure import machine, table, write_section
from tests.sniffer.wires import missing, own_network, wire

SHOWN = 5
"""Wrong facts."""


def sender_options(options: argparse.Namespace, manifest: Path) -> list[str]:
    return ["--calls", str(options.calls), "--duration", str(options.duration_of_calls), "--seconds", str(options.seconds),
            "--ramp", str(options.ramp), "--seed", str(options.seed), "--nice", str(options.nice), "--manifest", str(manifest),
            *(word for flood in options.flood for word in ("--flood", flood)), *(["--inject", "far"] if options.inject else [])]


def ours(options: argparse.Namespace, work: Path) -> list[tuple[str, str]]:
    """What came of one run, line by line."""
    manifest = work / "manifest.json"
    with ExitStack() as stack:
        disk = stack.enter_context(own_disk(work / "disk.img", work / "disk", options.disk)) if options.freeze else work
        appliance = Appliance(disk / "data", "far", *(["--jobs", str(options.jobs)] if options.jobs else []))
        stack.callback(appliance.kill)
        appliance.wait_ready()
        watch = Watch(appliance.process.pid, appliance.data)
        time.sleep(options.idle)
        start = watch.now()
        sender = start_sender(*sender_options(options, manifest))
        frozen = freeze(disk, options.ramp + options.seconds / 2, options.freeze) if options.freeze else None
        said = sender_said(sender)
        if frozen:
            frozen.join()
        sent = json.loads(manifest.read_text())
        late_s = appliance.wait_recorded(len(sent["calls"]), options.patience)
        watch.close()
        word = appliance.stop()
        rows = [*sender_told(options, said), *capture_told(appliance, said)]
        rows += calls_told(appliance, sent, late_s)
        rows += taken(watch, start + options.ramp, start + options.ramp + options.seconds, start if options.idle else 0)
        print(word, file=sys.stderr)
        return rows


def sender_told(options: argparse.Namespace, said: dict[str, Any]) -> list[tuple[str, str]]:
    pace = "kept up" if said["kept_up"] else f"{said['late_ticks']:,} ticks of 2 ms late, by up to {said['latest_ms']:,} ms"
    cpu = (said["cpu_user_s"] + said["cpu_system_s"]) / said["seconds"]
    return [("calls at a time", f"{options.calls:,} of {options.duration_of_calls:g} s, for {options.seconds:g} s"),
            ("packets sent", f"{said['packets']:,} (RTP {said['rtp']:,}, SIP {said['messages']:,}, "
                             f"flood {sum(said['floods'].values()):,})"),
            ("sender's pace", pace), ("sender, cores in the mean", f"{cpu:.2f} ({said['cpu_us_a_packet']:g} µs a packet)")]


def capture_told(appliance: Appliance, said: dict[str, Any]) -> list[tuple[str, str]]:
    states = appliance.state("capture-*.json")
    interfaces = [each for state in states for each in state["interfaces"]]
    received = sum(each["packets"] for each in interfaces)
    lost = {reason: n for state in states for reason, n in state["not_written"].items() if n}
    return [("packets captured", f"{received:,} ({received - said['packets']:+,} to those sent)"),
            ("dropped by the kernel, by the interface", f"{sum(each['dropped_by_kernel'] for each in interfaces):,}, "
                                                        f"{sum(each['dropped_by_interface'] for each in interfaces):,}"),
            ("captured and not written", ", ".join(f"{reason} {n:,}" for reason, n in lost.items()) or "0")]


def calls_told(appliance: Appliance, sent: dict[str, Any], late_s: float | None) -> list[tuple[str, str]]:
    everything = recorded_calls(appliance.data)
    calls = [call for call in everything if not of_flood(call)]
    judged = facts().against_manifest(sent, calls, live=True)
    gone, touched, packets = missing_packets(sent, calls)
    for wrong in judged.wrong[:SHOWN]:
        print(f"wrong: {wrong}", file=sys.stderr)
    took = waits(appliance.data, calls)
    found = ", ".join(f"{took[min(len(took) - 1, len(took) * share // 100)]:.2f} s" for share in (50, 99, 100)) if took else "–"
    correlate = read_json(appliance.data / "state" / "correlate.json") or {}
    not_recorded = (correlate.get("totals") or {}).get("not_recorded") or {}
    return [("calls sent whole, recorded", f"{len(sent['calls']):,}, {len(calls):,}"
             + (f" (and {len(everything) - len(calls):,} of the flood)" if len(everything) > len(calls) else "")),
            ("calls missing, incomplete; packets missing", f"{gone:,}, {touched:,}; {packets:,}"),
            ("facts right", f"{judged.right:,} of {judged.total:,}"),
            ("BYE to queryable, 50 %, 99 %, most", found),
            ("all was recorded", "only when recording was ended, which waits for the rest" if late_s is None
             else f"{late_s:.1f} s after the sender's end"),
            ("not recorded, by reason", ", ".join(f"{reason} {n:,}" for reason, n in not_recorded.items()) or "–")]


def taken(watch: Watch, begin: float, end: float, idle_until: float) -> list[tuple[str, str]]:
    cpu, samples = watch.spent(begin, end), watch.samples
    idle = watch.spent(3, idle_until) if idle_until else {}
    return [*([("idle before that, of a core", f"{100 * sum(idle.values()):.2f} %")] if idle else []),
            ("cores at full number: " + ", ".join(cpu), ", ".join(f"{share:.2f}" for share in cpu.values())),
            ("cores, all processes of rokuon", f"{sum(cpu.values()):.2f}"),
            ("memory of all, most (PSS; anonymous)", f"{max(s.pss_mib for s in samples):.0f} MiB; "
                                                     f"{max(s.anonymous_mib for s in samples):.0f} MiB"),
            ("spool, most", f"{max(s.spool_mib for s in samples):,.0f} MiB")]


def tcpdump(options: argparse.Namespace, work: Path) -> list[tuple[str, str]]:
    """The same traffic written to one file by tcpdump."""
    capture = work / "peer.pcap"
    peer = subprocess.Popen(["tcpdump", "-i", "far", "-n", "-s", "65535", "-B", str(64 << 10), "-Z", "root", "-w", capture],
                            stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    said = sender_said(start_sender(*sender_options(options, work / "peer.json")))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    time.sleep(1)
    peer.send_signal(2)
    words = peer.communicate()[1]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    capture.unlink(missing_ok=True)
    numbers = {text: int(number) for number, text in re.findall(r"^(\d+) packets (.*)$", words, re.MULTILINE)}
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [("tcpdump -w: sent, captured, dropped by the kernel",
             f"{said['packets']:,}, {numbers.get('captured', 0):,}, {numbers.get('dropped by kernel', 0):,}"),
            ("tcpdump -w: cores in the mean", f"{spent / said['seconds']:.2f}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="at a time")
    parser.add_argument("--seconds", type=float, default=60, help="at full number")
    parser.add_argument("--duration-of-calls", type=float, default=90)
    parser.add_argument("--ramp", type=float, default=10, help="seconds within which the first calls begin and the last ones end")
    parser.add_argument("--flood", action="append", default=[], metavar="KIND:RATE[:START:SECONDS]")
    parser.add_argument("--freeze", type=float, default=0, metavar="S")
    parser.add_argument("--disk", type=float, default=8, metavar="GIB", help="size of the disk that is frozen")
    parser.add_argument("--idle", type=float, default=0, metavar="S", help="measure it idle for so long before")
    parser.add_argument("--inject", action="store_true")
    parser.add_argument("--nice", type=int, default=0, help="of the sender")
    parser.add_argument("--jobs", type=int, default=0, help="of rokuon; 0: as it likes")
    parser.add_argument("--peer", action="store_true", help="tcpdump after that, on the same traffic")
    parser.add_argument("--patience", type=float, default=120, metavar="S", help="wait so long for what is to be recorded")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="directory for data (16 kB a second and call)")
    parser.add_argument("--write", metavar="NAME", choices=("300", "2000", "5000", "5250", "sip", "ssrc", "ssrc-flows", "frozen"),
                        help="put the table into that section of docs/performance.md")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    work = Path(tempfile.mkdtemp(prefix="appliance-", dir=options.work))
    need = options.calls * (options.seconds + 2 * options.ramp) * 16_000 * (2 if options.peer else 1.2)
    if not options.freeze and shutil.disk_usage(work).free < need:
        sys.exit(f"{work}: {need / 1e9:.0f} GB are needed")
    try:
        with own_network():
            wire("near", "far")
            rows = ours(options, work)
            if options.peer:
                rows += tcpdump(options, work)
        text = f"{machine()}\n\n{table(['what', 'measured'], rows)}"
        print(text)
        if options.write:
            write_section(f"wire-{options.write}", text)
    finally:
        if options.keep:
            print(f"data: {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
