"""Fuller copies of calls that are recorded already: they take the other's place under its id, as a revision.

A call that may be such a copy is finalised like any other, but its files are named after the revision that it may become
(`ID.r2.wav`, `ID.r2.json`): nobody sees them. Then its sidecar is held against those of the calls that it may be a copy of, and
where it is the fuller one (rokuon.store.coverage)

1. its sidecar takes the other's place, by one rename: from then on readers find the new sound, which lies beside the old;
2. its rows take the place of the other's, and of all calls that turn out to be parts of it, in one transaction;
3. the files that nothing names any more go.

A note in DATA/recordings/.revising/RUN says so as long as that lasts. So a process that ends in between leaves one whole
recording or the other, and `finish_revisions` does what is left, or takes away what came to nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rokuon.store import coverage
from rokuon.store.coverage import Coverage, standing
from rokuon.store.errors import DataError, StoreError
from rokuon.store.index import Index
from rokuon.store.jobs import Job
from rokuon.store.layout import DIRECTORY_MODE, Layout, is_id, names_in, of_revision, refused
from rokuon.store.retention import all_files, files_of, removing
from rokuon.store.sidecar import Sidecar, read, write

__all__ = ["Revised", "Revisions", "finish_revisions"]

MOST_NAMES = 64
"""Further ids of one call that are kept."""
SURPLUS = "another-copy-has-more"
"""Said of a call where a copy of it could not be kept, which had something that it lacks."""


@dataclass(slots=True)
class Revised:
    """A call that was seen once more, and is kept."""

    call: Sidecar
    added: bool = True
    """It is a call of its own after all."""
    replaces: list[str] = field(default_factory=list)
    """Calls that turned out to be parts of it: their rows have to go."""
    stem: str = ""


@dataclass(slots=True)
class _Staged:
    known: list[str]
    """Calls that it may be a copy of."""
    id: str
    """Of the one whose place it is likely to take."""
    stem: str


class Revisions:
    """What one recorder has in hand of such calls, by the number of their jobs."""

    def __init__(self, layout: Layout, index: Index, warnings: list[str]) -> None:
        """Does first what is left of earlier ones. `index`: as patient as others are waited for who delete calls; `warnings`: for
        what people must know.
        """
        self._warnings = warnings
        finish_revisions(layout, index)
        self._layout, self._patience = layout, index.patience_s
        self._staged: dict[int, _Staged] = {}
        self._notes: Path | None = None
        self._lock = -1

    def __contains__(self, number: int) -> bool:
        return number in self._staged

    # -- before it is finalised ----------------------------------------------
    def stage(self, job: Job, known: Sequence[tuple[str, Sidecar]]) -> None:
        """The job's call may be a copy of these: its files get names of their own. Raises StoreError, OSError."""
        if job.number not in self._staged:  # else another piece of it was looked at before
            self._staged[job.number] = self._place(job, known)

    def _place(self, job: Job, known: Sequence[tuple[str, Sidecar]]) -> _Staged:
        natural = str(job.facts["id"])
        likely, call = min(known, key=lambda k: (natural not in _names(k[1]), not k[1].get("legs"), k[0]))
        return _Staged([i for i, _ in known], likely, self._reserve(likely, int(call.get("revision") or 1) + 1))

    def name(self, job: Job) -> None:
        """Has the job's files named so, if it is such a call's."""
        if job.number in self._staged:
            job.id = self._staged[job.number].stem

    def _reserve(self, call_id: str, revision: int) -> str:
        """A revision that nobody else is making."""
        top = self._layout.revising
        self._layout.make_directory(top)
        with _locked(top):
            if self._notes is None:
                notes = top / f"{os.getpid()}-{time.time_ns()}"
                notes.mkdir(mode=DIRECTORY_MODE)
                self._lock = os.open(notes, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                with suppress(OSError):  # some network file systems lock no directories
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._notes = notes
            while _is_noted(top, of_revision(call_id, revision)):
                revision += 1
            stem = of_revision(call_id, revision)
            (self._notes / stem).touch()
        return stem

    # -- and after -----------------------------------------------------------
    def drop(self, number: int) -> None:
        """Nothing came of it. Raises OSError."""
        staged = self._staged.pop(number, None)
        if staged is not None:
            self._forget(staged.stem)

    def _forget(self, stem: str, files: bool = True) -> None:
        for path in files_of(self._layout, stem) if files else ():
            path.unlink(missing_ok=True)
        if self._notes is not None:
            (self._notes / stem).unlink(missing_ok=True)

    def settle(self, job: Job, made: Sidecar, copies: Sequence[tuple[str, Sidecar]] = ()) -> Revised | None:
        """The call is finalised: what becomes of it. None: the archive has as much, or the call was deleted meanwhile. `copies`:
        calls that were found when it was whole. Raises StoreError, OSError: then all that was recorded is as it was.
        """
        layout, natural = self._layout, str(job.facts["id"])
        staged = self._staged.pop(job.number, None)
        if staged is None:  # by now it has its own name
            staged = self._place(job, copies)
            layout.sidecar(natural).unlink(missing_ok=True)
            self._move(natural, staged.stem, made)
        staged.known = list(dict.fromkeys([*staged.known, *(i for i, _ in copies)]))
        with removing(layout, self._patience):
            known = dict(_read_all(layout, staged.known))
            try:
                verdict = _Verdict(coverage.of_sidecar(made), natural, known)
            except (AttributeError, KeyError, TypeError, ValueError):
                raise DataError(f"one of {', '.join(known)} has a damaged sidecar") from None
            if verdict.lacks:
                self._tell_lack(known[verdict.lacks])
            if not verdict.kept or not known:  # deleted meanwhile: so is its copy
                self._forget(staged.stem)
                return None
            target, absorbed = verdict.target, verdict.absorbed
            call = _carried_over(made, target, [known[i] for i in verdict.beaten], natural, verdict)
            stem = staged.stem
            if target not in known:
                call["revision"] = 1
                stem = self._move(stem, target, call)
            else:
                at_least = int(known[target].get("revision") or 1) + 1
                if target != staged.id or _revision_of(stem) < at_least:
                    stem = self._move(stem, self._reserve(target, at_least), call)
                call["revision"] = _revision_of(stem)
                self._say(stem, layout.packets(stem).exists(), absorbed)
            write(layout.sidecar(target), call)
        added = target not in known
        if added:
            self._forget(staged.stem)
        return Revised(call, added, absorbed, "" if added else stem)

    def _tell_lack(self, call: Sidecar) -> None:
        """A copy is not kept that had something which this call lacks: that must be told."""
        self._warnings.append(f"of call {call['id']} this capture has something that its recording lacks; to have both, record "
                              "all captures of it with one command")
        if not call.get("anomalies", {}).get(SURPLUS):
            anomalies = Counter({SURPLUS: 1, **call.get("anomalies", {})})
            call["anomalies"] = dict(sorted(anomalies.items()))
            write(self._layout.sidecar(str(call["id"])), call)

    def _move(self, stem: str, to: str, call: Sidecar) -> str:
        """Names the files otherwise; nothing speaks of them yet."""
        layout = self._layout
        layout.make_directory(layout.folder(to))
        old, new = layout.stem(stem), layout.stem(to)
        for entry in [call["audio"], *call["parts"]]:
            if entry is not None:
                path = new + str(entry["path"]).removeprefix(old)
                (layout.root / entry["path"]).replace(layout.root / path)
                entry["path"] = path
        with suppress(FileNotFoundError):
            layout.packets(stem).replace(layout.packets(to))
        self._forget(stem)
        return to

    def _say(self, stem: str, packets: bool, absorbed: Sequence[str]) -> None:
        """Notes what is to be done once the sidecar is in its place."""
        assert self._notes is not None
        note = self._notes / stem
        part = note.with_name(f".{stem}.part")
        with open(part, "w", encoding="ascii") as file:
            file.write("\n".join(["packets" if packets else "no-packets", *absorbed, "end"]))
            file.flush()
            os.fsync(file.fileno())
        part.replace(note)

    def listed(self, revised: Iterable[Revised]) -> None:
        """The index has these: what they took the place of can go. Raises OSError."""
        for one in revised:
            if one.stem:
                assert self._notes is not None
                _clear(self._layout, one.call, self._notes / one.stem)

    def close(self) -> None:
        """Lets go of everything; what is not settled came to nothing. What is not listed is left to `finish_revisions`."""
        for number in list(self._staged):
            with suppress(OSError):
                self.drop(number)
        if self._notes is not None:
            with suppress(OSError):
                self._notes.rmdir()
            with suppress(OSError):
                fcntl.flock(self._lock, fcntl.LOCK_UN)  # processes that were forked since have it too
            os.close(self._lock)
            self._notes = None


class _Verdict:
    """What is to become of a copy, beside the calls that are known."""

    def __init__(self, new: Coverage, natural: str, known: Mapping[str, Sidecar]) -> None:
        """`natural`: the id that it would have by itself."""
        covered = {i: coverage.of_sidecar(call) for i, call in known.items()}
        stands = {i: standing(new, mine) for i, mine in covered.items()}
        self.whole = new.whole
        self.beaten = [i for i, how in stands.items() if how == "fuller"]
        self.others = [i for i, how in stands.items() if how == "other"]
        self.kept = "part" not in stands.values()
        self.lacks = ""
        """A call that is kept in its place, and lacks something that it has."""
        self.surplus = False
        """It lacks something itself that a copy has which is not kept."""
        same = next((i for i, call in known.items() if natural in _names(call)), "")
        if self.kept and same in self.others:  # of one id there can be only one
            if new.rank > covered[same].rank:
                self.others.remove(same)
                self.beaten.append(same)
                self.surplus = True
            else:
                self.kept, self.lacks = False, same
        self.target = same if same in self.beaten else min(
            self.beaten, key=lambda i: (not known[i]["legs"], i), default=natural)
        self.absorbed = [i for i in self.beaten if i != self.target]


def _carried_over(made: Sidecar, target: str, beaten: Sequence[Sidecar], natural: str, verdict: _Verdict) -> Sidecar:
    """The new call with what people said of the others, under its id."""
    beaten = sorted(beaten, key=lambda call: (call["id"] != target, call["id"]))
    call = {**made, "id": target}
    names = [*_names(made), natural, *(name for known in beaten for name in _names(known))]
    also = [name for name in dict.fromkeys(names) if name != target and is_id(name)][:MOST_NAMES]
    for key in ("tags", "notes"):
        entries = [entry for known in beaten for entry in known.get(key) or []] + list(made.get(key) or [])
        call[key] = [entry for n, entry in enumerate(entries) if entry not in entries[:n]]
    call["hold"] = next((known["hold"] for known in beaten if known.get("hold") is not None), made.get("hold"))
    related = [entry for known in [made, *beaten] for entry in known.get("related") or []]
    related += [{"id": i, "how": "continues"} for i in verdict.others]
    ours = {target, *also}
    call["related"] = [entry for n, entry in enumerate(related) if entry.get("id") not in ours and entry not in related[:n]]
    before = any(known.get("anomalies", {}).get(SURPLUS) for known in beaten)
    if verdict.surplus or (before and not verdict.whole):
        call["anomalies"] = dict(sorted({**call["anomalies"], SURPLUS: 1}.items()))
    call.pop("also_known_as", None)
    if also:
        call["also_known_as"] = also
    return call


def _names(call: Sidecar) -> list[str]:
    """All ids of a call, its own first."""
    also = call.get("also_known_as")
    return [str(call.get("id")), *(str(name) for name in (also if isinstance(also, list) else []))]


def _read_all(layout: Layout, ids: Iterable[str]) -> Iterator[tuple[str, Sidecar]]:
    """Sidecars of those that are still there. Raises DataError for damaged ones."""
    for i in ids:
        if layout.sidecar(i).exists():
            yield i, read(layout.sidecar(i))


# -- notes ---------------------------------------------------------------------
def finish_revisions(layout: Layout, index: Index | None = None) -> None:
    """Does what is left of revisions that were broken off: to be called before anything is recorded, and before the index is made
    again (then without `index`). What cannot be done is left for the next time. Never raises for that.
    """
    if not layout.revising.is_dir():
        return
    with suppress(OSError, StoreError), _locked(layout.revising):
        for name in names_in(layout.revising):
            with suppress(OSError):
                _finish_run(layout, index, layout.revising / name)


def _finish_run(layout: Layout, index: Index | None, run: Path) -> None:
    directory = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever lives has it
        for note in [run / name for name in names_in(run)]:
            if note.name.endswith(".part"):
                note.unlink()
                continue
            with suppress(StoreError, ValueError, KeyError, TypeError):
                path = layout.sidecar(_id_of(note.name))
                call = read(path) if path.exists() else None
                if call is None or not _took_place(layout, call, note):
                    _unlink(files_of(layout, note.name), call, layout)
                    note.unlink()
                    continue
                if index is not None and index.path.exists():
                    index.add_calls([call], replaces=_lines(note)[1:])
                _clear(layout, call, note)
        run.rmdir()
    finally:
        os.close(directory)


def _took_place(layout: Layout, call: Sidecar, note: Path) -> bool:
    """Whether the sidecar that is there is that of the revision which the note speaks of."""
    stem = layout.stem(note.name)
    paths = [str(entry["path"]) for entry in [call["audio"]] if entry]
    return bool(_lines(note)) and call["revision"] == _revision_of(note.name) and all(p.startswith(f"{stem}.") for p in paths)


def _clear(layout: Layout, call: Sidecar, note: Path) -> None:
    """Takes away what a revision took the place of, and its note."""
    said, *absorbed = _lines(note)
    target, stem = str(call["id"]), note.name
    old, new = layout.packets(target), layout.packets(stem)
    if new.exists():
        new.replace(old)
    elif said == "no-packets":
        old.unlink(missing_ok=True)
    layout.sidecar(stem).unlink(missing_ok=True)
    older = [of_revision(target, n) for n in range(max(1, _revision_of(stem) - MOST_NAMES), _revision_of(stem))]
    gone = [path for s in older if not _is_noted(layout.revising, s) for path in files_of(layout, s)]
    _unlink((path for path in gone if path != old), call, layout)
    for other in absorbed:
        path = layout.sidecar(other)
        was = read(path) if path.exists() else {}
        path.unlink(missing_ok=True)
        _unlink(all_files(layout, other, was), call, layout)
    note.unlink(missing_ok=True)


def _unlink(paths: Iterable[Path], call: Sidecar | None, layout: Layout) -> None:
    """Deletes files, never one that the call names."""
    named = {layout.root / str(entry["path"]) for entry in [call["audio"], *call["parts"]] if entry} if call else set()
    for path in paths:
        if path not in named:
            path.unlink(missing_ok=True)


def _lines(note: Path) -> list[str]:
    """What a note says: whether packets are kept, then ids; nothing before it is decided."""
    lines = note.read_text(encoding="ascii", errors="replace").split("\n")
    return [lines[0], *(line for line in lines[1:] if is_id(line))] if lines[-1] == "end" else []


def _is_noted(top: Path, stem: str) -> bool:
    """Whether somebody is making that revision."""
    return any((top / run / stem).exists() for run in names_in(top))


def _id_of(stem: str) -> str:
    return stem.partition(".")[0]


def _revision_of(stem: str) -> int:
    number = stem.partition(".r")[2]
    return int(number) if number else 1


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Nobody else reserves a revision meanwhile. Raises StoreError."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refused(error, f"cannot write to {directory}") from None
    try:
        with suppress(OSError):  # some network file systems lock no directories
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
