"""Every path of an archive, and how calls are named. Nothing from a packet is ever part of a path.

    DATA/recordings/YYYY/MM/DD/HH/ID.wav    audio; further files of the call: ID-2.wav …
    DATA/recordings/YYYY/MM/DD/HH/ID.json   sidecar
    DATA/recordings/YYYY/MM/DD/HH/ID.pcap   the call's packets, where they are kept
    DATA/recordings/YYYY/MM/DD/HH/ID.r2.wav audio of its second revision, and so on
    DATA/journal/YYYY-MM.jsonl              what happened to recordings since
    DATA/index.duckdb                       what queries read; can be rebuilt from the rest
    DATA/spool/                             calls in progress
    DATA/quarantine/                        calls that could not be finalised
    DATA/not-recorded.json                  counts of what was seen and not recorded, by reason
    DATA/tombstones                         keyed hashes of calls that were deleted; DATA/tombstones.key: their key
    DATA/state/                             what the running service says of itself

An ID is `YYYYmmddTHHMMSSZ-xxxxxxxx`: the call's start, which says where it is filed, and 40 bits of base32, which
are its identity.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from base64 import b32encode
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from rokuon.store.errors import DataError, NotPermittedError, why

__all__ = ["DIRECTORY_MODE", "FILE_MODE", "Layout", "data_directory", "identity", "is_id", "make_id", "make_way",
           "of_revision"]

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750
SERVICE_DATA = Path("/var/lib/rokuon")

ID = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)\d{4}Z-[a-z2-7]{8}", re.ASCII)
STEM = re.compile(ID.pattern + r"(?:\.r[1-9]\d{0,8})?", re.ASCII)
"""What the names of a call's files begin with: its id, and from the second revision on which one they are of."""
OURS = {"recordings", "journal", "index.duckdb", "spool", "quarantine", "state"}
HARMLESS = {"lost+found"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def identity(*parts: str | int) -> str:
    """40 bits of SHA-256 over the parts, base32 (RFC 4648 section 6) in lower case: 8 characters.

    Of a call with signalling: Call-ID and From tag of the earliest leg; of one without: both addresses, SSRC and start.
    Each part is hashed with its length before it, so that no two lists of parts read the same.
    """
    digest = hashlib.sha256()
    for part in parts:
        octets = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(octets).to_bytes(4, "big") + octets)
    return b32encode(digest.digest()[:5]).decode().lower()


def make_id(start_ns: int, identity: str) -> str:
    """The id of a call that started `start_ns` after 1970 (UTC). Times no calendar holds are filed under 1970."""
    try:
        start = EPOCH + timedelta(seconds=start_ns // 1_000_000_000)
    except OverflowError:
        start = EPOCH
    return f"{start.year:04}{start:%m%dT%H%M%SZ}-{identity}"


def is_id(text: str) -> bool:
    """Whether the text has the form of a whole id."""
    return ID.fullmatch(text) is not None


def of_revision(call_id: str, revision: int) -> str:
    """What the names of a revision's files begin with, for use in an id's place: `ID.r2`; of the first: `ID`."""
    return call_id if revision <= 1 else f"{call_id}.r{revision}"


def data_directory(given: str | None, environment: Mapping[str, str]) -> Path:
    """Where the archive lies: what was given, ROKUON_DATA, the service's directory where there is one that this user may
    read, else $XDG_DATA_HOME/rokuon.
    """
    if named := given or environment.get("ROKUON_DATA"):
        return Path(named).expanduser().absolute()
    if os.access(SERVICE_DATA, os.R_OK | os.X_OK):
        return SERVICE_DATA
    xdg = environment.get("XDG_DATA_HOME", "")
    base = Path(xdg) if xdg.startswith("/") else Path(environment.get("HOME") or "~").expanduser() / ".local/share"
    return base / "rokuon"


class Layout:
    """The paths of one archive."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recordings = root / "recordings"
        self.index = root / "index.duckdb"
        self.spool = root / "spool"
        self.quarantine = root / "quarantine"
        self.not_recorded = root / "not-recorded.json"
        self.state = root / "state"
        self.revising = self.recordings / ".revising"
        self.tombstones = root / "tombstones"
        self.tombstones_key = root / "tombstones.key"

    def __repr__(self) -> str:
        return f"Layout({str(self.root)!r})"

    def check(self) -> None:
        """Look at the directory before reading from it; one that is not there is an empty archive.

        Raises DataError where it is something else (a file, a directory with other things in it), NotPermittedError where
        it may not be read, or where there is none but the service's, which may not.
        """
        if not self._look() and SERVICE_DATA.is_dir() and not os.access(SERVICE_DATA, os.R_OK | os.X_OK):
            raise NotPermittedError(f"nothing is recorded in {self.root}, and what the service records in {SERVICE_DATA} you may "
                                    "not read: ask to be in its group (`adduser NAME rokuon`), or name another place with --data")

    def _look(self) -> bool:
        """As `check` says; False: the directory is not there."""
        try:
            with os.scandir(self.root) as entries:
                names = {entry.name for entry in entries if not entry.name.startswith(".")} - HARMLESS
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise DataError(f"{self.root} is not a directory") from None
        except OSError as error:
            raise refused(error, f"cannot read {self.root}") from None
        if names and not names & OURS:
            raise DataError(f"{self.root} holds other things than recordings; name an empty directory with --data")
        return True

    def prepare(self) -> None:
        """Make the directory ready for writing: look at it, make what is missing, and see that it can be written to."""
        self._look()
        for directory in (self.recordings, self.spool):
            self.make_directory(directory)
            if not os.access(directory, os.W_OK | os.X_OK):
                raise NotPermittedError(f"cannot write to {directory}: permission denied; another place: --data DIR")

    def make_directory(self, directory: Path) -> None:
        """Make a directory of the archive and those above it, mode 0750."""
        try:
            missing = []
            while not directory.is_dir():
                missing.append(directory)
                directory = directory.parent
            for path in reversed(missing):
                path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        except OSError as error:
            raise refused(error, f"cannot make {error.filename or directory}") from None

    def folder(self, call_id: str) -> Path:
        """The directory that a call's files lie in. Raises ValueError where the text is not an id.

        Here and below an id may stand for a revision's files: see `of_revision`.
        """
        match = STEM.fullmatch(call_id)
        if match is None:
            raise ValueError(f"not an id: {call_id!r:.80}")
        return self.recordings.joinpath(*match.groups())

    def stem(self, call_id: str) -> str:
        """What the paths of a call's files begin with, relative to DATA, with slashes. Raises ValueError: see `folder`."""
        match = STEM.fullmatch(call_id)
        if match is None:
            raise ValueError(f"not an id: {call_id!r:.80}")
        return f"recordings/{'/'.join(match.groups())}/{call_id}"

    def sidecar(self, call_id: str) -> Path:
        return self.folder(call_id) / f"{call_id}.json"

    def packets(self, call_id: str) -> Path:
        return self.folder(call_id) / f"{call_id}.pcap"

    def audio(self, call_id: str, number: int = 1, extension: str = "wav") -> Path:
        """The call's audio file; `number` ≥ 2 its further parts and talk paths."""
        return self.folder(call_id) / (f"{call_id}.{extension}" if number == 1 else f"{call_id}-{number}.{extension}")

    def journal(self, time_ns: int) -> Path:
        """The journal of the month that the time lies in."""
        return self.root / "journal" / f"{EPOCH + timedelta(seconds=time_ns // 1_000_000_000):%Y-%m}.jsonl"

    def temporary(self, path: Path) -> Path:
        """A name beside `path` to write under before renaming; one a process and file."""
        return path.with_name(f".{path.name}.{os.getpid()}.part")

    def relative(self, path: Path) -> str:
        """The path as sidecars state it: relative to DATA, with slashes."""
        return path.relative_to(self.root).as_posix()

    def resolve(self, stated: str) -> Path:
        """A path that a sidecar states. Raises DataError where it would lead out of DATA/recordings."""
        pure = PurePosixPath(stated)
        if pure.is_absolute() or ".." in pure.parts or pure.parts[:1] != ("recordings",) or "\0" in stated:
            raise DataError(f"a sidecar names a file outside the recordings: {stated!r:.120}")
        return self.root / pure

    def ids(self) -> Iterator[str]:
        """The ids of all sidecars there are, in order of time."""
        for folder in self._folders(self.recordings, 4):
            yield from sorted(name[:-5] for name in names_in(folder) if name.endswith(".json") and is_id(name[:-5]))

    def _folders(self, top: Path, depth: int) -> Iterator[Path]:
        if depth == 0:
            yield top
            return
        for name in sorted(n for n in names_in(top) if n.isdecimal()):
            yield from self._folders(top / name, depth - 1)


def names_in(directory: Path) -> list[str]:
    """Names in a directory; none where it is not there or not a directory."""
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise refused(error, f"cannot read {directory}") from None


def refused(error: OSError, doing: str) -> DataError | NotPermittedError:
    """The error as one line: `NotPermittedError` where it is a matter of permission."""
    kind = NotPermittedError if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else DataError
    return kind(f"{doing}: {why(error)}")


def make_way(path: Path) -> None:
    """Moves a directory aside that has the name of a file of ours. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        number = 1
        while path.with_name(f"{path.name}.strange-{number}").exists():
            number += 1
        path.rename(path.with_name(f"{path.name}.strange-{number}"))
