"""The log: what the journal is told, what a terminal is told, and what is withheld."""

from __future__ import annotations

import io
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.appliance.logs import BURST, PER_MINUTE, Log, _entry, _line


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def entry(datagram: bytes) -> dict[str, str]:
    """A reader of the journal's native protocol, as its document describes it."""
    found = {}
    while datagram:
        end = datagram.index(b"\n")
        if b"=" in datagram[:end]:
            name, value = datagram[:end].split(b"=", 1)
            datagram = datagram[end + 1:]
        else:
            name = datagram[:end]
            (length,) = struct.unpack("<Q", datagram[end + 1:end + 9])
            value = datagram[end + 9:end + 9 + length]
            assert datagram[end + 9 + length:end + 10 + length] == b"\n"
            datagram = datagram[end + 10 + length:]
        assert name.decode() not in found
        assert name.isupper()
        assert len(name) <= 64
        found[name.decode()] = value.decode()
    return found


class Journal:
    """A journal, and a standard error that is its stream."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.path, self.listener = str(folder / "socket"), listener
        listener.bind(self.path)
        listener.settimeout(10)
        self.logs: list[Log] = []
        self.file = open(folder / "stderr", "w+", encoding="utf-8")  # noqa: SIM115 -- closed by the fixture
        status = os.fstat(self.file.fileno())
        self.environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}

    def log(self, monkeypatch: pytest.MonkeyPatch, path: str = "", clock: Callable[[], float] = time.monotonic) -> Log:
        """A log of a process that writes to this journal."""
        monkeypatch.setattr(sys, "stderr", self.file)
        self.logs.append(Log("capture-eth1", environment=self.environment, journal=path or self.path, clock=clock))
        return self.logs[-1]

    def heard(self) -> dict[str, str]:
        return entry(self.listener.recv(1 << 20))

    def on_stderr(self) -> str:
        self.file.seek(0)
        return self.file.read()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        made = Journal(tmp_path, listener)
        with made.file:
            yield made
            for log in made.logs:
                log.close()


def test_an_entry_in_the_journal(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    log = journal.log(monkeypatch)
    log.warning("drops", "the kernel dropped 12 packets", packets=12, interface="eth1", call_id="a\nMESSAGE=forged", share=0.5,
                nothing=None, **{"odd-name é": [1, "x"], "raw": b"\xff\n"})
    assert journal.heard() == {
        "MESSAGE": "the kernel dropped 12 packets", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "rokuon",
        "ROKUON_PROCESS": "capture-eth1", "ROKUON_EVENT": "drops", "ROKUON_PACKETS": "12", "ROKUON_INTERFACE": "eth1",
        "ROKUON_CALL_ID": "a\nMESSAGE=forged", "ROKUON_SHARE": "0.5", "ROKUON_ODD_NAME_": '[1, "x"]', "ROKUON_RAW": "\\xff\n",
    }
    log.info("stop", "stops")
    assert journal.heard()["PRIORITY"] == "6"
    log.error("disk", "full")
    assert journal.heard()["PRIORITY"] == "3"
    assert journal.on_stderr() == ""


NAMES = st.text("abcdefghij_", min_size=1, max_size=20)  # no letters of which our own names are made


@given(st.text(), st.dictionaries(NAMES, st.one_of(st.text(), st.binary(), st.integers()), max_size=20))
def test_no_text_is_more_than_its_field(message: str, fields: dict[str, str | bytes | int]) -> None:
    line = _line(message)
    assert line.isprintable()
    expected = {"MESSAGE": line, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "rokuon", "ROKUON_PROCESS": "x", "ROKUON_EVENT": "e"}
    for name, value in fields.items():
        encoded = value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")
        expected[f"ROKUON_{name.upper()}"] = encoded.decode("utf-8", "backslashreplace")
    assert entry(_entry("x", 4, "e", line, fields)) == expected


def test_a_journal_that_cannot_be_reached(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    log = journal.log(monkeypatch, journal.path + ".not")
    log.warning("x", "late\x1b[2J\nline", field=1)
    assert journal.on_stderr() == "<4>late\N{REPLACEMENT CHARACTER}[2J line\n"


def test_a_journal_that_hangs_holds_nobody_up(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    log = journal.log(monkeypatch, clock=clock)
    for n in range(2000):  # more than the socket holds
        clock.now += 60
        log.info("tick", f"{n}")
    heard = [journal.heard()["MESSAGE"]]
    journal.listener.setblocking(False)
    try:
        while True:
            heard.append(journal.heard()["MESSAGE"])
    except BlockingIOError:
        pass
    assert heard == [str(n) for n in range(len(heard))]
    log.info("tick", "again")
    said = journal.heard()
    assert said["ROKUON_WITHHELD"] == str(2000 - len(heard))
    assert said["MESSAGE"] == f"again ({2000 - len(heard)} more of these were not logged)"


def test_a_terminal_gets_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("record", environment={})
    log.warning("link-down", "eth1 has no link", interface="eth1")
    assert capsys.readouterr().err == "rokuon: eth1 has no link\n"


def test_a_stream_of_somebody_else_is_no_journal(capsys: pytest.CaptureFixture[str]) -> None:
    """JOURNAL_STREAM is handed on to children whose standard error goes elsewhere."""
    Log("record", environment={"JOURNAL_STREAM": "9:123456"}).info("x", "a line")
    assert capsys.readouterr().err == "rokuon: a line\n"


def test_rate(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    log = Log("record", environment={}, clock=clock)
    for n in range(BURST + 30):
        log.info("storm", f"storm {n}")
    log.info("other", "has its own bound")
    assert capsys.readouterr().err.splitlines() == [f"rokuon: storm {n}" for n in range(BURST)] + ["rokuon: has its own bound"]
    clock.now += 60 / PER_MINUTE + 0.01
    log.info("storm", "one more")
    log.info("storm", "too many")
    assert capsys.readouterr().err == "rokuon: one more (30 more of these were not logged)\n"
    log.flush()
    log.flush()
    assert capsys.readouterr().err == "rokuon: 1 more lines of storm were not logged\n"
    clock.now += 3600
    for n in range(BURST + 5):
        log.info("storm", f"later {n}")
    assert capsys.readouterr().err.count("\n") == BURST


def test_names_without_end_share_one_bound(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("record", environment={})
    for n in range(1000):
        log.info(f"event-{n}", "x")
    assert capsys.readouterr().err.count("\n") == 256 + BURST


class Rude:
    def __str__(self) -> str:
        raise RuntimeError


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Closed(), "closed file", "ascii"])
def test_it_never_raises(stream: object, journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if stream == "closed file":
        stream = open(tmp_path / "x", "w", encoding="utf-8")  # noqa: SIM115
        stream.close()
    elif stream == "ascii":
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stderr", stream)
    log = Log("record", environment=journal.environment, journal=journal.path)
    journal.logs.append(log)
    log.error("x", "voilà \ud800", value=Rude(), more="y")
    log.error("x", Rude())  # type: ignore[arg-type]
    log.flush()


def test_a_pipe_that_is_full_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0), open(writing, "w", encoding="utf-8") as pipe:
        clock = Clock()
        log = Log("capture", environment={}, clock=clock)
        monkeypatch.setattr(sys, "stderr", pipe)
        for _ in range(500):
            clock.now += 60
            log.info("tick", "x" * 900)
