"""What a process of the recorder is beside others: alone at its work, told by signals, begun again, ended with its parent."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from rokuon.store.errors import NotPermittedError
from rokuon.store.layout import FILE_MODE, refused

__all__ = ["begin_again", "end_with_parent", "on_signals", "sole"]

_PR_SET_PDEATHSIG = 1


def sole(path: Path, busy: str) -> BinaryIO:
    """A lock that is held as long as the file is open. Raises NotPermittedError with the text `busy` where another process holds
    it, StoreError where the file cannot be written.
    """
    try:
        file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE), "rb+")  # noqa: SIM115 -- held
    except OSError as error:
        raise refused(error, f"cannot write {path}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise NotPermittedError(busy) from None
    return file


@contextmanager
def on_signals(handlers: Mapping[signal.Signals, Callable[..., Any]]) -> Iterator[None]:
    """These handlers stand while the block lasts."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def begin_again() -> NoReturn:
    """This process begins anew, with the arguments that it was started with."""
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- itself


def end_with_parent(number: signal.Signals) -> None:
    """The kernel sends this process the signal when its parent ends (prctl(2), PR_SET_PDEATHSIG). Raises OSError, AttributeError
    where the system does not know that.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
