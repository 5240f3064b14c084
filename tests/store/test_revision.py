"""The same call seen more than once: which copy is kept, under which id, whatever happens in between."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

pytest.importorskip("scapy", reason="scapy, which makes the captures, is not installed")

from tests.e2e.scenarios import A_RTP, B_RTP, Dialog, Frame, S, Wire, both, sdp

from rokuon.store import record_files, retention, revision
from rokuon.store.index import Index, reindex
from rokuon.store.layout import Layout
from rokuon.store.query import resolve
from rokuon.store.settings import Settings
from rokuon.store.sidecar import problems, read, write
from rokuon.store.summary import Summary

Json = dict[str, Any]
LAST = 30


def frames() -> list[Frame]:
    """A call of half a minute, with voice both ways."""
    wire = Wire()
    d = Dialog(wire)
    d.answered(0)
    both(wire, S, 50 * (LAST - 2))
    d.reinvite(12 * S, (sdp(A_RTP),), (sdp(B_RTP),))
    d.bye(LAST * S)
    return wire.sorted()


FRAMES = frames()
"""Of which parts are captured."""
PARTS = {"whole": (0, 99), "begin": (0, 20), "middle": (5, 21), "end": (11, 99), "but the end": (0, 29),
         "but the begin": (11.5, 99), "first half": (0, 12), "second half": (12, 99)}


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("captures")
    return {name: Wire().write(folder / f"{name}.pcap", [f for f in FRAMES if since * S <= f.at_us < until * S])
            for name, (since, until) in PARTS.items()}


def record(data: Path, *paths: Path) -> Summary:
    summary = record_files.record_files([str(path) for path in paths], data, Settings())
    assert summary.balance.unaccounted == 0
    return summary


def calls(data: Path) -> dict[str, Json]:
    """All calls; files, sidecars and index have the same, and nothing is left over."""
    layout = Layout(data)
    found = {i: read(layout.sidecar(i)) for i in layout.ids()}
    named = {f"{i}.json" for i in found}
    for call in found.values():
        assert problems(call) == []
        for entry in [call["audio"], *call["parts"]]:
            if entry:
                assert (data / entry["path"]).is_file()
                named.add(Path(entry["path"]).name)
    there = {p.name for p in (data / "recordings").rglob("*") if p.is_file() and p.suffix != ".pcap"}
    assert there == named
    with duckdb.connect(str(layout.index), read_only=True) as db:
        listed = sorted(db.execute("SELECT id, revision FROM calls").fetchall())
    assert listed == sorted((i, c["revision"]) for i, c in found.items())
    return found


def content(call: Json) -> Json:
    """What is recorded, without where."""
    return {"state": call["state"], "end": call["end_reason"], "start": call["start"], "messages": len(call["messages"]),
            "streams": [(s["src"], s["ssrc"], s["packets"], s["payload_sha256"]) for s in call["streams"]],
            "sound": call["audio"] and call["audio"]["sha256"]}


@pytest.fixture(scope="module")
def plainly(captures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Json:
    data = tmp_path_factory.mktemp("plainly")
    record(data, captures["whole"])
    (call,) = calls(data).values()
    return call


@pytest.fixture(scope="module")
def halves(captures: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that has the begin and the end of the call."""
    data = tmp_path_factory.mktemp("halves")
    for part in ("begin", "end"):
        record(data, captures[part])
    return data


def test_a_part_adds_nothing(captures: dict[str, Path], tmp_path: Path, plainly: Json) -> None:
    record(tmp_path, captures["whole"])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "recordings").rglob("*") if p.is_file()}
    for name in PARTS:
        summary = record(tmp_path, captures[name])
        assert (summary.calls_added, summary.calls_known, summary.calls_revised) == (0, 1, 0), name
    assert calls(tmp_path) == {plainly["id"]: plainly}
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "recordings").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("part", [name for name in PARTS if name != "whole"])
def test_a_fuller_copy_takes_the_place(part: str, captures: dict[str, Path], tmp_path: Path, plainly: Json) -> None:
    record(tmp_path, captures[part])
    (old,) = calls(tmp_path)
    summary = record(tmp_path, captures["whole"])
    assert (summary.calls_added, summary.calls_known, summary.calls_revised) == (0, 1, 1)
    (call,) = calls(tmp_path).values()
    assert (call["id"], call["revision"]) == (old, 2)
    assert content(call) == content(plainly)
    for name in {old, plainly["id"]}:
        assert resolve(Layout(tmp_path), name) == old
        assert resolve(Layout(tmp_path), name[17:]) == old
    assert call.get("also_known_as", []) == sorted({plainly["id"]} - {old})


def test_any_order_ends_in_the_same(captures: dict[str, Path], tmp_path: Path, plainly: Json) -> None:
    names = ["whole", "begin", "middle", "end"]
    for n, order in enumerate(itertools.permutations(names)):
        if n % 5:
            continue  # some of them are enough
        data = tmp_path / str(n)
        for name in order:
            record(data, captures[name])
        (call,) = calls(data).values()
        assert content(call) == content(plainly), order
        assert resolve(Layout(data), plainly["id"]) == call["id"]


def test_two_parts_of_which_none_has_the_other_are_both_kept(captures: dict[str, Path], tmp_path: Path) -> None:
    kept = []
    for order in (("begin", "end"), ("end", "begin"), ("first half", "second half"), ("second half", "first half")):
        data = tmp_path / order[0]
        for name in order:
            assert record(data, captures[name]).calls_added == 1
        found = calls(data)
        kept.append(sorted(found))
        over = {name: name in ("end", "second half") for name in order}
        first, second = (next(c for c in found.values() if (c["end_reason"] == "bye") == over[name]) for name in order)
        assert second["related"] == [{"id": first["id"], "how": "continues"}]
        record(data, *(captures[name] for name in order))
        (call,) = calls(data).values()
        assert sorted(resolve(Layout(data), i) for i in found) == [call["id"]] * 2
        assert call["related"] == []
    assert kept[0] == kept[1]
    assert kept[2] == kept[3]


def test_one_side_each_is_told(captures: dict[str, Path], tmp_path: Path, plainly: Json) -> None:
    """Both have the INVITE, so that they have one id; neither has the other's voice."""
    voice = [f for f in FRAMES if len(f.data) == 214]
    words = [f for f in FRAMES if f not in voice]
    for n, hosts in enumerate(([1, 2], [2, 1])):
        data = tmp_path / str(n)
        data.mkdir()
        for host in hosts:
            mine = [f for f in voice if f.data[29] == host]
            path = Wire().write(data.with_suffix(f".{host}.pcap"), sorted([*words, *mine], key=lambda f: f.at_us))
            summary = record(data, path)
        assert (summary.calls_known, summary.calls_revised) == (1, 0)
        assert "has something that its recording lacks" in "".join(summary.warnings)
        (call,) = calls(data).values()
        assert [s["src"].split(":")[0] for s in call["streams"]] == [f"10.0.0.{hosts[0]}"]
        assert call["anomalies"]["another-copy-has-more"] == 1
        assert record(data, captures["whole"]).calls_revised == 1
        (call,) = calls(data).values()
        assert (content(call), call["anomalies"]) == (content(plainly), {})


def test_what_people_said_carries_over(captures: dict[str, Path], tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name, said in (("begin", {"tags": ["vip"], "notes": [{"text": "angry"}], "hold": None}),
                       ("end", {"tags": ["vip", "case-7"], "notes": [], "hold": {"reason": "court"}})):
        record(tmp_path, captures[name])
        newest = next(i for i in layout.ids() if not read(layout.sidecar(i))["tags"])
        call = {**read(layout.sidecar(newest)), **said}
        write(layout.sidecar(newest), call)
        Index(layout.index).add_calls([call])
    record(tmp_path, captures["whole"])
    (call,) = calls(tmp_path).values()
    assert (sorted(call["tags"]), call["notes"], call["hold"]) == (["case-7", "vip"], [{"text": "angry"}], {"reason": "court"})


def test_the_index_made_again_is_the_same(captures: dict[str, Path], tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name in ("middle", "end", "whole"):
        record(tmp_path, captures[name])

    def dumped() -> dict[str, list[Any]]:
        with duckdb.connect(str(layout.index), read_only=True) as db:
            return {table: sorted(map(str, db.table(table).fetchall()))
                    for table in ("calls", "legs", "streams", "events", "annotations")}

    before = dumped()
    assert reindex(layout) == (1, [])
    assert dumped() == before
    (call,) = calls(tmp_path).values()
    assert {resolve(layout, name) for name in call["also_known_as"]} == {call["id"]}
    assert len(call["also_known_as"]) >= 1


def test_a_deleted_call_leaves_nothing_of_any_revision(captures: dict[str, Path], tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for name in ("begin", "whole"):
        record(tmp_path, captures[name])
    (call_id,) = layout.ids()
    assert retention.remove_calls(layout, Index(layout.index), [call_id], reason="test").calls == 1
    assert [p for p in (tmp_path / "recordings").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("other", ["whole", "end", "but the begin"])
def test_others_record_the_same_meanwhile(other: str, captures: dict[str, Path], halves: Path, tmp_path: Path, plainly: Json,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program comes between the making of a copy and its taking the place."""
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    real = revision.Revisions.settle

    def settle(self: revision.Revisions, job: Any, made: Json, copies: Any) -> revision.Revised | None:
        monkeypatch.setattr(revision.Revisions, "settle", real)
        record(tmp_path, captures[other])
        return real(self, job, made, copies)

    monkeypatch.setattr(revision.Revisions, "settle", settle)
    record(tmp_path, captures["whole"])
    (call,) = calls(tmp_path).values()
    assert content(call) == content(plainly)


def test_the_call_is_deleted_meanwhile(captures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever did so did not mean the copy to stay."""
    record(tmp_path, captures["begin"])
    layout, real = Layout(tmp_path), revision.Revisions.settle

    def settle(self: revision.Revisions, job: Any, made: Json, copies: Any) -> revision.Revised | None:
        assert retention.remove_calls(layout, Index(layout.index), list(layout.ids()), reason="test").calls == 1
        return real(self, job, made, copies)

    monkeypatch.setattr(revision.Revisions, "settle", settle)
    assert record(tmp_path, captures["whole"]).calls_added == 0
    assert calls(tmp_path) == {}


# -- broken off ----------------------------------------------------------------
class Killed(BaseException):
    """The process is no more."""


STEPS: Sequence[tuple[Any, str]] = (
    (revision.Revisions, "_reserve"), (revision.Revisions, "settle"), (revision.Revisions, "_say"), (revision, "write"),
    (Index, "add_calls"), (revision, "_clear"), (revision, "_unlink"))


def broken(patch: pytest.MonkeyPatch, owner: Any, name: str, before: bool, error: BaseException) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    def breaks(*args: Any, **more: Any) -> Any:
        if not before:
            result = real(*args, **more)
            if hasattr(result, "__next__"):
                list(result)
        raise error

    patch.setattr(owner, name, breaks)


def deaths() -> Iterator[Any]:
    for owner, name in STEPS:
        for before in (True, False):
            for error in (Killed(), OSError(errno.EIO, "broken")):
                when = "before" if before else "after"
                yield pytest.param(owner, name, before, error, id=f"{when} {name} {type(error).__name__}")


@pytest.mark.parametrize(("owner", "name", "before", "error"), list(deaths()))
def test_there_is_a_recording_at_any_moment(owner: Any, name: str, before: bool, error: BaseException,
                                            captures: dict[str, Path], halves: Path, tmp_path: Path, plainly: Json) -> None:
    layout = Layout(tmp_path)
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    old = set(layout.ids())
    with pytest.MonkeyPatch.context() as patch:
        broken(patch, owner, name, before, error)
        if isinstance(error, Killed):
            patch.setattr(revision.Revisions, "close", lambda self: os.close(self._lock) if self._lock >= 0 else None)
        with pytest.raises((Killed, OSError, record_files.refused(OSError(), "").__class__)):
            record_files.record_files([str(captures["whole"])], tmp_path, Settings())
    there = {i: read(layout.sidecar(i)) for i in layout.ids()}
    assert there
    for call in there.values():
        assert (tmp_path / call["audio"]["path"]).is_file()
        assert len(json.dumps(call)) > 1000
    if not any(content(call) == content(plainly) for call in there.values()):
        assert set(there) == old
    record(tmp_path, captures["whole"])
    (call,) = calls(tmp_path).values()
    assert content(call) == content(plainly)
    assert list(layout.revising.iterdir()) == []
    assert {resolve(layout, i) for i in old} == {call["id"]}
