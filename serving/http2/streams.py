"""Which requests of a connection are under way, and which were broken off a moment ago?"""

from __future__ import annotations

from collections import deque
from typing import Any

from serving.http2.bounds import Bounds
from serving.http2.errors import Code, ConnectionFault
from serving.http2.frames import Block
from serving.http2.heads import Head


class Stream:
    """A request and its answer. The two sides of it end each for itself.

    Attributes
    ----------
    room, window : int
        Bytes that the peer may send, and that may be sent to it.
    receiving : bool
        The peer has not said that this was all.
    announced : int
        Bytes that are still to come by the request's content-length; -1 if it has none.
    since : int
        The connection's turn when the stream was opened; its owner may set it anew.
    unsent, closing : deque of memoryview, Block or None
        DATA that waits for the peer to take it, and the block that comes behind; empty is None.
    stuck_since : int
        The turn when what waits first became the first.
    begun_ns, work : int, object
        For whoever serves: when it was opened, if they say so, and what they made of it.
    """

    __slots__ = (
        "announced", "begun_ns", "closing", "head", "id", "receiving", "room", "since", "stuck_since",
        "unsent", "window", "work",
    )  # fmt: skip

    def __init__(self, id: int, head: Head, room: int, window: int, since: int, receiving: bool) -> None:  # noqa: A002
        self.id = id
        self.head = head
        self.room = room
        self.window = window
        self.since = since
        self.receiving = receiving
        self.announced = head.content_length
        self.unsent: deque[memoryview] | None = None
        self.closing: Block | None = None
        self.stuck_since = self.begun_ns = 0
        self.work: Any = None

    def __repr__(self) -> str:
        side = "receiving" if self.receiving else "received"
        unsent = sum(map(len, self.unsent or ()))
        return f"<Stream {self.id}: {side}, {self.room} to come, {self.window} to go, {unsent} unsent>"


class Streams:
    """The streams of a connection.

    Attributes
    ----------
    under_way : dict of int to Stream
        By their ids. Bounded by `Bounds.streams_max`, which whoever opens one looks at.
    last : int
        The highest id that was seen.
    """

    __slots__ = ("_dropped", "_dropped_max", "last", "under_way")

    def __init__(self, bounds: Bounds) -> None:
        self.under_way: dict[int, Stream] = {}
        self.last = 0
        self._dropped: dict[int, None] = {}
        self._dropped_max = bounds.dropped_max

    def drop(self, id: int) -> None:  # noqa: A002
        """Remember that we broke off a stream of which the peer may still be sending."""
        if len(self._dropped) >= self._dropped_max:
            del self._dropped[next(iter(self._dropped))]
        self._dropped[id] = None

    def check_late(self, id: int, what: str) -> None:  # noqa: A002
        """Forgive a frame of a stream that is not under way, if its sender could not know that.

        Raises
        ------
        ConnectionFault
            If it could: the stream was never opened, or its sender had ended it.
        """
        self.check_opened(id, what)
        if id not in self._dropped:
            raise ConnectionFault(Code.STREAM_CLOSED, f"{what} on a stream that was ended")

    def check_opened(self, id: int, what: str) -> None:  # noqa: A002
        """Raise `ConnectionFault` if the stream was never opened."""
        if id > self.last or not id & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"{what} on a stream that was never opened")
