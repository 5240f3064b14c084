"""One configuration file, strictly read."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rokuon.store.settings import RecordSettings, Settings, SettingsError, describe, load, parse


def test_every_key_is_optional() -> None:
    assert parse("", "x") == Settings()
    assert parse("[record]\n", "x").record == RecordSettings()


def test_values_and_where_they_came_from() -> None:
    text = '# mine\n[record]\nkeep_packets = true\nwindow = 5\nsip_ports = [5060, 5080]\n\n[index]\nregion = "JP"\n'
    settings = parse(text, "r.toml")
    assert (settings.record.keep_packets, settings.record.window, settings.record.sip_ports) == (True, 5.0, (5060, 5080))
    assert settings.index.region == "JP"
    assert settings.origin == {"record.keep_packets": "r.toml:3", "record.window": "r.toml:4", "record.sip_ports": "r.toml:5",
                               "index.region": "r.toml:8"}


def test_a_count_is_whole() -> None:
    segment = parse("[record]\nsegment = 4", "f").record.segment
    assert (segment, type(segment)) == (4, int)


@pytest.mark.parametrize(("text", "message"), [
    ("[record]\nsegment = 1.5", "f:2: record.segment must be a whole number from 1 to 1024"),
    ("[record]\nsegment = true", "f:2: record.segment must be a whole number from 1 to 1024"),
    ("[record]\n\nkeep_packet = true", "f:3: unknown key [record] 'keep_packet'; nearest is 'keep_packets'"),
    ("record.lingr = 1", "f:1: unknown key [record] 'lingr'; nearest is 'linger'"),
    ("[recrod]\nlinger = 1", "f:1: unknown key 'recrod'; nearest is 'record'"),
    ("[index]\n[record.window]\n", "f:2: record.window must be a number from 0.1 to 3600"),
    ("record = 1", "f:1: record is a table: write [record]"),
    ("[record]\nwindow = '30'", "f:2: record.window must be a number from 0.1 to 3600"),
    ("[record]\nwindow = true", "f:2: record.window must be a number from 0.1 to 3600"),
    ("[record]\nwindow = inf", "f:2: record.window must be a number from 0.1 to 3600"),
    ("[record]\nwindow = nan", "f:2: record.window must be a number from 0.1 to 3600"),
    ("[record]\nkeep_packets = 1", "f:2: record.keep_packets must be true or false"),
    ("[record]\nsip_ports = [0]", "f:2: record.sip_ports must be a list of whole numbers from 1 to 65535"),
    ("[record]\nsip_ports = [true]", "f:2: record.sip_ports must be a list of whole numbers from 1 to 65535"),
    ("[index]\nregion = 'Japan'", "f:2: index.region must be two capital letters in quotes, or \"\""),
    ("[record]\n'bad key' = 1", "f:2: unknown key [record] 'bad key'; nearest is"),
])
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith(message)


@given(st.text() | st.text("[]record.ix=\"'\n #1truefalse", max_size=60))
def test_any_text_is_settings_or_one_line(text: str) -> None:
    try:
        parse(text, "f")
    except SettingsError as error:
        assert str(error).startswith("f:")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("[record]\nlinger = 2\n")
    assert load(str(file), {}).record.linger == 2.0
    assert load(None, {"ROKUON_CONFIG": str(file)}).record.linger == 2.0
    with pytest.raises(SettingsError, match="no such file"):
        load(str(tmp_path / "none"), {"ROKUON_CONFIG": str(file)})
    with pytest.raises(SettingsError, match="directory"):
        load(str(tmp_path), {})
    file.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(str(file), {})
    file.write_text("x = ]\n")
    with pytest.raises(SettingsError, match=r"line 1"):
        load(str(file), {})


@pytest.mark.parametrize("text", ["", "[record]\nwindow = 2.5\nsip_ports = []\n[index]\nregion = 'DE'"])
def test_a_description_is_a_configuration_file(text: str) -> None:
    settings = parse(text, "f")
    again = parse(describe(settings), "f")
    assert (again.record, again.index) == (settings.record, settings.index)
    assert set(tomllib.loads(describe(settings))) == {"record", "index", "capture", "spool", "disk", "metrics", "hooks"}
