"""How a body that is not all there arrives: bounded, counted, and without being copied twice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from serving.config import Limits
from serving.errors import Unavailable
from serving.http_body import Chunks
from serving.http_head import Head

if TYPE_CHECKING:
    from serving.connection import Connection
    from serving.listen_http import Bodies

SKIPPED_BYTES_MAX = 1 << 20
"""A refused body up to this size is read and dropped, so that its connection can go on."""
CHUNKS_AT_ONCE = 8
"""Chunks that are taken in the place of a request, so that a turn of the loop takes 128, or 0.11 ms."""
NOTHING = memoryview(b"")
SLACK_BYTES = 64
"""More room than a body needs: where a read fills all that it was offered, libuv at once tries another."""
SCRATCH_BYTES = 64 * 1024
"""What is read at once of a client that is not waited for a large body."""


def may_be_skipped(head: Head) -> bool:
    """Say whether the connection can go on after a request was refused before its body was there.

    After an error, a client that waits for "100 Continue" may send its body or not: nobody knows.
    """
    short = head.content_length <= SKIPPED_BYTES_MAX and not head.chunked
    return head.keep_alive and short and not head.expect_continue


class BodyReceiver(asyncio.BufferedProtocol):
    """Stands in for a connection whose client sends large bodies, and lets the kernel write them into place.

    It stays between requests: when the next one begins, it offers room for one like the last, head and
    all, so that nothing of it is copied. A client that sends something else goes back to its connection.
    """

    __slots__ = (
        "_bodies", "_body", "_connection", "_expects", "_filled", "_head", "_opening", "_scratch", "_start",
        "_transport",
    )  # fmt: skip

    def __init__(self, connection: Connection, transport: asyncio.Transport, bodies: Bodies) -> None:
        self._connection = connection
        self._transport = transport
        self._bodies = bodies
        self._head: Head | None = None
        self._opening = b""
        self._body = self._scratch = NOTHING
        self._filled = self._start = 0
        self._expects = 0
        """How large a buffer the request after this one needs, while that has not begun; else 0."""
        self._hand_over(self)

    def _hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        """Give the transport another protocol; it looks at which kind it is when reading begins."""
        self._transport.pause_reading()
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()

    def receive(self, head: Head, opening: bytes, body: memoryview, first: memoryview) -> None:
        """Fill `body` but for its slack; its `first` bytes have arrived, behind the head's: `opening`."""
        self._head, self._opening = head, opening
        self._body = body
        self._expects = self._start = 0
        self._filled = len(first)
        body[: len(first)] = first

    def leave(self) -> None:
        """Give the transport back to the connection.

        It remembers the methods of the last buffered protocol for as long as it is open, so the
        body is let go here.
        """
        self._leave_room()
        self._connection.receiver = None
        self._hand_over(self._connection)

    def _leave_room(self) -> None:
        if self._body and self._expects:
            self._bodies.give_back(self._body, read=False)
        self._body = NOTHING

    @property
    def filling(self) -> bool:
        """Whether a body has begun and is not complete."""
        return bool(self._body) and not self._expects

    def get_buffer(self, _hint: int) -> memoryview:
        """Return the part that is still empty, with the slack."""
        if not self._body:
            self._filled = 0
            if self._expects and self._connection.free:
                with suppress(Unavailable):
                    self._body = self._bodies.take(self._expects)
            if not self._body:
                self._scratch = memoryview(bytearray(SCRATCH_BYTES))
                return self._scratch
        return self._body[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take `count` bytes more."""
        if not self._body:
            data, self._scratch = bytes(self._scratch[:count]), NOTHING
            self._connection.data_received(data)
            return
        self._filled += count
        if self._expects:
            start = self._start = len(self._opening)
            # Only what was read counts: the buffer may still hold the head of another request.
            if self._filled < start or self._body[:start] != self._opening:
                data = bytes(self._body[: self._filled])
                self.leave()
                self._connection.data_received(data)
                return
            self._expects = 0
            assert self._head is not None
            self._connection.next_began(self._head, self._body, start)
        end = len(self._body) - SLACK_BYTES
        if self._filled >= end:
            after = bytes(self._body[end : self._filled])
            # A client that asks whether to go on must be told first, so its head is read alone.
            another = self._head is not None and not self._head.expect_continue
            self._expects = another * (len(self._opening) + len(self._body) - self._start)
            self._body = NOTHING
            self._connection.body_received(after)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the connection, and let go of it: the transport holds on to us, and it to the transport."""
        connection = self._connection
        self._leave_room()
        self._scratch = NOTHING
        del self._connection, self._transport
        connection.connection_lost(error)

    def eof_received(self) -> bool:
        """End with the client."""
        return self._connection.eof_received()

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
        """Take what has arrived, or a part of it, and return how many bytes that is; the rest is for later.

        Raises
        ------
        Invalid, TooLarge, HeadTooLarge
            As `Chunks.feed` does.
        Unavailable
            If there are too many bodies in memory.
        """
        used = self._chunks.feed(data, CHUNKS_AT_ONCE)
        grown = len(self._chunks.body) - self._counted
        self._bodies.count(grown)
        self._counted += grown
        return used

    def end(self) -> bytearray:
        """Return the content so far, and count it no longer."""
        self._bodies.count(-self._counted)
        self._counted = 0
        return self._chunks.body
