"""Archives with all files of their calls, and what is in them."""

from __future__ import annotations

from pathlib import Path

from tests.store.sidecars import sidecar

from rokuon.store.database import open_index
from rokuon.store.index import Index
from rokuon.store.layout import Layout
from rokuon.store.sidecar import Sidecar, read, write


def put(layout: Layout, call: Sidecar, *, parts: int = 0, packets: bool = False) -> str:
    """The call's files: a sidecar, and sound where it names some."""
    call_id: str = call["id"]
    layout.make_directory(layout.folder(call_id))
    if call["state"] != "busy":
        call["audio"] = sidecar(0)["audio"] | {"path": layout.relative(layout.audio(call_id))}
        layout.audio(call_id).write_bytes(b"s" * 5000)
        extra = [layout.audio(call_id, number) for number in range(2, parts + 2)]
        for path in extra:
            path.write_bytes(b"p" * 5000)
        call["parts"] = [{"path": layout.relative(path), "start": call["start"], "duration_s": 1.0, "sha256": "", "left": None,
                          "right": None} for path in extra]
    if packets:
        layout.packets(call_id).write_bytes(b"k" * 5000)
    write(layout.sidecar(call_id), call, sync=False)
    return call_id


def archive(root: Path, calls: int) -> tuple[Layout, Index, list[str]]:
    """An archive of so many calls, one an hour; every third has parts, every fourth its packets."""
    layout, index = Layout(root), Index(root / "index.duckdb", "JP", patience_s=0.2)
    layout.prepare()
    ids = [put(layout, sidecar(n), parts=n % 3, packets=n % 4 == 0) for n in range(calls)]
    index.add_calls([read(layout.sidecar(i)) for i in ids])
    return layout, index, ids


def listed(index: Index) -> set[str]:
    with open_index(index.path) as db:
        return {i for (i,) in db.execute("SELECT id FROM calls").fetchall()}


def rows(index: Index) -> dict[str, set[str]]:
    with open_index(index.path) as db:
        return {table: {i for (i,) in db.execute(f"SELECT id FROM {table}").fetchall()}  # noqa: S608 -- constants
                for table in ("calls", "legs", "streams", "events", "annotations")}


def files(layout: Layout) -> dict[str, bytes]:
    return {p.relative_to(layout.root).as_posix(): p.read_bytes() for p in layout.recordings.rglob("*") if p.is_file()}


def dangling(layout: Layout, index: Index) -> list[str]:
    """Rows without sidecar, sidecars whose sound is not there."""
    found = [f"row {i}" for i in listed(index) if not layout.sidecar(i).exists()]
    for call_id in layout.ids():
        call = read(layout.sidecar(call_id))
        found += [f["path"] for f in [call["audio"], *call["parts"]] if f and not (layout.root / f["path"]).exists()]
    return found
