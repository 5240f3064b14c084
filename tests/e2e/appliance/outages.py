"""Steps that break the appliance in the middle of calls: restart, kill -9, reboot, power loss, upgrade."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.e2e.appliance.machine import Broken
from tests.e2e.appliance.run import CAPTURE, CORRELATE, METRICS, Appliance, brief, last
from tests.e2e.appliance.traffic import Load, Sender, judge
from tests.e2e.wire import Phone

Json = dict[str, Any]

CALLS = 10
AT_S = 7.0  # when it happens, in seconds since the first packet
APT = ("apt-get", "install", "--yes", "-o", "Dpkg::Options::=--force-confold")
LOST_S = 1.0  # of audio at most, where a process or the power goes


def through(box: Appliance, name: str, event: Callable[[], str], *, may_miss_s: float | Callable[[], float], talk_s: float = 18.0,
            quiet: bool = False, gap: bool = False) -> Load:
    """Calls, in the middle of which something happens; what became of them is a finding.

    Ten talk through it, three end just before it, three begin well after it. `may_miss_s`: what of a direction may be missing.
    `quiet`: nothing may be missing, nor may the calls that end or begin meanwhile. `gap`: what is missing has to be told.
    """
    load = box.load().add(CALLS, 0, talk_s).add(3, 0.5, AT_S - 1.2).add(3, talk_s - 6, 5)
    before = box.restarts()
    with Sender(box.machine.outside, load.packets()) as sender:
        time.sleep(AT_S)
        told = event()
        sender.join()
    miss = may_miss_s() if callable(may_miss_s) else may_miss_s
    said = box.judge(load, may_miss_s=miss)
    if quiet and said.missing:
        said.wrong.append(f"{said.missing} packets missing")
    away = f", the wire was away from {sender.first_lost:.1f} to {sender.last_lost:.1f} s" if sender.lost else ""
    restarts = f"restarts {'/'.join(before.values())} > {'/'.join(box.restarts().values())}"
    box.found(not said.wrong, name, f"{told}{away}; {said}, {miss:.2f} s may be; {restarts} {brief(said.wrong)}".rstrip())
    if gap and said.missing:
        tell_gap(box, load, name)
    return load


def tell_gap(box: Appliance, load: Load, name: str) -> None:
    """Whether the calls that lack packets say that they were not captured."""
    ids = {phone.call_id.decode() for phone in load.calls[:CALLS]}
    calls = [call for call in box.calls() if ids & {leg["call_id"] for leg in call["legs"]}]
    telling = [call for call in calls if call["recorder"].get("not_captured")]
    told = telling[0]["recorder"]["not_captured"] if telling else "nothing"
    box.found(len(telling) == len(calls) and calls, f"{name}, told",
              f"{len(telling)} of {len(calls)} calls list what was not captured: {told}")


def restart(box: Appliance) -> None:
    """As after a change of settings: SIGTERM, and the next start goes on."""
    took = [0.0]

    def both() -> str:
        begun = time.monotonic()
        done = box.machine.ask("systemctl", "restart", CAPTURE, CORRELATE)
        waited = box.capturing()
        took[0] = time.monotonic() - begun
        if done.returncode or waited < 0:
            raise Broken(f"restart: {last(done.stderr)} {box.active(1)}")
        return f"capturing again after {took[0]:.1f} s"
    through(box, "restart", both, may_miss_s=lambda: took[0] + 0.1, gap=True)

    def correlate() -> str:
        box.machine.ask("systemctl", "restart", CORRELATE)
        return "of correlate alone"
    through(box, "restart correlate", correlate, may_miss_s=0, quiet=True)


def kill(box: Appliance) -> None:
    """Kill -9 of each process in turn."""
    def main(unit: str) -> Callable[[], str]:
        def now() -> str:
            pid = box.main_pid(unit)
            if not pid:
                raise Broken(f"{unit} has no process: {box.machine.journal(unit)}")
            begun = time.monotonic()
            box.machine.run("kill", "-9", pid)
            back = box.wait(lambda: box.main_pid(unit) not in (0, pid) and not box.active(0, (unit,)), 30, 0.05)
            if not back:
                raise Broken(f"{unit} was not started again: {box.machine.journal(unit)}")
            return f"{unit} is back after {time.monotonic() - begun:.1f} s"
        return now

    def worker() -> str:
        parent = box.main_pid(CORRELATE)
        children = box.machine.run("ps", "-o", "pid=", "--ppid", parent, check=False).split()
        if not children:
            return "no worker to be seen"
        box.machine.run("kill", "-9", *children)
        return f"{len(children)} workers of {CORRELATE}"
    for name, event, miss in (("capture", main(CAPTURE), LOST_S), ("correlate", main(CORRELATE), 0.0), ("worker", worker, 0.0),
                              ("metrics", main(METRICS), 0.0)):
        try:
            through(box, f"kill -9 {name}", event, may_miss_s=miss, quiet=not miss, gap=bool(miss))
        except Broken as e:
            box.found(False, f"kill -9 {name}", e)


def kills(box: Appliance) -> None:
    """Kill -9 again and again, at any moment, of each process in turn; ten calls talk through all of it, others come and go."""
    chance = random.Random(5)
    targets = (CAPTURE, CORRELATE, "worker")
    moments = [6 + n * 5 + chance.uniform(0, 4) for n in range(box.kills)]
    lasting = 6 + box.kills * 5 + 8
    load = box.load().add(CALLS, 0, lasting)
    for n in range(round(lasting) - 8):
        load.add(1, n + 0.4, 7)
    packets = load.packets()
    before, started = box.restarts(), time.time()
    with Sender(box.machine.outside, packets) as sender:
        for n, moment in enumerate(moments):
            time.sleep(max(0, started + moment - time.time()))
            target = targets[n % len(targets)]
            if target == "worker":
                pids = box.machine.run("ps", "-o", "pid=", "--ppid", box.main_pid(CORRELATE), check=False).split()
            else:
                pids = [str(box.main_pid(target))]
            box.machine.ask("kill", "-9", *(pid for pid in pids if pid != "0"))
        sender.join()
    box.wait_calls((phone.call_id.decode() for phone in load.calls[:CALLS]), 60)
    time.sleep(5)
    calls = box.calls()
    mine = {phone.call_id.decode() for phone in load.calls}
    spans = gaps([call for call in calls if mine & {leg["call_id"] for leg in call["legs"]}])
    shift = started - packets[0].time_ns / 1e9

    def cut(phone: Phone) -> bool:
        """Whether signalling of the call fell into a time without capture."""
        begins = phone.start_ns / 1e9 + shift
        moments = [begins, begins + 0.1, begins + phone.seconds, begins + phone.seconds + 0.1]
        return any(since - 0.3 < moment < until + 0.3 for since, until in spans for moment in moments)
    spared = Load(calls=[phone for phone in load.calls if not cut(phone)], first=load.first)
    captures = len(moments[::len(targets)])
    said = judge(spared, calls, may_miss_s=captures * LOST_S)
    longest = max((until - since for since, until in spans), default=0.0)
    told = sum(until - since for since, until in spans)
    right = not said.wrong and longest <= LOST_S and said.longest_missing_s <= told + 0.1 * captures
    after = box.restarts()
    box.note("kills", json.dumps({"started": started, "moments": moments, "wrong": said.wrong, "calls": calls}))
    box.found(right, "kill -9, again and again", f"{box.kills} times in {moments[-1]:.0f} s, {captures} of them capture: "
              f"{said}, {len(load.calls) - len(spared.calls)} more began or ended unseen; {len(spans)} times without capture, "
              f"the longest {longest:.2f} s, in all {told:.2f} s; "
              f"restarts {'/'.join(before.values())} > {'/'.join(after.values())} {brief(said.wrong)}".rstrip())


def gaps(calls: Sequence[Json]) -> list[tuple[float, float]]:
    """From when to when nothing was captured, as the calls tell; each once."""
    told = {(gap["start"], gap["end"]) for call in calls for gap in call["recorder"].get("not_captured", [])}
    return sorted((datetime.fromisoformat(since).timestamp(), datetime.fromisoformat(until).timestamp()) for since, until in told)


def reboot(box: Appliance) -> None:
    """An orderly one, in the middle of calls."""
    down = [0.0]

    def now() -> str:
        begun = time.monotonic()
        took = box.machine.reboot()
        if box.capturing(30) < 0:
            raise Broken(f"not capturing after the reboot: {box.active(1)}")
        down[0] = time.monotonic() - begun
        return f"up after {took:.1f} s, capturing after {down[0]:.1f} s"
    through(box, "reboot", now, may_miss_s=lambda: down[0] + LOST_S, talk_s=30, gap=True)
    over(box, "reboot, calls over", lambda: (box.machine.reboot(), 0)[1])


def power(box: Appliance) -> None:
    """It goes at once; the disk keeps what had reached it."""
    down = [0.0]

    def now() -> str:
        begun = time.monotonic()
        box.machine.lose_power()
        box.machine.boot()
        if box.capturing(30) < 0:
            raise Broken(f"not capturing after it: {box.active(1)}")
        down[0] = time.monotonic() - begun
        return f"capturing after {down[0]:.1f} s"
    through(box, "power loss", now, may_miss_s=lambda: down[0] + LOST_S, talk_s=30, gap=True)

    def off() -> None:
        box.machine.lose_power()
        box.machine.boot()
    over(box, "power loss, calls over", off)


def over(box: Appliance, name: str, event: Callable[[], object]) -> None:
    """Calls of which nothing more is ever seen after it: they end as `recovered`, with what was heard."""
    load = box.load().add(5, 0, 12)
    with Sender(box.machine.outside, [p for p in load.packets() if p.time_ns < load.packets()[0].time_ns + AT_S * 1e9]) as sender:
        sender.join()
        event()
    waited = box.capturing(30)
    said = box.judge(load, 120, may_miss_s=12 - AT_S + LOST_S, may_end=False)
    right = not said.wrong and set(said.reasons) <= {"recovered"}
    box.found(right and waited >= 0, name, f"{said}{': ' if said.wrong else ''}{brief(said.wrong)}")


def upgrade(box: Appliance) -> None:
    """The same program as a higher version, while calls are going on: data and configuration stay."""
    newer = higher(box.deb, box.work)
    configuration = box.machine.root / "etc/rokuon/rokuon.toml"
    configuration.write_text(configuration.read_text() + "\n# changed by the administrator\n")
    kept = hashlib.sha256(configuration.read_bytes()).hexdigest()
    before = {call["id"]: (call["audio"] or {}).get("sha256") for call in box.calls()}
    (box.machine.root / "root/newer.deb").write_bytes(newer.read_bytes())
    took = [0.0]
    away = [0.0]

    def now() -> str:
        with subprocess.Popen(box.machine.command(*APT, "/root/newer.deb"), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True) as process:
            begun, running = time.monotonic(), box.main_pid(CAPTURE)
            while process.poll() is None:
                pid = box.main_pid(CAPTURE)
                away[0] += 0.1 if pid != running or not pid else 0
                time.sleep(0.1)
            took[0] = time.monotonic() - begun
            out = process.stdout.read() if process.stdout else ""
        if process.returncode:
            raise Broken(f"upgrade: {last(out)}")
        if box.capturing(30) < 0:
            raise Broken(f"not capturing after it: {box.active(1)}")
        return f"{newer.name} in {took[0]:.0f} s"
    through(box, "upgrade", now, may_miss_s=5, talk_s=40, gap=True)
    version = box.machine.run("dpkg-query", "-W", "-f", "${Version}", "rokuon", check=False)
    box.found(hashlib.sha256(configuration.read_bytes()).hexdigest() == kept, "upgrade, configuration",
              f"as the administrator left it; {version}")
    after = {call["id"]: (call["audio"] or {}).get("sha256") for call in box.calls()}
    lost = [i for i, sha in before.items() if after.get(i) != sha]
    box.found(not lost, "upgrade, data", f"{len(before)} calls before it are as they were" if not lost else brief(lost))


def higher(deb: Path, work: Path) -> Path:
    """The package once more, with a version that is higher."""
    tree = work / "newer"
    subprocess.run(["dpkg-deb", "-R", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = [f"{line}+try1" if line.startswith("Version:") else line for line in control.read_text().splitlines()]
    control.write_text("\n".join(lines) + "\n")
    settings = tree / "etc/rokuon/rokuon.toml"
    settings.write_text(settings.read_text() + "\n# of the newer version\n")
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "-b", tree, work / "newer.deb"], check=True, capture_output=True)
    shutil.rmtree(tree)
    return work / "newer.deb"
