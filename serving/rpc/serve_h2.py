"""Where do gRPC's clients come in by our own HTTP/2? The socket, what connections share, and the end."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import ssl
from collections import deque
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import monotonic_ns

from serving.config import Config
from serving.ebb import Ebb
from serving.errors import Unavailable
from serving.http2.blocks import shared_heads
from serving.http2.bounds import FRAME_BYTES_MIN, Bounds
from serving.http2.errors import Code
from serving.loader import give_back
from serving.rpc.h2_connection import Connection
from serving.rpc.intake import Store
from serving.rpc.service import Service
from serving.rpc.terms import Reader

log = logging.getLogger("turnout.grpc")

REFUSED_MAX = 256
"""How many clients beyond `connections_max` are told so at a time; further ones are just cut off."""
CALLS_MAX = 65_536
"""Calls that are under way on all connections, counted at each look; further ones are refused."""
THREADS_MAX = 2
"""How many messages are inflated or compressed at once; each may take a few times its size, and a core."""
LOOK_S = 1.0
LOOKS_MAX = 256
"""Connections that are looked at before the loop turns to those that say something."""
LINGER_S_MAX = 2.0
"""How long a client that was told goodbye may go on sending before it is cut off."""
DRAIN_LOOK_S = 0.25
BACKLOG = 4096


class Unsent:
    """The answers that clients are slow to read: counted, and bounded together."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.bytes_now = 0

    def count(self, grown: int) -> None:
        """Count `grown` bytes more, or fewer; `Unavailable` if that is more than may wait."""
        if grown > 0 and self.bytes_now + grown > self._bytes_max:
            raise Unavailable("too many answers wait to be read; try again later")
        self.bytes_now += grown


class Server:
    """The gRPC side of a gateway, on our own HTTP/2."""

    def __init__(self, service: Service, config: Config) -> None:
        self.service = service
        self.seats = service.gateway.seats
        self.limits = limits = config.limits
        self.bounds = Bounds(
            streams_max=config.grpc.streams_max,
            block_bytes_max=min(FRAME_BYTES_MIN, limits.head_bytes_max),
            fields_bytes_max=limits.head_bytes_max,
            fields_max=limits.headers_max,
        )
        self.heads = shared_heads()
        self.reader = Reader(service)
        self.store = Store(limits.bodies_bytes_max)
        self._ebb = Ebb()
        self.unsent = Unsent(limits.bodies_bytes_max)
        self.threads = ThreadPoolExecutor(THREADS_MAX, "turnout-grpc")
        self.loop = asyncio.get_running_loop()
        self.send_ns_max = int(limits.send_s_max * 1e9)
        self.linger_ns_max = int(LINGER_S_MAX * 1e9)
        self.faults: dict[str, int] = dict.fromkeys((code.name for code in Code), 0)
        """Streams and connections that were ended for what their clients did, by HTTP/2's codes."""
        self._pace(LOOK_S)
        self._tls = _tls(config)
        self._connections: set[Connection] = set()
        self._dirty: list[Connection] = []
        self._tiresome: deque[Connection] = deque()
        self._server: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _pace(self, look_s: float) -> None:
        limits = self.limits
        self._look_s = look_s
        self.receive_turns_max = math.ceil(limits.receive_s_max / look_s)
        self.send_turns_max = math.ceil(limits.send_s_max / look_s)
        self.idle_turns_max = math.ceil(limits.idle_s_max / look_s)

    async def start(self, listening: socket.socket) -> None:
        """Begin to accept connections on a socket that listens."""
        self._server = await self.loop.create_server(
            lambda: Connection(self),
            sock=listening,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self.limits.receive_s_max,
            backlog=BACKLOG,
        )
        self._looking = self.loop.create_task(self._look())

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def bytes_now(self) -> int:
        """How many bytes of requests are in memory."""
        return self.store.bytes_now

    @property
    def rejections(self) -> dict[str, int]:
        """Calls that were answered with an error, by `reason`."""
        return dict(self.service.rejections)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False if there are too many."""
        self._connections.add(connection)
        excess = max(len(self._connections) - self.limits.connections_max, self.seats.take())
        if excess > REFUSED_MAX:
            connection.transport.abort()
        return excess <= 0

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that is closed."""
        if connection in self._connections:
            self._connections.remove(connection)
            self.seats.leave()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the connections."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def flush_later(self, connection: Connection) -> None:
        """Let a connection write at the end of this tick. Called once a tick by each."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(connection)

    def tire(self, connection: Connection) -> None:
        """Let a connection go on whose client sends what brings nothing, when others had their turn."""
        if not self._tiresome:
            self.loop.call_soon(self._tend)
        self._tiresome.append(connection)

    def _tend(self) -> None:
        """Let one of them go on; however many there are, others wait for one at a time."""
        connection = self._tiresome.popleft()
        if self._tiresome:
            self.loop.call_soon(self._tend)
        try:
            connection.go_on()
        except Exception:  # It must not cost the others theirs.
            log.exception("event=go_on_broke")
            connection.transport.abort()

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            try:
                connection.flush()
            except Exception:  # It must not cost the others theirs.
                log.exception("event=flush_broke")
                connection.transport.abort()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            await self._look_once()  # Whose end lets go of the last connection.
            if self._ebb.look(self.unsent.bytes_now + self.store.bytes_now):
                await self.loop.run_in_executor(self.threads, give_back)

    async def _look_once(self) -> None:
        calls, streams_max = sum(len(each.core.streams) for each in self._connections), 0
        if calls <= CALLS_MAX:
            streams_max = self.bounds.streams_max
        for number, connection in enumerate(list(self._connections), 1):
            connection.core.streams_max = streams_max
            try:
                connection.look(monotonic_ns())
            except Exception:  # Else nobody's time would ever be up again.
                log.exception("event=look_broke")
            if number % LOOKS_MAX == 0:
                await asyncio.sleep(0)

    async def drain(self, s_max: float) -> None:
        """Accept no more, answer what is under way, and close: clients are told by a GOAWAY."""
        if self._server is not None:
            self._server.close()
        self._pace(DRAIN_LOOK_S)
        for connection in list(self._connections):
            connection.drain()
        until_ns = monotonic_ns() + int(s_max * 1e9)
        while self._connections and monotonic_ns() < until_ns:
            await asyncio.sleep(0.02)
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._looking is not None:
            self._looking.cancel()
        for connection in list(self._connections):
            connection.transport.abort()
        while self._connections and monotonic_ns() < until_ns + int(1e9):
            await asyncio.sleep(0.01)


def _tls(config: Config) -> ssl.SSLContext | None:
    """Return the context of the configured certificate, which speaks HTTP/2 alone; None without one."""
    from serving.local import tls_context

    context = tls_context(config)
    if context is not None:
        context.set_alpn_protocols(["h2"])
    return context
