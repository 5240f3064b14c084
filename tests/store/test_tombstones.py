"""A call that was deleted for good does not come back, and nothing tells what it was."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rokuon.store import record_files, retention
from rokuon.store.errors import DataError
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.settings import Settings
from rokuon.store.sidecar import read
from rokuon.store.summary import Summary
from rokuon.store.tombstones import Tombstones

Json = dict[str, Any]
PCAPS = Path(__file__).resolve().parents[2] / "fixtures" / "pcaps"
OFFICE = PCAPS / "office-morning.pcap"


def call(*legs: tuple[str, str | None, str | None], name: str = "20261124T013012Z-k7q2m5x4") -> Json:
    return {"id": name, "legs": [{"call_id": c, "from_tag": a, "to_tag": b} for c, a, b in legs]}


def asked(root: Path, calls: Sequence[Json]) -> list[bool]:
    tombstones = Tombstones(Layout(root))
    assert tombstones.any()
    return tombstones.among(calls)


def test_a_leg_is_recognised_as_it_would_be_in_the_index(tmp_path: Path) -> None:
    assert not Tombstones(Layout(tmp_path)).any()
    Tombstones(Layout(tmp_path)).add([call(("c1", "a", "b")), call(("c2", "a", None))])
    same = [("c1", "a", "b"), ("c1", "b", "a"), ("c1", "a", None), ("c1", "b", None), ("c2", "a", None), ("c2", "a", "x"),
            ("c2", "x", "a")]
    others = [("c1", "a", "c"), ("c1", "ab", None), ("c1", None, None), ("c2", "b", None), ("c3", "a", "b"), ("c1a", "", "b")]
    assert asked(tmp_path, [call(leg) for leg in same]) == [True] * len(same)
    assert asked(tmp_path, [call(leg) for leg in others]) == [False] * len(others)
    assert asked(tmp_path, [call(("c9", "a", "b"), ("c1", "b", "a"))]) == [True]


def test_without_signalling_the_id_says_it_all(tmp_path: Path) -> None:
    gone = {**call(name="20261124T013012Z-aaaaaaaa"), "also_known_as": ["20261124T013013Z-bbbbbbbb"]}
    Tombstones(Layout(tmp_path)).add([gone])
    names = ["20261124T013012Z-aaaaaaaa", "20261124T013013Z-bbbbbbbb", "20261124T013012Z-cccccccc"]
    assert asked(tmp_path, [call(name=name) for name in names]) == [True, True, False]


def test_the_file_is_as_the_format_says(tmp_path: Path) -> None:
    Tombstones(Layout(tmp_path)).add([call(("秘密@例.jp", "zz", "aa"))])
    key = (tmp_path / "tombstones.key").read_bytes()
    assert len(key) == 32

    def record(*texts: str) -> bytes:
        octets = b"".join(len(t.encode()).to_bytes(4, "big") + t.encode() for t in texts)
        return hmac.new(key, octets, hashlib.sha256).digest()[:16]

    content = (tmp_path / "tombstones").read_bytes()
    assert content == (record("dialog", "秘密@例.jp", "aa", "zz") + record("half", "秘密@例.jp", "aa")
                       + record("half", "秘密@例.jp", "zz"))
    assert stat.S_IMODE(os.stat(tmp_path / "tombstones.key").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "tombstones").st_mode) & 0o007 == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=3), st.text(max_size=3)), max_size=8), st.integers(0, 15))
def test_what_was_added_is_found_and_a_record_cut_short_is_none(tmp_path_factory: pytest.TempPathFactory,
                                                                legs: list[tuple[str, str, str]], torn: int) -> None:
    root = tmp_path_factory.mktemp("t")
    for leg in legs:
        Tombstones(Layout(root)).add([call(leg)])
        with open(root / "tombstones", "ab") as file:
            file.write(bytes(torn))
    tombstones = Tombstones(Layout(root))
    assert tombstones.any() == bool(legs)
    assert tombstones.among([call(leg) for leg in legs]) == [True] * len(legs)
    assert tombstones.among([call(("never", "there", "before"))]) == [False]


def test_without_the_key_nothing_is_recorded(tmp_path: Path) -> None:
    Tombstones(Layout(tmp_path)).add([call(("c", "a", "b"))])
    (tmp_path / "tombstones.key").unlink()
    with pytest.raises(DataError, match=r"tombstones\.key is missing"):
        record(tmp_path / "", OFFICE)


def record(data: Path, *paths: Path) -> Summary:
    (data / "recordings").mkdir(parents=True, exist_ok=True)
    summary = record_files.record_files([str(path) for path in paths], data, Settings())
    assert summary.balance.unaccounted == 0
    return summary


@pytest.mark.parametrize("name", ["office-morning", "rtp-only", "softphones-cancel"])
def test_a_deleted_call_is_not_recorded_again(name: str, tmp_path: Path) -> None:
    capture = PCAPS / f"{name}.pcap"
    layout = Layout(tmp_path)
    first = record(tmp_path, capture)
    gone, *left = sorted(layout.ids())
    sidecar = read(layout.sidecar(gone))
    Tombstones(layout).add([sidecar])
    assert retention.remove_calls(layout, Index(layout.index), [gone], reason="asked").calls == 1
    again = record(tmp_path, capture)
    assert dict(again.balance.not_recorded) == {"deleted-before": 1}
    assert (again.balance.seen, again.balance.known, again.balance.recorded) == (first.balance.seen, len(left), 0)
    assert sorted(layout.ids()) == left
    secret = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name.startswith("tombstones")]
    for leg in sidecar["legs"]:
        for text in (leg["call_id"], leg["from_tag"], leg["to_tag"]):
            assert not any(text.encode() in content for content in secret if text)
    assert not any(json.dumps(sidecar["caller"]).encode() in content for content in secret)
