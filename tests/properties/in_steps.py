"""The appliance in one process, step by step: captures that write a spool, and the process that makes recordings of it. Either
can be dropped at any step, as if it had been killed, and begun again. Time is what the test says.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.sniffer.batches import batch
from tests.sniffer.captures import Packet

from rokuon.appliance import correlating, intake
from rokuon.store import listing, record_files, recorder, segments, spool, spool_reader
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator
from rokuon.store.index import Index
from rokuon.store.known import Known
from rokuon.store.layout import Layout
from rokuon.store.owed import Owed
from rokuon.store.pool import Pool
from rokuon.store.segments import HEAD, Head, SpoolWriter
from rokuon.store.settings import Settings
from rokuon.store.spool import Spool

Json = dict[str, Any]
S = 1_000_000_000
RUN_NS = S // 5
SEGMENT = 8192
WINDOW_S = 8.0
PIECE_NS = 12 * S
SETTLED_NS = 4 * S
SETTINGS = replace(Settings(), record=replace(Settings().record, window=WINDOW_S, early=3.0))


class Killed(BaseException):
    """The process is no more."""


class Clock:
    """Stands in the place of the module `time`."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * S

    def monotonic(self) -> float:
        return self.now_ns / 1e9

    def monotonic_ns(self) -> int:
        return self.now_ns

    def time_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class Said:
    """What a process logs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, event: str, line: str, **_: object) -> None:
        self.lines.append(f"{event}: {line}")

    error = warning


@contextmanager
def small_world(clock: Clock, crashes: Crashes | None = None) -> Iterator[pytest.MonkeyPatch]:
    """Small segments, short pieces, no time but the test's."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (correlating, intake, listing, recorder, segments, spool_reader):
            patch.setattr(module, "time", clock)
        patch.setattr(segments, "_GRAIN", 64)
        patch.setattr(recorder, "_SETTLED_NS", SETTLED_NS)
        patch.setattr(spool, "LARGE", 0)
        patch.setattr(spool, "_LONG_NS", 4 * S)
        patch.setattr(spool, "_MANY", 1)
        patch.setattr(correlating, "_SEGMENT", SEGMENT)
        patch.setattr(correlating, "_GIVE_BACK_S", 1.0)
        patch.setitem(Correlator.__init__.__kwdefaults__, "piece_ns", PIECE_NS)
        if crashes is not None:
            crashes.mount(patch)
        yield patch


class Crashes:
    """Where the correlating process dies: at the n-th of the places that it comes by."""

    PLACES = ((recorder.Recorder, "_collect"), (Known, "note"), (intake.Intake, "note"), (Owed, "noted"), (Index, "add_calls"),
              (Known, "listed"), (Spool, "_merge"), (Spool, "_give_back"), (Spool, "recycle"))

    def __init__(self) -> None:
        self.left = -1
        self.passed: Counter[str] = Counter()

    def come_by(self, place: str) -> None:
        self.passed[place] += 1
        self.left -= 1
        if self.left == 0:
            raise Killed(place)

    def mount(self, patch: pytest.MonkeyPatch) -> None:
        for owner, name in self.PLACES:
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            if name == "_collect" and not args[1]:
                return None
            self.come_by(f"before {name}")
            result = real(*args, **more)
            self.come_by(f"after {name}")
            return result
        return wrapped


class Source:
    """A capture: packets in, spool out."""

    epochs = 1_000

    def __init__(self, layout: Layout, name: str, clock: Clock) -> None:
        self.directory = layout.spool / f"capture-{name}"
        self._layout, self._clock = layout, clock
        self.lost: list[Packet] = []
        self._begin()

    def _begin(self) -> None:
        self._layout.make_directory(self.directory)
        self.alive = True
        Source.epochs += 1
        self.head = Head(self.directory / HEAD, write=True)
        self.capture = Capture(idle_ns=int(WINDOW_S * S) // 2)
        self.writer = SpoolWriter(self.directory, epoch=Source.epochs, patient=False, head=self.head, segment_bytes=SEGMENT)

    def take(self, packets: Sequence[Packet]) -> None:
        if packets:
            self.writer.append(self.capture.process(batch(packets)))
            self.writer.drain()

    def beat(self, now_ns: int) -> None:
        """As the capture does each time it has looked for packets."""
        self.head.beat(self.writer.epoch, now_ns)

    def die(self, packets: Sequence[Packet] = (), share: float = 0.0) -> None:
        """Killed while it writes these: what is written of them is the first `share` of it, and no run."""
        self.writer._head = None
        if packets:
            real = segments._write_all

            def part(file: int, parts: list[memoryview], at: int) -> None:
                whole = b"".join(parts)
                real(file, [memoryview(whole[:int(share * len(whole))])], at)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(segments, "_write_all", part)
                self.writer.append(self.capture.process(batch(packets)))
                self.writer.drain()
            self.lost += packets
        self.close()

    def again(self) -> None:
        self._begin()

    def close(self) -> None:
        if self.alive:
            self.alive = False
            self.writer.close()
            self.head.close()


class Making:
    """The correlating process, which is started again after each death."""

    def __init__(self, layout: Layout, clock: Clock, patch: pytest.MonkeyPatch, settings: Settings = SETTINGS,
                 processes: int = 0) -> None:
        def pool(root: Path, spool: Path, chosen: Settings, _: int, **more: Any) -> Pool:
            return Pool(root, spool, chosen, processes, sync=False, **more)

        patch.setattr(correlating, "Pool", pool)
        self._layout, self._clock, self._settings = layout, clock, settings
        self._dead: list[correlating._Correlating] = []
        self.deaths: list[str] = []
        self.said = Said()
        self.start()

    def start(self) -> None:
        notifier: Any = SimpleNamespace(watchdog=lambda: None, ready=lambda *_: None, status=lambda *_: None)
        log: Any = self.said
        self.process = correlating._Correlating(self._layout, self._settings, 1, log, notifier)

    def die(self) -> None:
        """Without closing anything."""
        self._dead.append(self.process)
        self.start()

    def step(self, crashes: Crashes | None = None) -> bool:
        """One turn of its loop; False: there was nothing to do."""
        try:
            if crashes is not None:
                crashes.come_by("between steps")
            worked = self.process._step()
            self.process._tick(worked)
        except Killed as killed:
            self.deaths.append(str(killed))
            self.die()
            return True
        return worked

    def until_quiet(self, crashes: Crashes | None = None) -> None:
        while self.step(crashes):
            pass

    @property
    def recorder(self) -> recorder.Recorder:
        return self.process._recorder

    def close(self) -> None:
        for process in [*self._dead, self.process]:
            with suppress(OSError):
                process.close()


def offline(root: Path, pcaps: Sequence[Path]) -> dict[str, Json]:
    """What an undisturbed recording of the same packets makes of them."""
    record_files.record_files([str(path) for path in pcaps], root, SETTINGS)
    return archive(root)


def archive(root: Path) -> dict[str, Json]:
    """What is recorded, as sidecar and sound tell; the index has to have the same."""
    layout = Layout(root)
    found = {i: facts(json.loads(layout.sidecar(i).read_text()), root) for i in layout.ids()}
    if layout.index.exists():
        import duckdb  # noqa: PLC0415

        with duckdb.connect(str(layout.index), read_only=True) as db:
            listed = sorted(i for (i,) in db.execute("SELECT id FROM calls").fetchall())
        assert listed == sorted(found), f"in the index: {listed}, in files: {sorted(found)}"
    else:
        assert not found
    names = (p.name for p in (root / "recordings").rglob("*") if p.is_file())
    assert not [n for n in names if not n.startswith(".") and "-".join(n.split(".")[0].split("-")[:2]) not in found]
    return found


def facts(call: Json, root: Path) -> Json:
    kept = {key: call[key] for key in ("state", "end_reason", "hangup_by", "start", "answer", "end", "caller", "callee",
                                       "events")}
    kept["messages"] = [(m["time"], m["first_line"]) for m in call["messages"]]
    kept["streams"] = [(s["src"], s["dst"], s["vlan"], s["ssrc"], s["direction"], s["packets"], s["lost"], s["payload_sha256"])
                       for s in call["streams"]]
    files = [part for part in (call["audio"], *call["parts"]) if part]
    kept["sound"] = [(part["sha256"], part["duration_s"]) for part in files]
    assert all((root / part["path"]).exists() for part in files)
    kept["anomalies"] = call["anomalies"]
    kept["not_captured"] = call["recorder"].get("not_captured", [])
    return kept
