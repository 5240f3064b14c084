"""Whatever becomes of the spool while nobody runs: what was recorded stays, what comes is recorded, and nothing twice."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.properties.in_steps import Clock, Making, S, Source, archive, small_world
from tests.properties.kinds_of_calls import KINDS, for_long, moved, packets_of, refused, short, unsignalled_for_long
from tests.properties.test_recovery import differences, fed, is_voice, packets_by_ssrc, quietly, runs, traffic

from rokuon.store import spool
from rokuon.store.layout import Layout

BEFORE = ((short, 0), (refused, 1))
OPEN = ((for_long, 2), (moved, 5), (unsignalled_for_long, 6))
AFTER = ((short, 40), (moved, 42))
STARTS = [(KINDS.index(kind), at) for kind, at in (*BEFORE, *OPEN, *AFTER)]
CUT_S = 20


def flipped(rng: random.Random, path: Path) -> None:
    with open(path, "r+b") as file:
        end = len(file.read())
        for _ in range(rng.choice([1, 1, 20])):
            file.seek(rng.randrange(end))
            was = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([was[0] ^ 1 << rng.randrange(8)]))


def noise(rng: random.Random, path: Path) -> None:
    with open(path, "r+b") as file:
        end = len(file.read())
        file.seek(rng.choice([0, 8, 64, rng.randrange(end)]))
        file.write(rng.randbytes(rng.choice([8, 64, 5000])))


def cut(rng: random.Random, path: Path) -> None:
    os.truncate(path, rng.choice([0, 1, 63, 64, 65, rng.randrange(path.stat().st_size)]))


def zeroed(rng: random.Random, path: Path) -> None:
    """Blocks that a file system gave it and never wrote."""
    with open(path, "r+b") as file:
        file.seek(rng.randrange(path.stat().st_size))
        file.write(bytes(rng.choice([64, 512, 4096])))


def gone(_: random.Random, path: Path) -> None:
    path.unlink()


def directory(_: random.Random, path: Path) -> None:
    path.unlink()
    path.mkdir()


def swapped(rng: random.Random, path: Path) -> None:
    other = rng.choice([p for p in path.parent.glob("*.seg") if p.is_file()])
    data = other.read_bytes()
    other.write_bytes(path.read_bytes())
    path.write_bytes(data)


def copied(rng: random.Random, path: Path) -> None:
    """Under a name that is to come."""
    shutil.copy(path, path.with_name(f"{rng.choice(['', 'm', 'free-'])}{rng.choice([1, 500, 99999999, 999999999999]):08}.seg"))


DAMAGES: tuple[Callable[[random.Random, Path], None], ...] = (flipped, noise, cut, zeroed, gone, directory, swapped, copied)


@settings(max_examples=int(os.environ.get("ROKUON_EXAMPLES", "12")), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1 << 32), st.lists(st.sampled_from(range(len(DAMAGES))), min_size=1, max_size=6), st.booleans())
def test_damage(seed: int, damages: list[int], alive: bool) -> None:
    """`alive`: capture goes on meanwhile."""
    rng, clock = random.Random(seed), Clock()
    with tempfile.TemporaryDirectory() as folder, small_world(clock) as patch:
        root = Path(folder)
        layout = Layout(root / "live")
        layout.prepare()
        lot = traffic(STARTS)
        wanted = quietly(root, [lot])
        source = Source(layout, "eth0", clock)
        making = Making(layout, clock, patch)
        halted = min(p.time_ns for p in packets_of(*STARTS[0], 0)) + CUT_S * S
        try:
            for at, some in runs(lot):
                if halted and at > halted:
                    halted = 0
                    making.until_quiet()
                    before = archive(layout.root)
                    if not alive:
                        source.die()
                    for n in damages:
                        left = [p for p in source.directory.iterdir() if p.is_file() and p.stat().st_size]
                        if left:
                            DAMAGES[n](rng, rng.choice(sorted(left)))
                    making.die()
                    if not alive:
                        source.again()
                clock.now_ns = at
                source.take(some)
                source.beat(at)
                making.until_quiet()
            for _ in range(20):
                clock.now_ns += 2 * S
                source.beat(clock.now_ns)
                making.until_quiet()
            found = archive(layout.root)
        finally:
            making.close()
            source.close()
    assert len(before) >= 2
    assert {i: found.get(i) for i in before} == before
    later = {i: call for i, call in wanted.items() if i >= "20261005T00004"}
    assert len(later) == len(AFTER)
    assert [line for line in differences(later, found) if not line.startswith("too much")] == []
    sent = Counter(p.data[50:54] for p in lot if is_voice(p))
    assert all(count <= sent[ssrc.to_bytes(4, "big")] for ssrc, count in packets_by_ssrc(found).items())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("large", [0, 1000])
def test_segments_vanish_while_calls_go_on(seed: int, large: int, tmp_path: Path) -> None:
    """What lay there is missing, and is said to be; nothing waits for it."""
    rng, clock, layout = random.Random(seed), Clock(), Layout(tmp_path / "live")
    layout.prepare()
    lot = traffic(STARTS)
    with small_world(clock) as patch:
        patch.setattr(spool, "LARGE", large)
        wanted = quietly(tmp_path, [lot])
        source = Source(layout, "eth0", clock)
        making = Making(layout, clock, patch)
        try:
            for _ in fed(lot, clock, source, making):
                if rng.random() < 0.05:
                    left = sorted(source.directory.glob("[0-9m]*.seg"))[:-1]
                    if left:
                        rng.choice([gone, cut])(rng, rng.choice(left))
            for _ in range(20):
                clock.now_ns += 2 * S
                source.beat(clock.now_ns)
                making.until_quiet()
            found = archive(layout.root)
            assert making.recorder.backlog == making.recorder.in_progress == 0
        finally:
            making.close()
            source.close()
    assert not wanted.keys() - found.keys()
    assert any(call["anomalies"] for call in found.values())
    for i, call in wanted.items():
        missing = sum(s[5] for s in call["streams"]) - sum(s[5] for s in found[i]["streams"])
        told = found[i]["anomalies"].get("spool-damaged", 0)  # about so many, where the tables are gone too
        assert missing == told if large else bool(missing) == bool(told)
