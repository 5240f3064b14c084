"""The capture process: from interfaces to the spool. Holds the packet socket, and nothing else that could be lost."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any

from rokuon import __version__
from rokuon.appliance.logs import Log
from rokuon.appliance.notify import Notifier
from rokuon.appliance.publisher import Publisher
from rokuon.sniffer.packet import PacketBatch
from rokuon.sniffer.pcap_live import LiveCapture, open_live
from rokuon.store.advice import AdviceReader
from rokuon.store.capture import Capture
from rokuon.store.layout import Layout, refused
from rokuon.store.memory import keep_pages
from rokuon.store.process import begin_again, on_signals, sole
from rokuon.store.segments import HEAD, Head, SpoolWriter
from rokuon.store.settings import Settings
from rokuon.store.sidecar import iso

__all__ = ["SPOOL_PREFIX", "capture_packets", "source_name", "spool_limit"]

SPOOL_PREFIX = "capture-"
_NS = 1_000_000_000
_RUN_S = 0.2
"""A run lasts so long at most: what a killed capture had in hand."""
_BEHIND_NS = _NS // 10
"""How far time without packets stays behind the clock: packets of that age may still be on their way."""
_STEP_NS = 5 * _NS
_TENTH_NS = _NS // 10
"""Of time; no capture begins as many segments: where all were removed, their names are not used again."""
_LINES = 20
_SMALLEST_SEGMENT = 1 << 20


def source_name(interfaces: Sequence[str]) -> str:
    """What the spool of a capture of these interfaces is called."""
    return "+".join(re.sub(r"[^A-Za-z0-9._@-]", "_", interface) for interface in interfaces)[:200]


def spool_limit(layout: Layout, settings: Settings) -> int:
    """Bytes that the spool may take: as it is set, or half of what there is room for."""
    if settings.spool.limit:
        return int(settings.spool.limit * (1 << 30))
    try:
        disk = os.statvfs(layout.spool)
    except OSError:
        return 1 << 30
    return (disk.f_bavail * disk.f_frsize + spool_bytes(layout)) // 2


def spool_bytes(layout: Layout) -> int:
    """Bytes that the spool takes on its disk."""
    total = 0
    for directory, _, names in os.walk(layout.spool):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total


class _Room:
    """Whether the spool may grow: looked at now and then, not for each segment."""

    def __init__(self, layout: Layout, limit: int) -> None:
        self.limit = limit
        self._layout = layout
        self._looked = 0.0
        self.used = 0

    def __call__(self, size: int) -> bool:
        now = time.monotonic()
        if now - self._looked > 0.5 or self.used + size > self.limit:
            self._looked, self.used = now, spool_bytes(self._layout)
        fits = self.used + size <= self.limit
        if fits:
            self.used += size
        return fits


class _Capturing:
    """One run of the process."""

    def __init__(self, interfaces: Sequence[str], layout: Layout, settings: Settings, source: LiveCapture, log: Log,
                 notifier: Notifier) -> None:
        self.name = source_name(interfaces)
        self._layout, self._source, self._log, self._notifier = layout, source, log, notifier
        record = settings.record
        directory = layout.spool / f"{SPOOL_PREFIX}{self.name}"
        layout.make_directory(directory)
        layout.make_directory(layout.state)
        self._room = _Room(layout, spool_limit(layout, settings))
        self._capture = Capture(record.sip_ports, idle_ns=int(record.window * _NS) // 2)
        self._head = Head(directory / HEAD, write=True)
        epoch = max(time.time_ns(), self._head.epoch + 1)  # a clock that was set back must not put this before what was
        self._advice = AdviceReader(directory, epoch)
        self.writer = SpoolWriter(directory, epoch=epoch, sync=True, patient=False, room=self._room, head=self._head,
                                  segment_bytes=min(record.segment << 20, max(_SMALLEST_SEGMENT, self._room.limit // 32)),
                                  queue_bytes=settings.capture.queue << 20, first=epoch // _TENTH_NS)
        self._queue_limit = settings.capture.queue << 20
        self._publisher = Publisher(layout.state / f"capture-{self.name}.json", log)
        self._started = iso(time.time_ns())
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._newest = 0
        self._heard = time.monotonic_ns()
        self._offset: int | None = None
        self._steps = 0
        self._dropped = 0
        self._told: dict[str, int] = {}
        self._second = (time.monotonic(), 0, 0, 0)
        self._rates = (0.0, 0.0, 0.0)

    def run(self, duration_s: float | None) -> None:
        """Until the source ends."""
        begun = looked = time.monotonic()
        self._publish()
        self._notifier.ready(f"capturing from {self.name}")
        for batch in self._source:
            now = time.monotonic()
            if len(batch):
                self._take(batch)
            idle = time.monotonic_ns() - self._heard
            self.writer.beat(max(self._newest, (self._newest + idle if self._newest else time.time_ns()) - _BEHIND_NS))
            if now - looked >= 1:
                looked = now
                self._look()
            if duration_s is not None and now - begun >= duration_s:
                self._source.stop()

    def _take(self, batch: PacketBatch) -> None:
        """To the writer; nothing of it stays here, for the next one takes as much room."""
        run = self._capture.process(batch)
        dropped = self._source.stats()["dropped"]
        run.dropped, self._dropped = dropped - self._dropped, dropped
        run.step_ns = self._clock(run.last_ns)
        self.writer.append(run)

    def _clock(self, newest_ns: int) -> int:
        """By how much packet time was set, against the clock that nobody sets; 0: it was not."""
        now = time.monotonic_ns()
        offset, before = newest_ns - now, self._offset
        self._offset = offset
        if newest_ns > self._newest:
            self._newest, self._heard = newest_ns, now
        if before is None or abs(offset - before) <= _STEP_NS:
            return 0
        self._steps += 1
        self._say("clock-step", f"the clock was set by {(offset - before) / _NS:+.1f} s")
        return offset - before

    def _say(self, event: str, line: str) -> None:
        self._lines.append(line)
        self._log.warning(event, line)

    def _look(self) -> None:
        """Once a second: what there is to say, and how things are."""
        self._notifier.watchdog()
        self._capture.advice = self._advice.look()
        while self._source.warnings:
            self._say("interface", self._source.warnings.pop(0))
        stats = self._source.stats()
        now = time.monotonic()
        before, self._second = self._second, (now, stats["packets"], stats["bytes"], stats["dropped"])
        lasted = max(now - before[0], 1e-3)
        self._rates = tuple((b - a) / lasted for a, b in zip(before[1:], self._second[1:], strict=True))  # type: ignore[assignment]
        lost = {"dropped": stats["dropped"], **self.writer.not_written}
        for reason, count in lost.items():
            if count > self._told.get(reason, 0):
                more = count - self._told.get(reason, 0)
                self._told[reason] = count
                self._say(f"lost-{reason}", f"{more:,} packets lost: " + _WHY.get(reason, reason))
        self._publish()

    def _publish(self, stopped: bool = False) -> None:
        stats = self._source.stats()
        packets, octets, dropped = self._rates
        state: dict[str, Any] = {
            "pid": os.getpid(), "version": __version__, "started": self._started, "name": self.name, "stopped": stopped,
            "interfaces": [each._asdict() for each in self._source.by_interface()],
            "packets_s": round(packets, 1), "bytes_s": round(octets, 1), "dropped_s": round(dropped, 1),
            "packets": stats["packets"], "rtp_packets": self._capture.counts["rtp"],
            "queue_bytes": self.writer.waiting_bytes, "queue_limit": self._queue_limit,
            "spool_bytes": self._room.used, "spool_limit": self._room.limit, "not_written": dict(self.writer.not_written),
            "counts": dict(self._capture.counts + self._advice.counts), "clock_steps": self._steps,
            "streams": self._capture.stream_count, "warnings": list(self._lines)}
        self._publisher.put(state)

    def close(self) -> None:
        """Writes what is in hand."""
        self.writer.close()
        self._publish(stopped=True)
        self._publisher.close()
        self._head.close()


_WHY = {"dropped": "the kernel's buffer was full, or the card's", "disk-slow": "the disk is too slow, or stalls",
        "disk-full": "the disk is full", "spool-full": "the spool is full: finalising is behind, or calls last for long",
        "disk-error": "the disk fails"}


def capture_packets(interfaces: Sequence[str], layout: Layout, settings: Settings, *, bpf: str = "",
                    duration_s: float | None = None, reload: Callable[[], Settings] | None = None) -> None:
    """Writes what comes from interfaces into the spool until SIGINT, SIGTERM or `duration_s`. Calls go on after the next start.

    bpf: a filter that packets have to pass beside that of the settings. `reload`: reads the settings anew, at SIGHUP; where those
    of capture changed, the process begins again. Raises CaptureError (its kind CapturePermissionError) where an interface cannot
    be opened, StoreError where the spool cannot be written.
    """
    layout.prepare()
    keep_pages()
    log, notifier = Log("capture"), Notifier()
    again = False
    with ExitStack() as stack:
        for interface in dict.fromkeys(interfaces):
            if interface and "/" not in interface and not interface.startswith("."):  # else open_live says so
                stack.enter_context(sole(layout.spool / f"{interface}.lock",
                                         f"{interface} is being recorded into {layout.root} already"))
        choices = settings.capture
        both = " and ".join(f"({part})" for part in (choices.filter, bpf) if part.strip())
        source = stack.enter_context(open_live(list(interfaces), filter=both, snaplen=choices.snaplen, run_seconds=_RUN_S,
                                               buffer_bytes=choices.buffer << 20, promiscuous=choices.promiscuous))

        def stop(_: int, __: FrameType | None) -> None:
            source.stop()

        def look_again(_: int, __: FrameType | None) -> None:
            nonlocal again
            try:
                fresh = reload() if reload else settings
            except Exception as error:  # whatever is wrong with the file: recording goes on as it is
                log.error("settings", f"not reloaded: {error}")
                return
            if (fresh.capture, fresh.spool, fresh.record) != (settings.capture, settings.spool, settings.record):
                again = True
                source.stop()

        stack.enter_context(on_signals({signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: look_again}))
        try:
            capturing = _Capturing(interfaces, layout, settings, source, log, notifier)
        except OSError as error:
            raise refused(error, f"cannot write to {layout.spool}") from None
        try:
            capturing.run(duration_s)
        finally:
            (notifier.reloading if again else notifier.stopping)()
            capturing.close()
    if again:
        begin_again()

