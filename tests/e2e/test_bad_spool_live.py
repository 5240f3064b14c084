"""The power fails in the middle of calls, and what it left of the spool is damaged: recording begins all the same, says so, and
loses what was damaged and no more.
"""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.phones import Json, kill_all, play, recorder, stop
from tests.e2e.wire import ROKUON, SECOND, START, Phone, calls, merged
from tests.sniffer.wires import missing, own_network, wire

REASON = missing() or ("" if ROKUON.exists() else "rokuon is not installed beside this Python")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
NOISE = random.Random(5).randbytes(5000)
PHONES = [Phone(number, START + number * SECOND // 4, 0.4 if number == 0 else 2) for number in range(3)]
"""The first call is over and recorded when the power fails, the others go on."""
PACKETS = merged(*PHONES)
HALF = len(PACKETS) // 2
BEGUN = HALF - len(PHONES[0].packets)
"""So many packets, at most, were there already of the calls that go on."""


def segments(spool: Path) -> list[Path]:
    found = sorted(spool.glob("*.seg"))
    assert found
    return found


def nothing(_: Path) -> None:
    pass


def flipped(spool: Path) -> None:
    """A few octets in the middle: the run that they are in is lost."""
    for path in segments(spool):
        with open(path, "r+b") as file:
            end = len(file.read().rstrip(b"\0"))
            file.seek(end * 3 // 4)
            was = file.read(8)
            file.seek(end * 3 // 4)
            file.write(bytes(x ^ 0xFF for x in was))


def cut(spool: Path) -> None:
    for path in segments(spool):
        os.truncate(path, len(path.read_bytes().rstrip(b"\0")) * 3 // 4)


def overwritten(spool: Path) -> None:
    for path in segments(spool):
        with open(path, "r+b") as file:
            file.write(NOISE[:64])


def gone(spool: Path) -> None:
    for path in spool.iterdir():
        path.unlink()


def strange(spool: Path) -> None:
    """Files of somebody else, with names that ours could have."""
    (spool / "notes.txt").write_text("precious")
    for name in ("00000000.seg", "99999999.seg", "999999999999.seg", "m00000004.seg"):
        (spool / name).write_bytes(NOISE)
    (spool / "free-00000007.seg").mkdir()
    (spool / "50000000.seg").mkdir()


def head(spool: Path) -> None:
    """What processes tell each other."""
    (spool / "head").write_bytes(NOISE[:4096])


DAMAGES = (nothing, flipped, cut, overwritten, gone, strange, head)


class Recorded(NamedTuple):
    """What came of it."""

    before: Json
    """The call that was recorded before."""
    calls: list[Json]
    """All the others."""
    data: Path
    ended: tuple[int, str, str]

    @property
    def lost(self) -> int:
        """Packets of the calls that went on."""
        return 400 - sum(stream["packets"] for call in self.calls for stream in call["streams"])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recorded]:
    """By damage; a recorder for each listens to the same wire."""
    home = tmp_path_factory.mktemp("recorders")
    with own_network(), ExitStack() as stack:
        wire("near", "far")
        started = {damage: stack.enter_context(recorder(home / damage.__name__, "near")) for damage in DAMAGES}
        play("far", PACKETS[:HALF])
        before = {damage: until_recorded(home / damage.__name__) for damage in DAMAGES}
        for damage, process in started.items():
            kill_all(process)
            damage(home / damage.__name__ / "spool" / "capture-near")
        started = {damage: stack.enter_context(recorder(home / damage.__name__, "near")) for damage in DAMAGES}
        play("far", PACKETS[HALF:])
        ended = {damage: stop(process) for damage, process in started.items()}
    found = {}
    for damage in DAMAGES:
        data = home / damage.__name__
        others = [call for call in calls(data) if call["id"] != before[damage]["id"]]
        again = [call for call in calls(data) if call["id"] == before[damage]["id"]]
        assert again == [before[damage]]
        found[damage.__name__] = Recorded(before[damage], others, data, ended[damage])
    return found


def until_recorded(data: Path) -> Json:
    """The first call, when it can be listed; by then all of what was sent is in the spool as well."""
    for _ in range(200):
        if found := calls(data):
            return found[0]
    raise TimeoutError


@pytest.mark.parametrize("damage", ["nothing", "head", "strange"])
def test_nothing_is_lost(damage: str, recorded: dict[str, Recorded]) -> None:
    result = recorded[damage]
    assert result.lost == 0
    assert [(c["state"], c["end_reason"], c["anomalies"]) for c in result.calls] == [("answered", "bye", {})] * 2


@pytest.mark.parametrize(("damage", "most"), [("flipped", 100), ("cut", 150), ("overwritten", BEGUN), ("gone", BEGUN)])
def test_what_was_damaged_is_lost_and_no_more(damage: str, most: int, recorded: dict[str, Recorded]) -> None:
    """What is left of a call is recorded, be it without its signalling."""
    result = recorded[damage]
    assert 0 < result.lost <= most
    assert 2 <= len(result.calls) <= 4
    assert all(call["audio"] and (result.data / call["audio"]["path"]).exists() for call in result.calls)


@pytest.mark.parametrize("damage", [damage.__name__ for damage in DAMAGES])
def test_it_is_said_once(damage: str, recorded: dict[str, Recorded]) -> None:
    status, _, complaints = recorded[damage].ended
    assert status == 0
    assert complaints.count("damaged") == complaints.count("\n") == (damage in ("flipped", "cut", "overwritten", "strange"))
