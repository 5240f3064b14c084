"""`rokuon live`: on a real terminal, in pipes, for programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.appliance.states import HOSTILE_NAMES, NOW, call, capture, correlate, published

from rokuon.appliance.live_view import View, view
from rokuon.cli import main
from rokuon.commands.live import Watch
from rokuon.commands.live_screen import lines

ROKUON = Path(sys.executable).with_name("rokuon")
OURS = re.compile(r"\x1b\[(?:\?(?:1049|25|7)[hl]|2J|K|\d+;1H|(?:\d+;?)*m)")
"""The control sequences that the screen is made of."""
MOVE = re.compile(r"\x1b\[(\d+);1H|\x1b\[(K)|\x1b\[2(J)|\x1b\[[?0-9;]*[hlm]")


def cells(text: str) -> int:
    """Cells of a terminal, by Unicode's East Asian Width."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def some(count: int) -> list[dict[str, Any]]:
    names = [None, *HOSTILE_NAMES]
    states, codecs = ("answered", "ringing", "rtp-only"), ("PCMU", "opus", None, "AMR-WB")
    return [call(n + 1, caller_name=names[n % len(names)], callee_name=names[-n % len(names)], state=states[n % 3],
                 codec=codecs[n % 4]) for n in range(count)]


def seen(count: int = 30, **changes: Any) -> View:
    stamp = {"time": datetime.now(UTC).isoformat()}
    return view({"eth1": {**capture(dropped_s=4), **stamp}, "eth2": {**capture(), **stamp}},
                {**correlate(some(count), **changes), **stamp})


# -- lines ---------------------------------------------------------------------
@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 60), st.booleans())
def test_lines_fit_any_terminal(width: int, height: int, count: int, colours: bool) -> None:
    shown = lines(seen(count, live_more=3), NOW, width, height, colours)
    assert len(shown) <= height
    for text in shown:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert cells(plain) <= width
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in plain)


def test_columns_stay_where_they_are() -> None:
    """80 columns hold all that matters; long and wide names move nothing."""
    shown = lines(seen(), NOW, 80, 60)
    begin = next(n for n, text in enumerate(shown) if "CALLER" in text)
    titles = shown[begin].split()
    assert titles == ["TIME", "CALLER", "CALLEE", "STATE", "CODEC", "PACKETS", "LOST", "%", "JITTER"]
    at = shown[begin].index("STATE")
    states = [text for text in shown[begin + 1:begin + 31] if re.search("answered|ringing|rtp-only", text)]
    assert len(states) == 30
    assert {cells(text[:re.search("answered|ringing|rtp-only", text).start()]) for text in states} == {at}  # type: ignore[union-attr]
    assert {cells(text) for text in states} == {80}
    assert "START" in "".join(lines(seen(), NOW, 88, 60))


def test_what_does_not_fit_is_counted() -> None:
    for height in range(8, 60):
        shown = lines(seen(30, live_more=5, calls_in_progress=35), NOW, 80, height)
        calls = sum(bool(re.search("answered|ringing|rtp-only", text)) for text in shown)
        assert len(shown) == min(height, len(shown))
        assert shown[-1] == f"and {35 - calls} more"
    assert not any("more" in text for text in lines(seen(3), NOW, 80, 24))


def test_a_screen_in_words() -> None:
    shown = lines(seen(1), NOW, None)
    text = "\n".join(shown)
    for words in ("1 call in progress", "0.5 s behind", "3 to be written",
                  "eth1 up   30,000 packets/s   51.4 Mbit/s   0 dropped (4/s)   spool 1.0 MB",
                  "1,204 recorded   3 not recorded   disk 412.0 GB free   38 days left", "! eth1: 4 packets dropped"):
        assert words in text
    assert shown[-1].split()[-3:] == ["50/49", "0.0/2.0", "0.7/12"]
    assert lines(seen(0), NOW, 80, 24)[-1] == "no call in progress"


@pytest.mark.parametrize(("seconds", "packets", "want"), [
    (59, 2_950, ["0:57", "2950/2950"]), (3_725, 186_250, ["1h02m", "186k/186k"]), (90_002, 99_999, ["25h00m", "99999/99999"]),
    (720_002, 36_000_000, ["200h", "36M/36M"])])
def test_long_calls_fit_their_columns(seconds: int, packets: int, want: list[str]) -> None:
    now = view({}, {**correlate([call(seconds, packets=[packets, packets])]), "time": datetime.now(UTC).isoformat()})
    cut = lines(now, NOW, 80, 24)[-1].split()
    assert [cut[0], cut[-3]] == want


# -- prints ----------------------------------------------------------------------
def rokuon(data: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["--data", str(data), "live", *args], env={"ROKUON_CONFIG": None})


def test_a_pipe_gets_one_picture(tmp_path: Path) -> None:
    published(tmp_path / "data", {"eth1": capture()}, correlate(some(40)))
    result = rokuon(tmp_path / "data")
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert sum(bool(re.search("answered|ringing|rtp-only", text)) for text in result.output.splitlines()) == 40
    assert (tmp_path / "data/state/watched").exists()


def test_nothing_runs(tmp_path: Path) -> None:
    for args in ((), ("--once",)):
        result = rokuon(tmp_path / "data", *args)
        assert result.exit_code == 1
        assert result.output.count("\n") == 1
        assert f"--data {tmp_path / 'data'} record -i IFACE" in result.output
        assert "systemctl start" in result.output
    result = rokuon(tmp_path / "data", "--json")
    assert result.exit_code == 1
    assert {k: v for k, v in json.loads(result.output).items() if k != "time"} == {
        "running": False, "warnings": [], "captures": {}, "correlate": None}
    assert not (tmp_path / "data").exists()
    published(tmp_path / "data", {"eth1": capture(stopped=True)}, correlate([], stopped=True))
    assert "systemctl start" in rokuon(tmp_path / "data").output
    (tmp_path / "data/state/capture-eth1.json").write_text(json.dumps({**capture(), "time": "2026-11-24T00:00:00Z"}))
    result = rokuon(tmp_path / "data")
    assert result.exit_code == 1 or datetime.now(UTC) < NOW
    assert "rokuon-capture@eth1.service" in result.output


def test_an_object_for_programs(tmp_path: Path) -> None:
    made, theirs = capture(), correlate(some(3), behind_s=float("nan"))
    layout = published(tmp_path / "data", {"eth1": made}, None)
    (layout.state / "correlate.json").write_text(json.dumps({**theirs, "time": datetime.now(UTC).isoformat()}))
    result = rokuon(tmp_path / "data", "--json")
    report = json.loads(result.output, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result.exit_code == 0
    assert report["running"] is True
    assert report["captures"]["eth1"].items() >= made.items()
    assert report["correlate"]["behind_s"] is None
    assert report["correlate"]["live"][0]["caller"] == theirs["live"][0]["caller"]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u200b]", result.output)


def test_an_object_each_second(tmp_path: Path) -> None:
    published(tmp_path / "data", {"eth1": capture()}, correlate(some(2)))
    with subprocess.Popen([ROKUON, "--data", tmp_path / "data", "live", "--jsonl"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        reports = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert all(report["correlate"]["calls_in_progress"] == 2 for report in reports)
    assert reports[0]["time"] < reports[1]["time"]


def test_who_watches_is_seen(tmp_path: Path) -> None:
    layout = published(tmp_path / "data", {"eth1": capture()}, correlate(some(2)))
    target = tmp_path / "elsewhere"
    target.touch()
    os.utime(target, (1, 1))
    (layout.state / "watched").symlink_to(target)
    assert rokuon(tmp_path / "data").exit_code == 0
    assert target.stat().st_mtime == 1
    (layout.state / "watched").unlink()
    (layout.state / "watched").touch()
    os.utime(layout.state / "watched", (1, 1))
    assert rokuon(tmp_path / "data").exit_code == 0
    assert (layout.state / "watched").stat().st_mtime > 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("member", [True, False])
def test_members_of_the_group_may_watch(tmp_path: Path, member: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd/rokuon.tmpfiles leaves it: they may not make or remove the file, but say by it that they are there."""
    watched = tmp_path / "watched"
    watched.touch()
    os.utime(watched, (1, 1))
    for path, mode in ((watched, 0o660), (tmp_path, 0o755)):
        os.chown(path, 54321, 54322)
        path.chmod(mode)
    monkeypatch.chdir(tmp_path)  # whose parents are nobody else's
    watch = Watch(Path())
    child = os.fork()
    if not child:
        status = 2
        try:
            os.setgroups([54322] if member else [])
            os.setgid(54323)
            os.setuid(54323)
            watch.say()
            status = int(watch.heard)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == member
    assert (watched.stat().st_mtime > 1) == member
    assert (watched.stat().st_uid, watched.stat().st_mode & 0o777) == (54321, 0o660)


# -- a terminal ------------------------------------------------------------------
class Terminal:
    """The master's side of a pseudo-terminal, and what its screen shows: as much of ECMA-48 as the screen may use."""

    def __init__(self, master: int, rows: int, columns: int) -> None:
        self.master = master
        self.raw = ""
        self._octets = b""
        self.resize(rows, columns)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, until: Callable[[str], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not until(self.raw):
            assert time.monotonic() < end, f"it never came: {self.raw[-2000:]!r}"
            if not select.select([self.master], [], [], 0.2)[0]:
                continue
            try:
                octets = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                octets = b""
            if not octets:
                assert until(self.raw), f"it ended: {self.raw[-2000:]!r}"
                return
            self._octets += octets
            self.raw = self._octets.decode(errors="ignore")

    def screen(self) -> dict[int, str]:
        """What each row holds."""
        rows: dict[int, str] = {}
        row = last = 0
        for match in MOVE.finditer(self.raw):
            if row and (text := self.raw[last:match.start()]):
                rows[row] = rows.get(row, "") + text
            if match[1]:
                row = int(match[1])
                rows[row] = ""
            elif match[3]:
                rows.clear()
            last = match.end()
        return rows


def controlling() -> None:
    """The terminal sends the signals of Ctrl-C and Ctrl-Z to this process."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def terminal(data: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Terminal]]:
    """The command on a terminal of 80 columns and 24 rows."""
    master, slave = pty.openpty()
    window = Terminal(master, 24, 80)
    given = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "ROKUON_CONFIG")}
    process = subprocess.Popen([ROKUON, "--data", data, "live"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                               env={**given, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
                               preexec_fn=controlling)  # noqa: PLW1509 -- no threads here
    try:
        yield process, window
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)


def test_80_by_24(tmp_path: Path) -> None:
    layout = published(tmp_path / "data", {"eth1": capture()}, correlate(some(40)))
    with terminal(tmp_path / "data") as (process, window):
        window.read(lambda raw: "and " in raw)
        before = termios.tcgetattr(window.master)
        assert not before[3] & termios.ECHO
        first = window.screen()
        assert max(first) == 24
        assert all(cells(text) <= 80 for text in first.values())
        assert re.fullmatch(r"and \d+ more", first[24])
        assert sum("answered" in text or "ringing" in text or "rtp-only" in text for text in first.values()) > 10
        at = len(window.raw)
        published(tmp_path / "data", {"eth1": capture()}, correlate(some(2), calls_in_progress=2))
        window.read(lambda raw: "2 calls in progress" in raw)
        window.read(lambda raw: "\x1b[24;1H\x1b[K" in raw[at:])
        assert "\x1b[2J" not in window.raw[at:]  # in place
        assert not any("and " in text and "more" in text for text in window.screen().values())
        window.resize(12, 60)
        os.kill(process.pid, signal.SIGWINCH)
        window.read(lambda raw: "\x1b[2J" in raw[at:] and raw.rindex("JITTER" if "JITTER" in raw[at:] else "CALLER") > at)
        at = window.raw.rindex("\x1b[2J")
        assert all(cells(text) <= 60 for text in window.screen().values())
        assert max(window.screen()) <= 12
        os.write(window.master, b"q")
        assert process.wait(10) == 0
        window.read(lambda raw: raw.endswith("\x1b[?1049l"))
        assert not OURS.sub("", window.raw).count("\x1b")
        assert not re.search("[\x00-\x1a\x1c-\x1f\x7f-\x9f\u202e\u200b\ud800-\udfff]", window.raw)
        assert termios.tcgetattr(window.master)[3] & termios.ECHO
    assert (layout.state / "watched").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_terminal_is_given_back(tmp_path: Path, number: int, status: int) -> None:
    published(tmp_path / "data", {"eth1": capture()}, correlate(some(1)))
    with terminal(tmp_path / "data") as (process, window):
        window.read(lambda raw: "PACKETS" in raw)
        if number == signal.SIGINT:
            os.write(window.master, b"\x03")  # Ctrl-C, as typed
        else:
            process.send_signal(number)
        assert process.wait(10) == status
        window.read(lambda raw: raw.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l"))
        assert termios.tcgetattr(window.master)[3] & termios.ECHO


def test_stopped_and_continued(tmp_path: Path) -> None:
    published(tmp_path / "data", {"eth1": capture()}, correlate(some(1)))
    with terminal(tmp_path / "data") as (process, window):
        window.read(lambda raw: "PACKETS" in raw)
        process.send_signal(signal.SIGTSTP)
        window.read(lambda raw: "\x1b[?1049l" in raw)
        process.send_signal(signal.SIGCONT)  # as it is alone, with no shell over it, Linux has not stopped it at all
        window.read(lambda raw: "PACKETS" in raw[raw.rindex("\x1b[?1049h"):] and raw.count("\x1b[?1049h") == 2)
        os.write(window.master, b"q")
        assert process.wait(10) == 0


def test_a_dumb_terminal_gets_plain_text(tmp_path: Path) -> None:
    published(tmp_path / "data", {"eth1": capture()}, correlate(some(30)))
    with terminal(tmp_path / "data", TERM="dumb") as (process, window):
        window.read(lambda raw: raw.count("0300000030") == 1)
        assert "\x1b" not in window.raw
        assert all(cells(text) <= 80 for text in window.raw.splitlines())
        os.write(window.master, b"\x03")
        assert process.wait(10) == 0


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    published(tmp_path / "data", {"eth1": capture()}, correlate(some(30)))
    with terminal(tmp_path / "data", PYTHONIOENCODING="ascii") as (process, window):
        window.read(lambda raw: "and " in raw)
        assert window.raw.isascii()
        os.write(window.master, b"q")
        assert process.wait(10) == 0
