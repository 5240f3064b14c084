"""The recorder on a wire, its data on a disk that freezes: what comes meanwhile waits in memory, and nothing is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.e2e.small_disk import frozen, small_disk
from tests.e2e.test_full_disk_live import REASON, Box, recorder, until, whole
from tests.e2e.wire import Phone

pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@contextmanager
def played(box: Box, *phones: Phone) -> Iterator[None]:
    """The phones speak, in a process of their own, while the block runs."""
    player = os.fork()
    if not player:
        try:
            box.play(*phones)
        finally:
            os._exit(0)
    yield
    os.waitpid(player, 0)


def complete(box: Box, *phones: Phone) -> None:
    whole(box.data, *phones)
    balance = box.balance()
    assert (balance["not_recorded"], balance["unaccounted"], balance["also"]) == ({}, 0, {})
    said = json.loads((box.layout.state / "capture-near.json").read_text())
    assert not any(said["not_written"].values())
    assert not any(interface["dropped_by_kernel"] for interface in said["interfaces"])


def test_frozen_while_people_speak(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        with recorder(disk) as box:
            phones = [Phone(n, seconds=10) for n in range(5)]
            with played(box, *phones):
                time.sleep(3)
                with frozen(disk):
                    time.sleep(5)
            until(lambda: len(box.recorded()) == 5)
        complete(box, *phones)


def test_frozen_before_anybody_speaks(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        with recorder(disk) as box:
            phones = [Phone(n, seconds=6) for n in range(5)]
            with ExitStack() as stack:  # noqa: SIM117 -- the disk thaws before the phones are done
                with frozen(disk):
                    time.sleep(1)
                    stack.enter_context(played(box, *phones))
                    time.sleep(4)
            until(lambda: len(box.recorded()) == 5)
        complete(box, *phones)
