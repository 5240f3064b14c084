"""All that is looked at before judging; and the stages that it comes from: capture and correlation as a recording has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from rokuon.appliance.doctor.calls import Calls
from rokuon.appliance.doctor.file_drops import FileDrops
from rokuon.appliance.doctor.rtcp import Reports
from rokuon.appliance.doctor.streams import Streams
from rokuon.appliance.doctor.survey import Survey
from rokuon.sniffer.packet import PacketBatch
from rokuon.store.capture import Capture
from rokuon.store.correlate import Correlator
from rokuon.store.settings import Settings

__all__ = ["Disk", "Evidence", "Examiner", "Wire"]

_S = 1_000_000_000


@dataclass(slots=True)
class Wire:
    """Of interfaces: what only who captures knows."""

    names: list[str]
    up: bool
    received: int
    dropped_by_kernel: int
    dropped_by_interface: int
    most_packets_s: float
    """In the busiest second."""
    warnings: list[str]
    cpu_s: float
    """Processor time that the examination took."""
    clock_step_ns: int = 0
    """By how much the system's clock was set while we looked."""


@dataclass(slots=True)
class Disk:
    """Where recordings would go."""

    path: str
    writable: bool
    reason: str = ""
    """Why it is not."""
    free: int = 0
    total: int = 0
    write_bytes_s: float | None = None
    """Measured; None: it was not."""


@dataclass(slots=True)
class Evidence:
    """For the judges."""

    survey: Survey
    streams: Streams
    calls: Calls
    reports: Reports
    sip_ports: list[int]
    counts: Counter[str] = field(default_factory=Counter)
    """Of capture, correlation and signalling."""
    anomalies: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)
    """Of the files: what could not be read."""
    file_drops: FileDrops | None = None
    """Of the files: what their capture lost, where they say so."""
    wire: Wire | None = None
    disk: Disk | None = None

    @property
    def where(self) -> str:
        """For a sentence: `in 30 s on eth1`, `in this capture`."""
        return f"in {self.seconds:.0f} s on {' and '.join(self.wire.names)}" if self.wire else "in this capture"


class Examiner:
    """Batches in, evidence out."""

    def __init__(self, settings: Settings, own_mac: bytes = b"") -> None:
        record = settings.record
        window_ns = int(record.window * _S)
        self._capture = Capture(record.sip_ports, idle_ns=window_ns // 2)
        self._correlator = Correlator(linger_ns=int(record.linger * _S), window_ns=window_ns, lead_ns=int(record.early * _S))
        self.streams = Streams()
        ports = sorted(record.sip_ports)
        self.survey = Survey(np.array(ports, np.uint16), own_mac)
        self._evidence = Evidence(self.survey, self.streams, Calls(self.streams), Reports(), ports)

    @property
    def calls_found(self) -> int:
        """With signalling, so far."""
        return sum(self._evidence.calls.states.values()) + len(self._correlator.tracker.live)

    def look(self, batch: PacketBatch) -> None:
        """Takes a batch."""
        self.survey.look(batch)
        run = self._capture.process(batch)
        self.streams.add(run)
        self._evidence.reports.add(run)
        self._evidence.calls.take(self._correlator.process(run), self.survey.newest_ns)
        self._correlator.forgotten.clear()

    def finish(self, *, warnings: Iterable[str] = (), drops: FileDrops | None = None, wire: Wire | None = None,
               disk: Disk | None = None, seconds: float | None = None) -> Evidence:
        """The capture is over. `seconds`: by the clock; None: by the packets' times."""
        evidence, survey, correlator = self._evidence, self.survey, self._correlator
        evidence.calls.take(correlator.finish(), survey.newest_ns)
        evidence.counts = self._capture.counts + correlator.counts + correlator.signalling.counts
        evidence.anomalies = correlator.signalling.all_anomalies() + correlator.tracker.anomalies + correlator.binder.anomalies
        evidence.seconds = (survey.newest_ns - survey.first_ns) / _S if seconds is None else seconds
        evidence.warnings, evidence.file_drops, evidence.wire, evidence.disk = list(warnings), drops, wire, disk
        return evidence
