"""Sources are found by the scheme of an URL."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from tests.sniffer.captures import mixed, pcap

from rokuon.sniffer import source
from rokuon.sniffer.pcap_merge import open_captures


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str]) -> None:
    """Pretend that these entry points are installed."""
    found = [EntryPoint(name, value, source.GROUP) for name, value in points]
    monkeypatch.setattr(source, "entry_points", lambda group: found if group == source.GROUP else [])


def test_plugin_is_loaded_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(pcap(mixed([60, 60])))
    module = ModuleType("made_up_source")
    module.opener = lambda url: open_captures([tmp_path / url.removeprefix("RING://")])
    install(monkeypatch, ("ring", "made_up_source:opener"), ("broken", "no_such_module:opener"))
    assert set(source.source_plugins()[0]) == {"ring", "broken"}
    monkeypatch.setitem(sys.modules, "made_up_source", module)
    opened: source.Source = source.open_source("RING://a")
    assert sum(len(batch) for batch in opened) == opened.stats()["packets"] == 2
    opened.close()


@pytest.mark.parametrize(("url", "reason"), [("eth0", "no URL"), ("hep://x", "no source for 'hep'"),
                                             ("broken://x", "cannot be loaded"), ("twice://x", "a:x and b:x")])
def test_no_source(monkeypatch: pytest.MonkeyPatch, url: str, reason: str) -> None:
    install(monkeypatch, ("broken", "no_such_module:opener"), ("twice", "a:x"), ("twice", "b:x"))
    with pytest.raises(source.SourceError, match=reason):
        source.open_source(url)


def test_two_that_claim_one_scheme_are_both_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("hep", "one:x"), ("hep", "two:x"), ("ring", "three:x"))
    plugins, refused = source.source_plugins()
    assert set(plugins) == {"ring"}
    assert refused == ["source hep: claimed by one:x and two:x; none is used"]
