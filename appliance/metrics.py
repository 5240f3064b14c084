"""Metrics for Prometheus, made from the state files whenever somebody asks: nothing is counted here.

Counters start again with the process that counts, as Prometheus expects. What a process that is gone said of the moment (calls in
progress, queues) is left out: it is not so any more; `rokuon_process_up` tells. Labels hold names of this machine and reasons; a
reason can hold the name of a codec, which whoever sends the packets chooses, so labels are made harmless and bounded in number.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from rokuon.appliance.shapes import counts, label, number, rows, table, whole
from rokuon.appliance.state import STALE_S, age_s, captures, correlation, read
from rokuon.store.layout import Layout
from rokuon.store.sidecar import STATES, nanoseconds

__all__ = ["MOST_VALUES", "StateCollector", "exposition", "registry"]

MOST_VALUES = 100
"""Values of a label that are told apart; the others are counted as "other"."""
_MOST_PROCESSES = 64
_NOT_WRITTEN = ("spool-full", "disk-full", "disk-slow", "disk-error")
_DAY_S = 86_400


def registry(layout: Layout) -> CollectorRegistry:
    """A registry of these metrics and no others."""
    made = CollectorRegistry()
    made.register(StateCollector(layout))
    return made


def exposition(of: CollectorRegistry) -> bytes:
    """The metrics as Prometheus' text format has them."""
    return generate_latest(of)


class _Known:
    """Which values of a label are told apart: the first ones, so that no counter ever goes back."""

    def __init__(self) -> None:
        self._values: dict[str, set[str]] = {}

    def folded(self, family: str, found: Mapping[str, int]) -> dict[str, int]:
        """Counts by label, harmless and bounded in number."""
        known, folded = self._values.setdefault(family, set()), dict[str, int]()
        for name, count in found.items():
            shown = label(name)
            if shown not in known:
                if len(known) >= MOST_VALUES:
                    shown = "other"
                known.add(shown)
            folded[shown] = folded.get(shown, 0) + count
        return folded


class StateCollector(Collector):
    """Reads the state files of one archive at each scrape."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known = _Known()
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        return []  # what there is depends on what runs; registering must not read anything

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            running = dict(list(captures(self._layout).items())[:_MOST_PROCESSES])
            correlates = correlation(self._layout)
            found = [*self._processes(running, correlates), *self._captures(running), *self._calls(correlates or {}),
                     *self._disk(correlates or {}), *self._watch()]
        return [family for family in found if family.samples]

    def _processes(self, running: Mapping[str, Mapping[str, Any]], correlates: Mapping[str, Any] | None) -> Iterator[Metric]:
        up = _gauge("process_up", "Whether the process runs: it has renewed its state file lately.", "process", "name")
        stopped = _gauge("process_stopped", "Whether the process was stopped on purpose.", "process", "name")
        written = _gauge("process_state_timestamp_seconds", "When the process last wrote its state file.", "process", "name")
        started = _gauge("process_start_time_seconds", "When the process started.", "process", "name")
        versions = InfoMetricFamily("rokuon_process", "The program that the process runs.", labels=["process", "name"])
        processes = [("capture", name, state) for name, state in running.items()]
        if correlates is not None:
            processes.append(("correlate", "", correlates))
        for process, name, state in processes:
            labels = [process, label(name) if name else ""]
            up.add_metric(labels, _runs(state))
            stopped.add_metric(labels, state.get("stopped") is True)
            for family, key in ((written, "time"), (started, "started")):
                if (time := _seconds(state.get(key))) is not None:
                    family.add_metric(labels, time)
            versions.add_metric(labels, {"version": label(state.get("version"))})
        return iter([up, stopped, written, started, versions])

    def _captures(self, running: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
        one = ("capture", "interface")
        taken = {
            "packets": _counter("packets", "Packets taken off the wire.", *one),
            "bytes": _counter("bytes", "Bytes of the packets taken off the wire.", *one),
            "received": _counter("kernel_packets", "Packets that the kernel saw there and let through the filter.", *one),
            "unhandled": _counter("unhandled_packets", "Packets of a form that is not looked into.", *one),
        }
        dropped = _counter("dropped_packets", "Packets lost before they were taken off: by the kernel, whose buffer was full, or "
                           "by the interface.", *one, "cause")
        up = _gauge("interface_up", "Whether the interface is there and has a link.", *one)
        rtp = _counter("rtp_packets", "Packets taken for RTP.", "capture")
        lost = _counter("not_written_packets", "Packets that were captured and not kept, by reason.", "capture", "reason")
        steps = _counter("clock_steps", "Times that the clock was set while recording.", "capture")
        other = _counter("capture_events", "What else a capture process counts, by name.", "capture", "event")
        gauges = {
            "streams": _gauge("capture_streams", "RTP streams that are followed.", "capture"),
            "queue_bytes": _gauge("queue_bytes", "Packets that wait in memory to be written.", "capture"),
            "queue_limit": _gauge("queue_limit_bytes", "The bound of what waits in memory.", "capture"),
            "spool_bytes": _gauge("spool_bytes", "What the spool holds.", "capture"),
            "spool_limit": _gauge("spool_limit_bytes", "The bound of the spool.", "capture"),
        }
        for name, state in running.items():
            capture, runs = label(name), _runs(state)
            for row in rows(state.get("interfaces")):
                interface = label(row.get("name"))
                for key, family in taken.items():
                    family.add_metric([capture, interface], whole(row.get(key)))
                for cause in ("kernel", "interface"):
                    dropped.add_metric([capture, interface, cause], whole(row.get(f"dropped_by_{cause}")))
                if runs:
                    up.add_metric([capture, interface], row.get("up") is True)
            rtp.add_metric([capture], whole(state.get("rtp_packets")))
            steps.add_metric([capture], whole(state.get("clock_steps")))
            for family, key, always in ((lost, "not_written", _NOT_WRITTEN), (other, "counts", ())):
                found = dict.fromkeys(always, 0) | counts(state.get(key))
                for reason, count in self._known.folded(f"{key} {capture}", found).items():
                    family.add_metric([capture, reason], count)
            for key, gauge in gauges.items():
                if runs and (value := number(state.get(key))) is not None:
                    gauge.add_metric([capture], value)
        return iter([*taken.values(), dropped, up, rtp, lost, steps, other, *gauges.values()])

    def _calls(self, state: Mapping[str, Any]) -> Iterator[Metric]:
        totals, backlog = table(state.get("totals")), table(state.get("backlog"))
        ended = counts(totals.get("states"))
        by_state = _counter("calls", "Calls recorded, by state.", "state")
        for name in STATES:
            by_state.add_metric([name], ended.get(name, 0))
        yield by_state
        yield self._by("calls_not_recorded", "Calls and streams that were seen and not recorded, by reason.", "reason",
                       totals.get("not_recorded"))
        yield self._by("anomalies", "What was odd about the traffic, by name.", "anomaly", state.get("anomalies"))
        for name, key, about in (
                ("calls_seen", "seen", "Calls of which there was a sign."),
                ("calls_recorded", "recorded", "Calls that were recorded."),
                ("calls_known", "known", "Calls that were recorded before already."),
                ("calls_quarantined", "quarantined", "Calls that could not be finished and were set aside."),
                ("calls_recovered", "recovered", "Calls that were finished after a crash.")):
            yield CounterMetricFamily(f"rokuon_{name}", about, value=whole(totals.get(key)))
        if _runs(state):
            for name, value, about in (
                    ("calls_in_progress", state.get("calls_in_progress"), "Calls in progress."),
                    ("streams_in_progress", state.get("streams"), "RTP streams of calls in progress."),
                    ("behind_seconds", state.get("behind_s"), "Time between the newest packet captured and those processed."),
                    ("backlog_calls", backlog.get("jobs"), "Calls that ended and are not finished."),
                    ("backlog_segments", backlog.get("spool_segments"), "Segments of the spool that calls still need."),
                    ("workers", len(rows(state.get("workers"))), "Processes that finish calls.")):
                if (found := number(value)) is not None:
                    yield GaugeMetricFamily(f"rokuon_{name}", about, value=found)
        yield _histogram("end_to_queryable_seconds", "Time from a call's end to when it can be found.",
                         state.get("end_to_queryable"))

    def _disk(self, state: Mapping[str, Any]) -> Iterator[Metric]:
        said = table(state.get("disk")) if _runs(state) else {}
        try:
            found = os.statvfs(self._layout.root)
            free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        except OSError:
            free, total = whole(said.get("free")), whole(said.get("total"))
        if total:
            yield GaugeMetricFamily("rokuon_disk_free_bytes", "Free on the disk of the recordings.", value=free)
            yield GaugeMetricFamily("rokuon_disk_size_bytes", "Size of the disk of the recordings.", value=total)
        if (rate := number(said.get("bytes_per_s"))) is not None:
            yield GaugeMetricFamily("rokuon_disk_write_bytes_per_second", "Recordings written lately.", value=rate)
        if (left := number(said.get("days_left"))) is not None:
            yield GaugeMetricFamily("rokuon_disk_left_seconds", "Time until the disk is full at the present rate.",
                                    value=left * _DAY_S)
        if said:
            level = _gauge("disk_level", "Which level the disk is at: 1 for that one.", "level")
            for name in ("ok", "low", "full"):
                level.add_metric([name], said.get("level") == name)
            yield level
        yield CounterMetricFamily("rokuon_disk_calls_deleted", "Calls deleted to make room (policy keep-newest).",
                                  value=whole(table(state.get("disk")).get("deleted")))

    def _watch(self) -> Iterator[Metric]:
        """What the metrics process says of alarms and hooks; it keeps that in files of its own."""
        alarms, hooks = read(self._layout.state / "alarms.json") or {}, read(self._layout.state / "hooks.json") or {}
        active = _gauge("alarm_active", "Alarms that persist.", "alarm", "kind", "level")
        for row in rows(alarms.get("active")):
            active.add_metric([label(row.get("id"), 256), label(row.get("kind")), label(row.get("level"))], 1)
        yield active
        yield self._by("alarms_raised", "Alarms raised, by kind.", "kind", alarms.get("raised"))
        runs = _counter("hook_runs", "Runs of the alarm and call commands, by how they ended.", "hook", "result")
        lost = _counter("hook_not_run", "Alarms and calls that a command was not run for, or not to a good end, by reason.",
                        "hook", "reason")
        for hook, counted, reasons in (("alarm", counts(alarms.get("hook")), ("dropped", "given-up")),
                                       ("call", counts(hooks.get("counts")), ("given-up", "missing", "skipped", "unreadable"))):
            for result in ("ok", "failed", "timeout"):
                runs.add_metric([hook, result], counted.get(result, 0))
            for reason in reasons:
                lost.add_metric([hook, reason], counted.get(reason, 0))
        yield runs
        yield lost
        if (waiting := number(hooks.get("waiting"))) is not None:
            yield GaugeMetricFamily("rokuon_call_hook_waiting_calls", "Finished calls that the call command was not run for yet.",
                                    value=waiting)

    def _by(self, name: str, about: str, what: str, found: Any) -> Metric:
        family = _counter(name, about, what)
        for value, count in self._known.folded(name, counts(found)).items():
            family.add_metric([value], count)
        return family


def _counter(name: str, about: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"rokuon_{name}", about, labels=labels)


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"rokuon_{name}", about, labels=labels)


def _histogram(name: str, about: str, state: Any) -> Metric:
    """A histogram from bounds and cumulative counts."""
    said = table(state)
    buckets: dict[float, int] = {}
    below = 0
    pairs = [row for row in said.get("buckets", []) if isinstance(row, list) and len(row) == 2] \
        if isinstance(said.get("buckets"), list) else []
    for bound, count in sorted(((number(a), whole(b)) for a, b in pairs[:MOST_VALUES]), key=lambda pair: pair[0] or 0):
        if bound is not None:
            below = buckets[float(bound)] = max(below, count)
    made: list[tuple[str, float]] = [(f"{bound!r}", count) for bound, count in buckets.items()]
    made.append(("+Inf", max(below, whole(said.get("count")))))
    family = HistogramMetricFamily(f"rokuon_{name}", about)
    family.add_metric([], made, number(said.get("sum")) or 0.0)
    return family


def _runs(state: Mapping[str, Any]) -> bool:
    return state.get("stopped") is not True and age_s(state) <= STALE_S


def _seconds(time: Any) -> float | None:
    """An ISO time as seconds since 1970."""
    try:
        return nanoseconds(time) / 1e9
    except (ValueError, TypeError, OverflowError):
        return None
