"""sd_notify(3), heard by a socket of the test's own."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rokuon.appliance.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    name = f"@rokuon-test-{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(10)
        yield name, listener


def test_what_the_manager_hears(manager: tuple[str, socket.socket]) -> None:
    name, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_s == 10.0
    notifier.ready("capturing on eth1")
    assert listener.recv(4096) == b"READY=1\nSTATUS=capturing on eth1"
    notifier.ready()
    assert listener.recv(4096) == b"READY=1"
    notifier.status("300 calls")
    assert listener.recv(4096) == b"STATUS=300 calls"
    notifier.watchdog()
    assert listener.recv(4096) == b"WATCHDOG=1"
    notifier.extend(2.5)
    assert listener.recv(4096) == b"EXTEND_TIMEOUT_USEC=2500000"
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    first, second = listener.recv(4096).split(b"\n")
    assert first == b"RELOADING=1"
    assert second.startswith(b"MONOTONIC_USEC=")
    assert before <= int(second.split(b"=")[1]) <= time.monotonic_ns() // 1000
    notifier.stopping()
    assert listener.recv(4096) == b"STOPPING=1"
    notifier.close()


def test_a_status_cannot_say_anything_else(manager: tuple[str, socket.socket]) -> None:
    name, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("a\nWATCHDOG=trigger\x1b[2J\r\x00\u2028" + "b" * 5000)
    said = listener.recv(65536)
    assert said.startswith(b"STATUS=a WATCHDOG=trigger [2J bbb")
    assert b"\n" not in said
    assert len(said) < 500
    notifier.status("lone \ud800")
    assert listener.recv(4096) == b"STATUS=lone"
    notifier.status("\n")  # nothing left of it
    notifier.status("after")
    assert listener.recv(4096) == b"STATUS=after"
    notifier.close()


def test_a_manager_that_does_not_read_holds_nobody_up(manager: tuple[str, socket.socket]) -> None:
    name, listener = manager
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    for _ in range(10_000):  # far more than the socket holds: neither blocks nor raises
        notifier.watchdog()
    listener.setblocking(False)
    heard = 0
    try:
        while listener.recv(4096) == b"WATCHDOG=1":
            heard += 1
    except BlockingIOError:
        pass
    assert 0 < heard < 10_000
    notifier.watchdog()  # and it is heard again
    assert listener.recv(4096) == b"WATCHDOG=1"
    notifier.close()


@pytest.mark.parametrize("name", ["", "relative/path", "vsock:2:1234", "/nowhere/at/all", "/dev/null", "@" + "x" * 300,
                                  "/" + "x" * 300, "/with\0zero"])
def test_without_a_manager_nothing_happens(name: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    for say in (notifier.ready, notifier.stopping, notifier.reloading, notifier.watchdog):
        say()
    notifier.status("x")
    notifier.close()


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, None),
    ({"WATCHDOG_USEC": "30000000"}, 15.0),
    ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ({"WATCHDOG_USEC": "0"}, None),
    ({"WATCHDOG_USEC": "-5"}, None),
    ({"WATCHDOG_USEC": "٣"}, None),
    ({"WATCHDOG_USEC": "9" * 5000}, None),
    ({"WATCHDOG_USEC": "soon"}, None),
])
def test_watchdog(environment: dict[str, str], expected: float | None) -> None:
    assert Notifier(environment).watchdog_s == expected


def test_a_manager_that_is_started_again_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    notifier = Notifier({"NOTIFY_SOCKET": str(path)})
    for _ in range(2):
        notifier.status("lost")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(path))
            listener.settimeout(10)
            notifier.status("heard")
            assert listener.recv(4096) == b"STATUS=heard"
        path.unlink()
    notifier.close()
