"""A real gateway for tests: the whole server on a loop of its own in a thread, on free ports of loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

from serving import config
from serving.gpu.accelerator import Accelerate
from serving.local import Serving
from serving.rpc.engine import bind
from serving.sockets import bound_at, listen
from tests import admitted

T = TypeVar("T")
READY_S_MAX = 60.0


class Running:
    """A gateway that serves until the `with` ends.

    Parameters
    ----------
    repository, state : Path
    settings : dict
        Further sections of the configuration.
    ready_s_max : float
        How long it may take to start: thousands of models are admitted one after the other.
    accelerate : Accelerate, optional
        Puts versions on a device.
    """

    def __init__(
        self,
        repository: Path,
        state: Path,
        settings: dict[str, dict[str, Any]] | None = None,
        ready_s_max: float = READY_S_MAX,
        accelerate: Accelerate | None = None,
    ) -> None:
        self._ready_s_max = ready_s_max
        document: dict[str, dict[str, Any]] = {key: dict(value) for key, value in (settings or {}).items()}
        document.setdefault("server", {}).update(
            http="127.0.0.1:0", grpc="127.0.0.1:0", metrics="127.0.0.1:0"
        )
        document.setdefault("repository", {}).update(path=str(repository), state=str(state))
        document["server"].setdefault("drain_s_max", 3)
        document.setdefault("drift", {"enabled": False})  # A process of its own, which takes a second.
        self.config = config.parse(document)
        self._sockets = listen(self.config.server.http), listen(self.config.server.metrics)
        self.http, self.metrics = bound_at(self._sockets[0]), bound_at(self._sockets[1])
        rpc = bind(self.config)
        self.grpc = bound_at(rpc) if rpc is not None else ""
        self._loop = uvloop.new_event_loop()
        self._serving = Serving(self.config, *self._sockets, grpc=rpc, accelerate=accelerate)
        self._thread = threading.Thread(target=self._run, name="running-gateway", daemon=True)
        self._drained = False

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the gateway's loop and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(self._ready_s_max)

    @property
    def gateway(self) -> Any:
        """The gateway itself, to look at."""
        return self._serving._gateway

    @property
    def listener(self) -> Any:
        """The HTTP listener itself, to look at."""
        return self._serving._listener

    @property
    def rpc(self) -> Any:
        """The gRPC engine itself, to look at."""
        return self._serving._rpc

    def refresh(self) -> None:
        """Bring what is loaded in line with the repository."""
        self.do(self.gateway.shelf.refresh())

    def index(self) -> dict[tuple[str, str], tuple[str, str]]:
        """Return the repository index: (model, version) to (state, reason)."""
        return {
            (model, version): (str(standing.state), standing.reason)
            for model, versions in self.gateway.shelf.index.items()
            for version, standing in versions.items()
        }

    def drain(self) -> None:
        """End as at SIGTERM, which comes once."""
        if not self._drained:
            self._drained = True
            self.do(self._serving.drain())

    def __enter__(self) -> Self:
        admitted.lend(self.config.repository.state)
        self._thread.start()
        self.do(self._serving.start())
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.drain()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        admitted.keep(self.config.repository.state)

    def connect(self, timeout_s: float = 60.0) -> socket.socket:
        """Open a plain connection."""
        host, port = self.http.rsplit(":", 1)
        return socket.create_connection((host, int(port)), timeout=timeout_s)

    def exchange(self, data: bytes, timeout_s: float = 60.0) -> bytes:
        """Send `data` with the last request closing the connection, and return all that comes back."""
        with self.connect(timeout_s) as client:
            client.sendall(data)
            return read_to_end(client)


def read_to_end(client: socket.socket) -> bytes:
    """Return everything until the server closes."""
    received = b""
    while part := client.recv(65536):
        received += part
    return received


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Return one response's status, headers and body, leaving the connection open."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = client.recv(65536)
        if not part:
            raise ConnectionError(f"closed after {received!r}")
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        part = client.recv(65536)
        if not part:
            raise ConnectionError("closed in the body")
        body += part
    return int(status_line.split()[1]), headers, body


def post(path: str, body: bytes, *headers: str, close: bool = True) -> bytes:
    """Return a POST request's bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *headers]
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(path: str, *headers: str, close: bool = True) -> bytes:
    """Return a GET request's bytes."""
    lines = [f"GET {path} HTTP/1.1", "Host: test", *headers, *(["Connection: close"] if close else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"
