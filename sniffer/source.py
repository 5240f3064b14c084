"""Where packets come from: what a source is, and how one is found by the scheme of its URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from rokuon.sniffer.packet import PacketBatch

__all__ = ["GROUP", "Source", "SourceError", "open_source", "source_plugins"]

GROUP = "rokuon.sources"
"""Entry points: name = URL scheme, value = a callable that takes the URL and returns a `Source`."""


class SourceError(Exception):
    """There is no such source; one line that says which and why."""


class Source(Protocol):
    """Gives out packets, batch by batch, until it is used up or closed."""

    @property
    def warnings(self) -> list[str]:
        """What went wrong so far without ending the source, one line each."""

    def __iter__(self) -> Iterator[PacketBatch]:
        """Batches in the order of capture; each may use the buffer of the one before."""

    def stats(self) -> Mapping[str, int]:
        """Counters so far, by name: at least "packets" given out; "dropped" where the source may lose any."""

    def close(self) -> None:
        """Give back what the source holds. There are no more batches."""


def source_plugins() -> tuple[dict[str, EntryPoint], list[str]]:
    """Sources that are installed, by scheme, none of them loaded; and what is refused: schemes that two claim, one line each."""
    claims: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        claims.setdefault(point.name.lower(), []).append(point)
    refused = [f"source {scheme}: claimed by {' and '.join(sorted({_owner(point) for point in points}))}; none is used"
               for scheme, points in sorted(claims.items()) if len({point.value for point in points}) > 1]
    return {scheme: points[0] for scheme, points in claims.items() if len({point.value for point in points}) == 1}, refused


def _owner(point: EntryPoint) -> str:
    return f"{point.dist.name} ({point.value})" if point.dist else point.value


def open_source(url: str) -> Source:
    """Open the source that an URL names, by the plugin that its scheme belongs to.

    Raises SourceError if there is none, or it cannot be loaded; what the plugin raises for the URL itself passes through.
    """
    scheme, separator, _ = url.partition("://")
    scheme = scheme.lower()
    if not separator:
        raise SourceError(f"{url!r} is no URL")
    plugins, refused = source_plugins()
    if scheme not in plugins:
        reason = next((line for line in refused if line.startswith(f"source {scheme}:")), "")
        raise SourceError(reason or f"no source for {scheme!r} is installed")
    try:
        opener: Callable[[str], Source] = plugins[scheme].load()
    except Exception as error:  # a plugin may fail in any way
        raise SourceError(f"source {scheme}: {_owner(plugins[scheme])} cannot be loaded: {error}") from error
    return opener(url)
