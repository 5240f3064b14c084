"""The step that takes the disk away: full, and frozen."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time

from tests.e2e.appliance.machine import Broken, Disk
from tests.e2e.appliance.run import CAPTURE, CORRELATE, UNITS, Appliance, brief
from tests.e2e.appliance.traffic import Sender

MEGABYTES = 200
FROZEN_S = 5.0


def disk(box: Appliance) -> None:
    """On a disk of 200 MB of its own: the machine is booted with it, and with the large one again afterwards."""
    machine, large = box.machine, box.machine.disk
    machine.off()
    machine.disk = Disk(box.work, MEGABYTES)
    try:
        machine.boot()
        wrong = box.active(30) or ("" if box.capturing() >= 0 else "not capturing")
        if not box.found(not wrong, "small disk", wrong or f"units active, {machine.disk.free() >> 20} MB free of {MEGABYTES}"):
            return
        before = box.load().add(5, 0, 5)
        with Sender(machine.outside, before.packets()) as sender:
            sender.join()
        said = box.judge(before)
        box.found(not said.wrong, "small disk, calls", f"{said} {brief(said.wrong)}")
        frozen(box)
        full(box)
    finally:
        machine.off()
        machine.disk.unmount()
        machine.disk = large
        machine.boot()
        box.capturing(30)


def frozen(box: Appliance) -> None:
    """For five seconds in the middle of calls nothing can be written."""
    assert box.machine.disk
    load = box.load().add(30, 0, 14)
    with Sender(box.machine.outside, load.packets()) as sender:
        time.sleep(4)
        subprocess.run(["fsfreeze", "--freeze", box.machine.disk.mounted], check=True)
        try:
            time.sleep(FROZEN_S)
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", box.machine.disk.mounted], check=True)
        sender.join()
    said = box.judge(load)
    box.found(not said.wrong, "disk frozen", f"for {FROZEN_S:g} s: {said} {brief(said.wrong)}")


def full(box: Appliance) -> None:
    """Not a byte left in the middle of calls; then there is room again."""
    disk = box.machine.disk
    assert disk
    pids = {unit: box.main_pid(unit) for unit in UNITS}
    during = box.load().add(10, 0, 20)
    ballast = disk.mounted / "ballast"
    level: list[str] = []
    told: list[str] = []
    with Sender(box.machine.outside, during.packets()) as sender:
        time.sleep(5)
        with ballast.open("wb") as out, contextlib.suppress(OSError):
            while True:
                out.write(bytes(1 << 16))
                out.flush()
        left = disk.free()
        for _ in range(10):
            time.sleep(1)
            level.append(str(box.state("correlate").get("disk", {}).get("level")))
            told += [line for line in box.state("capture-host0").get("warnings", []) if speaks_of_room(line)]
        alive = box.active(0)
        sender.join()
    journal = box.machine.run("journalctl", "-q", "--no-pager", "-o", "cat", "--since", "-60s", "-u", CORRELATE, "-u", CAPTURE,
                              check=False).splitlines()
    speaking = [line for line in journal if speaks_of_room(line)]
    same = {unit: box.main_pid(unit) for unit in UNITS} == pids
    box.found(not alive and same, "disk full, service up", alive or f"{left >> 10} KB left; the same processes: {same}")
    box.found(bool(speaking), "disk full, said", f"journal: {speaking[-1] if speaking else 'nothing'} ({len(speaking)} lines); "
              f"level {sorted(set(level))}; warnings {sorted(set(told))[:2]}")
    ballast.unlink()
    time.sleep(5)
    after = box.load().add(10, 0, 8)
    with Sender(box.machine.outside, after.packets()) as sender:
        sender.join()
    said = box.judge(after)
    box.found(not said.wrong, "disk with room again", f"{said} {brief(said.wrong)}")
    intact(box)


def speaks_of_room(line: str) -> bool:
    """Whether a line of a log is about the disk."""
    return any(word in line.lower() for word in ("full", "space", "room", "disk"))


def intact(box: Appliance) -> None:
    """Every recording is what its entry says."""
    wrong, files = [], 0
    for call in box.calls():
        for audio in [call["audio"], *call["parts"]]:
            if not audio or audio.get("pending"):
                continue
            files += 1
            try:
                content = (box.data / audio["path"]).read_bytes()
            except OSError as e:
                wrong.append(str(e))
                continue
            if hashlib.sha256(content).hexdigest() != audio["sha256"]:
                wrong.append(f"{audio['path']} has another hash")
    loose = [p.name for p in (box.data / "recordings").rglob("*") if p.is_file() and p.suffix not in (".wav", ".json")]
    box.found(not wrong and not loose and files, "disk full, all intact",
              brief(wrong + loose) or f"{files} files have the hash of their entry")
    if not files:
        raise Broken("no recording to look at")
