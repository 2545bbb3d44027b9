"""One HTTP/1.1 connection: bytes in, one request at a time in order, answers out.

A small request is parsed from the bytes of one read. A large body is received into one buffer by a
`BodyReceiver` and viewed, never joined from pieces. While a request is under way its successors wait
in `_tail`, and when that is full, in the client's socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from serving import http_answer as http
from serving import resources
from serving.answer import frame
from serving.body_receiver import SLACK_BYTES, BodyReceiver, ChunkedBody, may_be_skipped
from serving.codec_binary import decode as decode_binary
from serving.codec_binary import decode_raw
from serving.codec_json import decode as decode_json
from serving.content_coding import decompress
from serving.errors import TurnoutError, Unavailable
from serving.http_head import Head
from serving.target import Resource
from serving.wire import InferRequest, Results

if TYPE_CHECKING:
    from serving.listen_http import Listener

INFER = Resource.MODEL_INFER
NOT_HTTP = b"\0"
"""Bytes that no request begins with."""
REQUESTS_MAX = 16
"""How many requests of one client are served before the loop turns to the others."""
GATHER_BYTES_MAX = 16 * 1024
"""A body up to this size is gathered with its head; a larger one gets a buffer of its own."""
INLINE_BYTES_MAX = 16 * 1024
"""Bodies up to this size are inflated, and answers compressed, on the loop."""


class Connection(asyncio.Protocol):
    """One client. Also the `Reply` of the request under way. Its listener looks at how long things take."""

    __slots__ = (
        "_body", "_body_start", "_busy", "_choked_ns", "_chunks", "_discard", "_ending", "_head", "_heads",
        "_idle_ns", "_lingers_ns", "_listener", "_paused", "_request", "_seen", "_sent_bytes", "_since_ns",
        "_tail", "_usual", "_usual_bytes", "_usual_head", "free", "receiver", "served", "transport",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._heads = listener.heads
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # Set once connected.
        self._head: Head | None = None
        self._request: InferRequest | None = None
        self.free = True
        """Whether the next bytes begin a request that can be served at once."""
        self._busy = self._ending = self._paused = False
        self._tail = b""
        self._body: memoryview | None = None
        self._body_start = self._discard = self._seen = self.served = self._sent_bytes = 0
        self.receiver: BodyReceiver | None = None
        self._chunks: ChunkedBody | None = None
        self._choked_ns = self._lingers_ns = self._since_ns = 0
        """Since when the client does not read, was told goodbye, and is sending its request; 0 is not."""
        self._idle_ns = monotonic_ns()
        self._usual, self._usual_bytes = NOT_HTTP, -1
        """The head of the request before, and how long a request with that head is."""
        self._usual_head: Head = None  # type: ignore[assignment]  # Set with the other two.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, or turn it away if there are too many."""
        self.transport = transport  # type: ignore[assignment]
        if not self._listener.admit(self):
            self._send_error(Unavailable("too many connections; try again later"), keep_alive=False)

    def data_received(self, data: bytes) -> None:
        """Take what was read: mostly one request, whose head was seen before."""
        if self.free:
            # Clients repeat themselves: whoever sent this head before means the same by it.
            if not data.startswith(self._usual):
                self._look_up(data)
            if len(data) == self._usual_bytes:
                self._head = head = self._usual_head
                self.served += 1
                self._attempt(head, data, len(self._usual))
                return
        if not self._lingers_ns:
            self._parse(self._tail + data if self._tail else data)

    def _look_up(self, data: bytes) -> None:
        """Find the head that `data` begins with among those known, for this request and those like it."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._heads.get(data[:end])
        if head is not None:
            self._usual, self._usual_head, self._usual_bytes = data[:end], head, end + head.content_length
        else:
            self._usual, self._usual_bytes = NOT_HTTP, -1

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop what the client no longer waits for. Its run may still be reading its body."""
        if self._request is not None:
            self._request.dropped = True
            self._request = None
        self._ending, self.free, self.receiver, self._tail = True, False, None, b""
        self._drop_body(read=True)
        self._listener.forget(self)

    def eof_received(self) -> bool:
        """Take the end of the input as the end of interest, as nginx does."""
        self._lingers_ns = monotonic_ns()
        return False

    def pause_writing(self) -> None:
        """Stop taking requests from a client that does not read its answers."""
        self._choked_ns, self.free = monotonic_ns(), False
        self._listener.unread.wait(self, self._sent_bytes)  # All of it, until its last byte is out.

    def resume_writing(self) -> None:
        """Go on once it has read them."""
        self._choked_ns = 0
        self._listener.unread.leave(self)
        self._go_on()

    def _keep(self, data: bytes) -> None:
        """Keep what cannot be served yet, and let the client's socket keep what is beyond that."""
        self._tail = data
        full = len(data) > self._listener.tail_bytes_max
        if full is not self._paused:
            self._paused = full
            (self.transport.pause_reading if full else self.transport.resume_reading)()

    def _go_on(self) -> None:
        """Serve what came in while the connection was busy, if it is no longer."""
        self._parse(self._tail)

    def _parse(self, data: bytes) -> None:
        """Serve the requests in `data`, as far as they are there and can be served now."""
        for _ in range(REQUESTS_MAX):
            if not data or self._busy or self._choked_ns or self._ending or self._body is not None:
                break
            if self._chunks is not None or self._discard:
                data = self._parse_more_body(data)
                continue
            self._head = None
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 and len(data) <= self._listener.limits.head_bytes_max:
                if data != b"\r\n":  # An empty line before a request is nothing yet: RFC 9112, 2.2.
                    self._since_ns = self._since_ns or monotonic_ns()
                break
            try:
                head = self._head = self._listener.head(data[:end] if end >= 4 else data)
            except TurnoutError as error:
                self._send_error(error, keep_alive=False)
                return
            stop = end + head.content_length
            if len(data) >= stop and head.content_length <= GATHER_BYTES_MAX and not head.chunked:
                self._serve(head, data[end:stop])
                data = data[stop:]
            else:
                data = self._begin_body(head, data, end)
                if self._since_ns and self._chunks is None and not self._discard:
                    break
        else:
            asyncio.get_running_loop().call_soon(self._go_on)
        if self._ending:
            return
        self._keep(data)
        busy = self._busy or self._choked_ns or self._body is not None or self._chunks is not None
        self.free = not (busy or self._tail or self._discard)

    def _begin_body(self, head: Head, data: bytes, end: int) -> bytes:
        """Take a large body, or prepare for one that is not all there; return what is not yet dealt with."""
        gather = head.content_length <= GATHER_BYTES_MAX and not self._since_ns
        self._since_ns = self._since_ns or monotonic_ns()
        if head.problem is not None:
            return self._refuse_body(head, head.problem, data[end:])
        try:
            if not gather and not head.chunked:
                self._body = self._listener.bodies.take(head.content_length + SLACK_BYTES)
        except Unavailable as full:
            return self._refuse_body(head, full, data[end:])
        if head.expect_continue and len(data) == end:
            self.transport.write(http.CONTINUE)
        if head.chunked:
            self._chunks = ChunkedBody(self._listener.limits, self._listener.bodies)
            return data[end:]
        if self._body is None:
            return data
        there = memoryview(data)[end : end + head.content_length]
        if len(there) == head.content_length:
            self._body[: head.content_length] = there
            self._serve(head, self._body[: head.content_length])
            return data[end + head.content_length :]
        self._keep(b"")
        self.receiver = self.receiver or BodyReceiver(self, self.transport, self._listener.bodies)
        self.receiver.receive(head, data[:end], self._body, there)
        self._body_start = 0
        return b""

    def _refuse_body(self, head: Head, error: TurnoutError, data: bytes) -> bytes:
        """Answer before the body is there, of which `data` is the beginning; skip it if it is short."""
        self.served += 1
        go_on = may_be_skipped(head)
        self._discard = head.content_length if go_on else 0
        self._send_error(error, keep_alive=go_on)
        return data

    def body_received(self, after: bytes) -> None:
        """Go on when a large body is there, and perhaps some bytes `after` it. Called by its receiver."""
        assert self._head is not None
        assert self._body is not None
        end = self._body_start + self._head.content_length
        self._keep(after)
        self._serve(self._head, self._body[:end], self._body_start)
        self._go_on()

    def next_began(self, head: Head, whole: memoryview, start: int) -> None:
        """Note that a request with a `head` seen before is arriving in `whole`, its body at `start`."""
        self._head, self._body, self._body_start = head, whole, start
        self.free = False
        self._since_ns = monotonic_ns()

    def _parse_more_body(self, data: bytes) -> bytes:
        """Feed a chunked body, or drop one that was refused; return what comes after it."""
        if self._discard:
            dropped = min(self._discard, len(data))
            self._discard -= dropped
            if not self._discard:
                self._since_ns = 0
            return data[dropped:]
        assert self._chunks is not None
        assert self._head is not None
        try:
            used = self._chunks.feed(data)
            if self._chunks.done:
                self._serve(self._head, self._hold(self._chunks.end()))
        except TurnoutError as error:
            self._send_error(error, keep_alive=False)
            return b""
        return data[used:]

    def _hold(self, content: bytes | bytearray) -> bytes | memoryview:
        """Hold a body that did not come in a buffer of its own; a large one is counted."""
        self._drop_body(read=False)
        if len(content) <= GATHER_BYTES_MAX:
            return bytes(content)
        self._body = self._listener.bodies.adopt(content)
        return self._body

    def _serve(self, head: Head, body: bytes | memoryview, start: int = 0) -> None:
        """Answer the request whose head and body are complete, now or later."""
        self._since_ns = 0
        self.served += 1
        if head.problem is not None:
            self._send_error(head.problem, keep_alive=head.keep_alive)
        elif head.coding and len(body) > INLINE_BYTES_MAX:
            self._busy = True
            plain, limits = replace(head, coding=""), self._listener.limits
            work = self._listener.in_thread(partial(decompress, body[start:], head.coding, limits))
            self._listener.spawn(self._aside(head, work, lambda it: self._attempt(plain, self._hold(it))))
        else:
            self._attempt(head, body, start)

    async def _aside(self, head: Head, work: Awaitable[Any], then: Callable[[Any], None]) -> None:
        """Wait for what must not hold up the loop, and `then` go on with what it returns."""
        try:
            made = await work
            self._busy = False
            if not self.transport.is_closing():
                then(made)
        except Exception as error:  # noqa: BLE001 - `_send_error` logs what it does not know.
            self._send_error(error, keep_alive=head.keep_alive)
        self._go_on()

    def _attempt(self, head: Head, body: bytes | memoryview, start: int = 0) -> None:
        """Handle a request whose body begins at `start`, and answer whatever goes wrong with it."""
        try:
            if head.coding:
                body, start = self._hold(decompress(body[start:], head.coding, self._listener.limits)), 0
            if head.target.resource is INFER:
                self._infer(head, body, start)
            else:
                self._answer_plainly(head, bytes(body[start:]))
        except Exception as error:  # noqa: BLE001 - `_send_error` logs what it does not know.
            self._send_error(error, keep_alive=head.keep_alive)
        if self._body is not None and self._request is None:
            self._drop_body(read=False)

    def _infer(self, head: Head, body: bytes | memoryview, start: int) -> None:
        listener = self._listener
        target = head.target
        if head.json_bytes:
            call, payloads, id_ = decode_binary(body, head.json_bytes, listener.limits, start)
        elif head.json_bytes is None:
            call, payloads, id_ = decode_json(body[start:], listener.limits)
        else:
            spec = listener.gateway.find(target.model, target.version).spec
            call, payloads, id_ = decode_raw(body[start:], spec, listener.limits)
        request = InferRequest(call, payloads, self, id_ or head.request_id, monotonic_ns())
        listener.gateway.infer(target.model, target.version, request, head.timeout_ns, head)
        self._request = request
        self._busy, self.free = True, False

    def _answer_plainly(self, head: Head, body: bytes) -> None:
        plain = resources.answer(self._listener.gateway, head.target, body, head)
        if isinstance(plain, resources.Plain):
            self._send_plainly(head, plain)
            return
        self._busy, self.free = True, False
        self._listener.spawn(self._aside(head, plain, partial(self._send_plainly, head)))

    def _send_plainly(self, head: Head, plain: resources.Plain) -> None:
        keep_alive = head.keep_alive and not self._listener.draining
        self._send(http.message(plain.status, plain.body, head, keep_alive=keep_alive), keep_alive=keep_alive)

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send a request's part of `results`, and go on with the next request."""
        if self._request is not request:
            return
        try:
            if self._head.usual and not self._listener.draining:  # type: ignore[union-attr]
                data = frame(request, results, start, stop)
                self._sent_bytes = size = len(data)
                if size > (bytes_max := self._listener.answer_bytes_max):
                    raise http.too_long(size, bytes_max)
                self.transport.write(data)
                self._busy = False
            else:
                self._answer_fully(request, results, start, stop)
        except Exception as error:  # noqa: BLE001 - it must not cost the others of the batch their answers.
            raise http.known(error) from None
        self._request = None
        self.free = not self._busy
        if self._body is not None:
            self._drop_body(read=request.looked_at)
        if self._tail or self._ending or self._choked_ns:
            self._go_on()

    def _answer_fully(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send an answer that may be compressed, or is the connection's last."""
        head = self._head
        assert head is not None
        bytes_max = self._listener.answer_bytes_max
        encoded, body_bytes = http.encode_bounded(request, results, start, stop, bytes_max)
        keep_alive = head.keep_alive and not self._listener.draining
        write = partial(http.inference_message, encoded, head, request.stamp, keep_alive=keep_alive)
        if head.accept and body_bytes > INLINE_BYTES_MAX:
            work = self._listener.in_thread(write)
            self._listener.spawn(self._aside(head, work, partial(self._send, keep_alive=keep_alive)))
        else:
            self._busy = False
            self._send(write(), keep_alive=keep_alive)

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        """Send why a request has no answer. Its run may still be reading its body, so that is let go."""
        if self._request is not request:
            return
        assert self._head is not None
        self._request = None
        self._drop_body(read=True)
        self._send_error(error, keep_alive=self._head.keep_alive)
        self._go_on()

    def _send_error(self, error: Exception, *, keep_alive: bool) -> None:
        """Send an error; without `keep_alive`, end the connection once the client had time to read it."""
        told = http.known(error)
        self._listener.count(told)
        self._busy = False
        self._drop_body(read=False)
        if not self.transport.is_closing():
            keep_alive = keep_alive and not self._listener.draining
            self._send(http.error_message(told, self._head, keep_alive=keep_alive), keep_alive=keep_alive)

    def _send(self, data: bytes, *, keep_alive: bool) -> None:
        self._sent_bytes = len(data)
        self.transport.write(data)
        if not keep_alive:
            self._end()

    def _end(self) -> None:
        """Close once all is sent, and drop what is read until then: unread, it would undo the answer."""
        self._ending, self.free = True, False
        self._lingers_ns = monotonic_ns()
        self._keep(b"")
        (self.transport.write_eof if self.transport.can_write_eof() else self.transport.close)()

    def _drop_body(self, *, read: bool) -> None:
        """Give up what there is of a body; a buffer that a run may still be `read`ing is not used again."""
        if self.receiver is not None and self.receiver.filling:
            self.receiver.leave()
        if self._chunks is not None:
            self._chunks.end()
            self._chunks = None
        if self._body is not None:
            self._listener.bodies.give_back(self._body, read=read)
            self._body = None
