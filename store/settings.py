"""The one configuration file: TOML, every key optional, nothing unknown let through."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rokuon.store.errors import StoreError

__all__ = ["DEFAULT_FILE", "CaptureSettings", "DiskSettings", "HooksSettings", "IndexSettings", "MetricsSettings",
           "RecordSettings", "Settings", "SettingsError", "SpoolSettings", "address", "describe", "load", "parse"]

DEFAULT_FILE = Path("/etc/rokuon/rokuon.toml")
LARGEST = 1 << 20
_DAY = "(Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_SPAN = r"([01]\d|2[0-3]):[0-5]\d-([01]\d:[0-5]\d|2[0-3]:[0-5]\d|24:00)"
_GROUP = f"{_DAY}(-{_DAY})?( +{_SPAN})+"
_HOURS = f"|{_GROUP}( *, *{_GROUP})*"


class SettingsError(StoreError):
    """The configuration file cannot be used; the text names file and line."""


def setting(default: Any, about: str, least: float | None = None, most: float | None = None, *, choices: tuple[str, ...] = (),
            pattern: str = "", form: str = "") -> Any:
    return field(default=default, metadata={"about": about, "least": least, "most": most, "choices": choices, "pattern": pattern,
                                            "form": form})


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
    leg_headers: str = setting("X-Call-ID", "SIP header fields that a PBX adds with the Call-ID of another leg of the same call.",
                               pattern="([A-Za-z0-9-]+( [A-Za-z0-9-]+)*)?", form="names in quotes with a space between")


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """[index]: what calls are found by."""

    region: str = setting("", "Country (ISO 3166) of numbers without country code; empty: JP where the zone is Asia/Tokyo.",
                          pattern="([A-Z]{2})?", form='two capital letters in quotes, or ""')


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """[capture]: how packets are taken off the wire."""

    filter: str = setting("", "Take only packets that this pcap-filter(7) lets through; added to what is taken by default.")
    snaplen: int = setting(65_535, "Bytes kept of a packet.", 64, 262_144)
    buffer: int = setting(64, "MiB of the kernel's buffer, for each interface.", 1, 2047)
    promiscuous: bool = setting(True, "Take also packets that are sent to others: a mirror port has no other.")
    queue: int = setting(128, "MiB of packets that may wait in memory while the disk stalls.", 8, 65_536)


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """[spool]: where packets wait for their call's end."""

    limit: float = setting(0.0, "GiB that packets of calls in progress may take; 0: half of what is free at the start.",
                           0, 1 << 20)
    recover: float = setting(4.0, "Hours of a call that stay in the spool, so that nothing of them is lost in a crash.", 0.2, 48)


@dataclass(frozen=True, slots=True)
class DiskSettings:
    """[disk]: what is done when the disk fills up."""

    policy: str = setting("keep-oldest", "When full: keep-oldest records no new calls, keep-newest deletes the oldest ones.",
                          choices=("keep-oldest", "keep-newest"))
    alarm: float = setting(10.0, "Per cent free below which there is an alarm.", 0, 100)
    stop: float = setting(3.0, "Per cent free below which the policy acts.", 0, 100)


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """[metrics]: how it is watched."""

    listen: str = setting("", 'Address and port of metrics for Prometheus, such as "127.0.0.1:9741"; empty: none.',
                          pattern=r"|(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-fA-F:.]+\]):\d{1,5}",
                          form='an address and a port, such as "127.0.0.1:9741" or "[::1]:9741"')
    public: bool = setting(False, "Let listen be an address that other machines reach: whoever does can read the metrics.")
    textfile: str = setting("", "A file to write them to, for a collector that reads files; empty: none.",
                            pattern=r"|/.*\.prom", form='a whole path that ends in .prom, or ""')


@dataclass(frozen=True, slots=True)
class HooksSettings:
    """[hooks]: commands that are run when something happens; the first text is the program, the others its arguments."""

    alarm: tuple[str, ...] = setting((), "Run with an alarm as JSON on standard input.")
    call: tuple[str, ...] = setting((), "Run for each finished call, its sidecar on standard input.")
    timeout: float = setting(60.0, "Seconds that a command may take.", 1, 3600)
    repeat: float = setting(900.0, "Seconds after which an alarm that persists is given again.", 10, 86_400)
    silence: float = setting(0.0, "Minutes without any packet of a call in business hours that raise an alarm; 0: none.", 0, 1440)
    hours: str = setting("Mon-Fri 09:00-18:00", "Business hours, in local time; empty: always.", pattern=_HOURS,
                         form='days and times, such as "Mon-Fri 09:00-12:00 13:00-18:00, Sat 09:00-13:00"')


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set, and where each came from."""

    record: RecordSettings = RecordSettings()
    index: IndexSettings = IndexSettings()
    capture: CaptureSettings = CaptureSettings()
    spool: SpoolSettings = SpoolSettings()
    disk: DiskSettings = DiskSettings()
    metrics: MetricsSettings = MetricsSettings()
    hooks: HooksSettings = HooksSettings()
    origin: Mapping[str, str] = field(default_factory=dict)
    """"record.window" → "/etc/rokuon/rokuon.toml:3"; keys that are not in here have their default."""


SECTIONS: dict[str, type[Any]] = {"record": RecordSettings, "index": IndexSettings, "capture": CaptureSettings,
                                  "spool": SpoolSettings, "disk": DiskSettings, "metrics": MetricsSettings,
                                  "hooks": HooksSettings}


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
        if section == "metrics" and made[section].listen:
            try:
                address(made[section].listen, made[section].public)
            except ValueError as error:
                raise SettingsError(f"{origin['metrics.listen']}: metrics.listen: {error}") from None
    return Settings(**made, origin=origin)


def address(text: str, public: bool = False) -> tuple[str, int]:
    """Host and port of "127.0.0.1:9741", "[::1]:9741". Raises ValueError, its text a line for people: it is no such thing, or
    other machines reach it and `public` is not set.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ip_address(bare)
        if (found.version == 6) != (bare != host) or not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65_535):
            raise ValueError
    except ValueError:
        raise ValueError(f'{text!r:.60} is no address with a port, such as "127.0.0.1:9741" or "[::1]:9741"') from None
    if not (found.is_loopback or public):
        raise ValueError(f"other machines reach {text}: [metrics] public = true allows that, 127.0.0.1 keeps it on this one")
    return str(found), int(port)


def unknown(name: str, line: int, key: str, valid: Mapping[str, object], where: str = "") -> SettingsError:
    near = get_close_matches(key, valid, n=1, cutoff=0.0)
    return SettingsError(f"{name}:{line}: unknown key {where}{key!r:.60}; nearest is {near[0]!r}")


def checked(what: str, value: Any, default: Any, limits: Mapping[str, Any]) -> Any:
    """The value in its field's type. Raises SettingsError."""
    least, most = limits["least"], limits["most"]
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise SettingsError(f"{what} must be true or false")
    elif limits["choices"]:
        if value not in limits["choices"]:
            raise SettingsError(f"{what} must be {' or '.join(map(literal, limits['choices']))}")
    elif isinstance(default, str):
        if not isinstance(value, str) or not printable(value):
            raise SettingsError(f"{what} must be a text in quotes, on one line")
        if limits["pattern"] and not re.fullmatch(limits["pattern"], value):
            raise SettingsError(f"{what} must be {limits['form']}")
    elif isinstance(default, tuple) and least is None:
        if not isinstance(value, list) or not all(isinstance(v, str) and printable(v) for v in value) or value[:1] == [""]:
            raise SettingsError(f"{what} must be a list of texts in quotes, the program first")
        return tuple(value)
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


def printable(text: str) -> bool:
    return all(character.isprintable() for character in text)


def literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{value:g}" if isinstance(value, float) else str(value)
