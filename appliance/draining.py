"""Finishing the calls in progress: by asking the process that correlates, or in its place where none runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from rokuon.appliance.correlating import DRAIN
from rokuon.appliance.state import age_s, correlation
from rokuon.store.errors import NotPermittedError
from rokuon.store.layout import FILE_MODE, Layout, refused

__all__ = ["drain_spool"]


def drain_spool(layout: Layout, options: Sequence[str], jobs: int, timeout_s: float, sleep: Callable[[float], None]) -> bool:
    """Returns whether all calls in progress were finished in time. Raises StoreError where that may not be asked for.

    options: those before the command, for a process of our own to have them too.
    """
    request = layout.spool / DRAIN
    layout.prepare()
    try:
        os.close(os.open(request, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    except OSError as error:
        raise refused(error, f"cannot write {request}") from None
    state = correlation(layout)
    alone = state is None or bool(state.get("stopped")) or age_s(state) > 5
    process = None
    if alone:
        process = subprocess.Popen([sys.executable, "-m", "rokuon", *options, "--data", str(layout.root), "correlate",
                                    "--jobs", str(jobs)])
    try:
        until = time.monotonic() + timeout_s
        while request.exists():
            if time.monotonic() > until:
                return False
            if process is not None and process.poll() is not None:
                raise NotPermittedError("the process that finishes calls ended at once; see what it said")
            sleep(0.1)
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return True
