"""Telling the service manager how we are: sd_notify(3), systemd's documented datagram protocol, without its library.

Nothing here raises, and without a manager (NOTIFY_SOCKET is unset) nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]

_LONGEST_STATUS = 400
_PATIENCE_S = 1.0
"""How long a message that must arrive waits where the manager is slow to read; others are let go at once."""


class Notifier:
    """One process's line to its service manager.

    `environment`: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read from, os.environ if not given.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = os.environ if environment is None else environment
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environment)
        self._socket: socket.socket | None = None

    @property
    def watchdog_s(self) -> float | None:
        """Seconds after which the manager wants `watchdog()` again: half of what it allows. None: it does not watch us."""
        return self._watchdog_s

    def ready(self, status: str = "") -> None:
        """The start, or the reload that `reloading` began, is over."""
        self._send(["READY=1", *_status(status)], patient=True)

    def status(self, text: str) -> None:
        """What we are doing, as `systemctl status` shows it: one line."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """We are alive; to be said every `watchdog_s` seconds or more often, and only where work goes on indeed."""
        if self._watchdog_s is not None:
            self._send(["WATCHDOG=1"])

    def extend(self, seconds: float) -> None:
        """The start or the stop that is under way will be done, or heard of again, within so many seconds from now."""
        self._send([f"EXTEND_TIMEOUT_USEC={max(0, int(seconds * 1e6))}"], patient=True)

    def stopping(self) -> None:
        """The stop has begun."""
        self._send(["STOPPING=1"], patient=True)

    def reloading(self) -> None:
        """The settings are being read again; `ready` has to follow."""
        self._send(["RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"], patient=True)

    def close(self) -> None:
        """Lets the socket go; a later message opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, lines: list[str], *, patient: bool = False) -> None:
        if self._address is None or not lines:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(_PATIENCE_S if patient else 0)
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError):  # the manager is busy or gone
            self.close()


def _address(named: str) -> bytes | None:
    """A path, or "@name" in the abstract namespace; anything else (vsock) is not for a service on this machine."""
    if not named.startswith(("/", "@")):
        return None
    address = os.fsencode(named)
    return b"\0" + address[1:] if address.startswith(b"@") else address


def _status(text: str) -> list[str]:
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:_LONGEST_STATUS]).split())
    return [f"STATUS={line}"] if line else []


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """sd_watchdog_enabled(3)."""
    allowed, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (allowed.isascii() and allowed.isdecimal() and len(allowed) <= 20) or int(allowed) == 0:
        return None
    if whose and whose != str(os.getpid()):
        return None
    return int(allowed) / 2e6
