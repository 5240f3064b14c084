"""The one configuration file: TOML, every key optional, nothing unknown let through."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rokuon.store.errors import StoreError

__all__ = ["DEFAULT_FILE", "IndexSettings", "RecordSettings", "Settings", "SettingsError", "describe", "load", "parse"]

DEFAULT_FILE = Path("/etc/rokuon/rokuon.toml")
LARGEST = 1 << 20


class SettingsError(StoreError):
    """The configuration file cannot be used; the text names file and line."""


def setting(default: Any, about: str, least: float | None = None, most: float | None = None) -> Any:
    return field(default=default, metadata={"about": about, "least": least, "most": most})


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """[record]: what is recorded, and how."""

    keep_packets: bool = setting(False, "Keep each call's packets beside its audio, as pcap.")
    linger: float = setting(1.0, "Seconds that media still belongs to a call after its end.", 0, 60)
    early: float = setting(5.0, "Seconds that media belongs to a call before the offer that names its address.", 0, 60)
    window: float = setting(30.0, "Seconds of traffic that media waits for signalling that claims it.", 0.1, 3600)
    segment: int = setting(64, "MiB of one segment of the spool, in which packets wait for their call's end.", 1, 1024)
    mask_digits: bool = setting(True, "List the keys that were pressed (DTMF) without saying which: they may be a PIN.")
    sip_ports: tuple[int, ...] = setting((5060,), "Ports on which all is taken for SIP; elsewhere it is recognised.", 1, 65535)


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """[index]: what calls are found by."""

    region: str = setting("", "Country (ISO 3166) of numbers without country code; empty: JP where the zone is Asia/Tokyo.")


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set, and where each came from."""

    record: RecordSettings = RecordSettings()
    index: IndexSettings = IndexSettings()
    origin: Mapping[str, str] = field(default_factory=dict)
    """"record.window" → "/etc/rokuon/rokuon.toml:3"; keys that are not in here have their default."""


SECTIONS: dict[str, type[RecordSettings] | type[IndexSettings]] = {"record": RecordSettings, "index": IndexSettings}


def load(given: str | None, environment: Mapping[str, str]) -> Settings:
    """The settings of the file that was named, of ROKUON_CONFIG, or of /etc/rokuon/rokuon.toml where it exists.

    Raises SettingsError where the file is missing (unless nobody named it), unreadable, no TOML, or holds an unknown
    key or a value that cannot be.
    """
    named = given or environment.get("ROKUON_CONFIG")
    path = Path(named) if named else DEFAULT_FILE
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST).decode()
    except FileNotFoundError:
        if named:
            raise SettingsError(f"{path}: no such file") from None
        return Settings()
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {(error.strerror or '').lower()}") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Settings:
    """Settings from a configuration file's text; `name` stands in messages. Raises SettingsError."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError(f"{name}: {error}") from None
    lines = Lines(text)
    made: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for section, values in document.items():
        if section not in SECTIONS:
            raise unknown(name, lines.of(section), section, SECTIONS)
        if not isinstance(values, dict):
            raise SettingsError(f"{name}:{lines.of(section)}: {section} is a table: write [{section}]")
        known = {f.name: f for f in fields(SECTIONS[section])}
        for key, value in values.items():
            line = lines.of(section, key)
            if key not in known:
                raise unknown(name, line, key, known, f"[{section}] ")
            values[key] = checked(f"{name}:{line}: {section}.{key}", value, known[key].default, known[key].metadata)
            origin[f"{section}.{key}"] = f"{name}:{line}"
        made[section] = SECTIONS[section](**values)
    return Settings(**made, origin=origin)


def unknown(name: str, line: int, key: str, valid: Mapping[str, object], where: str = "") -> SettingsError:
    near = get_close_matches(key, valid, n=1, cutoff=0.0)
    return SettingsError(f"{name}:{line}: unknown key {where}{key!r:.60}; nearest is {near[0]!r}")


def checked(what: str, value: Any, default: Any, limits: Mapping[str, Any]) -> Any:
    """The value in its field's type. Raises SettingsError."""
    least, most = limits["least"], limits["most"]
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SettingsError(f"{what} must be true or false")
    elif isinstance(default, str):
        if not isinstance(value, str) or not re.fullmatch("([A-Z]{2})?", value):
            raise SettingsError(f'{what} must be two capital letters in quotes, or ""')
    elif isinstance(default, tuple):
        if not isinstance(value, list) or not all(type(v) is int and least <= v <= most for v in value):
            raise SettingsError(f"{what} must be a list of whole numbers from {least} to {most}")
        return tuple(value)
    elif isinstance(default, int):
        if type(value) is not int or not least <= value <= most:
            raise SettingsError(f"{what} must be a whole number from {least} to {most}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise SettingsError(f"{what} must be a number from {least:g} to {most:g}")
    else:
        return float(value)
    return value


class Lines:
    """Which line of a TOML text names a key; tomllib does not say."""

    HEADER = re.compile(r"\s*\[+\s*([^\]]+?)\s*\]")
    KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")

    def __init__(self, text: str) -> None:
        self.found: dict[tuple[str, ...], int] = {}
        section: tuple[str, ...] = ()
        for n, line in enumerate(text.splitlines(), 1):
            if header := self.HEADER.match(line):
                section = self.parts(header[1])
                self.found.setdefault(section, n)
            elif key := self.KEY.match(line):
                path = section + self.parts(key[1])
                for depth in range(1, len(path) + 1):
                    self.found.setdefault(path[:depth], n)

    @staticmethod
    def parts(dotted: str) -> tuple[str, ...]:
        return tuple(part.strip().strip("\"'") for part in dotted.split("."))

    def of(self, *path: str) -> int:
        """The line; of the table where the key's own cannot be found."""
        return self.found.get(path) or self.found.get(path[:1], 1)


def describe(settings: Settings) -> str:
    """What is in force and from where, as TOML that could be the configuration file."""
    blocks = []
    for section, kind in SECTIONS.items():
        block = [f"[{section}]"]
        for f in fields(kind):
            value = getattr(getattr(settings, section), f.name)
            origin = settings.origin.get(f"{section}.{f.name}", "default")
            block += [f"# {f.metadata['about']}", f"{f.name} = {literal(value)}  # {origin}"]
        blocks.append("\n".join(block))
    return "\n\n".join(blocks) + "\n"


def literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value:g}" if isinstance(value, float) else str(value)
