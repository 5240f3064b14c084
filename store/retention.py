"""The one way in which a call leaves the archive, and which calls are the oldest.

Deleting is writing backwards. A call that is written gets its sound, then its sidecar, then its rows in the index; so whatever
is in the index has a sidecar, and whatever a sidecar names is there. A call that is deleted loses

1. nothing yet: a note that it is to go, as a hard link to its sidecar in DATA/recordings/.removing, which takes no room;
2. its rows in the index, of all calls of a batch in one transaction;
3. its sidecar, 4. its sound and packets, which nothing names any more;
5. the note.

So a crash in the middle leaves a call that is there, or one that is in no list and whose rest is found through its note:
`finish_removals` does what is left. On a disk that is so full that the index cannot be written the files go first, which takes
no room, and the rows with the next attempt.

A call's files are found by its id alone. No path that a sidecar states is followed.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from rokuon.store import tally
from rokuon.store.errors import IndexBusyError, StoreError, why
from rokuon.store.index import Index
from rokuon.store.layout import DIRECTORY_MODE, FILE_MODE, Layout, is_id, make_id, of_revision, refused
from rokuon.store.sidecar import Sidecar, read

__all__ = ["Removed", "Veto", "all_files", "files_of", "finish_removals", "is_deleted", "oldest_calls", "remove_calls",
           "removing"]

Veto = Callable[[str, Sidecar], str]
"""Is given a call's id and its sidecar, and says in a few words why it must stay; "": it may go."""

BATCH = 50
"""Calls that are deleted in one transaction."""
PATIENCE_S = 0.3
"""How long the index, or others who delete, are waited for: whoever makes room has other things to do."""
LISTED = 50_000
"""Ids of one hour that are held in memory at once."""
PARTS = 10_000
"""Audio files of one call that are looked for at most."""
REVISIONS = 100
"""Revisions of one call whose files are looked for at most."""
TOLD = 20
"""Failures that are told one by one."""
EXTENSIONS = ("wav", "flac", "opus", "ogg", "pcap")
EXTENSION = re.compile("[a-z0-9]{1,8}", re.ASCII)


@dataclass(slots=True)
class Removed:
    """What became of calls that were to be deleted."""

    calls: int = 0
    bytes: int = 0
    """Room on disk that their files took."""
    kept: Counter[str] = field(default_factory=Counter)
    """Calls that stay, by what speaks against it."""
    failed: list[str] = field(default_factory=list)
    """What the system refused, a line each; not more than `TOLD`."""
    behind: int = 0
    """Calls whose files are gone and whose rows are not: the index could not be written. `finish_removals` tries again."""

    def add(self, other: Removed) -> None:
        self.calls += other.calls
        self.bytes += other.bytes
        self.kept += other.kept
        self.failed = (self.failed + other.failed)[:TOLD]
        self.behind += other.behind

    def fail(self, call_id: str, error: OSError) -> None:
        if len(self.failed) < TOLD:
            self.failed.append(f"cannot delete {call_id}: {why(error)}")


def held(_: str, call: Sidecar) -> str:
    """The veto that always has a say: a hold, and calls that are still being made."""
    if call.get("hold") is not None:
        return "on hold"
    if call.get("state") == "in-progress" or call.get("audio") == {"pending": True}:
        return "in progress"
    return ""


# -- which -------------------------------------------------------------------
def oldest_calls(layout: Layout, *, before: int | None = None) -> Iterator[str]:
    """Ids of the calls that have a sidecar, the oldest first; with `before` only of those that started before it (UTC ns).

    Years, months, days and hours are walked one after another: the first id of millions comes as quickly as that of a few.
    Folders that come or go meanwhile do no harm; those that cannot be read are left out.
    """
    bound = make_id(before, "")[:16] if before is not None else "~"
    for folder in _hours(layout.recordings, 4, "", bound):
        prefix = "{}{}{}T{}".format(*folder.parts[-4:])
        last = ""
        while True:
            some = heapq.nsmallest(LISTED, (i for i in _ids(folder, prefix) if last < i < bound))
            yield from some
            if len(some) < LISTED:
                break
            last = some[-1]


def _hours(top: Path, depth: int, prefix: str, bound: str) -> Iterator[Path]:
    if depth == 0:
        yield top
        return
    for name in sorted(n for n in _names(top) if n.isascii() and n.isdecimal() and len(n) == (4 if depth == 4 else 2)):
        path = f"{prefix}{'T' if depth == 1 else ''}{name}"
        if path > bound[:len(path)]:
            return
        yield from _hours(top / name, depth - 1, path, bound)


def _ids(folder: Path, prefix: str) -> Iterator[str]:
    """Ids of the sidecars in a folder, in no order."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".json") and name.startswith(prefix) and is_id(name[:-5]):
                    yield name[:-5]
    except OSError:
        return


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


# -- away with them ----------------------------------------------------------
def remove_calls(layout: Layout, index: Index, ids: Iterable[str], *, reason: str, vetoes: Sequence[Veto] = (),
                 stop: Callable[[], bool] = lambda: False) -> Removed:
    """Deletes calls: the only function that does. Calls on hold, calls in progress, and calls whose sidecar cannot be read, so
    that they may be on hold, always stay; so do those that one of `vetoes` speaks for.

    ids: taken as they are needed, `BATCH` at a time. reason: why, in a word ("disk-full"); `rokuon stats` counts under it.
    stop: asked before each batch; True: no more of them. Raises StoreError where the archive cannot be written to at all, and
    IndexBusyError where somebody else deletes for long; never for one call: see `Removed.failed`.
    """
    removed = Removed()
    left = iter(ids)
    while not stop() and (batch := list(dict.fromkeys(islice(left, BATCH)))):
        with removing(layout) as notes:
            _remove(layout, index, batch, notes, reason, (held, *vetoes), removed)
    return removed


def finish_removals(layout: Layout, index: Index, *, reason: str = "interrupted") -> Removed:
    """Does what is left of deletions that were broken off, or whose rows the index would not give up. To be called at the start,
    and again while `Removed.behind` is not 0. A call that had still been there stays. Raises StoreError: see `remove_calls`.
    """
    removed = Removed()
    patient = _patient(index)
    left = iter(sorted(n[:-5] for n in _names(_notes(layout)) if n.endswith(".json") and is_id(n[:-5])))
    while batch := list(islice(left, BATCH)):
        with removing(layout) as notes:
            begun = []
            for call_id in batch:
                if layout.sidecar(call_id).exists():
                    _spare(layout, patient, call_id, notes)
                elif (notes / f"{call_id}.json").exists():  # else somebody else was quicker
                    begun.append(call_id)
            _away(layout, patient, {i: _noted(notes / f"{i}.json") for i in begun}, notes, reason, False, removed)
    return removed


def is_deleted(layout: Layout, call_id: str) -> bool:
    """Whether a call that was listed a moment ago has been deleted since, or is about to be: there is nothing to complain about
    where its files cannot be found. False also where that cannot be told.
    """
    if layout.sidecar(call_id).exists():
        return False
    with suppress(StoreError):
        return (_notes(layout) / f"{call_id}.json").exists() or not Index(layout.index).known_ids([call_id])
    return False


def _notes(layout: Layout) -> Path:
    return layout.recordings / ".removing"


@contextmanager
def removing(layout: Layout, patience_s: float = 2.0) -> Iterator[Path]:
    """The right to delete calls, or to change sidecars that must not be deleted meanwhile, for as long as the block lasts. Gives
    the directory of notes. Raises IndexBusyError where somebody else has it for so long, StoreError.
    """
    notes = _notes(layout)
    try:
        with suppress(FileExistsError):
            notes.mkdir(mode=DIRECTORY_MODE, parents=True)
        directory = os.open(notes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            yield notes  # which are not there: only the first who make room on a full disk come here
            return
        raise refused(error, f"cannot write to {notes}") from None
    try:
        deadline = time.monotonic() + patience_s
        while not _locked(directory):
            if time.monotonic() > deadline:
                raise IndexBusyError(f"calls of {layout.root} are being deleted by another program; try again")
            time.sleep(0.01)
        yield notes
    finally:
        os.close(directory)


def _locked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # some network file systems lock no directories
    return True


def _remove(layout: Layout, index: Index, ids: Sequence[str], notes: Path, reason: str, vetoes: Sequence[Veto],
            removed: Removed) -> None:
    """One batch of calls that are there."""
    going: dict[str, tuple[Sidecar, _Stamp]] = {}
    for call_id in ids:
        try:
            path = layout.sidecar(call_id)
            stamp = _stamp(path)
            call = read(path)
        except (ValueError, FileNotFoundError):
            removed.kept["no such call"] += 1
            continue
        except (StoreError, OSError):
            removed.kept["sidecar cannot be read"] += 1
            continue
        if objection := next(filter(None, (veto(call_id, call) for veto in vetoes)), ""):
            removed.kept[objection] += 1
            continue
        try:
            _note(path, notes / path.name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                removed.fail(call_id, error)
                continue
            # not even room for a name: it has to go without a note, so that there is
        going[call_id] = call, stamp
    patient = _patient(index)
    unlisted = _unlist(patient, list(going))
    gone: dict[str, Sidecar] = {}
    for call_id, (call, stamp) in going.items():
        path = layout.sidecar(call_id)
        try:
            if _stamp(path) != stamp:  # somebody wrote it anew, and may have put it on hold
                removed.kept["changed meanwhile"] += 1
                _spare(layout, patient, call_id, notes)
                continue
            removed.bytes += _unlink(path)
            gone[call_id] = call
        except OSError as error:
            removed.fail(call_id, error)
            _spare(layout, patient, call_id, notes)
    _away(layout, patient, gone, notes, reason, unlisted, removed)


def _away(layout: Layout, index: Index, gone: Mapping[str, Sidecar], notes: Path, reason: str, unlisted: bool,
          removed: Removed) -> None:
    """The rest of calls that have no sidecar any more: sound, packets, rows where they are still listed, and notes."""
    done: list[str] = []
    for call_id, call in gone.items():
        try:
            for path in all_files(layout, call_id, call):
                removed.bytes += _unlink(path)
            done.append(call_id)
        except OSError as error:
            removed.fail(call_id, error)  # its note stays
    if not unlisted and not _unlist(index, list(gone)):
        removed.behind += len(gone)
        return
    if done:
        with suppress(StoreError):
            tally.add(layout, {f"deleted: {reason}": len(done)})
    for call_id in done:
        with suppress(OSError):
            (notes / f"{call_id}.json").unlink(missing_ok=True)
    removed.calls += len(done)
    for folder in dict.fromkeys(map(layout.folder, done)):
        _tidy(layout, folder)


def _patient(index: Index) -> Index:
    return Index(index.path, index.region, min(index.patience_s, PATIENCE_S))


def _unlist(index: Index, ids: Sequence[str]) -> bool:
    """Whether the index has no rows of these calls any more."""
    try:
        if ids and index.path.exists():
            index.remove_calls(ids)
    except (StoreError, OSError):
        return False
    return True


def _spare(layout: Layout, index: Index, call_id: str, notes: Path) -> None:
    """A call whose rows may be gone stays after all. Where it cannot be listed again its note stays too, for the next attempt."""
    with suppress(StoreError, OSError):
        index.add_calls([read(layout.sidecar(call_id))])
        (notes / f"{call_id}.json").unlink(missing_ok=True)


_Stamp = tuple[int, int, int]


def _stamp(path: Path) -> _Stamp:
    """What changes when the file is written anew: a file that takes its place has another inode, for the note keeps this one."""
    found = os.stat(path, follow_symlinks=False)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _note(path: Path, note: Path) -> None:
    """Notes that a call is to go. A link takes no room; where the file system has none, an empty file does."""
    note.unlink(missing_ok=True)
    try:
        os.link(path, note, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        note.touch(mode=FILE_MODE)


def _noted(note: Path) -> Sidecar:
    """The sidecar as the note has it; empty where it has none."""
    try:
        return read(note)
    except StoreError:
        return {}


def all_files(layout: Layout, call_id: str, call: Sidecar) -> Iterator[Path]:
    """A call's sound and packets, of all its revisions, found by its id. What the sidecar says is how many there are and of which
    kind, no more.
    """
    parts = call["parts"] if isinstance(call.get("parts"), list) else []
    stated = [PurePosixPath(str(f.get("path"))).suffix[1:] for f in [call.get("audio"), *parts] if isinstance(f, dict)]
    extensions = [*EXTENSIONS, *sorted({e for e in stated if EXTENSION.fullmatch(e)} - {*EXTENSIONS, "json"})]
    revision = call.get("revision")
    last = min(revision, REVISIONS) if isinstance(revision, int) else 1
    for number in range(1, last + 1):  # one in the making is left to whoever makes it
        yield from files_of(layout, of_revision(call_id, number), extensions, len(parts))


def files_of(layout: Layout, stem: str, extensions: Sequence[str] = EXTENSIONS, parts: int = 0) -> Iterator[Path]:
    """Sound and packets, but no sidecar, of a revision that `of_revision` names; with the sidecar that one in the making has."""
    for number in range(1, PARTS):
        paths = [layout.audio(stem, number, extension) for extension in extensions]
        there = [path for path in paths if os.path.lexists(path)]
        yield from there
        if not there and number > parts + 1:
            break
    if not is_id(stem) and os.path.lexists(layout.sidecar(stem)):
        yield layout.sidecar(stem)


def _unlink(path: Path) -> int:
    """Deletes a file. Returns the bytes of disk that it took, 0 where it was not there."""
    try:
        took = os.stat(path, follow_symlinks=False)
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return took.st_blocks * 512


def _tidy(layout: Layout, folder: Path) -> None:
    """Removes the folder of an hour, and of its day, month and year, where nothing is left in them. Whoever writes a call into
    it at this moment makes it again.
    """
    for path in (folder, *islice(folder.parents, 3)):
        try:
            path.rmdir()
        except OSError:
            return
