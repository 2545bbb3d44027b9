"""Where HTTP clients come in: the accepting socket, what its connections share, and their end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from time import monotonic_ns

import numpy as np

from serving import http_head
from serving.config import Limits
from serving.connection import Connection
from serving.errors import TooLarge, TurnoutError, Unavailable
from serving.gateway import Gateway
from serving.http_head import Head
from serving.memo import Memo
from serving.metrics import REASONS, reason

log = logging.getLogger("turnout.http")

HEADS_MAX = 4096
HEAD_BYTES_MAX = 2048
"""Heads up to this size are remembered."""
LOOK_S = 1.0
DRAIN_IDLE_S = 1.0
"""How long a connection must have been idle at shutdown before it is closed rather than told to close."""


class Bodies:
    """Buffers for large bodies, used again: fresh ones would be given back to the kernel each time.

    `bytes_now` counts those in use, and `spare_bytes_max` bounds those kept.
    """

    SPARE_BYTES_MAX = 64 << 20
    SPARES_MAX = 32

    def __init__(self) -> None:
        self.bytes_now = 0
        self._spares: list[memoryview] = []
        self._spare_bytes = 0

    def take(self, length: int) -> memoryview:
        """Return a writable buffer of exactly `length` bytes."""
        self.bytes_now += length
        for position, spare in enumerate(self._spares):
            whole = len(spare)
            if length <= whole <= 4 * length:
                del self._spares[position]
                self._spare_bytes -= whole
                return spare[:length]
        return np.empty(length, np.uint8).data

    def give_back(self, buffer: memoryview, *, read: bool) -> None:
        """Take back a buffer; one that a run may still be `read`ing goes when that ends."""
        self.bytes_now -= len(buffer)
        whole = memoryview(buffer.obj)
        if (
            not read
            and len(self._spares) < self.SPARES_MAX
            and self._spare_bytes + len(whole) <= self.SPARE_BYTES_MAX
        ):
            self._spares.append(whole)
            self._spare_bytes += len(whole)


class Listener:
    """The HTTP side of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.limits: Limits = gateway.config.limits
        self.heads: Memo[bytes, Head] = Memo(HEADS_MAX, HEAD_BYTES_MAX)
        """Heads of which all that follows is a body of known length, ready to be handled as it is."""
        self.bodies = Bodies()
        self.draining = False
        self.idle_ns_max = int(self.limits.idle_s_max * 1e9)
        self.rejections: dict[str, int] = dict.fromkeys(REASONS.values(), 0)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Begin to accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=sock, ssl=tls, backlog=4096)
        self._looking = loop.create_task(self._look())

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False if there are too many."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.connections_max

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that is closed."""
        self._connections.discard(connection)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def head(self, data: bytes) -> Head | None:
        """Return the head in `data`; None for an empty line. Raises if the request's end is unknowable."""
        head = self.heads.recall(data)
        if head is None and not data.startswith(b"\r\n"):
            head = http_head.parse(data, self.limits)
            if head.problem is None and not head.chunked and not head.coding:
                self.heads.keep(data, head, len(data))
        return head

    def too_much(self, length: int) -> TurnoutError | None:
        """Say what speaks against a body of `length` bytes: its size, or those that are here already."""
        if length > self.limits.body_bytes_max:
            return TooLarge(
                f"a body of {length} bytes; limits.body_bytes_max is {self.limits.body_bytes_max}"
            )
        if self.bodies.bytes_now + length > self.limits.bodies_bytes_max:
            return Unavailable("too many large requests at once; try again later")
        return None

    def count(self, error: TurnoutError) -> None:
        """Count a request that was not answered, by why."""
        self.rejections[reason(error)] += 1

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the connections."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S if not self.draining else DRAIN_IDLE_S / 4)
            now_ns = monotonic_ns()
            for connection in list(self._connections):
                connection.look(now_ns)

    async def drain(self, s_max: float) -> None:
        """Accept no more, answer what is under way, and close.

        A connection that is in use is closed with its next answer, which says so; closing it
        between requests could cross with one that is on its way.
        """
        if self._server is not None:
            self._server.close()
        self.draining = True
        self.idle_ns_max = min(self.idle_ns_max, int(DRAIN_IDLE_S * 1e9))
        until_ns = monotonic_ns() + int(s_max * 1e9)
        while self._connections and monotonic_ns() < until_ns:
            await asyncio.sleep(0.02)
        if self._looking is not None:
            self._looking.cancel()
        for connection in list(self._connections):
            connection.transport.abort()
        while self._connections and monotonic_ns() < until_ns + int(1e9):
            await asyncio.sleep(0.01)
