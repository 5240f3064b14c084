"""The doctor: looks at files or interfaces through the stages that a recording goes through, and judges what it saw."""

from __future__ import annotations

import fcntl
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rokuon.appliance.doctor.disk import examine_disk
from rokuon.appliance.doctor.evidence import Evidence, Examiner, Wire
from rokuon.appliance.doctor.file_drops import file_drops
from rokuon.appliance.doctor.finding import Finding, Report, count, ordered
from rokuon.appliance.doctor.judge_calls import judge_calls
from rokuon.appliance.doctor.judge_host import judge_host
from rokuon.appliance.doctor.judge_media import judge_media
from rokuon.appliance.doctor.judge_wire import judge_wire
from rokuon.sniffer.pcap_live import LiveCapture, open_live
from rokuon.sniffer.pcap_merge import open_captures
from rokuon.store.settings import Settings

__all__ = ["Seen", "examine_files", "examine_interfaces", "judge"]

Seen = Callable[[int, int, float], None]
"""Is told now and then how far it is: packets, calls, and which part of the work is done (0 to 1)."""
_CHUNK = 4 << 20
_SIOCGIFHWADDR = 0x8927
_ARPHRD_ETHER = 1


def examine_files(paths: Sequence[str], settings: Settings, seen: Seen | None = None) -> Report:
    """Judges captures, merged by time. Raises CaptureError where one cannot be read at all."""
    examiner = Examiner(settings)
    with open_captures(paths, chunk=_CHUNK) as source:
        for batch in source:
            examiner.look(batch)
            if seen:
                seen(examiner.survey.packets, examiner.calls_found, source.bytes_read / source.size if source.size else 0.0)
        evidence = examiner.finish(warnings=source.warnings, drops=file_drops(paths))
    return judge(evidence, ", ".join(paths[:3]) + (", …" if len(paths) > 3 else ""))


def examine_interfaces(interfaces: Sequence[str], settings: Settings, duration_s: float, data: Path | None = None, *,
                       bpf: str = "", seen: Seen | None = None) -> Report:
    """Judges what comes in on interfaces within `duration_s`, or until SIGINT or SIGTERM, and the disk that `data` lies on.

    data: the archive; a file of bounded size is written there and removed. None: no disk is looked at. Raises CaptureError
    where an interface cannot be opened, its kind CapturePermissionError where that is not allowed.
    """
    capture = settings.capture
    clock, cpu = _realtime_offset(), time.process_time()
    asked = " and ".join(f"({each})" for each in (capture.filter, bpf) if each.strip())
    with open_live(interfaces, filter=asked, snaplen=capture.snaplen, buffer_bytes=capture.buffer << 20,
                   promiscuous=capture.promiscuous) as source, _stopped_by_signals(source):
        examiner = Examiner(settings, _mac(interfaces[0]) if len(interfaces) == 1 else b"")
        warnings: list[str] = []
        begun = time.monotonic()
        for batch in source:
            examiner.look(batch)
            now = time.monotonic() - begun
            if now >= duration_s:
                source.stop()
            if seen:
                seen(examiner.survey.packets, examiner.calls_found, min(now / duration_s, 1.0))
            warnings += source.warnings
            source.warnings.clear()
        seconds = time.monotonic() - begun
        stats = source.stats()
        busiest = max((s.packets / s.seconds for s in source.history if s.seconds > 0), default=0.0)
        wire = Wire(list(interfaces), all(each.up for each in source.by_interface()), stats["received"],
                    stats["dropped_by_kernel"], stats["dropped_by_interface"], busiest, warnings, time.process_time() - cpu,
                    _realtime_offset() - clock)
    evidence = examiner.finish(wire=wire, disk=examine_disk(data) if data is not None else None, seconds=seconds)
    return judge(evidence, ", ".join(interfaces))


def judge(evidence: Evidence, source: str) -> Report:
    """The report that the evidence adds up to."""
    survey = evidence.survey
    found = list(judge_host(evidence))
    if survey.packets:
        found += [*judge_calls(evidence), *judge_media(evidence), *judge_wire(evidence)]
    elif evidence.wire is None:
        found += [Finding("capture-file", "problem", "There is no packet in this capture.", "Take it where calls pass.",
                          {"warnings": evidence.warnings[:20]})]
    findings = ordered(found)
    calls = sum(evidence.calls.states.values())
    return Report(_summary(evidence, findings), source, _iso(survey.first_ns), evidence.seconds, survey.packets, survey.bytes,
                  evidence.counts["sip_messages"], evidence.streams.packets, len(evidence.streams.all()), calls, findings)


def _summary(e: Evidence, findings: Sequence[Finding]) -> str:
    """The first line."""
    problems = sum(f.level == "problem" for f in findings)
    warnings = sum(f.level == "warning" for f in findings)
    lossy = any(f.id == "rtp-loss" and f.level != "ok" for f in findings)
    calls = sum(e.calls.states.values())
    seen = count(calls, "call") if calls or not e.calls.lonely else count(len(e.calls.lonely), "conversation without signalling",
                                                                         "conversations without signalling")
    if not e.survey.packets:
        return "Nothing was seen: recording would be empty."
    if problems:
        return f"{seen}: recording would be incomplete ({count(problems, 'problem')})."
    if not e.calls.answered and not e.calls.lonely:
        return f"{seen}: nothing is wrong so far, but no media was there to be judged."
    also = f" ({count(warnings, 'warning')})" if warnings else ""
    both = ", both directions" if e.calls.both or any(each.both for each in e.calls.lonely) else ", one direction as announced"
    return f"{seen}{both}{'' if lossy or warnings else ', nothing missing'}: recording would be complete{also}."


def _iso(time_ns: int) -> str | None:
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if time_ns else None
    except (OverflowError, ValueError, OSError):
        return None


def _realtime_offset() -> int:
    """By how much the system's clock is ahead of one that nobody sets, ns."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def _mac(interface: str) -> bytes:
    """An interface's Ethernet address (netdevice(7)); b"" where it has none."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()[:15]))
    except OSError:
        return b""
    kind: int = struct.unpack_from("H", answer, 16)[0]
    return bytes(answer[18:24]) if kind == _ARPHRD_ETHER else b""


@contextmanager
def _stopped_by_signals(source: LiveCapture) -> Iterator[None]:
    """SIGINT and SIGTERM end the look; what was seen is judged all the same."""
    def stop(_: int, __: FrameType | None) -> None:
        source.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
