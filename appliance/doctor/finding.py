"""What the doctor says: findings in plain words, each with facts for programs, and the verdict that they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Finding", "Level", "Report", "and_more", "count", "listed", "ordered", "share", "size", "verdict"]

Level = Literal["ok", "note", "warning", "problem"]
_RANK: Mapping[str, int] = {"problem": 0, "warning": 1, "note": 2, "ok": 3}
_CAUSES = ("interface", "drops", "capture-file", "encapsulation", "snaplen", "one-way-signalling", "sip-tls", "signalling",
           "calls", "announced-media", "both-directions", "media-without-signalling", "srtp", "codecs", "rtp-loss", "duplicates")
"""What is the cause of much else comes first."""


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that was looked at."""

    id: str
    """Stays the same from version to version."""
    level: Level
    """problem: recording is incomplete; warning: it may be, or costs more than need be; note: good to know; ok: all is well."""
    text: str
    """One sentence or two; may hold text from the network, bounded, and is to be made harmless before it is shown."""
    remedy: str = ""
    """What to do about it; "" where there is nothing to be done."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Counts and addresses; plain JSON."""


@dataclass(slots=True)
class Report:
    """All of it."""

    summary: str
    source: str
    """Name of the interface or of the files."""
    started: str | None
    """Time of the first packet, UTC, ISO 8601; None: there was none."""
    seconds: float
    """How long was looked: by packet time for files, by the clock for interfaces."""
    packets: int
    bytes: int
    """On the wire."""
    sip_messages: int
    rtp_packets: int
    rtp_streams: int
    calls: int
    """With signalling."""
    findings: list[Finding]

    @property
    def verdict(self) -> Literal["complete", "incomplete"]:
        return verdict(self.findings)

    def json(self) -> dict[str, Any]:
        """The report as `rokuon doctor --json` prints it."""
        return {"verdict": self.verdict, "summary": self.summary, "source": self.source, "started": self.started,
                "seconds": round(self.seconds, 3), "packets": self.packets, "bytes": self.bytes,
                "sip_messages": self.sip_messages, "rtp_packets": self.rtp_packets, "rtp_streams": self.rtp_streams,
                "calls": self.calls,
                "findings": [{"id": f.id, "level": f.level, "text": f.text, "remedy": f.remedy, "facts": dict(f.facts)}
                             for f in self.findings]}


def verdict(findings: Iterable[Finding]) -> Literal["complete", "incomplete"]:
    """Whether a recording would be complete, as far as was seen."""
    return "incomplete" if any(f.level == "problem" for f in findings) else "complete"


def ordered(findings: Iterable[Finding | None]) -> list[Finding]:
    """Problems first; within a level causes before what may come of them."""
    def rank(finding: Finding) -> tuple[int, int]:
        return _RANK[finding.level], _CAUSES.index(finding.id) if finding.id in _CAUSES else len(_CAUSES)

    return sorted((f for f in findings if f is not None), key=rank)


# -- words -------------------------------------------------------------------
def count(number: int, one: str, many: str = "") -> str:
    """`1 call`, `12 calls`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share(part: float, whole: float) -> str:
    """`12 %`, `0.3 %`, `less than 0.1 %`."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    if percent < 0.1:
        return "less than 0.1 %"
    if percent >= 99.95 and part < whole:
        return "99.9 %"
    return f"{percent:.1f} %" if percent < 10 else f"{percent:.0f} %"


def size(octets: float) -> str:
    """`1.2 MB`: decimal, as disks are sold."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if octets >= factor:
            return f"{octets / factor:.1f} {unit}" if octets < 100 * factor else f"{octets / factor:,.0f} {unit}"
    return f"{octets:.0f} bytes"


def listed(names: Sequence[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else ""


def and_more(names: Sequence[str], most: int = 5) -> str:
    """The first few of many names, and how many more there are."""
    if len(names) <= most:
        return listed(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"
