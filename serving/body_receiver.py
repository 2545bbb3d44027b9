"""How a body that is not all there arrives: bounded, counted, and without being copied twice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serving.config import Limits
from serving.http_body import Chunks
from serving.http_head import Head

if TYPE_CHECKING:
    from serving.connection import Connection
    from serving.listen_http import Bodies

SKIPPED_BYTES_MAX = 1 << 20
"""A refused body up to this size is read and dropped, so that its connection can go on."""
NOTHING = memoryview(b"")


def may_be_skipped(head: Head) -> bool:
    """Say whether the connection can go on after a request was refused before its body was there.

    After an error, a client that waits for "100 Continue" may send its body or not: nobody knows.
    """
    short = head.content_length <= SKIPPED_BYTES_MAX and not head.chunked
    return head.keep_alive and short and not head.expect_continue


class BodyReceiver(asyncio.BufferedProtocol):
    """Stands in for a connection while a large body arrives, and lets the kernel write it into place."""

    __slots__ = ("_body", "_connection", "_filled", "_transport")

    def __init__(
        self, connection: Connection, transport: asyncio.Transport, body: memoryview, first: memoryview
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._body = body
        self._filled = len(first)
        body[: len(first)] = first
        self._hand_over(self)

    def _hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the transport another protocol; it looks at which kind it is when reading begins."""
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def leave(self) -> None:
        """Give the transport back to the connection.

        It remembers the methods of the last buffered protocol for as long as it is open, so the
        body is let go here.
        """
        self._body = NOTHING
        self._hand_over(self._connection)

    def get_buffer(self, _hint: int) -> memoryview:
        """Return the part that is still empty, and no more: the next request is not ours."""
        return self._body[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take `count` bytes more."""
        self._filled += count
        if self._filled == len(self._body):
            self.leave()
            self._connection.body_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the connection."""
        self._connection.connection_lost(error)

    def eof_received(self) -> bool:
        """End with the client."""
        return False

    def pause_writing(self) -> None:
        """Tell the connection, which may still be sending an answer."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection."""
        self._connection.resume_writing()


class ChunkedBody:
    """A chunked body, which counts among the bodies in memory as it grows."""

    __slots__ = ("_bodies", "_chunks", "_counted")

    def __init__(self, limits: Limits, bodies: Bodies) -> None:
        self._chunks = Chunks(limits)
        self._bodies = bodies
        self._counted = 0

    @property
    def done(self) -> bool:
        """Whether it is complete; what follows belongs to the next request."""
        return self._chunks.done

    def feed(self, data: bytes) -> int:
        """Take what has arrived and return how many of its bytes belong to this body.

        Raises
        ------
        Invalid, TooLarge, HeadTooLarge
            As `Chunks.feed` does.
        Unavailable
            If there are too many bodies in memory.
        """
        used = self._chunks.feed(data)
        grown = len(self._chunks.body) - self._counted
        self._bodies.count(grown)
        self._counted += grown
        return used

    def end(self) -> bytearray:
        """Return the content so far, and count it no longer."""
        self._bodies.count(-self._counted)
        self._counted = 0
        return self._chunks.body
