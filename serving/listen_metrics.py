"""How does a scraper get the metrics? ``GET /metrics``, from a thread that the event loop never waits for."""

from __future__ import annotations

import gzip
import json
import logging
import re
import socket
import sys
import time
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

CONNECTIONS_MAX = 8
"""Scrapes answered at once; more are turned away with 503."""
SILENCE_S_MAX = 5.0
"""How long a scraper may neither send nor read."""
SCRAPE_S_MAX = 15.0
"""From a scrape's connection to its end, however slowly the other side sends and reads."""
CLOSE_S_MAX = 1.0
"""How long `Server.close` waits for scrapes that are being answered."""
POLL_S = 0.2

log = logging.getLogger(__name__)

_TRITONS_COUNTER = re.compile(rb"^(# TYPE nv_\w+) untyped$", re.MULTILINE)


def expose(metrics: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return all metrics in the format that `accept` asks for, and its content type."""
    encode, content_type = choose_encoder(accept)
    body: bytes = encode(metrics)
    if content_type.startswith("text/plain"):
        # OpenMetrics alone insists on _total: in this format Triton's counters are counters, as from Triton.
        body = _TRITONS_COUNTER.sub(rb"\1 counter", body)
    return body, content_type


class Server:
    """The endpoint of the metrics, answering in daemon threads until it is closed."""

    def __init__(self, endpoint: _Endpoint) -> None:
        self._endpoint = endpoint
        self._thread = Thread(target=endpoint.serve_forever, args=(POLL_S,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, let scrapes finish for `CLOSE_S_MAX`, and cut off those that do not."""
        if self._thread.is_alive():
            self._endpoint.shutdown()
            self._thread.join()
            self._endpoint.server_close()
            self._endpoint.finish(time.monotonic() + CLOSE_S_MAX)


def serve(sock: socket.socket, metrics: CollectorRegistry) -> Server:
    """Answer ``GET /metrics`` on a socket that is bound and listens; the server closes it.

    Other processes may hold duplicates of the socket: who loses the race for a connection goes on.
    """
    return Server(_Endpoint(sock, metrics))


class _Endpoint(ThreadingMixIn, TCPServer):
    daemon_threads = True

    def __init__(self, sock: socket.socket, metrics: CollectorRegistry) -> None:
        super().__init__(sock.getsockname(), _Scrape, bind_and_activate=False)
        self.socket.close()
        # Readable does not mean ours: another process may have taken the connection meanwhile.
        sock.setblocking(False)
        self.socket = sock
        self.metrics = metrics
        self._ends_s: dict[Any, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._ends_s) >= CONNECTIONS_MAX:
            with suppress(OSError):
                request.setblocking(False)
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nretry-after: 1\r\n\r\n")
            self.shutdown_request(request)
            return
        self._ends_s[request] = time.monotonic() + SCRAPE_S_MAX
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._ends_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        now_s = time.monotonic()
        self._cut([request for request, end_s in list(self._ends_s.items()) if end_s < now_s])

    def finish(self, until_s: float) -> None:
        """Wait for open connections, and cut off those that are still there at `until_s`."""
        while self._ends_s and time.monotonic() < until_s:
            time.sleep(0.01)
        self._cut(list(self._ends_s))

    def _cut(self, requests: list[Any]) -> None:
        for request in requests:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - its signature.
        log.debug("scrape broken off: client=%s error=%r", client_address, sys.exception())


class _Scrape(BaseHTTPRequestHandler):
    timeout = SILENCE_S_MAX
    server: _Endpoint

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/metrics":
                self._metrics()
            case "/":
                self._send(HTTPStatus.OK, b"Turnout's metrics are at /metrics\n", "text/plain; charset=utf-8")
            case _:
                self.send_error(HTTPStatus.NOT_FOUND, "nothing is here; the metrics are at /metrics")

    do_HEAD = do_GET  # noqa: N815 - http.server's name.

    def _metrics(self) -> None:
        try:
            body, content_type = expose(self.server.metrics, self.headers.get("accept", ""))
        except Exception:
            log.exception("metrics could not be collected")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics could not be collected")
            return
        if gzip_accepted(self.headers.get("accept-encoding", "")):
            self._send(HTTPStatus.OK, gzip.compress(body, 1), content_type, {"content-encoding": "gzip"})
        else:
            self._send(HTTPStatus.OK, body, content_type)

    def _send(self, status: int, body: bytes, content_type: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "content-type": content_type,
            "content-length": str(len(body)),
            "vary": "accept, accept-encoding",
        }
        for name, value in {**headers, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer with the one shape of error that all of Turnout has."""
        allow = None
        if code == HTTPStatus.NOT_IMPLEMENTED:  # What http.server says to a method that has no do_ function.
            code, message, allow = HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", {"allow": "GET, HEAD"}
        body = json.dumps({"error": message or HTTPStatus(code).phrase}).encode()
        self._send(code, body, "application/json", allow)

    def version_string(self) -> str:
        """Return the Server header, which names no versions."""
        return "turnout"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name.
        """Log nothing: scrapes are not events."""
