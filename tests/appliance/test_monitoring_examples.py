"""Commands that are given as examples do what they say."""

from __future__ import annotations

import email
import email.policy
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.store.sidecars import some

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "monitoring"
ALARM = {"schema": 1, "id": "drops/eth1/kernel", "kind": "drops", "status": "raised", "level": "warning",
         "text": "eth1: 7 Pakete, 録音", "since": "2026-11-24T01:30:12.000000Z", "host": "box", "facts": {"packets": 7}}


def run(name: str, *args: object, given: object = ALARM, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXAMPLES / name, *map(str, args)], input=json.dumps(given), capture_output=True,
                          text=True, timeout=60, check=False, env={**os.environ, **environment})


class Mail(socketserver.StreamRequestHandler):
    """As much of an SMTP server (RFC 5321) as takes a mail."""

    taken: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            word = line.split()[0].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                self.taken.append(b"".join(iter(self.rfile.readline, b".\r\n")))
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 well\r\n")
            if word == b"QUIT":
                return


class Hook(BaseHTTPRequestHandler):
    """Takes what is posted."""

    taken: ClassVar[list[bytes]] = []
    status = 200

    def do_POST(self) -> None:
        self.taken.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server with the handler that the test names."""
    kind = HTTPServer if request.param is Hook else socketserver.TCPServer
    request.param.taken.clear()
    with kind(("127.0.0.1", 0), request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("served", [Mail], indirect=True)
def test_mail(served: int) -> None:
    done = run("alarm-mail", "rokuon@example.com", "ops@example.com", f"127.0.0.1:{served}")
    assert (done.returncode, done.stderr) == (0, "")
    mail = email.message_from_bytes(Mail.taken[0], policy=email.policy.default)
    assert mail["Subject"] == "[rokuon box] raised: drops/eth1/kernel"
    assert mail["To"] == "ops@example.com"
    assert "eth1: 7 Pakete, 録音" in mail.get_content()  # type: ignore[attr-defined]


@pytest.mark.parametrize("served", [Hook], indirect=True)
def test_webhook(served: int, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{served}/hooks/1"
    assert run("alarm-webhook", url).returncode == 0
    assert json.loads(Hook.taken[0]) == {"text": "box: raised, warning: eth1: 7 Pakete, 録音"}
    monkeypatch.setattr(Hook, "status", 500)
    assert run("alarm-webhook", url).returncode == 1


def test_calls_to_a_directory(tmp_path: Path) -> None:
    call = next(call for call in some(20) if call["audio"])
    audio = tmp_path / "data" / call["audio"]["path"]
    audio.parent.mkdir(parents=True)
    audio.write_bytes(b"RIFF")
    to = tmp_path / "in"
    to.mkdir()
    for _ in range(2):  # it may come again
        assert run("call-to-directory", to, given=call, ROKUON_DATA=str(tmp_path / "data")).returncode == 0
    assert sorted(os.listdir(to)) == sorted([audio.name, f"{call['id']}.json"])
    assert (to / audio.name).read_bytes() == b"RIFF"
    assert json.loads((to / f"{call['id']}.json").read_text()) == call
    assert run("call-to-directory", tmp_path / "none", given=call, ROKUON_DATA=str(tmp_path / "data")).returncode == 1
    assert run("call-to-directory", to, given={**call, "audio": None}, ROKUON_DATA=str(tmp_path)).returncode == 0
