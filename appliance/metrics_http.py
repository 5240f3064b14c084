"""Where metrics go: a small HTTP server, or a file for a collector that reads files.

The server takes a few connections at a time and gives each a few seconds; more are closed at once, so that nobody who reaches the
port can make it grow. It runs in threads of its own and keeps nothing else waiting.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from rokuon.store.errors import DataError, why

__all__ = ["MetricsServer", "write_textfile"]

MOST_CONNECTIONS = 8
DEADLINE_S = 10.0
_IDLE_S = 3.0
_LOOK_S = 0.5

Request = socket.socket | tuple[bytes, socket.socket]


class _Handler(WSGIRequestHandler):
    timeout = _IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a line a scrape is no use in a journal."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves /metrics on an address. Raises DataError where it cannot listen there."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 16

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            shown = f"[{host}]" if ":" in host else host
            raise DataError(f"cannot listen on {shown}:{port}: {why(error)}; another address: "
                            "[metrics] listen") from None
        self.set_app(_application(registry))

    def server_bind(self) -> None:
        """Binds, without asking the name service who we are, as HTTPServer does: it may not answer."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def start(self) -> None:
        self._thread = threading.Thread(target=self.serve_forever, args=(_LOOK_S,), name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Takes no more connections, and closes those there are."""
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
            self._thread = None
        self.server_close()
        self._shut(float("inf"))

    def process_request(self, request: Request, client_address: Any) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            room = len(self._open) < MOST_CONNECTIONS
            if room:
                self._open[request] = time.monotonic() + DEADLINE_S
        if room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Request) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called twice a second or more often: whoever is too slow is cut off."""
        self._shut(time.monotonic())

    def handle_error(self, request: Request, client_address: Any) -> None:
        """A client that went away is no event."""

    def _shut(self, now: float) -> None:
        with self._lock:
            for request, deadline in self._open.items():
                if deadline <= now:
                    with suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)


def _application(registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("PATH_INFO") not in ("/", "/metrics"):
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"There is /metrics.\n"]
        answer: Iterable[bytes] = metrics({**environ, "QUERY_STRING": ""}, start_response)
        return answer

    return application


def write_textfile(path: Path, content: bytes) -> None:
    """Puts the content in the place of the file, whole or not at all, readable for all: the collector is another user.

    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # collectors read what ends in .prom
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
