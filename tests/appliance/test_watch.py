"""`rokuon metrics` as a process: metrics, alarms and calls, over signals, kills and other settings."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.appliance.hooking import append, call_id, line, script, until
from tests.appliance.states import capture, correlate, published

from rokuon.appliance.state import publish
from rokuon.store.layout import Layout


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `rokuon metrics` on an archive with hooks that write down what they get, and a port of its own."""
    layout = published(tmp_path / "data", {"eth1": capture()}, correlate([]))
    command = script(tmp_path, f"cat >> {tmp_path}/$ROKUON_HOOK")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "port").write_text(str(port))
    (tmp_path / "rokuon.toml").write_text(f'[hooks]\nalarm = ["{command[0]}"]\ncall = ["{command[0]}"]\n[metrics]\n'
                                          f'listen = "127.0.0.1:{port}"\ntextfile = "{tmp_path}/rokuon.prom"\n')
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "rokuon", "--config", tmp_path / "rokuon.toml", "--data", layout.root,
                                    "metrics"], stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def test_metrics_alarms_and_calls_of_a_process(tmp_path: Path, box: Callable[[], subprocess.Popen[bytes]]) -> None:
    layout = Layout(tmp_path / "data")
    first = box()
    until((layout.state / "hooks.json").exists)
    path = layout.sidecar(call_id(1))
    layout.make_directory(path.parent)
    path.write_text(json.dumps({"id": call_id(1)}) + "\n")
    append(layout.state, line(1))
    until(lambda: told(tmp_path / "call") == [{"id": call_id(1)}])

    dropped = capture(interfaces=[{"name": "eth1", "up": True, "dropped_by_kernel": 9}])
    publish(layout.state / "capture-eth1.json", {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", **dropped})
    until(lambda: [(a["id"], a["facts"]["packets"]) for a in told(tmp_path / "alarm")] == [("drops/eth1/kernel", 9)])
    with socket.create_connection(("127.0.0.1", int((tmp_path / "port").read_text())), timeout=30) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert b'rokuon_dropped_packets_total{capture="eth1",cause="kernel",interface="eth1"} 9.0' in answer
    assert b"rokuon_process_up" in (tmp_path / "rokuon.prom").read_bytes()

    second = box()  # beside the first: each alarm would be told twice
    assert second.wait(60) == 4
    assert second.stderr is not None
    assert b"is watched already" in second.stderr.read()

    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 0
    assert b"eth1: the kernel dropped 9 packets" in said

    append(layout.state, line(1))  # the same call once more, while nobody looked: it was revised
    box()
    until(lambda: len(told(tmp_path / "call")) == 2)
    assert [a["id"] for a in told(tmp_path / "alarm")] == ["drops/eth1/kernel"]  # it lasts, and was told


def test_killed_in_the_middle_of_a_call(tmp_path: Path, box: Callable[[], subprocess.Popen[bytes]]) -> None:
    layout = Layout(tmp_path / "data")
    hook = Path(script(tmp_path, f"touch {tmp_path}/running; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; "
                                 f"cat >> {tmp_path}/$ROKUON_HOOK")[0])
    assert hook.exists()
    first = box()
    until((layout.state / "hooks.json").exists)
    path = layout.sidecar(call_id(1))
    layout.make_directory(path.parent)
    path.write_text(json.dumps({"id": call_id(1)}) + "\n")
    append(layout.state, line(1))
    until((tmp_path / "running").exists)
    first.kill()
    first.wait()
    box()
    (tmp_path / "go").touch()  # both runs go on: at least once
    until(lambda: told(tmp_path / "call")[:1] == [{"id": call_id(1)}])
    until(lambda: "waiting" in (state := json.loads((layout.state / "hooks.json").read_text())) and state["waiting"] == 0
          and state["counts"].get("ok") == 1)


def test_settings_are_read_again(tmp_path: Path, box: Callable[[], subprocess.Popen[bytes]]) -> None:
    process = box()
    until((tmp_path / "data" / "state" / "hooks.json").exists)
    settings = (tmp_path / "rokuon.toml").read_text()
    (tmp_path / "rokuon.toml").write_text("[hooks]\nalrm = []\n")
    process.send_signal(signal.SIGHUP)
    (tmp_path / "said").write_bytes(b"")
    assert process.stderr is not None
    while b"the settings that were in force stay" not in process.stderr.readline():
        pass
    (tmp_path / "rokuon.toml").write_text(settings.replace("call = ", "# call = "))
    process.send_signal(signal.SIGHUP)
    until(lambda: not (tmp_path / "data" / "state" / "hooks.json").exists())
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
