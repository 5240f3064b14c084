"""Metrics: what Prometheus gets is what the processes said, whatever they said."""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families as parsed
from tests.appliance.states import ANYTHING, capture, correlate, published

from rokuon.appliance import metrics_http
from rokuon.appliance.metrics import MOST_VALUES, exposition, registry
from rokuon.appliance.metrics_http import MetricsServer, write_textfile
from rokuon.appliance.state import publish
from rokuon.store.errors import DataError
from rokuon.store.layout import Layout
from rokuon.store.settings import SettingsError, parse

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "monitoring"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "monitoring.md"
Key = tuple[str, frozenset[tuple[str, str]]]


def samples(layout: Layout, of: CollectorRegistry | None = None) -> dict[Key, float]:
    """All there is, by name and labels."""
    found = [s for family in parsed(exposition(of or registry(layout)).decode()) for s in family.samples]
    made = {(s.name, frozenset(s.labels.items())): s.value for s in found}
    assert len(made) == len(found)  # no series twice: Prometheus refuses the whole answer
    return made


def one(found: dict[Key, float], name: str, /, **labels: str) -> float:
    return found[f"rokuon_{name}", frozenset(labels.items())]


def busy(root: Path) -> Layout:
    """An archive whose processes have much to say."""
    layout = published(root, {"eth1": capture(
        interfaces=[{"name": "eth1", "up": True, "packets": 90_000, "bytes": 19_260_000, "received": 90_007,
                     "dropped_by_kernel": 7, "dropped_by_interface": 2, "unhandled": 3}],
        not_written={"disk-slow": 11}, counts={"new streams": 600}, clock_steps=2), "eth2": capture(stopped=True)},
        correlate([], behind_s=1.25, backlog={"jobs": 3, "spool_segments": 4}, calls_in_progress=300, totals={
            "seen": 1210, "recorded": 1204, "known": 1, "states": {"answered": 1200, "busy": 4},
            "not_recorded": {"no-audio: codec EVIL\x1b[31m\"\n}": 3}, "quarantined": 1, "recovered": 2},
            end_to_queryable={"buckets": [[0.5, 10], [1, 30], [2, 40]], "sum": 33.5, "count": 41}, anomalies={"late": 5}))
    publish(layout.state / "alarms.json", {"active": [{"id": "disk", "kind": "disk", "level": "critical"}],
                                           "raised": {"disk": 2}, "hook": {"ok": 5, "failed": 1}})
    publish(layout.state / "hooks.json", {"counts": {"ok": 9, "skipped": 4}, "waiting": 12})
    return layout


def test_what_was_said_is_what_prometheus_gets(tmp_path: Path) -> None:
    found = samples(busy(tmp_path))
    where = {"capture": "eth1", "interface": "eth1"}
    assert [one(found, f"{name}_total", **where) for name in ("packets", "bytes", "kernel_packets", "unhandled_packets")] == [
        90_000, 19_260_000, 90_007, 3]
    assert [one(found, "dropped_packets_total", **where, cause=cause) for cause in ("kernel", "interface")] == [7, 2]
    assert one(found, "not_written_packets_total", capture="eth1", reason="disk-slow") == 11
    assert one(found, "not_written_packets_total", capture="eth1", reason="spool-full") == 0
    assert one(found, "clock_steps_total", capture="eth1") == 2
    assert one(found, "capture_events_total", capture="eth1", event="new streams") == 600
    assert one(found, "calls_total", state="answered") == 1200
    assert one(found, "calls_total", state="failed") == 0
    assert [one(found, f"calls_{name}_total") for name in ("seen", "recorded", "known", "quarantined", "recovered")] == [
        1210, 1204, 1, 1, 2]
    assert [one(found, name) for name in ("calls_in_progress", "behind_seconds", "backlog_calls")] == [300, 1.25, 3]
    assert one(found, "disk_left_seconds") == pytest.approx(38.2 * 86_400)
    assert [one(found, "disk_level", level=level) for level in ("ok", "low", "full")] == [1, 0, 0]
    assert one(found, "anomalies_total", anomaly="late") == 5
    assert one(found, "alarm_active", alarm="disk", kind="disk", level="critical") == 1
    assert one(found, "hook_runs_total", hook="call", result="ok") == 9
    assert one(found, "hook_not_run_total", hook="call", reason="skipped") == 4
    assert one(found, "call_hook_waiting_calls") == 12
    disk = os.statvfs(tmp_path)
    assert one(found, "disk_size_bytes") == disk.f_blocks * disk.f_frsize
    assert 0 < one(found, "disk_free_bytes") <= one(found, "disk_size_bytes")


def test_the_histogram_is_cumulative_and_ends_in_all(tmp_path: Path) -> None:
    found = samples(busy(tmp_path))
    name = "end_to_queryable_seconds"
    assert [one(found, f"{name}_bucket", le=le) for le in ("0.5", "1.0", "2.0", "+Inf")] == [10, 30, 40, 41]
    assert (one(found, f"{name}_count"), one(found, f"{name}_sum")) == (41, 33.5)


def test_a_process_that_is_gone_says_nothing_of_the_moment(tmp_path: Path) -> None:
    layout = busy(tmp_path)
    assert one(samples(layout), "process_up", process="capture", name="eth1") == 1
    assert one(samples(layout), "process_up", process="correlate", name="") == 1
    assert one(samples(layout), "process_up", process="capture", name="eth2") == 0
    assert one(samples(layout), "process_stopped", process="capture", name="eth2") == 1
    old = {"time": datetime(2026, 1, 1, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    for name, state in (("capture-eth1", capture()), ("correlate", correlate([]))):
        publish(layout.state / f"{name}.json", {**state, **old})
    found = samples(layout)
    assert one(found, "process_up", process="capture", name="eth1") == 0
    assert one(found, "process_stopped", process="capture", name="eth1") == 0
    assert one(found, "process_state_timestamp_seconds", process="correlate", name="") == 1767225600
    assert one(found, "packets_total", capture="eth1", interface="eth1") == 90_000
    assert one(found, "calls_total", state="answered") == 1204
    assert not {name for name, _ in found} & {"rokuon_calls_in_progress", "rokuon_behind_seconds", "rokuon_disk_left_seconds",
                                              "rokuon_interface_up", "rokuon_queue_bytes"}


def test_an_empty_archive_has_metrics(tmp_path: Path) -> None:
    assert one(samples(Layout(tmp_path / "none")), "calls_seen_total") == 0


def test_names_and_types_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    """The OpenMetrics parser is the strict one: types, suffixes, order of buckets, no family in two pieces."""
    families = list(strictly(open_metrics(registry(busy(tmp_path))).decode()))
    assert len(families) > 30
    for family in families:
        assert re.fullmatch(r"rokuon_[a-z]+(_[a-z]+)*", family.name)
        assert not family.name.endswith(("_total", "_count", "_sum", "_milliseconds", "_days", "_percent"))
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram", "info")


def test_text_from_the_network_is_harmless_in_a_label(tmp_path: Path) -> None:
    found = [labels for name, labels in samples(busy(tmp_path)) if name == "rokuon_calls_not_recorded_total"]
    assert found == [frozenset({("reason", "no-audio: codec EVIL_31m_")})]


def test_labels_are_bounded_and_counters_never_go_back(tmp_path: Path) -> None:
    layout, made = published(tmp_path, {}, None), registry(Layout(tmp_path))
    before: dict[Key, float] = {}
    for size in (50, 150, 1000, 1000):
        reasons = {f"no-audio: codec {n}": n + size for n in range(size)}
        published(tmp_path, {}, correlate([], totals={"not_recorded": dict(reversed(reasons.items())) if size > 50 else reasons}))
        now = {key: value for key, value in samples(layout, made).items() if key[0] == "rokuon_calls_not_recorded_total"}
        assert len(now) <= MOST_VALUES + 1
        assert sum(now.values()) == sum(reasons.values())
        assert all(now[key] >= value for key, value in before.items())
        before = now


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_any_state_file_gives_an_answer(tmp_path: Path, data: st.DataObject) -> None:
    layout = Layout(tmp_path)
    layout.make_directory(layout.state)
    for name, sound in (("capture-a", capture()), ("correlate", correlate([])),
                        ("alarms", {"active": [], "raised": {}, "hook": {}}), ("hooks", {"counts": {}, "waiting": 0})):
        wrong = data.draw(st.dictionaries(st.sampled_from([*sound, "time"]), ANYTHING, max_size=4))
        content = data.draw(st.sampled_from([b"", b"[]", b"{", b"\xff", None]) if not wrong else st.none())
        (layout.state / f"{name}.json").write_bytes(json.dumps({**sound, **wrong}).encode() if content is None else content)
    for (name, _), value in samples(layout).items():
        assert math.isfinite(value), name


# -- where they go -----------------------------------------------------------
@pytest.fixture
def server(tmp_path: Path) -> Iterator[MetricsServer]:
    made = MetricsServer("127.0.0.1", 0, registry(busy(tmp_path)))
    made.start()
    yield made
    made.stop()


def got(server: MetricsServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


def test_http(server: MetricsServer) -> None:
    status, kind, body = got(server, "/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    assert "rokuon_packets" in {family.name for family in parsed(body.decode())}
    assert got(server, "/metrics?name[]=x")[2].count(b"rokuon_packets_total") == body.count(b"rokuon_packets_total")
    status, kind, body = got(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert list(strictly(body.decode()))
    assert got(server, "/../../etc/passwd")[0] == 404
    assert got(server, "/metrics", "POST")[0] == 405


def test_who_sends_nonsense_or_nothing_keeps_nobody_waiting(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_http, "DEADLINE_S", 0.3)
    address = ("127.0.0.1", server.server_port)
    idle = [socket.create_connection(address, timeout=20) for _ in range(metrics_http.MOST_CONNECTIONS)]
    more = socket.create_connection(address, timeout=20)
    assert more.recv(1) == b""  # there is no room
    for connection in idle:
        assert connection.recv(1) == b""  # cut off by the deadline
    for nonsense in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"x" * 70_000 + b"\r\n\r\n", b"\x16\x03\x01\x02\x00"):
        with suppress(OSError), socket.create_connection(address, timeout=20) as connection:
            connection.sendall(nonsense)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    for connection in [*idle, more]:
        connection.close()
    assert got(server, "/metrics")[0] == 200


def test_an_address_that_is_taken_is_said(server: MetricsServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^cannot listen on 127.0.0.1:{server.server_port}: address already in use; another"):
        MetricsServer("127.0.0.1", server.server_port, registry(Layout(tmp_path)))


def test_the_text_file_is_whole_and_readable_for_others(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_textfile(tmp_path / "r.prom", b"a 1\n")
        write_textfile(tmp_path / "r.prom", b"a 2\n")
    finally:
        os.umask(before)
    assert (tmp_path / "r.prom").read_bytes() == b"a 2\n"
    assert stat.S_IMODE((tmp_path / "r.prom").stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["r.prom"]
    with pytest.raises(FileNotFoundError):
        write_textfile(tmp_path / "none" / "r.prom", b"")


# -- the command -------------------------------------------------------------
def rokuon(*args: object, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    given = [] if config is None else ["--config", str(config)]
    return subprocess.run([sys.executable, "-m", "rokuon", *given, *map(str, args)], capture_output=True, text=True, timeout=60,
                          check=False)


def test_once(tmp_path: Path) -> None:
    done = rokuon("--data", busy(tmp_path).root, "metrics", "--once")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(parsed(done.stdout))) > 30


@pytest.mark.parametrize(("args", "said", "status"), [
    (["--listen", "0.0.0.0:9741"], "other machines reach 0.0.0.0:9741: [metrics] public = true", 2),
    (["--listen", "here"], "--listen: 'here' is no address with a port", 2),
    (["--textfile", "x.txt"], "--textfile: its name must end in .prom", 2),
    (["--textfile", "/proc/none/x.prom"], "no such file or directory", 1),
])
def test_what_cannot_be_is_said_on_one_line(tmp_path: Path, args: list[str], said: str, status: int) -> None:
    done = rokuon("--data", published(tmp_path, {}, None).root, "metrics", *args)
    assert done.returncode == status
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("setting", "said"), [
    ('listen = "127.0.0.1:9741"', None), ('listen = "[::1]:9741"', None), ('listen = "127.8.9.1:1"', None), ('listen = ""', None),
    ('listen = "0.0.0.0:9741"\npublic = true', None), ('public = true\nlisten = "[2001:db8::1]:65535"', None),
    ('listen = "192.0.2.1:9741"', "other machines reach 192.0.2.1:9741"), ('listen = "[::]:9741"', "other machines reach"),
    ('listen = "localhost:9741"', "must be an address and a port"), ('listen = ":9741"', "must be an address and a port"),
    ('listen = "127.0.0.1:0"', "is no address with a port"), ('listen = "127.0.0.1:65536"', "is no address with a port"),
    ('listen = "127.0.0.256:80"', "is no address with a port"), ('listen = "[127.0.0.1]:80"', "is no address with a port"),
    ('textfile = "/var/x.prom"', None), ('textfile = "x.prom"', "must be a whole path"), ('textfile = "/x"', "must be a whole"),
])
def test_settings(setting: str, said: str | None) -> None:
    if said is None:
        parse(f"[metrics]\n{setting}", "f")
        return
    with pytest.raises(SettingsError) as caught:
        parse(f"[metrics]\n{setting}", "f")
    assert said in str(caught.value)
    assert str(caught.value).startswith("f:2: metrics.")


# -- examples and documentation ----------------------------------------------
def names(layout: Layout) -> set[str]:
    """Names that a query may use."""
    return {name for name, _ in samples(layout)}


def queried(expression: str) -> set[str]:
    return set(re.findall(r"\brokuon_[a-z_]+", expression))


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    dashboard = json.loads((EXAMPLES / "grafana-dashboard.json").read_text())
    assert dashboard["title"]
    assert dashboard["uid"]
    assert dashboard["schemaVersion"] >= 30
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]
    there = names(busy(tmp_path))
    expressions = [value for key, value in walk(dashboard) if key == "expr"]
    assert len(expressions) > 15
    assert set().union(*map(queried, expressions)) <= there


def rules() -> list[dict[str, Any]]:
    """The alert rules, by as much of YAML as they are written in: nothing but `key: value`, lists of them, and folded text."""
    made: list[dict[str, Any]] = []
    inside = None
    for line in (EXAMPLES / "prometheus-alerts.yaml").read_text().splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        assert "\t" not in line
        indent = len(line) - len(line.lstrip())
        assert indent % 2 == 0
        key, colon, value = line.strip().removeprefix("- ").partition(":")
        assert colon, line
        assert not value or value[0] == " ", line
        value = value.strip()
        assert not re.search(r"(: |\s#)", value) or value[:1] in "'\"", line  # else it would be another mapping, or a comment
        assert value[:1] not in ("*", "&", "!", "%", "@", "`", "{", "[", ">", "|"), line
        if value[:1] in ("'", '"') and value:
            assert value[-1] == value[0], line
            assert value[0] not in value[1:-1], line
            value = value[1:-1]
        if line.strip().startswith("- alert:"):
            made.append({"alert": value, "labels": {}, "annotations": {}})
        elif made and key in ("labels", "annotations"):
            inside = key
        elif made and indent >= 10 and inside:
            made[-1][inside][key] = value
        elif made:
            made[-1][key] = value
    return made


def test_alert_rules_ask_for_what_there_is(tmp_path: Path) -> None:
    there, found = names(busy(tmp_path)), rules()
    assert len(found) > 8
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert re.fullmatch(r"Rokuon[A-Za-z]+", rule["alert"])
        assert queried(rule["expr"]), rule["alert"]
        assert queried(rule["expr"]) <= there, rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not here")
def test_promtool_takes_rules_and_metrics(tmp_path: Path) -> None:
    done = subprocess.run(["promtool", "check", "rules", EXAMPLES / "prometheus-alerts.yaml"], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "check", "metrics"], input=exposition(registry(busy(tmp_path))).decode(),
                          capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_metric_is_documented(tmp_path: Path) -> None:
    said = set(re.findall(r"`(rokuon_[a-z_]+)", DOCS.read_text()))
    there = {family.name + ("_total" if family.type == "counter" else "_info" if family.type == "info" else "")
             for family in registry(busy(tmp_path)).collect()}
    assert there == said & there
    assert not {name for name in said if name not in there and not name.startswith("rokuon_end_to_queryable")}
