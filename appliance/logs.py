"""What a process of the appliance has to say to people: one line for an event, bounded in rate, structured in the journal.

Where standard error is the journal (JOURNAL_STREAM names it, systemd.exec(5)) an event becomes an entry with fields, in the
journal's native protocol: MESSAGE, PRIORITY as of syslog(3), SYSLOG_IDENTIFIER, ROKUON_PROCESS, ROKUON_EVENT and the
event's own fields, so that `journalctl ROKUON_EVENT=link-down` finds it. Elsewhere it is a line on standard error.

Nothing here raises, and nothing waits: where the reader is slow or hangs, lines are let go and counted.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BURST", "PER_MINUTE", "Log"]

ERROR, WARNING, INFO = 3, 4, 6

BURST = 20
"""Lines of one event that may come at once."""
PER_MINUTE = 6
"""Lines of one event a minute after that."""

_JOURNAL = "/run/systemd/journal/socket"
_MOST_EVENTS = 256
_OTHERS = "others"
"""The one event whose bound those share that come after the first 256: an event's name is no place for data."""
_LONGEST_MESSAGE = 1000
_LONGEST_VALUE = 4000
_MOST_FIELDS = 32
_NO_NAME = re.compile("[^A-Z0-9_]+")


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float
    withheld: int = 0


class Log:
    """The log of one process.

    `name`: of the process, as in "capture-eth1". `environment`, `clock` (seconds, any zero), `journal` (path of the
    journal's socket): for tests.
    """

    def __init__(self, name: str, *, environment: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic,
                 journal: str = _JOURNAL) -> None:
        self._name = name
        self._environment = os.environ if environment is None else environment
        self._clock = clock
        self._path = journal
        self._socket: socket.socket | None = None
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.RLock()  # a signal's handler may log while a line is being written

    def info(self, event: str, message: str, **fields: Any) -> None:
        """Something that is worth a line happened: `event` names its kind ("capture-started"), `message` is the line."""
        self._log(INFO, event, message, fields)

    def warning(self, event: str, message: str, **fields: Any) -> None:
        """Something may be lost, or will be if nobody looks."""
        self._log(WARNING, event, message, fields)

    def error(self, event: str, message: str, **fields: Any) -> None:
        """Something is lost, or does not work."""
        self._log(ERROR, event, message, fields)

    def flush(self) -> None:
        """Says how many lines were withheld and not yet spoken of: before the end."""
        for event, bucket in list(self._buckets.items()):
            if bucket.withheld:
                withheld, bucket.withheld = bucket.withheld, 0
                self._write(INFO, event, f"{withheld} more lines of {event} were not logged", {"withheld": withheld})

    def close(self) -> None:
        """Flushes, and lets the socket go; a later line opens another."""
        self.flush()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _log(self, priority: int, event: str, message: str, fields: Mapping[str, Any]) -> None:
        if not self._lock.acquire(timeout=1):  # after a fork its holder may not exist
            return
        try:
            bucket = self._bucket(event)
            if bucket.tokens < 1:
                bucket.withheld += 1
                return
            text, withheld = _line(message), bucket.withheld
            if withheld:
                fields = {**fields, "withheld": withheld}
                text += f" ({withheld} more of these were not logged)"
            bucket.tokens -= 1
            bucket.withheld = 0 if self._write(priority, event, text, fields) else withheld + 1
        except Exception:  # noqa: S110 -- a log never stops what it speaks of
            pass
        finally:
            self._lock.release()

    def _bucket(self, event: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(event)
        if bucket is None:
            if len(self._buckets) >= _MOST_EVENTS:
                event = _OTHERS
            bucket = self._buckets.setdefault(event, _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + max(0.0, now - bucket.filled) * PER_MINUTE / 60)
        bucket.filled = now
        return bucket

    # -- writing -----------------------------------------------------------
    def _write(self, priority: int, event: str, line: str, fields: Mapping[str, Any]) -> bool:
        """Whether it went out."""
        if not self._in_journal():
            return _to_stderr(f"rokuon: {line}\n")
        try:
            return self._to_journal(_entry(self._name, priority, event, line, fields))
        except OSError:  # not to be reached from here: a file system of our own, say
            return _to_stderr(f"<{priority}>{line}\n")

    def _in_journal(self) -> bool:
        stream = self._environment.get("JOURNAL_STREAM", "")
        if not stream:
            return False
        try:
            status = os.fstat(sys.stderr.fileno())
        except (OSError, ValueError, AttributeError):
            return False
        return stream == f"{status.st_dev}:{status.st_ino}"

    def _to_journal(self, entry: bytes) -> bool:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._socket.sendto(entry, self._path)
        except BlockingIOError:  # the journal does not keep up, or hangs
            return False
        return True


def _entry(name: str, priority: int, event: str, line: str, fields: Mapping[str, Any]) -> bytes:
    """A datagram of the journal's native protocol."""
    parts = [_field("MESSAGE", line), _field("PRIORITY", str(priority)), _field("SYSLOG_IDENTIFIER", "rokuon"),
             _field("ROKUON_PROCESS", name), _field("ROKUON_EVENT", event)]
    for key, value in list(fields.items())[:_MOST_FIELDS]:
        if value is not None:
            parts.append(_field("ROKUON_" + _NO_NAME.sub("_", key.upper())[:57], _text(value)))  # 64 characters at most
    return b"".join(parts)


def _field(name: str, value: str) -> bytes:
    content = value[:_LONGEST_VALUE].encode("utf-8", "backslashreplace")
    if b"\n" in content:
        return name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
    return name.encode() + b"=" + content + b"\n"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool | dict | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    return str(value)


def _line(message: str) -> str:
    """One line that a terminal shows and does not obey."""
    text = str(message)
    if len(text) > _LONGEST_MESSAGE:
        text = text[:_LONGEST_MESSAGE - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\t\n\r" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _to_stderr(line: str) -> bool:
    try:
        if not select.select([], [sys.stderr], [], 0)[1]:  # a terminal that is held, a pipe that is full
            return False
    except (OSError, ValueError, TypeError, AttributeError):  # no file behind it, or one that cannot be asked
        pass
    try:
        try:
            sys.stderr.write(line)
        except UnicodeEncodeError:
            sys.stderr.write(line.encode("ascii", "backslashreplace").decode())
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return False  # nobody listens
    return True
