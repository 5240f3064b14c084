"""The appliance's processes killed, again and again: `python bench/kills.py`, as root; exit status 1 where a call is hurt by it.

Calls begin and end all the time; meanwhile `kill -9` meets capture, correlate and the finalisers (the one with most to do) in
turn, at moments drawn by --seed. Whoever watches them starts them again: `rokuon record -i`, or, where that is killed too
(--role record), this bench. Then every call that was sent whole must be there, once, and of each of its streams at most 50
packets (a second) missing for each kill that fell into it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from appliance_run import Appliance, Json, processes, recorded_calls, sender_said, start_sender
from measure import machine, table, write_section
from tests.sniffer.wires import missing, own_network, wire

SECOND_PACKETS = 50
RETURN_S = 20.0
"""Within which a process that was killed must be there again."""
AFTER_US = 2_000_000
"""What a kill so long before a stream's first packet may still cost it: nobody captures until the process is there again."""


@dataclass
class Kill:
    """One of them."""

    role: str
    at_us: int
    away_s: float | None = None
    """Until a process of that role was there again."""


def victim(root: int, role: str) -> int | None:
    """A process of the role; of several the one that has used most CPU since it began."""
    found = [pid for pid, what in processes(root).items() if what == role]
    return max(found, key=lambda pid: (_spent(pid), -pid), default=None)


def _spent(pid: int) -> int:
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


class Killer:
    """Kills, and sees to it that there is an appliance."""

    def __init__(self, data: Path, jobs: int) -> None:
        self._data, self._options = data, ["--jobs", str(jobs)]
        self.appliance = Appliance(data, "far", *self._options)
        self.appliance.wait_ready()
        self.kills: list[Kill] = []
        self.said: list[str] = []

    def kill(self, role: str) -> None:
        """One process of this role."""
        pid = victim(self.appliance.process.pid, role)
        until = time.monotonic() + RETURN_S
        while pid is None and time.monotonic() < until:
            time.sleep(0.1)
            pid = victim(self.appliance.process.pid, role)
        if pid is None:
            status = self.appliance.process.poll()
            raise SystemExit(f"no process {role} within {RETURN_S:g} s (exit {status}): {self.appliance.said()}")
        before = set(processes(self.appliance.process.pid))
        os.kill(pid, signal.SIGKILL)
        kill = Kill(role, time.time_ns() // 1000)
        self.kills.append(kill)
        begun = time.monotonic()
        if role == "record":
            self._again(before - {pid})
        while time.monotonic() < begun + RETURN_S:
            now = processes(self.appliance.process.pid)
            if any(what == role and each not in before and each != pid for each, what in now.items()):
                kill.away_s = time.monotonic() - begun
                return
            time.sleep(0.01)

    def _again(self, orphans: set[int]) -> None:
        """As systemd would: when all processes of the unit are gone."""
        self.appliance.process.wait()
        self.said.append(self.appliance.said())
        until = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in orphans):
            if time.monotonic() > until:
                raise SystemExit("processes outlive the one that started them")
            time.sleep(0.02)
        self.appliance = Appliance(self._data, "far", *self._options)


def hurt(manifest: Json, calls: list[Json], kills: list[Kill]) -> tuple[list[str], dict[str, Any]]:
    """What must not be, a line each; and figures."""
    by_leg: dict[str, set[str]] = defaultdict(set)
    by_ssrc: dict[int, set[str]] = defaultdict(set)
    packets: Counter[int] = Counter()
    said = {call["id"]: call for call in calls}
    for call in calls:
        for leg in call["legs"]:
            by_leg[leg["call_id"]].add(call["id"])
        for stream in call["streams"]:
            by_ssrc[stream["ssrc"]].add(call["id"])
            packets[stream["ssrc"]] += stream["packets"]
    wrong: list[str] = []
    figures: dict[str, Any] = {"loss": [], "unsignalled": 0, "reasons": Counter(), "untouched": 0}
    for want in manifest["calls"]:
        who = want["call_id"]
        homes = by_leg[who].union(*(by_ssrc[s["ssrc"]] for s in want["streams"]))
        if not homes:
            wrong.append(f"{who}: missing")
            continue
        if len(homes) > 1:
            wrong.append(f"{who}: in {len(homes)} calls: "
                         + ", ".join(f"{c} ({said[c]['state']}, {said[c]['end_reason']})" for c in sorted(homes)))
        figures["unsignalled"] += not by_leg[who]
        figures["reasons"].update(str(said[home]["end_reason"]) for home in homes)
        for stream in want["streams"]:
            less = stream["unique"] - packets[stream["ssrc"]]
            near = [k for k in kills if stream["first_us"] - AFTER_US <= k.at_us <= stream["last_us"]]
            figures["untouched"] += less == 0
            figures["loss"].append((less, len(near), sum(k.role in ("capture", "record") for k in near)))
            if less > SECOND_PACKETS * len(near) or less < 0:
                wrong.append(f"{who} {stream['direction']}: {less} of {stream['unique']} packets missing after {len(near)} kills")
    for call in calls:
        if len({leg["call_id"] for leg in call["legs"]}) > 1:
            wrong.append(f"{call['id']}: holds several conversations")
    return wrong, figures


def rows(manifest: Json, calls: list[Json], kills: list[Kill], figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The table."""
    result = []
    for role in dict.fromkeys(kill.role for kill in kills):
        away = sorted(kill.away_s for kill in kills if kill.role == role and kill.away_s is not None)
        result.append((f"kill -9 of {role}", f"{sum(k.role == role for k in kills)}; another one within "
                       + (f"{away[len(away) // 2]:.2f} s, at most {away[-1]:.2f} s" if away else "–")))
    per_kill = [less / captures for less, _, captures in figures["loss"] if captures]
    without = [less for less, _, captures in figures["loss"] if not captures]
    return [*result, ("calls sent whole, recorded", f"{len(manifest['calls']):,}, {len(calls):,}"),
            ("streams, of which nothing is missing", f"{len(figures['loss']):,}, {figures['untouched']:,}"),
            ("packets missing of a stream for each kill of capture in it: mean, most",
             f"{sum(per_kill) / max(len(per_kill), 1):.1f}, {max(per_kill, default=0):.0f} (50 are a second)"),
            ("packets missing of all streams without such a kill", f"{sum(without):,}"),
            ("calls of which no SIP was captured", f"{figures['unsignalled']:,}"),
            ("ends of calls", ", ".join(f"{reason} {n:,}" for reason, n in figures["reasons"].most_common()))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--calls", type=int, default=40, help="at a time")
    parser.add_argument("--duration", type=float, default=12, help="seconds of talk of a call")
    parser.add_argument("--pause", type=float, nargs=2, default=(1.0, 4.0), metavar=("LEAST", "MOST"),
                        help="seconds between kills")
    parser.add_argument("--role", action="append", choices=("capture", "correlate", "workers", "record"),
                        help="whom to kill, in turn [capture, correlate, workers]")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="directory for data")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--keep", action="store_true", help="leave the data there")
    options = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    chance, roles = random.Random(options.seed), options.role or ["capture", "correlate", "workers"]
    pauses = [chance.uniform(*options.pause) for _ in range(options.kills)]
    work = Path(tempfile.mkdtemp(prefix="kills-", dir=options.work))
    wrong: list[str] = []
    sender: subprocess.Popen[str] | None = None
    killer: Killer | None = None
    try:
        with own_network():
            wire("near", "far")
            killer = Killer(work / "data", options.jobs)
            # Restarts take time as well: calls go on until the last kill, whenever that is, and are then ended.
            sender = start_sender("--calls", str(options.calls), "--duration", str(options.duration), "--ramp", "5", "--manifest",
                                  str(work / "manifest.json"), "--seconds", str(sum(pauses) + 1.5 * options.kills + 5),
                                  "--until", str(work / "enough"))
            time.sleep(6)
            for number, pause in enumerate(pauses):
                time.sleep(pause)
                killer.kill(roles[number % len(roles)])
            time.sleep(3)
            (work / "enough").touch()
            told = sender_said(sender)
            manifest = json.loads((work / "manifest.json").read_text())
            killer.appliance.wait_quiet(30)
            killer.said.append(killer.appliance.stop())
        calls = recorded_calls(work / "data")
        wrong, figures = hurt(manifest, calls, killer.kills)
        pace = "sent evenly" if told["kept_up"] else f"sent up to {told['latest_ms']:g} ms late"
        lines = [("calls at a time", f"{options.calls} of {options.duration:g} s, {pace}"),
                 *rows(manifest, calls, killer.kills, figures), ("calls hurt", f"{len(wrong):,}")]
        text = f"{machine()}\n\n{table(['what', 'measured'], lines)}"
        print(text)
        if options.write:
            write_section("wire-kills", text)
        for line in wrong[:20]:
            print(f"wrong: {line}", file=sys.stderr)
        (work / "said").write_text("\n\n".join(killer.said))
    finally:
        if killer is not None:
            killer.appliance.kill()
        if sender is not None and sender.poll() is None:
            sender.kill()
        if options.keep:
            print(f"data: {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
