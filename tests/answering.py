"""A small HTTP server for tests of load: it answers as it is told to, and pauses when it is told to."""

from __future__ import annotations

import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id":"([^"]*)"')
Reply = Callable[[int, bytes], "list[bytes] | None"]
"""Of a request's number and its id, the pieces of the answer; None ends the connection."""


def good(id_: bytes, *, status: bytes = b"200 OK", route: bytes = b"7;3;split", more: bytes = b"") -> bytes:
    """Return an answer like a gateway's."""
    body = b'{"id":"%b","model_name":"m"}' % id_
    head = b"HTTP/1.1 %b\r\nturnout-route: %b\r\n%bcontent-length: %d\r\n\r\n"
    return head % (status, route, more, len(body)) + body


class Answering:
    """A server in a thread.

    Parameters
    ----------
    reply : callable
        See `Reply`.
    took_s : float
        What each request takes, one after the other.
    pauses : tuple of float
        From when, after the first request, and for how long nothing happens at all.
    """

    def __init__(
        self,
        reply: Reply = lambda _number, id_: [good(id_)],
        took_s: float = 0.0,
        pauses: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._reply, self._took_s, self._pauses = reply, took_s, pauses
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listening.setblocking(False)
        self.at: tuple[str, int] = self._listening.getsockname()[:2]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._first_s = 0.0
        self._read: dict[socket.socket, bytes] = {}
        self.asked: list[bytes] = []
        self.answered_ns: list[int] = []
        """When each answer was begun, by `time.perf_counter_ns`."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(10)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, self._listening:
            selector.register(self._listening, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in selector.select(0.02):
                    self._pause()
                    if key.fileobj is self._listening:
                        client, _ = self._listening.accept()
                        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self._read[client] = b""
                        selector.register(client, selectors.EVENT_READ)
                    elif not self._answer(key.fileobj):
                        selector.unregister(key.fileobj)
                        del self._read[key.fileobj]
                        key.fileobj.close()
            for client in self._read:
                client.close()

    def _pause(self) -> None:
        start_s, length_s = self._pauses
        if length_s and self._first_s and time.monotonic() - self._first_s > start_s:
            self._pauses = (0.0, 0.0)
            time.sleep(length_s)

    def _answer(self, client: socket.socket) -> bool:
        try:
            got = client.recv(1 << 20)
        except OSError:
            got = b""
        if not got:
            return False
        read = self._read[client] = self._read[client] + got
        end = read.find(b"\r\n\r\n")
        found = _LENGTH.search(read)
        if end < 0 or found is None or len(read) < end + 4 + int(found[1]):
            return True
        self._read[client] = b""
        self._first_s = self._first_s or time.monotonic()
        id_ = _ID.search(read)
        self.asked.append(read)
        pieces = self._reply(len(self.asked) - 1, id_[1] if id_ else b"")
        time.sleep(self._took_s)
        self.answered_ns.append(time.perf_counter_ns())
        try:
            for piece in pieces or ():
                client.sendall(piece)
                if len(pieces or ()) > 1:
                    time.sleep(0.001)
        except OSError:
            return False
        return pieces is not None
