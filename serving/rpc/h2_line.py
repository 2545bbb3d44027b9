"""How do messages go to and fro on a call with streams, where we speak HTTP/2 ourselves?"""

from __future__ import annotations

from asyncio import TimerHandle
from functools import partial
from typing import TYPE_CHECKING

from serving.content_coding import decompress
from serving.errors import Expired, Invalid, TurnoutError
from serving.http2.streams import Stream
from serving.rpc import calling
from serving.rpc.encode import Parts
from serving.rpc.h2_calls import INLINE_BYTES_MAX
from serving.rpc.intake import Intake

if TYPE_CHECKING:
    from serving.rpc.h2_connection import Connection


class Line:
    """A call with streams: what `calling.Line` asks for.

    It is held while the service takes no more, while its client does not read, or while a message is
    being inflated. Then what arrives is kept, and the client, whose window is not opened again, stops.
    """

    __slots__ = (
        "_backlog", "_connection", "_ended", "_inflating", "_intake", "_opened", "_over", "_paused",
        "_service", "_stream", "_timer", "peer",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream: Stream) -> None:
        terms = stream.head.terms
        self._connection = connection
        self._stream = stream
        self.peer = terms.peer
        self._intake = Intake(connection.store, connection.limits)
        self._backlog = bytearray()
        self._opened = self._over = self._ended = self._paused = self._inflating = False
        self._timer: TimerHandle | None = None
        if terms.timeout_ns:
            self._timer = connection.loop.call_later(terms.timeout_ns / 1e9, self._expire)
        self._service: calling.Stream = terms.open(self)

    def begin(self) -> None:
        """Take note of a call that begins and ends with its head."""
        if not self._stream.receiving:
            self._parse(b"", 0, 0)

    # --- From the client.

    @property
    def waits(self) -> bool:
        """Whether the client owes the rest of a message."""
        return self._intake.begun and not self._inflating

    @property
    def _held(self) -> bool:
        return self._paused or self._inflating or bool(self._stream.unsent)

    def take(self, data: bytes, begin: int, stop: int) -> None:
        """Take what arrives."""
        if self._over:
            return
        if not self._intake.begun:
            self._stream.since = self._connection.turn
        try:
            if self._held or self._backlog:
                self._keep(data, begin, stop)
            else:
                self._parse(data, begin, stop)
        except TurnoutError as error:
            self.fail(error)

    def go_on(self) -> None:
        """Take what was kept, if the line is no longer held."""
        if self._over or self._held:
            return
        self._connection.held.discard(self)
        backlog, self._backlog = self._backlog, bytearray()
        self._connection.store.bodies.count(-len(backlog))
        try:
            self._parse(bytes(backlog), 0, len(backlog))
        except TurnoutError as error:
            self.fail(error)

    def _keep(self, data: bytes, begin: int, stop: int) -> None:
        self._connection.store.bodies.count(stop - begin)
        self._backlog += data[begin:stop]
        self._connection.held.add(self)

    def _parse(self, data: bytes, begin: int, stop: int) -> None:
        """Hand over the messages in `data`, and keep those that cannot be handed over now."""
        intake, stream = self._intake, self._stream
        while begin < stop and not self._over and not self._held:
            begin = intake.feed(data, begin, stop)
            if intake.whole:
                self._hand_over()
        if self._over:
            return
        if begin < stop or self._held:
            self._keep(data, begin, stop)
        elif stream.receiving:
            self._make_room()
        elif intake.begun:
            raise Invalid("the call ended in the middle of a message")
        elif not self._ended:
            self._ended = True
            self._service.closed()

    def _make_room(self) -> None:
        """Let the client send on: what there is room for of its message, and a window beyond that."""
        stream, most = self._stream, self._connection.window_bytes
        wanted = self._intake.wants_bytes + most
        if stream.room < wanted - most // 2:
            self._connection.allow(stream, wanted - stream.room)

    def _hand_over(self) -> None:
        compressed = self._intake.compressed
        message, buffer = self._intake.take()
        if not compressed:
            self._service.message(message)
            if buffer is not None:
                self._connection.store.release(buffer, read=True)
            return
        coding = self._stream.head.terms.coding
        try:
            if not coding:
                raise Invalid("a compressed message in a call whose grpc-encoding does not say how")
            inflate = partial(decompress, message, coding, self._connection.limits)
            if len(message) <= INLINE_BYTES_MAX:
                self._service.message(inflate())
            else:
                self._inflating = True
                self._connection.held.add(self)
                self._connection.aside(inflate, self._inflated, self.fail)
        finally:
            if buffer is not None:
                self._connection.store.release(buffer, read=True)

    def _inflated(self, message: bytes) -> None:
        self._inflating = False
        if self._over:
            return
        view = self._connection.store.adopt(message)
        self._service.message(view)
        self._connection.store.release(view, read=True)
        self._connection.touch()

    # --- From the service.

    def send(self, message: Parts) -> None:
        """Send a message after those before it. What the client does not take waits."""
        if not self._over:
            if not self._opened:
                self._opened = True
                self._connection.open(self._stream)
            self._connection.send(self._stream, message)

    def finish(self, error: TurnoutError | None) -> None:
        """End the call once all is sent."""
        if not self._over:
            self._leave()
            self._connection.close(self._stream, error, opened=self._opened)

    def pause(self) -> None:
        """Hand over no more messages for now."""
        self._paused = True

    def resume(self) -> None:
        """Hand over messages again."""
        self._paused = False
        if self in self._connection.held:
            self._connection.touch()

    # --- Ends.

    def fail(self, error: TurnoutError) -> None:
        """End the call for what is wrong with it."""
        if not self._over:
            self._service.cancelled()
            self._connection.count(error)
            self.finish(error)

    def _expire(self) -> None:
        self.fail(Expired("the call's deadline passed"))

    def cut(self) -> None:
        """Give up what nobody waits for."""
        if not self._over:
            service = self._service
            self._leave()
            service.cancelled()

    def drain(self) -> None:
        """Finish as soon as what was taken is answered."""
        if not self._over:
            self._service.drain()

    def _leave(self) -> None:
        self._over = True
        self._service = SILENT  # Else each would keep the other alive.
        if self._timer is not None:
            self._timer.cancel()
        self._intake.drop()
        self._connection.store.bodies.count(-len(self._backlog))
        self._backlog = bytearray()
        self._connection.held.discard(self)


class _Silent:
    """The service's side of a call that is over."""

    def message(self, message: calling.Message) -> None:
        """Take no note."""

    def closed(self) -> None:
        """Take no note."""

    def cancelled(self) -> None:
        """Take no note."""

    def drain(self) -> None:
        """Take no note."""


SILENT = _Silent()
