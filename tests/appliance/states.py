"""States of processes as tests need them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from rokuon.appliance.state import publish
from rokuon.store.layout import Layout

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
"""Packet time of what is in progress."""
HOSTILE_NAMES = ["\x1b]0;owned\x07", "\x1b[2J\x1b[31m", "a\r\nb\tc", "\x9b2J", "\u202eevil", "\u200b", "e\u0301", "田中 太郎",
                 "ﾔﾏﾀﾞ", "山田　花子（営業）", "x" * 300, "[bold]x[/bold]", "\ud800"]

ANYTHING: st.SearchStrategy[Any] = st.sampled_from([
    None, True, False, 0, -1, 3, 10**400, 0.5, float("inf"), float("nan"), "", "x", "\x00" * 500, "2026-11-24T00:00:00Z",
    "2026-11-24", "0001-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", [], {}, [None], [{}], [[]],
    ["a"], [1, 2], [None, 5], [10**400, -5], [1, 2, 3], {"a": 1}, {"a": None}, {"name": 3}, {"free": "x", "level": []},
    {"jobs": True}, [{"name": [], "up": 1, "dropped_by_kernel": "x"}], {"not_recorded": {"x": 10**400}},
    {"level": "low", "policy": {}}])
"""What may stand in the place of a value."""


def iso(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S.%fZ}"


def capture(**changes: Any) -> dict[str, Any]:
    """A capture process that is well, on one interface."""
    return {"schema": 1, "pid": 4711, "version": "0.1.0", "started": iso(NOW), "name": "eth1", "stopped": False,
            "interfaces": [{"name": "eth1", "up": True, "packets": 90_000, "bytes": 19_260_000, "received": 90_000,
                            "dropped_by_kernel": 0, "dropped_by_interface": 0, "unhandled": 0}],
            "packets_s": 30_000, "bytes_s": 6_420_000, "dropped_s": 0, "packets": 90_000, "rtp_packets": 89_000, "queue_bytes": 0,
            "queue_limit": 1 << 28, "spool_bytes": 1 << 20, "spool_limit": 1 << 32, "not_written": {}, "counts": {},
            "clock_steps": 0, "streams": 600, "warnings": [], **changes}


def correlate(live: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A correlating process that is well, with these calls in progress."""
    return {"schema": 1, "pid": 4712, "version": "0.1.0", "started": iso(NOW), "stopped": False, "now": iso(NOW), "behind_s": 0.5,
            "calls_in_progress": len(live), "streams": 600, "backlog": {"jobs": 3, "spool_bytes": 312_000_000},
            "totals": {"seen": 1210, "recorded": 1204, "known": 0, "states": {"answered": 1204},
                       "in_progress": len(live) + 3, "calls_not_recorded": {"rtp-not-voice": 3},
                       "not_recorded": {"rtp-not-voice": 3, "rtp-unclaimed": 9}, "quarantined": 0, "recovered": 0},
            "end_to_queryable": {"buckets": [], "sum": 0, "count": 0},
            "disk": {"free": 412_000_000_000, "total": 500_000_000_000, "bytes_per_s": 1e5, "days_left": 38.2, "level": "ok",
                     "policy": "keep-oldest", "deleted": 0},
            "workers": [], "anomalies": {}, "live": live, "live_more": 0, **changes}


def call(number: int, **changes: Any) -> dict[str, Any]:
    """A call in progress that began `number` seconds ago, and was answered two seconds later."""
    start = NOW - timedelta(seconds=number)
    return {"start": iso(start), "caller": f"03{number:08}", "callee": "200", "caller_name": "田中 太郎", "callee_name": None,
            "state": "answered", "answer": iso(start + timedelta(seconds=2)), "codec": "PCMU",
            "packets": [50 * number, 49 * number], "lost": [0, number], "jitter_ms": [0.7, 12.34], **changes}


def published(root: Path, captures: dict[str, dict[str, Any]], correlation: dict[str, Any] | None) -> Layout:
    """The states as files of an archive. Written a while from now, so that they are young for as long as a test runs."""
    written = {"time": iso(datetime.now(UTC) + timedelta(hours=1))}
    layout = Layout(root)
    layout.make_directory(layout.recordings)
    layout.make_directory(layout.state)
    for name, state in captures.items():
        publish(layout.state / f"capture-{name}.json", {**written, **state})
    if correlation is not None:
        publish(layout.state / "correlate.json", {**written, **correlation})
    return layout
