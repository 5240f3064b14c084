"""Live recording where something is not as it should be: what cannot begin says why, what can goes on.

One line, an exit status of the contract, no traceback, and nothing lost that was on the wire.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.phones import play, play_all, recorder, stop, wait_for_capture
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, merged, run, write
from tests.sniffer.wires import ip, missing, own_network, wire

REASON = missing() or ("" if ROKUON.exists() else "rokuon is not installed beside this Python")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
BUSY = 4
WITHOUT = {"capture": "-net_raw", "writing": "-dac_override,-dac_read_search,-fowner"}
"""Root without these capabilities (capabilities(7)) may as little as others."""


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with own_network():
        wire("near", "far")
        yield


def attempt(data: Path, *arguments: object, options: tuple[object, ...] = (), lacks: str = "") -> tuple[int, str, str]:
    """A recording that should not begin; if it does, it ends by itself."""
    if lacks and shutil.which("setpriv") is None:
        pytest.skip("no setpriv (util-linux) here")
    prefix = ["setpriv", f"--bounding-set={WITHOUT[lacks]}"] if lacks else []
    command = [*prefix, str(ROKUON), *map(str, options), "--data", str(data), "record", "--duration", "1", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=40, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def is_one_line(said: str, *words: str) -> None:
    assert said.startswith("rokuon: ")
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    for word in words:
        assert word in said


# -- what cannot begin ---------------------------------------------------------
@pytest.mark.parametrize(("arguments", "words"), [
    (("-i", "nosuch"), ("nosuch: no such interface", "near")), (("-i", ""), ("name of an interface",)),
    (("-i", "../../near"), ("no such interface",)), (("-i", "near\x1b[31m"), ("no such interface",)),
    (("-i", "x" * 40), ("name of an interface",)), (("-i", "near", "-i", "near"), ("near: named twice",)),
    (("-i", "near", "-i", "nosuch"), ("nosuch: no such interface",)),
    (("-i", "near", "--filter", "port ((("), ("port (((", "syntax"))],
    ids=["unknown", "empty", "path", "escape", "long", "twice", "one-unknown", "filter"])
def test_an_interface_that_is_none(arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path) -> None:
    status, out, err = attempt(tmp_path / "data", *arguments)
    assert (status, out) == (1, "")
    is_one_line(err, *words)


def test_without_permission_to_capture(tmp_path: Path) -> None:
    status, out, err = attempt(tmp_path / "data", "-i", "near", lacks="capture")
    assert (status, out) == (BUSY, "")
    is_one_line(err, "near: no permission", "CAP_NET_RAW")


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_data_of_somebody_else(mode: int, tmp_path: Path) -> None:
    (data := tmp_path / "data").mkdir()
    os.chown(data, 65534, 65534)
    data.chmod(mode)
    status, out, err = attempt(data, "-i", "near", lacks="writing")
    assert (status, out) == (BUSY, "")
    is_one_line(err, str(data), "permission denied")


@pytest.mark.parametrize("name", ["", "notes.txt", "recordings", "spool", "spool/near.lock/x"])
def test_data_that_is_something_else(name: str, tmp_path: Path) -> None:
    """A file, a directory of other things, or one in which other things lie where ours should."""
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("precious")
    status, out, err = attempt(tmp_path / "data", "-i", "near")
    assert (status, out) == (1, "")
    is_one_line(err, str(tmp_path / "data"))
    assert path.read_text() == "precious"


@pytest.mark.parametrize(("text", "words"), [
    (b"[record]\nwindow = ", ()), (b"\xff\xfe[record]\n", ("UTF-8",)), (bytes(100), ()), (b"[record]\nwindow = -3\n", (":2: ",)),
    (b"[record]\nwindwo = 3\n", (":2: ", "'window'")), (b"[capture]\nbuffer = 99999\n", (":2: ",)), (None, ("no such file",))],
    ids=["cut", "encoding", "zeros", "value", "key", "capture", "missing"])
def test_a_damaged_configuration(text: bytes | None, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "rokuon.toml"
    if text is not None:
        path.write_bytes(text)
    status, out, err = attempt(tmp_path / "data", "-i", "near", options=("--config", path))
    assert (status, out) == (2, "")
    is_one_line(err, str(path), *words)
    assert not (tmp_path / "data").exists()


# -- beside one that runs ------------------------------------------------------
def test_second_recorder_and_import_beside(tmp_path: Path) -> None:
    """Of the same interface into the same data there is one only; captures are recorded beside it."""
    data = tmp_path / "data"
    live, file = Phone(1, seconds=2), write(tmp_path / "c.pcap", merged(*(Phone(n, START + n * SECOND, 1) for n in range(5, 8))))
    with recorder(data, "near") as process:
        play("far", live.packets[:100])
        status, out, err = attempt(data, "-i", "near")
        assert (status, out) == (BUSY, "")
        is_one_line(err, "near", str(data))
        beside = run(data, "record", "-r", file)
        assert (beside.returncode, beside.stderr) == (0, "")
        assert beside.stdout.startswith("3 calls recorded")
        play("far", live.packets[100:])
        ended = stop(process)
    assert (ended[0], ended[2]) == (0, "")
    assert sorted(packets_of(data)) == [[50, 50]] * 3 + [[100, 100]]
    again = run(data, "record", "-r", file)
    assert "3 calls known already" in again.stdout


def test_a_configuration_damaged_while_it_runs(tmp_path: Path) -> None:
    """SIGHUP finds a file that cannot be read: recording goes on as it was, in the middle of a call."""
    data, settings, phone = tmp_path / "data", tmp_path / "rokuon.toml", Phone(1, seconds=2)
    settings.write_text("[record]\nmask_digits = false\n")
    with recorder(data, "near", options=("--config", str(settings))) as process:
        play("far", phone.packets[:100])
        settings.write_text("[record\n")
        process.send_signal(signal.SIGHUP)
        play("far", phone.packets[100:])
        status, out, err = stop(process)
    assert (status, out.split(",")[0]) == (0, "1 call recorded")
    assert packets_of(data) == [[100, 100]]
    assert err
    assert all(str(settings) in line and "not reloaded" in line for line in err.splitlines())
    assert len(err.splitlines()) <= 2, "a line of each process"


def packets_of(data: Path) -> list[list[int]]:
    """Of each call, the packets of its streams, of which none may be missing."""
    found = calls(data)
    assert all(stream["lost"] == stream["duplicates"] == 0 for call in found for stream in call["streams"])
    assert all(call["audio"] and (data / call["audio"]["path"]).exists() for call in found)
    return [[stream["packets"] for stream in call["streams"]] for call in found]


# -- what goes on --------------------------------------------------------------
def test_interfaces_that_go_and_come_back(tmp_path: Path) -> None:
    """One is set down and up, one has no carrier for a while, one is removed and made again, one comes late and goes for good.

    Calls that go on meanwhile are one call each, and what happened is said once.
    """
    data, names = tmp_path / "data", ["near", "near1", "near2", "late"]
    for name in names[1:]:
        wire(name, name.replace("near", "far") if name != "late" else "soon")
    ip("link set late down")
    phones = [Phone(number, seconds=2) for number in range(4)]
    fars = ["far", "far1", "far2", "soon"]
    half = len(phones[0].packets) // 2
    with recorder(data, *names, waits_for=names[:3]) as process:
        play_all([(far, phone.packets[:half]) for far, phone in zip(fars[:3], phones[:3], strict=True)])
        time.sleep(0.5)  # what the kernel has not yet handed over goes with the interface
        for command in ("near down", "far1 down", "late up"):
            ip(f"link set {command}")
        ip("link del near2")
        time.sleep(1.5)
        ip("link set near up")
        ip("link set far1 up")
        wire("near2", "far2")
        wait_for_capture(process, names)
        rest = [phone.packets[half:] for phone in phones[:3]]
        play_all(list(zip(fars, [*rest, phones[3].packets], strict=True)))
        time.sleep(0.5)
        ip("link del late")
        time.sleep(1.5)
        status, out, err = stop(process)
    assert (status, out.split(",")[0]) == (0, "4 calls recorded")
    assert packets_of(data) == [[100, 100]] * 4
    lines = [re.sub("^rokuon: (warning: )?", "", line) for line in err.splitlines()]
    assert {line.split(":")[0] for line in lines} == set(names)
    assert len(set(lines)) == len(lines) <= 12


def test_an_index_that_is_none(tmp_path: Path) -> None:
    """It is a view: calls are recorded all the same, which is said once, and `reindex` lists them."""
    data = tmp_path / "data"
    (data / "recordings").mkdir(parents=True)
    (data / "index.duckdb").write_bytes(b"no database" * 1000)
    with recorder(data, "near") as process:
        play("far", Phone(1).packets)
        status, _, err = stop(process)
    assert status == 0
    is_one_line(err, str(data / "index.duckdb"), "reindex")
    assert run(data, "reindex").returncode == 0
    assert packets_of(data) == [[50, 50]]


def test_an_index_that_somebody_holds(tmp_path: Path) -> None:
    """Another program has it open for as long as it likes: calls are recorded meanwhile, and listed when it lets go."""
    data = tmp_path / "data"
    assert run(data, "record", "-r", write(tmp_path / "c.pcap", Phone(5).packets)).returncode == 0
    hold = f"import duckdb, sys; c = duckdb.connect({str(data / 'index.duckdb')!r}); print(flush=True); sys.stdin.read()"
    with recorder(data, "near") as process, subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE,
                                                             stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        play("far", Phone(1).packets)
        for _ in range(400):
            if len(list((data / "recordings").rglob("*.json"))) == 2:
                break
            time.sleep(0.05)
        play("far", Phone(2).packets)
        holder.communicate()
        status, out, err = stop(process)
    assert (status, out.split(",")[0]) == (0, "2 calls recorded")
    assert err.count("\n") <= 1
    assert sorted(packets_of(data)) == [[50, 50]] * 3
