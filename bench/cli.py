"""What it takes to start: CPU time and wall time of short commands, beside Python doing nothing.

    python bench/cli.py [--runs N] [--write]

Commands are run in turn, so that what else goes on at the time meets all of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from archive import BEGIN, folder_of, sidecar
from measure import machine, spread, table, write_section

from rokuon.store.index import Index
from rokuon.store.sidecar import write

ROKUON = str(Path(sys.executable).with_name("rokuon"))
CALLS = 100


def archive(root: str) -> None:
    """A small archive, without audio."""
    layout, calls = folder_of(root), [sidecar(n, BEGIN) for n in range(CALLS)]
    layout.prepare()
    for call in calls:
        layout.make_directory(layout.folder(call["id"]))
        write(layout.sidecar(call["id"]), call, sync=False)
    Index(layout.index, "JP").add_calls(calls)


def taken(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """Milliseconds of CPU and of wall time of a command with its children. Ends the benchmark where it fails."""
    begun = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **environment}) as one:
        _, status, used = os.wait4(one.pid, 0)
        wall = time.perf_counter() - begun
        one.returncode = os.waitstatus_to_exitcode(status)
    if one.returncode:
        sys.exit(f"{' '.join(command)}: status {one.returncode}")
    return 1000 * (used.ru_utime + used.ru_stime), 1000 * wall


def completing(words: str) -> dict[str, str]:
    """What a shell's script sets."""
    return {"_ROKUON_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rokuon-cli-") as root:
        archive(root)
        data = {"ROKUON_DATA": root}
        what: list[tuple[str, list[str], dict[str, str], str]] = [
            ("python -c pass", [sys.executable, "-c", "pass"], {}, ""),
            ("python -c 'import click'", [sys.executable, "-c", "import click"], {}, ""),
            ("python -c 'import click, duckdb'", [sys.executable, "-c", "import click, duckdb"], {}, ""),
            ("rokuon --help", [ROKUON, "--help"], {}, "150"),
            ("rokuon --version", [ROKUON, "--version"], {}, ""),
            ("rokuon calls --help", [ROKUON, "calls", "--help"], {}, ""),
            ("completing `rokuon s`", [ROKUON], completing("rokuon s"), ""),
            ("completing `rokuon calls --`", [ROKUON], completing("rokuon calls --"), ""),
            ("completing `rokuon show ` (calls)", [ROKUON], completing("rokuon show "), ""),
            (f"rokuon calls, of {CALLS}", [ROKUON, "calls"], {}, "500"),
            ("rokuon calls --number 03-1234-5678", [ROKUON, "calls", "--number", "03-1234-5678"], {}, ""),
            (f"rokuon calls --json, of {CALLS}", [ROKUON, "calls", "--json"], {}, ""),
            ("rokuon show last", [ROKUON, "show", "last"], {}, ""),
            ("rokuon stats", [ROKUON, "stats"], {}, ""),
            ("rokuon stats --by hour", [ROKUON, "stats", "--by", "hour"], {}, ""),
            ("rokuon sql 'SELECT count(*) FROM calls'", [ROKUON, "sql", "SELECT count(*) FROM calls"], {}, ""),
        ]
        measured: list[list[tuple[float, float]]] = [[] for _ in what]
        for n in range(options.runs + 1):
            for (_, command, environment, _), times in zip(what, measured, strict=True):
                times.append(taken(command, data | environment))
                if n == 0:
                    times.clear()
    rows = []
    for (name, _, _, promised), times in zip(what, measured, strict=True):
        cpus, walls = zip(*times, strict=True)
        rows.append([name, spread(cpus), f"{statistics.median(walls):.3g}", promised])
    text = f"{machine()}; {options.runs} runs each\n\n" + table(["started", "CPU ms", "wall ms", "promised: CPU ms"], rows)
    print(text)
    if options.write:
        write_section("cli", text)


if __name__ == "__main__":
    main()
