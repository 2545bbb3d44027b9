"""How does a call of one message each way get in, and out again, where we speak HTTP/2 ourselves?"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from serving.content_coding import compress, decompress, worth
from serving.errors import Invalid, Overloaded, TurnoutError
from serving.http2.errors import Stuck
from serving.http2.frames import Block
from serving.http2.streams import Stream
from serving.rpc import fields, status
from serving.rpc.encode import Parts, encode
from serving.rpc.intake import PREFIX, PREFIX_BYTES, Intake
from serving.wire import InferRequest, Results

if TYPE_CHECKING:
    from serving.rpc.h2_connection import Connection

PLAIN, COMPRESSED = 0, 1
"""The first byte of a message."""
INLINE_BYTES_MAX = 16 * 1024
"""Messages up to this size are inflated, and answers compressed, on the loop."""

SLACK_BYTES = 16 * 1024
"""What a client may send beyond its message: for padding, and so that windows are not opened byte by byte."""


class Call:
    """A ModelInfer call whose message is there: what `calling.Calling` asks for."""

    __slots__ = ("_buffer", "_coding", "_connection", "_stream", "peer", "request")

    def __init__(self, connection: Connection, stream: Stream, buffer: memoryview | None) -> None:
        self._connection = connection
        self._stream = stream
        self._buffer = buffer
        terms = stream.head.terms
        self.peer, self._coding = terms.peer, terms.coding
        self.request: InferRequest | None = None

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send the answer, unless the client is gone."""
        stream, connection = self._stream, self._connection
        if stream.work is not self:
            return
        try:
            parts = encode(request, results, start, stop, connection.answer_bytes_max)
            if self._coding:
                self.send(parts, request.stamp)
            else:
                self._send(PLAIN, fields.OPENING, parts, request.stamp)
        except Exception as error:  # noqa: BLE001 - it must not cost the others of the batch their answers.
            raise status.known(error) from None
        self.request = None
        if self._buffer is not None:
            self.release(read=request.looked_at)

    def send(self, parts: Parts, stamp: bytes) -> None:
        """Send a response, compressed as the request was, and be done.

        Raises
        ------
        Overloaded, Unavailable
            If the client has too much to read already.
        """
        if self._coding:
            self._send_compressed(b"".join(parts), stamp, self._coding)
        else:
            self._send(PLAIN, fields.OPENING, parts, stamp)

    def _send(self, flag: int, opening: Block, parts: Parts, stamp: bytes) -> None:
        stream, connection = self._stream, self._connection
        length = sum(map(len, parts))
        parts = (PREFIX.pack(flag, length), *parts)
        try:
            connection.sender.answer(stream, opening, parts, length + PREFIX_BYTES, fields.closing(stamp))
        except Stuck as stuck:
            raise Overloaded(f"the client does not read its answers: {stuck}") from None
        stream.work = None
        if connection.streams:
            connection.touch()
        else:
            connection.write()  # Nothing else can come in this tick, so that a turn of the loop is saved.

    def _send_compressed(self, message: bytes, stamp: bytes, coding: str) -> None:
        opening = fields.OPENINGS[coding]
        if not worth(message):
            self._send(PLAIN, opening, (message,), stamp)
        elif len(message) <= INLINE_BYTES_MAX:
            self._send(COMPRESSED, opening, (compress(message, coding),), stamp)
        else:
            self._connection.aside(
                partial(compress, message, coding),
                partial(self._go_on, opening, stamp),
                partial(self.fail, None),
            )

    def _go_on(self, opening: Block, stamp: bytes, written: bytes) -> None:
        if self._stream.work is self:
            self._send(COMPRESSED, opening, (written,), stamp)

    def fail(self, _request: InferRequest | None, error: TurnoutError) -> None:
        """Send why there is no answer. A run may still be reading the message."""
        if self._stream.work is self:
            self.request = None
            self.release(read=True)
            self._connection.refuse(self._stream, error)

    def cut(self) -> None:
        """Give up what nobody waits for."""
        if self.request is not None:
            self.request.dropped = True
            self.request = None
        self.release(read=True)

    def take(self, data: bytes, begin: int, stop: int) -> None:
        """Take nothing: the message was all."""

    def release(self, *, read: bool) -> None:
        """Let go of the message's buffer; a run may still be reading it."""
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._connection.store.release(buffer, read=read)


class Whole:
    """A call whose message is there, if that was all: its client has not said so yet."""

    __slots__ = ("_connection", "_message", "_stream")

    def __init__(self, connection: Connection, stream: Stream, message: bytes) -> None:
        connection.store.count_small(len(message))
        self._connection = connection
        self._stream = stream
        self._message = message

    def take(self, _data: bytes, begin: int, stop: int) -> None:
        """Serve the message, if no more of it comes."""
        if begin < stop:
            self.cut()
            self._connection.refuse(self._stream, Invalid("more than one message; this rpc takes one"))
        elif not self._stream.receiving:
            self.cut()
            self._connection.serve(self._stream, self._message, None)

    def cut(self) -> None:
        """Let go of the message."""
        self._connection.store.count_small(-len(self._message))


class Gathering:
    """A call whose message is not all there, or is being inflated."""

    __slots__ = ("_buffer", "_coding", "_connection", "_intake", "_stream")

    def __init__(self, connection: Connection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._intake = Intake(connection.store, connection.limits)
        self._buffer: memoryview | None = None

    def take(self, data: bytes, begin: int, stop: int) -> None:
        """Take a part of the message; with the last one, serve it."""
        stream, intake = self._stream, self._intake
        try:
            while begin < stop:
                if intake.whole:
                    raise Invalid("more than one message; this rpc takes one")
                begin = intake.feed(data, begin, stop)
            if not stream.receiving:
                if not intake.whole:
                    raise Invalid("the call ended before its message did; this rpc takes one")
                self._serve()
            elif intake.wants_bytes and stream.room < intake.wants_bytes + SLACK_BYTES:
                self._connection.allow(stream, intake.wants_bytes + 2 * SLACK_BYTES - stream.room)
        except TurnoutError as error:
            self.cut()
            self._connection.refuse(stream, error)

    def cut(self) -> None:
        """Let go of what there is."""
        self._intake.drop()
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._connection.store.release(buffer, read=True)

    def _serve(self) -> None:
        compressed = self._intake.compressed
        message, self._buffer = self._intake.take()
        if not compressed:
            self._go(message)
            return
        connection, coding = self._connection, self._stream.head.terms.coding
        if not coding:
            raise Invalid("a compressed message in a call whose grpc-encoding does not say how")
        inflate = partial(decompress, message, coding, connection.limits)
        if len(message) <= INLINE_BYTES_MAX:
            self._go_inflated(inflate())
        else:
            connection.aside(inflate, self._go_inflated, self._fail)

    def _go_inflated(self, message: bytes) -> None:
        if self._stream.work is not self:
            return
        self.cut()
        if len(message) > INLINE_BYTES_MAX:
            self._buffer = self._connection.store.adopt(message)
            self._go(self._buffer)
        else:
            self._go(message)

    def _go(self, message: bytes | memoryview) -> None:
        buffer, self._buffer = self._buffer, None
        self._connection.serve(self._stream, message, buffer)

    def _fail(self, error: TurnoutError) -> None:
        if self._stream.work is self:
            self.cut()
            self._connection.refuse(self._stream, error)
