"""Steps, one after another, on one machine; a line for each finding, and an exit status."""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.appliance.machine import DATA, INTERFACE, Broken, Disk, Machine
from tests.e2e.appliance.traffic import Judged, Load, judge

Json = dict[str, Any]
CAPTURE, CORRELATE, METRICS = f"rokuon-capture@{INTERFACE}.service", "rokuon.service", "rokuon-metrics.service"
UNITS = (CAPTURE, CORRELATE, METRICS)
LISTENER, STRANGER = "listener", "stranger"
GIGABYTES = 4


@dataclass
class Appliance:
    """The machine with the appliance on it, and what steps ask of it."""

    machine: Machine
    work: Path
    deb: Path
    load_calls: int
    kills: int
    failures: int = 0
    expected: dict[str, Json] = field(default_factory=dict)
    _loads: int = 0

    def found(self, right: object, name: str, facts: object) -> bool:
        """A finding: its line."""
        self.failures += not right
        print(f"{'PASS' if right else 'FAIL'}  {name:22} {facts}", flush=True)
        return bool(right)

    def note(self, name: str, text: str) -> None:
        """For whoever looks into it: a file that --keep keeps."""
        (self.work / f"{name}.json").write_text(text)

    def load(self) -> Load:
        """An empty load, whose calls are not those of any other."""
        self._loads += 1
        return Load(first=self._loads * 1000)

    @property
    def data(self) -> Path:
        """The data directory, as seen from outside."""
        return self.machine.disk.mounted if self.machine.disk else self.machine.root / DATA

    def rokuon(self, *arguments: object, user: str = LISTENER, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return self.machine.ask("rokuon", *arguments, user=user, timeout=timeout)

    def calls(self) -> list[Json]:
        """All calls, as a member of the group sees them. Raises Broken where the command fails."""
        done = self.rokuon("calls", "--limit", 1_000_000, "--json")
        if done.returncode:
            raise Broken(f"rokuon calls: exit {done.returncode}: {last(done.stderr)}")
        found: list[Json] = json.loads(done.stdout)
        return found

    def wait(self, holds: Callable[[], object], seconds: float, every: float = 0.5) -> bool:
        """Whether it holds before so much time has passed."""
        until = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > until:
                return False
            time.sleep(every)
        return True

    def wait_calls(self, call_ids: Iterable[str], seconds: float) -> list[Json]:
        """All calls, as soon as those are there, over, and their audio made; or when the time is up."""
        wanted = set(call_ids)
        calls: list[Json] = []

        def there() -> bool:
            nonlocal calls
            calls = self.calls()
            over = [call for call in calls if call["state"] != "in-progress" and not (call["audio"] or {}).get("pending")]
            return wanted <= {leg["call_id"] for call in over for leg in call["legs"]}
        self.wait(there, seconds, 1)
        return calls

    def judge(self, load: Load, seconds: float = 45, **how: Any) -> Judged:
        """What became of a load, when all its calls are there or the time is up."""
        calls = self.wait_calls((phone.call_id.decode() for phone in load.calls), seconds)
        time.sleep(2)  # what comes late comes now: a second row of a call, a revision
        calls = self.calls()
        return judge(load, calls, **how)

    def state(self, name: str) -> Json:
        """What a process says of itself in a state file; {} if there is none."""
        try:
            said: Json = json.loads((self.data / "state" / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return said

    def active(self, seconds: float, units: Sequence[str] = UNITS) -> str:
        """Waits for units to be active; "" or what is wrong."""
        def all_active() -> bool:
            return all(self.machine.show(unit, "ActiveState").get("ActiveState") == "active" for unit in units)
        if self.wait(all_active, seconds, 0.2):
            return ""
        said = []
        for unit in units:
            told = self.machine.show(unit, "ActiveState", "SubState", "Result", "LoadState")
            if told.get("ActiveState") != "active":
                said.append(f"{unit} {'/'.join(told.values())}: {self.machine.journal(unit)}")
        return "; ".join(said)

    def capturing(self, seconds: float = 20) -> float:
        """Seconds until capture has its socket open (its state file is new and names a running process); -1 if it never does."""
        begun = time.monotonic()

        def ready() -> bool:
            pid = self.machine.show(CAPTURE, "ActiveState", "MainPID")
            said = self.state(f"capture-{INTERFACE}")
            return pid.get("ActiveState") == "active" and str(said.get("pid")) == pid["MainPID"] and not said.get("stopped")
        return time.monotonic() - begun if self.wait(ready, seconds, 0.05) else -1

    def main_pid(self, unit: str) -> int:
        """Inside, as the machine's systemd counts."""
        return int(self.machine.show(unit, "MainPID").get("MainPID") or 0)

    def restarts(self) -> dict[str, str]:
        return {unit: self.machine.show(unit, "NRestarts").get("NRestarts", "") for unit in UNITS}


def last(text: str) -> str:
    """What a command said last."""
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "(nothing said)"


def brief(wrong: Sequence[str]) -> str:
    """What is wrong, in a line."""
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return "; ".join(wrong[:4]) + more


def run(options: argparse.Namespace, work: Path) -> int:
    """All steps that were asked for; the exit status."""
    from tests.e2e.appliance.steps import STEPS  # noqa: PLC0415  steps import this module

    for family in ("default", "all"):  # else the kernel sends packets of its own into the wire
        path = Path(f"/proc/sys/net/ipv6/conf/{family}/disable_ipv6")
        if path.exists():
            path.write_text("1")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    machine = Machine(work / "root", "box", work.name)
    machine.disk = Disk(work, GIGABYTES * 1024)
    box = Appliance(machine, work, work / "rokuon.deb", options.calls, options.kills)
    try:
        box.found(True, "boot", f"running after {machine.boot():.1f} s")
        for name in ("install", *(name for name in options.names if name != "install")):
            begun = time.monotonic()
            try:
                if not machine.up():
                    machine.die()
                    machine.boot()
                STEPS[name](box)
            except (Broken, OSError, subprocess.SubprocessError, LookupError, ValueError, TypeError) as e:
                box.found(False, name, f"{type(e).__name__}: {e}" if not isinstance(e, Broken) else e)
                if name == "install":
                    break
            print(f"      {name}: {time.monotonic() - begun:.0f} s", flush=True)
        print(f"{box.failures} findings are not as they should be" if box.failures else "all as it should be")
        if options.keep:
            (work / "journal.txt").write_text(machine.run("journalctl", "--no-pager", "-o", "short-precise", check=False))
    except Broken as e:
        box.found(False, "machine", e)
    finally:
        machine.die()
        machine.disk.unmount()
    return int(box.failures > 0)
