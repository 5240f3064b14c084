"""Damaged captures, recorded: `python bench/damage.py --seeds 1000`; exit status 1 where one of them did harm.

Each seed takes one capture (of fixtures/pcaps and, where they are there, of ../shared/captures), puts two calls of its own
amid it, damages the capture (damage_kinds.py) and has `rokuon record -r` read it, in a process of its own with bounds of time and
memory. What has to hold: exit status 0, or 1 with the reason; lines that begin with "rokuon: ", no traceback; no more audio of
a call than the capture lasts; every sidecar and its files sound; nothing left over; and each call of which no packet was
touched is what it is in the undamaged capture: state, ends, times, streams, sound.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from damage_kinds import Damaged, Needles, damage, needles, packets_of, witnesses, written  # noqa: E402
from tests.sniffer.captures import Packet  # noqa: E402

SHARED = ROOT.parent / "shared" / "captures"
LARGEST = 2_000_000
"""Bytes of a capture: larger ones take a minute each on a slow computer, and show nothing else."""
CPU_S, WALL_S, MEMORY = 60, 300, 600 << 20
"""What a recording may take: seconds of processor, of time (a loaded computer), bytes of memory in use."""
DISK = 200 << 20
AUDIO_SLACK_S = 2.0
"""The longest packet that is believed, which may begin with the capture's last one."""
BY_SIGNALLING = ("bye", "cancel", "reject")
Json = dict[str, Any]


@dataclass
class Recording:
    """What became of a capture."""

    status: int
    said: str
    cpu_s: float
    peak: int
    calls: list[Json]
    faults: list[str] = field(default_factory=list)
    """What is wrong whatever the capture is."""


@dataclass
class Base:
    """A capture that is not damaged yet."""

    name: str
    packets: list[Packet]
    witness: list[Packet]
    calls: dict[str, tuple[Needles, Json]] = field(default_factory=dict)
    """What is recorded of it, by the calls' ids."""


def captures() -> list[Path]:
    """All there are."""
    places = (ROOT / "fixtures" / "pcaps", SHARED / "real", SHARED / "selfmade")
    found = [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_file()]
    return [path for path in found if path.suffix in {".pcap", ".pcapng", ".cap"} and path.stat().st_size <= LARGEST]


# -- a recording ---------------------------------------------------------------
def record(octets: bytes, scratch: Path, small: bool = False) -> Recording:
    """The capture recorded by the command in a process of its own; `small`: read in small pieces, through a small spool."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / "c.pcap").write_bytes(octets)
    (scratch / "c.toml").write_text("[record]\nsegment = 1\n" if small else "", "ascii")
    if not (child := os.fork()):
        _command(scratch)
    deadline = time.monotonic() + WALL_S
    hung = False
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline and not hung:
            hung = True
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    said = (scratch / "err").read_text("utf-8", "surrogateescape")
    done = Recording(os.waitstatus_to_exitcode(status), said, used.ru_utime + used.ru_stime, used.ru_maxrss << 10, [])
    if hung:
        done.faults.append(f"hung: killed after {WALL_S} s")
    _judge(done, scratch / "data")
    return done


def _command(scratch: Path) -> NoReturn:
    """The child: `rokuon record -r c.pcap`."""
    status = 99
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it does not outlive us
        for number, name in ((0, os.devnull), (1, scratch / "out"), (2, scratch / "err")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from rokuon.cli import main  # noqa: PLC0415 - loaded by the parent

        main(["--config", str(scratch / "c.toml"), "--data", str(scratch / "data"), "record", "--jobs", "1",
              "-r", str(scratch / "c.pcap")])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _judge(done: Recording, data: Path) -> None:
    """What must not be, whatever the capture is."""
    faults, lines = done.faults, done.said.splitlines()
    if done.status not in (0, 1) or (done.status and not lines):
        faults.append(f"exit status {done.status}")
    if "Traceback" in done.said or "fault of rokuon" in done.said or not all(line.startswith("rokuon: ") for line in lines):
        faults.append(f"said: {done.said[-600:]}")
    if done.peak > MEMORY:
        faults.append(f"{done.peak >> 20} MiB of memory")
    stray = [p.name for p in data.rglob("*") if p.name.endswith((".part", ".tmp", ".wal", ".seg"))]
    if stray or any(p.is_dir() for p in (data / "spool").glob("*")) or any((data / "quarantine").glob("*")):
        faults.append(f"left over or set aside: {stray}")
    if (size := sum(p.stat().st_blocks * 512 for p in data.rglob("*") if p.is_file())) > DISK:
        faults.append(f"{size >> 20} MiB of disk")
    from rokuon.store import sidecar  # noqa: PLC0415 - loaded by the parent

    for path in sorted((data / "recordings").rglob("*.json")):
        try:
            call = json.loads(path.read_bytes())
        except ValueError as error:
            faults.append(f"{path.name}: {error}")
            continue
        done.calls.append(call)
        if wrong := sidecar.problems(call):
            faults.append(f"{call.get('id')}: {wrong} of the sidecar")
        for entry in sounds(call):
            file = path.parent / Path(entry["path"]).name
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256"]:
                faults.append(f"{call['id']}: {entry['path']} is not what the sidecar says")


def sounds(call: Json) -> list[Json]:
    """What audio files a call has."""
    return [entry for entry in (call.get("audio"), *call.get("parts", [])) if entry and not entry.get("pending")]


# -- what must be as it was ------------------------------------------------------
def facts(call: Json) -> Json:
    """What must not differ."""
    streams = sorted(((s["direction"], s["src"], s["dst"], s["ssrc"], s["codec"], s["packets"], s["lost"], s["payload_sha256"])
                      for s in call["streams"]), key=str)
    return {"state": call["state"], "end_reason": call["end_reason"], "sip_status": call["sip_status"],
            "hangup_by": call["hangup_by"], "start": call["start"], "answer": call["answer"], "end": call["end"],
            "caller": call["caller"]["number"], "callee": call["callee"]["number"], "streams": streams,
            "sound": [entry["sha256"] for entry in sounds(call)]}


def known_by(call: Json) -> Needles:
    """By what packets that have to do with a call are known."""
    ends = [entry[end] for entry in (*call["streams"], *call["messages"]) for end in ("src", "dst")]
    return needles([end.rpartition(":")[0].strip("[]") for end in ends], [leg["call_id"] for leg in call["legs"]])


def base_of(path: Path, scratch: Path) -> Base | None:
    """A capture with what is recorded of it; None where it has no packets."""
    packets = packets_of(path.read_bytes())
    if not packets:
        return None
    packets = sorted((p._replace(data=p.data[:65_535], time_ns=max(p.time_ns, 0), point=0) for p in packets),
                     key=lambda p: p.time_ns)
    base = Base(path.name, packets, witnesses(packets))
    together = sorted([*packets, *base.witness], key=lambda p: p.time_ns)
    done = record(written(together, random.Random(0))[0], scratch)
    if done.faults:
        raise SystemExit(f"{path.name}, undamaged: {done.faults}")
    base.calls = {call["id"]: (known_by(call), facts(call)) for call in done.calls}
    mine = [call for call in done.calls if any("witness-" in leg["call_id"] for leg in call["legs"])]
    sound = [call["end_reason"] == "bye" and [(s["packets"], s["lost"]) for s in call["streams"]] == [(50, 0)] * 2
             for call in mine]
    if base.witness and sound != [True, True]:
        raise SystemExit(f"{path.name}: the witnesses are not as they should be")
    return base


def compare(base: Base, damaged: Damaged, done: Recording) -> tuple[list[str], int]:
    """What is not as it has to be, and how many calls had to be as they were."""
    faults, found, spared = list(done.faults), {call["id"]: call for call in done.calls}, 0
    for number, (known, before) in base.calls.items():
        if before["end_reason"] not in BY_SIGNALLING or not known or not damaged.spares(known):
            continue  # when a call ends that nobody ended is decided by what comes behind it
        spared += 1
        after = facts(found[number]) if number in found else None
        if after != before:
            differs = {key: (before[key], after[key]) for key in before if after[key] != before[key]} if after else "missing"
            faults.append(f"call {number}, of which nothing was touched: {differs}")
    times = [] if damaged.octets[:2] == b"\x1f\x8b" else [p.time_ns for p in packets_of(damaged.octets) or ()]
    lasts = (max(times) - min(times)) / 1e9 if times else float("inf")
    for call in done.calls:
        audio = sum(entry["duration_s"] for entry in sounds(call))
        if audio > lasts + AUDIO_SLACK_S:
            faults.append(f"call {call['id']}: {audio} s of audio in a capture of {lasts} s")
    return faults, spared


# -- all of it -------------------------------------------------------------------
def run(paths: Sequence[Path], seeds: range, scratch: Path, keep: Path | None) -> Iterator[tuple[int, str, Damaged, Recording,
                                                                                              list[str], int]]:
    """Each seed's capture, damage, recording, faults, and the number of calls that were compared."""
    bases: dict[Path, Base | None] = {}
    for seed in seeds:
        path = paths[seed % len(paths)]
        if path not in bases:
            bases[path] = base_of(path, scratch)
        base = bases[path]
        if base is None:
            continue
        damaged = damage(base.packets, base.witness, seed)
        done = record(damaged.octets, scratch, seed % 3 == 0)
        faults, spared = compare(base, damaged, done)
        if faults and keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{seed}-{path.stem}.pcap").write_bytes(damaged.octets)
        yield seed, base.name, damaged, done, faults, spared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where captures are kept that did harm")
    parser.add_argument("--only", metavar="NAME", help="only captures whose name has this in it")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done to each")
    wanted = parser.parse_args()
    from rokuon import cli  # noqa: F401, PLC0415
    from rokuon.commands import record as _  # noqa: F401, PLC0415
    from rokuon.store import record_files, sidecar  # noqa: F401, PLC0415

    paths = [path for path in captures() if not wanted.only or wanted.only in path.name]
    bad, count, compared, kinds = 0, 0, 0, Counter[str]()
    cpu, peaks, calls, statuses = list[float](), list[int](), 0, Counter[int]()
    scratch = Path(tempfile.mkdtemp(prefix="rokuon-damage-"))
    begun = time.monotonic()
    try:
        for seed, name, damaged, done, faults, spared in run(paths, range(wanted.first, wanted.first + wanted.seeds), scratch,
                                                             wanted.keep):
            count, compared, calls = count + 1, compared + spared, calls + len(done.calls)
            cpu.append(done.cpu_s)
            peaks.append(done.peak)
            statuses[done.status] += 1
            kinds.update(what.rpartition(" x")[0] or what for what in damaged.said.split(", "))
            bad += bool(faults)
            if wanted.verbose or faults:
                print(f"{seed} {name}: {damaged.said}", *(f"\n    {fault}" for fault in faults), flush=True)
    finally:
        with suppress(OSError):
            shutil.rmtree(scratch)
    if not count:
        print("no captures here")
        return 1
    print(f"{count:,} damaged captures, made of {len(paths)}: {bad} did harm. {calls:,} calls came out, {compared:,} of which no "
          f"packet was touched; exit status {dict(sorted(statuses.items()))}. CPU {statistics.median(cpu):.2f} s in the middle, "
          f"{max(cpu):.1f} s at most; memory {statistics.median(peaks) / 2**20:.0f} and {max(peaks) / 2**20:.0f} MiB; "
          f"{time.monotonic() - begun:.0f} s.")
    print("damage:", ", ".join(f"{what or 'none'} {times:,}" for what, times in kinds.most_common()))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
