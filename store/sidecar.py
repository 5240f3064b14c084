"""Sidecars: all that is known of a call, as JSON beside its audio. docs/format.md is their specification."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from rokuon.store.durable import give_name
from rokuon.store.errors import DataError
from rokuon.store.layout import FILE_MODE, is_id, refused

__all__ = ["SCHEMA", "STATES", "Sidecar", "dump", "dumps", "iso", "nanoseconds", "problems", "read", "write", "write_file"]

SCHEMA = 1
LARGEST = 64 << 20
"""Bytes; a sidecar that is larger was not written by us."""
STATES = ("answered", "cancelled", "busy", "no-answer", "failed", "rtp-only", "in-progress", "excluded")

Sidecar = dict[str, Any]
"""A call in the shape of docs/format.md; values are JSON's."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
UNSEEN = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What JSON leaves as it is and a terminal obeys or a person cannot see: DEL and C1 controls, marks of direction, lone
surrogates (which UTF-8 cannot hold)."""

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_make: Any = getattr(json.encoder, "c_make_encoder", None)
if _make is None:
    encode = _encoder.encode
else:  # what JSONEncoder.encode makes anew for every value
    _pieces = _make(None, _encoder.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)

    def encode(o: Any) -> str:
        """A value as JSON on one line."""
        return "".join(_pieces(o, 0))


def iso(time_ns: int) -> str:
    """Nanoseconds since 1970 as sidecars state times: UTC, microseconds (cut, not rounded). Raises OverflowError for
    times outside the years 1 to 9999.
    """
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06}Z"


@lru_cache(1024)
def _second(seconds: int) -> str:
    return (EPOCH + timedelta(seconds=seconds)).isoformat()[:19]


def nanoseconds(text: str) -> int:
    """The reverse of `iso`. Raises ValueError."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).__sub__(EPOCH) // MICROSECOND * 1000


def visible(match: re.Match[str]) -> str:
    character = match[0]
    return "\\ufffd" if "\ud800" <= character <= "\udfff" else f"\\u{ord(character):04x}"


def dumps(value: object) -> str:
    """JSON on one line: UTF-8 text but for control characters and marks of direction, which are escaped. Lone
    surrogates become U+FFFD. Raises ValueError for NaN and infinities.
    """
    return shown(encode(value))


def shown(text: str) -> str:
    """The text with escapes for what cannot be seen."""
    return text if text.isascii() and "\x7f" not in text else UNSEEN.sub(visible, text)


def lines(sidecar: Sidecar) -> Iterator[str]:
    for key, value in sidecar.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{_name(key)}:[\n  " + ",\n  ".join([encode(entry) for entry in value]) + "]"
        else:
            yield f"{_name(key)}:{encode(value)}"


_name = lru_cache(256)(encode)


def dump(sidecar: Sidecar) -> bytes:
    """A sidecar file's content: a line a key, and a line an entry of its lists."""
    return ("{" + shown(",\n ".join(lines(sidecar))) + "}\n").encode()


def write(path: Path | str, sidecar: Sidecar, sync: bool = True) -> None:
    """Write a sidecar so that it appears whole or not at all. Raises OSError."""
    write_file(path, dump(sidecar), sync)


def write_file(path: Path | str, content: bytes, sync: bool = True) -> None:
    """Write under a temporary name beside `path`, mode 0640, flush to disk if `sync`, rename. Raises OSError."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(file, left):]
        except BaseException:
            os.close(file)
            raise
        give_name(file, temporary, os.fspath(path), sync)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read(path: Path) -> Sidecar:
    """Read a sidecar. Raises DataError where it is missing or is none, its text one line; keys may be missing still:
    see `problems`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise refused(error, f"cannot read {path}") from None
    try:
        sidecar = json.loads(content) if len(content) <= LARGEST else None
    except (ValueError, RecursionError):
        sidecar = None
    if not isinstance(sidecar, dict):
        raise DataError(f"{path} is not a sidecar")
    return sidecar


# -- what a sidecar must be --------------------------------------------------
Check = Callable[[Any], bool]


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def text(value: Any) -> bool:
    return isinstance(value, str)


def time(value: Any) -> bool:
    return isinstance(value, str) and TIME.fullmatch(value) is not None


def or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def one_of(*values: object) -> Check:
    return lambda value: value in values


def object_of(**keys: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(key in value and check(value[key]) for key, check in keys.items())


def list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def anything(value: Any) -> bool:
    return True


SIDE = one_of("caller", "callee")
STATUS = or_null(whole)
PARTY = object_of(number=or_null(text), name=or_null(text), uri=or_null(text), address=or_null(text))
LEG = object_of(call_id=text, from_tag=or_null(text), to_tag=or_null(text), caller=or_null(PARTY), callee=or_null(PARTY),
                start=or_null(time), answer=or_null(time), end=or_null(time), sip_status=STATUS, linked_by=or_null(text))
STREAM = object_of(direction=SIDE, leg=or_null(whole), src=text, dst=text, vlan=list_of(whole), ssrc=whole,
                   payload_type=or_null(whole), codec=or_null(text), clock_rate=or_null(whole), first=time, last=time,
                   packets=whole, lost=whole, duplicates=whole, reordered=whole, jitter_ms=or_null(number),
                   max_jitter_ms=or_null(number), r_factor=or_null(number), mos=or_null(number), payload_sha256=or_null(text))
EVENT = object_of(time=time, type=text, side=or_null(SIDE), detail=or_null(text))
MESSAGE = object_of(time=time, src=text, dst=text, transport=text, call_id=text, cseq=text, first_line=text)
AUDIO = object_of(path=text, format=text, channels=whole, sample_rate=whole, duration_s=number, start=time, bytes=whole,
                  sha256=text, corrections=anything, concealed_ms=or_null(number))
PART = object_of(path=text, start=time, duration_s=number, sha256=text, left=anything, right=anything)

SHAPE: dict[str, Check] = {
    "id": lambda value: isinstance(value, str) and is_id(value), "schema": one_of(SCHEMA), "revision": whole,
    "state": one_of(*STATES), "sip_status": STATUS,
    "end_reason": one_of("bye", "cancel", "reject", "timeout", "capture-stopped", "recovered", None),
    "hangup_by": or_null(SIDE), "start": time, "answer": or_null(time), "end": or_null(time), "duration_s": or_null(number),
    "setup_s": or_null(number), "caller": PARTY, "callee": PARTY, "parties": list_of(PARTY), "legs": list_of(LEG),
    "streams": list_of(STREAM), "events": list_of(EVENT), "messages": list_of(MESSAGE),
    "audio": lambda value: value is None or value == {"pending": True} or AUDIO(value), "parts": list_of(PART),
    "related": list_of(object_of(id=text, how=text)), "anomalies": lambda v: isinstance(v, dict) and all(map(whole, v.values())),
    "recorder": object_of(version=text, host=or_null(text), interface=or_null(text), dropped=or_null(whole)),
    "tags": list_of(anything), "notes": list_of(anything), "hold": anything,
}


def problems(sidecar: Sidecar) -> list[str]:
    """The keys that are missing or not of the shape of docs/format.md; empty for a sound sidecar. More keys may be there."""
    wrong = [key for key, check in SHAPE.items() if key not in sidecar or not check(sidecar[key])]
    if not list_of(lambda value: isinstance(value, str) and is_id(value))(sidecar.get("also_known_as", [])):
        wrong.append("also_known_as")
    if "audio" not in wrong and sidecar["audio"] is None and not isinstance(sidecar.get("audio_reason"), str):
        wrong.append("audio_reason")
    return wrong
