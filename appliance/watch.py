"""The watching process: metrics, alarms and hooks, in one loop that waits for nothing but time, signals and its own commands.

It reads DATA/state, how full the disk is, and the sidecars of finished calls; never the spool, never a packet. What it keeps
lies in DATA/state/alarms.json and DATA/state/hooks.json; where they cannot be written (a full disk) it goes on without.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rokuon import __version__
from rokuon.appliance.alarm_rules import CRITICAL, Look
from rokuon.appliance.alarms import Alarms
from rokuon.appliance.call_hook import CallHook
from rokuon.appliance.hooks import AlarmHook, Says
from rokuon.appliance.metrics import exposition, registry
from rokuon.appliance.metrics_http import MetricsServer, write_textfile
from rokuon.appliance.notify import Notifier
from rokuon.appliance.shapes import counts, table
from rokuon.appliance.state import captures, correlation, publish, read
from rokuon.store.errors import StoreError, why
from rokuon.store.layout import Layout
from rokuon.store.process import on_signals, sole
from rokuon.store.settings import Settings, address

__all__ = ["Watch"]

LOOK_S = 2.0
TEXTFILE_S = 15.0
_KEEP_S = 1.0
"""Between two writings of where the call hook is."""
_IDLE_S, _BUSY_S = 1.0, 0.1
_STOP_S = 3.0
"""What commands have to end by themselves when we are told to stop; they are run again after the start."""


class Watch:
    """One process's work. `listen`, `textfile`: see [metrics]; `reload`: gives the settings anew, or raises StoreError.

    Raises StoreError or OSError where it cannot listen, write the text file, or write to DATA/state, and where another process
    watches already: each alarm would be told twice.
    """

    def __init__(self, layout: Layout, settings: Settings, log: Says, notifier: Notifier, listen: str, textfile: str,
                 reload: Callable[[], Settings]) -> None:
        self._layout, self._settings, self._log, self._notifier, self._reload = layout, settings, log, notifier, reload
        layout.make_directory(layout.state)
        self._lock = sole(layout.state / ".watch.lock", f"{layout.state} is watched already, by another `rokuon metrics`")
        self._registry = registry(layout)
        self._server = MetricsServer(*address(listen, settings.metrics.public), self._registry) if listen else None
        self._textfile = Path(textfile) if textfile else None
        if self._textfile is not None:
            write_textfile(self._textfile, exposition(self._registry))
        self._alarms_file, self._hooks_file = layout.state / "alarms.json", layout.state / "hooks.json"
        kept, self._hooks_kept = table(read(self._alarms_file)), read(self._hooks_file)
        self._alarms = Alarms(settings, socket.gethostname(), __version__, kept)
        self._alarm_counts = Counter(counts(kept.get("hook")))
        self._call_counts = Counter(counts(table(self._hooks_kept).get("counts")))
        self._alarm_hook = AlarmHook(settings.hooks.alarm, settings.hooks.timeout, layout.root, log, self._alarm_counts,
                                     kept.get("untold"))
        self._call_hook = self._hook(settings)
        self._written: dict[Path, dict[str, Any]] = {}
        self._failing: set[str] = set()
        self._stopping = self._reloading = False
        self._due = {"look": 0.0, "textfile": 0.0, "keep": 0.0}

    def run(self) -> None:
        """Works until SIGTERM or SIGINT; SIGHUP reads the settings again."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setblocking(False)
        with on_signals(dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), self._signalled)):
            woken_by = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            try:
                if self._server is not None:
                    self._server.start()
                self._notifier.ready(self._status())
                self._log.info("watch-started", self._status())
                while not self._stopping:
                    self._step(time.monotonic())
                    self._wait(ours)
                self._end()
            finally:
                signal.set_wakeup_fd(woken_by)
                if self._server is not None:
                    self._server.stop()
                ours.close()
                theirs.close()

    def _signalled(self, number: int, _frame: Any) -> None:
        if number == signal.SIGHUP:
            self._reloading = True
        else:
            self._stopping = True

    def _status(self) -> str:
        host = "" if self._server is None else f"[{self._server.server_name}]" if ":" in self._server.server_name \
            else self._server.server_name
        parts = [f"metrics on http://{host}:{self._server.server_port}/metrics" if self._server is not None else "",
                 f"metrics in {self._textfile}" if self._textfile is not None else "",
                 "alarm command" if self._settings.hooks.alarm else "alarms in the log only",
                 "call command" if self._settings.hooks.call else ""]
        return f"watching {self._layout.root}: {', '.join(filter(None, parts))}"

    def _step(self, now: float) -> None:
        if self._reloading:
            self._reloading = False
            self._take_settings()
        if now >= self._due["look"]:
            self._due["look"] = now + LOOK_S
            self._look(now)
        self._alarm_hook.step(now)
        if self._call_hook is not None:
            self._call_hook.step(now)
            if now >= self._due["keep"]:
                self._due["keep"] = now + _KEEP_S
                self._keep_hooks()
        if self._textfile is not None and now >= self._due["textfile"]:
            self._due["textfile"] = now + TEXTFILE_S
            self._attempt("textfile", f"cannot write {self._textfile}",
                          lambda: write_textfile(self._textfile, exposition(self._registry)))  # type: ignore[arg-type]
        self._notifier.watchdog()

    def _wait(self, woken: socket.socket) -> None:
        busy = self._alarm_hook.busy or (self._call_hook is not None and self._call_hook.busy)
        wakes = [woken.fileno(), *self._alarm_hook.wakes, *(self._call_hook.wakes if self._call_hook is not None else [])]
        readable, _, _ = select.select(wakes, [], [], _BUSY_S if busy else _IDLE_S)
        if woken.fileno() in readable:
            with suppress(BlockingIOError):
                woken.recv(4096)

    def _look(self, now: float) -> None:
        """Judges how things are, and tells what is new."""
        try:
            found = os.statvfs(self._layout.root)
            disk = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        except OSError:
            disk = None
        look = Look(time.time(), now, captures(self._layout), correlation(self._layout), disk, self._call_counts)
        for notice in self._alarms.look(look):
            say = self._log.info if notice["status"] == "cleared" else self._log.error if notice["level"] == CRITICAL \
                else self._log.warning
            say(f"alarm-{notice['kind']}", notice["text"], alarm=notice["id"], status=notice["status"], facts=notice["facts"])
            self._alarm_hook.offer(notice)
        self._publish(self._alarms_file, {**self._alarms.state(), "hook": dict(self._alarm_counts),
                                          "untold": self._alarm_hook.state()})

    def _hook(self, settings: Settings) -> CallHook | None:
        """The call hook; where none is set, where it was is forgotten: it begins with calls that finish after it is set again."""
        if not settings.hooks.call:
            with suppress(OSError):
                self._hooks_file.unlink(missing_ok=True)
            return None
        return CallHook(settings.hooks.call, settings.hooks.timeout, self._layout, self._log, self._call_counts, self._hooks_kept)

    def _keep_hooks(self) -> None:
        if self._call_hook is not None:
            self._publish(self._hooks_file, {**self._call_hook.state(), "counts": dict(self._call_counts),
                                             "waiting": self._call_hook.waiting})

    def _publish(self, path: Path, state: dict[str, Any]) -> None:
        """Writes a state file, if it would be another."""
        if self._written.get(path) == state:
            return
        if self._attempt(path.name, f"cannot write {path}", lambda: publish(path, state)):
            self._written[path] = state

    def _attempt(self, what: str, failure: str, do: Callable[[], None]) -> bool:
        """Does something that the disk may refuse; says so once, and once when it works again."""
        try:
            do()
        except OSError as error:
            if what not in self._failing:
                self._failing.add(what)
                self._log.error("write-failed", f"{failure}: {why(error)}")
            return False
        if what in self._failing:
            self._failing.remove(what)
            self._log.info("write-works", f"{what} is written again")
        return True

    def _take_settings(self) -> None:
        """SIGHUP: hooks and thresholds change at once, addresses of metrics with the next start."""
        self._notifier.reloading()
        try:
            settings = self._reload()
        except StoreError as error:
            self._log.error("settings-wrong", f"{error}; the settings that were in force stay")
        else:
            self._alarms.use(settings)
            self._alarm_hook.command, self._alarm_hook.timeout_s = settings.hooks.alarm, settings.hooks.timeout
            if self._call_hook is None or not settings.hooks.call:
                if self._call_hook is not None:
                    self._call_hook.stop(time.monotonic())
                self._settings, self._hooks_kept = settings, None
                self._call_hook = self._hook(settings)
            else:
                self._call_hook.command, self._call_hook.timeout_s = settings.hooks.call, settings.hooks.timeout
            self._settings = settings
            self._log.info("settings-taken", "settings read again")
        self._notifier.ready(self._status())

    def _end(self) -> None:
        """Lets commands end, and keeps where we are."""
        self._notifier.stopping()
        hooks = [hook for hook in (self._alarm_hook, self._call_hook) if hook is not None]
        self._let_end(hooks)
        for hook in hooks:
            hook.stop(time.monotonic())
        self._let_end(hooks)
        self._keep_hooks()
        self._publish(self._alarms_file, {**self._alarms.state(), "hook": dict(self._alarm_counts),
                                          "untold": self._alarm_hook.state()})
        self._log.info("watch-stopped", "watching stopped")

    @staticmethod
    def _let_end(hooks: Sequence[AlarmHook | CallHook]) -> None:
        """Waits a little for commands that run."""
        until = time.monotonic() + _STOP_S
        while any(hook.busy for hook in hooks) and time.monotonic() < until:
            for hook in hooks:
                hook.finish(time.monotonic())
            time.sleep(_BUSY_S)
