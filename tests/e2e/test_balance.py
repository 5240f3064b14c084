"""Every call that is seen ends as recorded, known already, or not recorded with a reason; at any moment, whatever goes wrong."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.commands.test_stats import stats
from tests.e2e.recorded import rokuon

from rokuon.store import record_files, recorder, worker
from rokuon.store.correlate import Correlator
from rokuon.store.jobs import Job
from rokuon.store.recorder import Recorder
from rokuon.store.settings import Settings
from rokuon.store.summary import Summary

PCAPS = Path(__file__).resolve().parents[2] / "fixtures" / "pcaps"
OFFICE = PCAPS / "office-morning.pcap"


def recorded(path: Path, data: Path, jobs: int = 1) -> Summary:
    return record_files.record_files([str(path)], data, Settings(), jobs)


def attempts(path: Path) -> set[bytes]:
    """Call-IDs of the INVITEs in a capture of whole UDP packets, as the bytes of the file have them."""
    messages = re.findall(rb"INVITE sips?:[^\r]*SIP/2\.0\r\n.*?\r\n\r\n", path.read_bytes(), re.DOTALL)
    found = [re.search(rb"\r\n(?:Call-ID|i) *: *([^\r]+)\r\n", message, re.IGNORECASE) for message in messages]
    return {match[1] for match in found if match}


@pytest.mark.parametrize("name", ["office-morning", "hostile-names", "port-reuse", "mirror-duplicates", "softphones-cancel",
                                  "softphones-pcma-hold-dtmf", "doctor-codec", "vlan", "ipv6"])
def test_every_invite_is_accounted_for(name: str, tmp_path: Path) -> None:
    invites = attempts(PCAPS / f"{name}.pcap")
    assert invites
    first = recorded(PCAPS / f"{name}.pcap", tmp_path)
    assert first.balance.seen == first.balance.recorded == len(invites)
    again = recorded(PCAPS / f"{name}.pcap", tmp_path)
    assert again.balance.seen == again.balance.known == len(invites)
    assert not again.balance.not_recorded


def test_stats_shows_the_sum(tmp_path: Path) -> None:
    for _ in range(2):
        rokuon(tmp_path, "record", "-r", OFFICE)
    rokuon(tmp_path, "record", "-r", PCAPS / "doctor-snaplen.pcap")
    shown = stats(tmp_path).splitlines()
    assert "18 calls seen = 9 recorded + 8 known already + 1 not recorded" in shown
    assert ["invite-not-understood", "1"] in [text.split() for text in shown]


class Unlucky:
    """Finalising that fails, and a disk that is full, for some calls; and a look at the balance after each run."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: set[int], refused: set[int], not_voice: set[int], piece_ns: int) -> None:
        self.looks = 0
        run, process, starts = worker.Worker.run, Recorder.process, list[int]()

        def work(of: worker.Worker, job: Job) -> dict[str, Any] | None:
            if job.number in fails:
                raise ValueError("unlucky")
            made = run(of, job)
            return None if job.number in not_voice else made

        def look(of: Recorder, packets: Any) -> None:
            process(of, packets)
            assert of.balance.unaccounted == 0
            assert of.in_progress >= len(of.correlator.tracker.live)
            self.looks += 1

        def refuses(start_ns: int) -> bool:
            if start_ns not in starts:
                starts.append(start_ns)
            return starts.index(start_ns) in refused

        patch.setattr(worker.Worker, "run", work)
        patch.setattr(Recorder, "process", look)
        patch.setattr(recorder, "Correlator", partial(Correlator, piece_ns=piece_ns))
        patch.setattr(record_files, "Recorder", partial(Recorder, refuses=refuses))


NUMBERS = st.sets(st.integers(0, 9), max_size=4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NUMBERS, NUMBERS, NUMBERS, st.sampled_from([1_000_000_000, 5_000_000_000, 600_000_000_000]))
def test_whatever_goes_wrong(tmp_path_factory: pytest.TempPathFactory, fails: set[int], refused: set[int], not_voice: set[int],
                             piece_ns: int) -> None:
    data = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        unlucky = Unlucky(patch, fails, refused, not_voice, piece_ns)
        first = recorded(OFFICE, data)
        again = recorded(OFFICE, data)
    assert unlucky.looks
    for summary in (first, again):
        assert summary.balance.unaccounted == 0
        assert summary.balance.seen == 8
        assert set(summary.balance.not_recorded) <= {"quarantined", "disk-full", "rtp-not-voice"}
        assert summary.balance.recorded == summary.calls_added
    assert again.balance.known == first.balance.recorded
