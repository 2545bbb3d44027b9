"""Where HTTP clients come in: the accepting socket, what its connections share, and their end."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import monotonic_ns
from typing import Any

import numpy as np

from serving import http_head
from serving.config import Limits
from serving.connection import GATHER_BYTES_MAX, Connection
from serving.ebb import Ebb
from serving.errors import TooSlow, TurnoutError, Unavailable
from serving.gateway import Gateway
from serving.http_head import Head
from serving.loader import give_back
from serving.memo import Memo
from serving.metrics import REASONS, reason
from serving.unread import Unread

log = logging.getLogger("turnout.http")

HEADS_MAX = 4096
HEAD_BYTES_MAX = 8192
"""Heads up to this size are remembered: their bytes, and what is made of them."""
HEADER_BYTES = 160
"""What a remembered header takes beside its bytes: two objects and a tuple."""
TAIL_BYTES_MAX = 64 * 1024
"""What is read ahead of requests that cannot be served yet, where heads are not longer than usual."""
REFUSED_MAX = 256
"""How many clients beyond `connections_max` are told so at a time; further ones are just cut off."""
THREADS_MAX = 2
"""How many bodies are inflated or compressed at once; each may take a few times its size, and a core."""
LOOK_S = 1.0
LOOKS_MAX = 128
"""Connections that are looked at, at 0.4 us each, before the loop turns to those that say something."""
LINGER_NS = 2_000_000_000
"""How long a refused client may go on sending before it is cut off, so that it can read why."""
DRAIN_IDLE_S = 1.0
"""How long a connection must have been idle at shutdown before it is closed rather than told to close."""


class Bodies:
    """The large bodies in memory: counted, bounded, and their buffers used again.

    Fresh buffers would be given back to the kernel each time. `SPARE_BYTES_MAX` bounds those kept.
    """

    SPARE_BYTES_MAX = 64 << 20
    SPARES_MAX = 32

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0
        # A run that ends in a thread may be the last to hold a body, and append from there.
        self._gone: list[int] = []
        self._spares: list[memoryview] = []
        self._spare_bytes = 0

    @property
    def bytes_now(self) -> int:
        """How many bytes of bodies are in memory."""
        return self._held - sum(self._gone)

    def count(self, grown: int) -> None:
        """Count `grown` bytes more, or fewer.

        Raises
        ------
        Unavailable
            If that is more than may be in memory at once.
        """
        settled = self._gone[:]
        del self._gone[: len(settled)]
        self._held -= sum(settled)
        if grown > 0 and self._held + grown > self._bytes_max:
            raise Unavailable("too many large requests at once; try again later")
        self._held += grown

    def take(self, length: int) -> memoryview:
        """Return a writable buffer of exactly `length` bytes, counted until it is given back."""
        self.count(length)
        for position, spare in enumerate(self._spares):
            whole = len(spare)
            if length <= whole <= 4 * length:
                del self._spares[position]
                self._spare_bytes -= whole
                return spare[:length]
        return np.empty(length, np.uint8).data

    def adopt(self, content: bytes | bytearray) -> memoryview:
        """Return a view on a body that came another way, counted until it is given back."""
        self.count(len(content))
        return np.frombuffer(content, np.uint8).data

    def give_back(self, buffer: memoryview, *, read: bool) -> None:
        """Take back a buffer. One that may still be `read`, by a run, counts until that is done."""
        array = buffer.obj
        assert isinstance(array, np.ndarray)
        if read:
            weakref.finalize(array, self._gone.append, len(buffer)).atexit = False
            return
        self._held -= len(buffer)
        room = self.SPARE_BYTES_MAX - self._spare_bytes
        if array.flags.owndata and array.nbytes <= room and len(self._spares) < self.SPARES_MAX:
            self._spares.append(array.data)
            self._spare_bytes += array.nbytes


class Listener:
    """The HTTP side of a gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.limits: Limits = gateway.config.limits
        self.heads: Memo[bytes, Head] = Memo(HEADS_MAX, HEAD_BYTES_MAX)
        """Heads of which all that follows is a small body of known length, ready to be handled as it is."""
        self._heads_of_large: Memo[bytes, Head] = Memo(HEADS_MAX // 4, HEAD_BYTES_MAX)
        self.bodies = Bodies(self.limits.bodies_bytes_max)
        self._ebb = Ebb()
        self.unread = Unread(self.limits.bodies_bytes_max)
        self.threads = ThreadPoolExecutor(THREADS_MAX, "turnout-coding")
        self.draining = False
        self.answer_bytes_max = self.limits.answer_bytes_max
        self.tail_bytes_max = max(TAIL_BYTES_MAX, 2 * self.limits.head_bytes_max)
        self.idle_ns_max = int(self.limits.idle_s_max * 1e9)
        self.rejections: dict[str, int] = dict.fromkeys(REASONS.values(), 0)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Begin to accept connections on a bound socket."""
        loop = asyncio.get_running_loop()
        handshake_s_max = None if tls is None else self.limits.receive_s_max
        self._server = await loop.create_server(
            lambda: Connection(self),
            sock=sock,
            ssl=tls,
            ssl_handshake_timeout=handshake_s_max,
            backlog=4096,
        )
        self._looking = loop.create_task(self._look())

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False if there are too many."""
        self._connections.add(connection)
        excess = max(len(self._connections) - self.limits.connections_max, self.gateway.seats.take())
        if excess > REFUSED_MAX:
            connection.transport.abort()
        return excess <= 0

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that is closed."""
        if connection in self._connections:
            self._connections.remove(connection)
            self.gateway.seats.leave()
            self.unread.leave(connection)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def head(self, data: bytes) -> Head:
        """Return the head in `data`. Raises if the request's end is unknowable."""
        head = self.heads.recall(data) or self._heads_of_large.recall(data)
        if head is None:
            head = http_head.parse(data, self.limits)
            if head.problem is None and not head.chunked and not head.coding:
                heads = self.heads if head.content_length <= GATHER_BYTES_MAX else self._heads_of_large
                heads.keep(data, head, len(data) + HEADER_BYTES * len(head.headers))
        return head

    def count(self, error: TurnoutError) -> None:
        """Count a request that was not answered, by why."""
        self.rejections[reason(error)] += 1

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` beside the connections."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, which would hold up the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S if not self.draining else DRAIN_IDLE_S / 4)
            await self._look_once()  # Whose end lets go of the last connection.
            if self._ebb.look(self.unread.bytes_now + self.bodies.bytes_now):
                await self.in_thread(give_back)

    async def _look_once(self) -> None:
        now_ns = monotonic_ns()
        for number, connection in enumerate(list(self._connections), 1):
            try:
                if connection in self._connections:
                    look(connection, now_ns, self.limits, self.idle_ns_max)
            except Exception:  # Else nobody's time would ever be up again.
                log.exception("event=look_broke")
            if number % LOOKS_MAX == 0:
                await asyncio.sleep(0)

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
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self._looking is not None:
            self._looking.cancel()
        for connection in list(self._connections):
            connection.transport.abort()
        while self._connections and monotonic_ns() < until_ns + int(1e9):
            await asyncio.sleep(0.01)


def look(connection: Connection, now_ns: int, limits: Limits, idle_ns_max: int) -> None:
    """Act on what takes a client too long."""
    send_ns_max = int(limits.send_s_max * 1e9)
    transport = connection.transport
    if connection._choked_ns and now_ns - connection._choked_ns > send_ns_max:
        transport.abort()
    elif connection._lingers_ns:
        # What is closed with nothing left to send only waits for the client to be quiet.
        sent = transport.can_write_eof() and not transport.get_write_buffer_size()
        if now_ns - connection._lingers_ns > (LINGER_NS if sent else send_ns_max):
            transport.abort()
    elif connection._since_ns and not connection._busy:
        if now_ns - connection._since_ns > limits.receive_s_max * 1e9:
            if connection._discard:  # It has its answer already.
                transport.abort()
            else:
                late = TooSlow("the request was not complete in time (limits.receive_s_max)")
                connection._send_error(late, keep_alive=False)
    elif connection._busy or connection.served != connection._seen:
        connection._seen, connection._idle_ns = connection.served, now_ns
    elif now_ns - connection._idle_ns > idle_ns_max:
        connection._lingers_ns = now_ns
        transport.close()
