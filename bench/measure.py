"""What the benchmarks share: running a command and seeing what it took, tables, sections of docs/performance.md."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
SAMPLE_S = 0.2


@dataclass(frozen=True)
class Cost:
    """What one run of a command took."""

    cpu: float
    """Seconds, user and system, with all children."""
    wall: float
    peak_mib: float
    """PSS of all its processes together, looked at every 0.2 s; 0 for a command that was over before that."""
    status: int
    said: str
    """The last line on standard error."""


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        try:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text("ascii").split())
        except OSError:
            continue
    return found


def _pss(pid: int) -> int:
    """Proportional set size in KiB, 0 for a process that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def touch_memory() -> None:
    """Has memory at hand. A virtual machine may give back what was free for some seconds; who takes it first then pays 2 s a GiB,
    and that would be whichever command writes more.
    """
    subprocess.run([sys.executable, "-c", "import numpy; numpy.ones(2 << 30, numpy.uint8)"], check=False)


def run(command: Sequence[str | Path], limit_s: float = 3600) -> Cost:
    """Run a command to its end, its output thrown away; killed after `limit_s`."""
    peak = 0
    touch_memory()
    over = threading.Event()
    with tempfile.TemporaryFile() as err:
        begun = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
                                   start_new_session=True)

        def watch() -> None:
            nonlocal peak
            pause = 0.02
            while not over.wait(pause):
                pause = min(2 * pause, SAMPLE_S)
                peak = max(peak, sum(map(_pss, _tree(process.pid))))
                if time.monotonic() - begun > limit_s:
                    os.killpg(process.pid, 9)
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        over.set()
        watcher.join()
        err.seek(0)
        said = err.read().decode(errors="replace").strip().splitlines()
    return Cost(used.ru_utime + used.ru_stime, wall, peak / 1024, process.returncode, said[-1] if said else "")


def middle(costs: Sequence[Cost]) -> Cost:
    """The run with the median CPU time."""
    return sorted(costs, key=lambda cost: cost.cpu)[(len(costs) - 1) // 2]


def spread(values: Sequence[float]) -> str:
    """A median and, of several values, their range."""
    shown = f"{statistics.median(values):.3g}"
    return f"{shown} ({min(values):.3g}–{max(values):.3g})" if len(values) > 1 else shown


def warm(path: Path) -> int:
    """Read a file so that it lies in the page cache; its size."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 24):
            pass
    return path.stat().st_size


def machine() -> str:
    """What this was measured on, and when."""
    try:
        info = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        info = []
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return (f"{datetime.now(UTC):%Y-%m-%d}: {os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release()}, "
            f"Python {platform.python_version()}; load average {os.getloadavg()[0]:.1f}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns in line."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                                 for i, (cell, width) in enumerate(zip(cells, widths, strict=True))) + " |"

    rule = "|" + "|".join("-" * (width + 2) if i == 0 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def write_section(name: str, text: str) -> None:
    """Put `text` between the marks of section `name` in docs/performance.md."""
    page = PAGE.read_text("utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        sys.exit(f"{PAGE}: no section {name}")
    PAGE.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", "utf-8")
