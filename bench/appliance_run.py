"""The appliance as a benchmark runs it: `rokuon record -i` at one end of a wire, what its processes take, and what it made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from measure import ROOT, _tree

ROKUON = Path(sys.executable).with_name("rokuon")
SHARED = ROOT.parent / "shared"
ROLES = ("capture", "correlate", "workers", "record", "other")
FLOODED = "flood.example", "10.250."
TICKS = os.sysconf("SC_CLK_TCK")

Json = dict[str, Any]


def _command(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def _parent(pid: int) -> int:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()[1])
    return 0


def role(pid: int) -> str:
    """What a process of the appliance is, by its command line: a worker is a child of correlate with the same one."""
    words = _command(pid)
    named = next((word for word in words if word in ("capture", "correlate", "record")), "other")
    if named == "correlate" and "correlate" in _command(_parent(pid)):
        return "workers"
    return named


def processes(root: int) -> dict[int, str]:
    """Those of the appliance that `root` started, and itself, with what they are."""
    return {pid: role(pid) for pid in _tree(root)}


def cpu_s(pid: int) -> float | None:
    """Seconds, user and system, of a process; None: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_kib(pid: int) -> dict[str, int]:
    """PSS of a process by kind: Pss, Pss_Anon, Pss_File, Pss_Shmem."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Pss")}


def handles(pid: int) -> int:
    """How many files a process has open."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def tree_bytes(root: Path) -> int:
    """What a directory's files take on disk."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


@dataclass
class Sample:
    """How things were at a moment."""

    at: float
    cpu: dict[str, float]
    """Seconds by role since the beginning, those of processes that are gone included."""
    pss_mib: float
    anonymous_mib: float
    handles: int
    processes: int
    spool_mib: float
    index_mib: float


@dataclass
class Watch:
    """Looks at the appliance every so often, in a thread."""

    root: int
    data: Path
    every_s: float = 1.0
    samples: list[Sample] = field(default_factory=list)
    _spent: dict[int, tuple[str, float]] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now(self) -> float:
        """The moment, as samples have it."""
        return time.monotonic() - self._begun

    def look(self) -> Sample:
        """How things are."""
        found = processes(self.root)
        pss: dict[str, int] = defaultdict(int)
        for pid, what in found.items():
            spent = cpu_s(pid)
            if spent is not None:
                self._spent[pid] = what, spent
            for kind, size in memory_kib(pid).items():
                pss[kind] += size
        cpu: dict[str, float] = defaultdict(float)
        for what, spent in self._spent.values():
            cpu[what] += spent
        index = self.data / "index.duckdb"
        return Sample(self.now(), dict(cpu), pss["Pss"] / 1024, pss["Pss_Anon"] / 1024,
                      sum(map(handles, found)), len(found), tree_bytes(self.data / "spool") / (1 << 20),
                      index.stat().st_size / (1 << 20) if index.exists() else 0.0)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self.samples.append(self.look())
            due += self.every_s

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def spent(self, begin: float, end: float) -> dict[str, float]:
        """CPU seconds a second by role between two moments (of `Sample.at`)."""
        inside = [s for s in self.samples if begin <= s.at <= end]
        if len(inside) < 2:
            return {}
        first, last = inside[0], inside[-1]
        lasted = last.at - first.at
        return {what: (last.cpu[what] - first.cpu.get(what, 0)) / lasted for what in ROLES if what in last.cpu}


class Appliance:
    """`rokuon record -i INTERFACE` into `data`."""

    def __init__(self, data: Path, interface: str, *options: str) -> None:
        self.data = data
        data.mkdir(parents=True, exist_ok=True)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 -- for as long as the process runs; on no disk that is frozen
        self.process = subprocess.Popen([ROKUON, "--data", data, "record", "-i", interface, *options], stdin=subprocess.DEVNULL,
                                        stdout=self._said, stderr=subprocess.STDOUT, start_new_session=True)

    def wait_ready(self, limit_s: float = 30) -> None:
        """Until capture and correlate both say that they run."""
        until = time.monotonic() + limit_s
        while not (self._fresh("capture-*.json") and self._fresh("correlate.json")):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"rokuon does not run: {self.said()}")
            time.sleep(0.1)

    def _fresh(self, pattern: str) -> bool:
        mine = processes(self.process.pid)
        return any(state.get("pid") in mine for path in (self.data / "state").glob(pattern) if (state := read_json(path)))

    def state(self, pattern: str) -> list[Json]:
        """State files."""
        return [state for path in sorted((self.data / "state").glob(pattern)) if (state := read_json(path))]

    def recorded(self) -> int:
        """Calls that are in the index, as correlate's files say: one line each."""
        return sum(path.read_bytes().count(b"\n") for path in (self.data / "state").glob("finished.jsonl*"))

    def wait_recorded(self, calls: int, limit_s: float) -> float | None:
        """Until so many calls are recorded; the seconds that took, None: too many."""
        begun = time.monotonic()
        while self.recorded() < calls:
            if self.process.poll() is not None:
                raise SystemExit(f"rokuon ended: {self.said()}")
            if time.monotonic() - begun > limit_s:
                return None
            time.sleep(0.25)
        return time.monotonic() - begun

    def wait_quiet(self, limit_s: float) -> None:
        """Until no call is in progress and none waits to be finalised, but not longer than this."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            state = next(iter(self.state("correlate.json")), {})
            if not state.get("calls_in_progress") and not state.get("streams") and not (state.get("backlog") or {}).get("jobs"):
                return
            time.sleep(0.5)

    def stop(self, limit_s: float = 300) -> str:
        """SIGTERM: open calls are finished. What it said."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"killed after {limit_s:g} s; {self.said()}"
        return self.said()

    def kill(self) -> None:
        """All of it, at once."""
        for pid in [*_tree(self.process.pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        """What it printed."""
        return os.pread(self._said.fileno(), 1 << 20, 0).decode(errors="replace").strip()


def read_json(path: Path) -> Json | None:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else None
    return None


def start_sender(*options: str) -> subprocess.Popen[str]:
    """bench/sender.py into `near`; its last word is one JSON object."""
    return subprocess.Popen([sys.executable, ROOT / "bench" / "sender.py", "--interface", "near", *options], text=True,
                            stdout=subprocess.PIPE, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})


def sender_said(sender: subprocess.Popen[str]) -> Json:
    out, _ = sender.communicate()
    if sender.returncode:
        raise SystemExit("the sender failed")
    said: Json = json.loads(out)
    return said


def recorded_calls(data: Path) -> list[Json]:
    """All calls, as `rokuon calls --json` gives them."""
    done = subprocess.run([ROKUON, "--data", data, "calls", "--json", "--limit", "10000000"], check=True, capture_output=True)
    calls: list[Json] = json.loads(done.stdout)
    return calls


def of_flood(call: Json) -> bool:
    """Whether a call comes of what the sender floods with."""
    return any(str(leg["call_id"]).endswith(FLOODED[0]) for leg in call["legs"]) or (
        not call["legs"] and all(s["src"].startswith(FLOODED[1]) for s in call["streams"]))


def facts() -> Any:
    """The module that holds calls against a manifest."""
    path = SHARED / "checks"
    if not (path / "facts.py").exists():
        raise SystemExit(f"no {path}/facts.py to hold calls against their manifest")
    sys.path.insert(0, str(path))
    import facts as found  # noqa: PLC0415 -- lies beside the repository

    return found


def missing_packets(manifest: Json, calls: Sequence[Json]) -> tuple[int, int, int]:
    """Of the manifest: calls that are not there, calls of which packets are missing, packets that are missing."""
    legs = {leg["call_id"]: call for call in calls for leg in call["legs"]}
    gone = touched = packets = 0
    for want in manifest["calls"]:
        call = legs.get(want["call_id"])
        if call is None:
            gone += 1
            packets += sum(s["unique"] for s in want["streams"])
            continue
        have = {s["ssrc"]: s["packets"] for s in call["streams"]}
        less = sum(s["unique"] - have.get(s["ssrc"], 0) for s in want["streams"])
        touched += less != 0
        packets += less
    return gone, touched, packets


def waits(data: Path, calls: Sequence[Json]) -> list[float]:
    """Seconds from the BYE of each call to when correlate said that it can be found."""
    ends = {call["id"]: datetime.fromisoformat(call["end"]).timestamp() for call in calls if call["end"]}
    found = []
    for path in (data / "state").glob("finished.jsonl*"):
        for line in path.read_text("utf-8").splitlines():
            told = json.loads(line)
            if told["id"] in ends:
                found.append(datetime.fromisoformat(told["time"]).timestamp() - ends[told["id"]])
    return sorted(found)


@contextmanager
def own_disk(image: Path, mount: Path, gib: float) -> Iterator[Path]:
    """A file system of its own (ext4 on a loop device), which may be frozen."""
    mount.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(int(gib * (1 << 30)))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["fsfreeze", "-u", mount], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["umount", mount], check=False)
        image.unlink()


def freeze(mount: Path, after_s: float, seconds: float) -> threading.Thread:
    """Freezes a file system for so long, in a thread."""
    def run() -> None:
        time.sleep(after_s)
        try:
            subprocess.run(["fsfreeze", "-f", mount], check=True)
            time.sleep(seconds)
        finally:
            subprocess.run(["fsfreeze", "-u", mount], check=False)

    thread = threading.Thread(target=run)
    thread.start()
    return thread
