"""Recording that is broken off in the middle: nothing half made stays, and the same command again completes it.

"In the middle" is certain: the recorder reads from a pipe that gives it part of the capture and then nothing more.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.wire import (
    ROKUON,
    SECOND,
    START,
    Phone,
    calls,
    identities,
    leftovers,
    merged,
    record,
    run,
    write,
)
from tests.sniffer.captures import pcap

pytestmark = pytest.mark.skipif(not ROKUON.exists(), reason="rokuon is not installed beside this Python")

DONE = 5
"""Calls that are finished before the blow."""


class Undisturbed:
    """A capture, and what a run that nobody disturbs makes of it."""

    def __init__(self, directory: Path) -> None:
        settings = directory / "rokuon.toml"
        settings.write_text("[record]\nsegment = 1\nwindow = 2\n")  # so that calls are finished while others go on
        self.env = {"ROKUON_CONFIG": str(settings)}
        self.capture = write(directory / "calls.pcap", merged(*(Phone(n, START + n * SECOND // 5, 3) for n in range(60))))
        assert record(directory / "data", self.capture, env=self.env).returncode == 0
        self.calls = identities(directory / "data")

    def completed(self, data: Path) -> None:
        """The same command again, and all is as if nothing had happened."""
        again = record(data, self.capture, env=self.env)
        assert (again.returncode, again.stderr) == (0, "")
        assert identities(data) == self.calls
        assert leftovers(data) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    made = Undisturbed(tmp_path_factory.mktemp("whole"))
    assert len(made.calls) == 60
    return made


@contextmanager
def under_way(data: Path, whole: Undisturbed, jobs: int) -> Iterator[subprocess.Popen[str]]:
    """A recorder that has finished some calls, has others open, and waits for more packets."""
    command = [str(ROKUON), "--data", str(data), "record", "--jobs", str(jobs), "-r", "-"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **whole.env}, start_new_session=True)
    try:
        assert process.stdin
        octets = whole.capture.read_bytes()
        process.stdin.buffer.write(octets[:len(octets) * 4 // 5])
        process.stdin.flush()
        until(lambda: len(list(data.rglob("*Z-*.json"))) >= DONE)
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def until(done: Any) -> None:
    for _ in range(2000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    assert process.stdout
    assert process.stderr
    code = process.wait(30)
    return code, process.stdout.read(), process.stderr.read()


@pytest.mark.parametrize(("number", "code", "jobs"), [(signal.SIGINT, 130, 1), (signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 2)])
def test_an_interrupt_is_one_line_and_keeps_what_is_finished(whole: Undisturbed, tmp_path: Path, number: int, code: int,
                                                             jobs: int) -> None:
    with under_way(tmp_path / "data", whole, jobs) as process:
        os.killpg(process.pid, number)  # as a terminal does: the workers get it too
        said = ended(process)
    assert said == (code, "", "rokuon: interrupted; what is finished is kept, the same command again does the rest\n")
    assert leftovers(tmp_path / "data") == []
    kept = identities(tmp_path / "data")
    assert len(kept) >= DONE
    assert kept.items() <= whole.calls.items()
    whole.completed(tmp_path / "data")


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_kill_9_the_next_run_sweeps_and_completes(whole: Undisturbed, tmp_path: Path, jobs: int) -> None:
    data = tmp_path / "data"
    with under_way(data, whole, jobs) as process:
        workers = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: not any(Path(f"/proc/{pid}/fd").is_dir() and alive(pid) for pid in workers))
    folder = next(data.rglob("*Z-*.json")).parent
    for name in (f".x.wav.{process.pid}.part", f".x.json.{(workers or [process.pid])[0]}.part"):  # as if in the midst of it
        (folder / name).write_bytes(b"half")
    (data / f".index.duckdb.{process.pid}.new").write_bytes(b"half")
    (folder / f".y.wav.{os.getpid()}.part").write_bytes(b"another run's, which is alive")
    assert not any(path.name.startswith(".") for path in map(Path, calls_files(data)))
    again = record(data, whole.capture, env=whole.env)
    assert (again.returncode, again.stderr) == (0, "")
    assert identities(data) == whole.calls
    assert leftovers(data) == [str((folder / f".y.wav.{os.getpid()}.part").relative_to(data))]


def calls_files(data: Path) -> list[str]:
    return [call["audio"]["path"] for call in calls(data) if call["audio"]]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_worker_that_is_killed_costs_nothing(whole: Undisturbed, tmp_path: Path) -> None:
    data = tmp_path / "data"
    octets = whole.capture.read_bytes()
    with under_way(data, whole, 2) as process:
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        assert process.stdin
        process.stdin.buffer.write(octets[len(octets) * 4 // 5:])
        process.stdin.close()
        process.stdin = None
        code, _, complaints = ended(process)
    assert (code, complaints) == (0, "")
    assert identities(data) == whole.calls
    assert leftovers(data) == []


def reads_spool(pid: int) -> bool:
    try:
        return any(".seg" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_long_call_says_what_it_lost_with_a_worker(tmp_path: Path) -> None:
    """Of a call of hours the worker was given the first part; with the worker that is gone, and nobody is told otherwise."""
    octets = pcap(Phone(1, seconds=20, packet_ns=SECOND).packets)
    command = [str(ROKUON), "--data", str(tmp_path / "data"), "record", "--jobs", "2", "-r", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(octets[:len(octets) * 4 // 5])
        process.stdin.flush()
        until(lambda: any(reads_spool(worker) for worker in children(process.pid)))
        time.sleep(0.5)
        for worker in children(process.pid):
            os.kill(worker, signal.SIGKILL)
        process.stdin.write(octets[len(octets) * 4 // 5:])
        process.stdin.close()
        assert process.wait(30) == 0
    call, = calls(tmp_path / "data")
    assert call["anomalies"]["audio-lost-with-finaliser"] == 1
    assert call["state"] == "answered"
    assert leftovers(tmp_path / "data") == []


@pytest.mark.parametrize(("room", "jobs"), [("1m", 2), ("4m", 1), ("5m", 2)])
def test_a_full_disk_is_one_line_and_more_room_completes_it(whole: Undisturbed, tmp_path: Path, room: str, jobs: int) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root mounts a small file system in a namespace of its own")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    script = f"""
        mount -t tmpfs -o size={room} tmpfs {disk} || exit 99
        {ROKUON} --data {disk}/data record --jobs {jobs} -r {whole.capture} 2>{tmp_path}/said; code=$?
        cp -a {disk}/data {tmp_path}/first
        mount -o remount,size=100m {disk}
        {ROKUON} --data {disk}/data record -r {whole.capture} >&2 || exit 98
        cp -a {disk}/data {kept}
        exit $code
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=60,
                          env={**os.environ, **whole.env})
    if done.returncode == 99 or "unshare:" in done.stderr:
        pytest.skip("no private mounts here")
    assert done.returncode == 1, done.stderr
    said = (tmp_path / "said").read_text()
    assert said.startswith("rokuon: cannot write ")
    assert said.endswith(": no space left on device\n")
    assert said.count("\n") == 1
    assert leftovers(tmp_path / "first") == []
    assert identities(tmp_path / "first").items() <= whole.calls.items()
    assert identities(kept) == whole.calls
    assert leftovers(kept) == []


def test_two_at_once_and_somebody_who_looks(whole: Undisturbed, tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = [str(ROKUON), "--data", str(data), "record", "--jobs", "1", "-r", str(whole.capture)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **whole.env})
            for _ in range(2)]
    looks = 0
    while any(process.poll() is None for process in both) or not looks:
        assert run(data, "calls", "--json").returncode == 0
        looks += 1
    for process in both:
        out, complaints = process.communicate()
        assert (process.returncode, complaints) == (0, ""), out
    assert identities(data) == whole.calls
    assert leftovers(data) == []
    files = {path.relative_to(data).as_posix() for path in (data / "recordings").rglob("*.wav")}
    assert files == set(calls_files(data))
