"""How a large body arrives: the kernel writes it where it will be read, and it is never copied again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.connection import Connection


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

    def get_buffer(self, _hint: int) -> memoryview:
        """Return the part that is still empty, and no more: the next request is not ours."""
        return self._body[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take `count` bytes more."""
        self._filled += count
        if self._filled == len(self._body):
            self._hand_over(self._connection)
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
