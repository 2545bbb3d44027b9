"""One HTTP/1.1 connection: bytes in, one request at a time in order, answers out.

A small request is parsed from the bytes of one read. A large body is received into one buffer by a
`BodyReceiver` and viewed, never joined from pieces. While a request is under way its successors wait
in `_tail`, and when that is full, in the client's socket.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING

from serving import resources
from serving.answer import encode, frame
from serving.body_receiver import BodyReceiver
from serving.codec_binary import decode as decode_binary
from serving.codec_binary import decode_raw
from serving.codec_json import decode as decode_json
from serving.content_coding import decompress
from serving.errors import Failed, TooSlow, TurnoutError, Unavailable
from serving.http_answer import CONTINUE, error_message, inference_message, message
from serving.http_body import Chunks
from serving.http_head import Head
from serving.target import Resource
from serving.wire import InferRequest, Results

if TYPE_CHECKING:
    from serving.listen_http import Listener

log = logging.getLogger("turnout.http")

INFER = Resource.MODEL_INFER
TAIL_BYTES_MAX = 64 * 1024
"""What is read ahead while a request is under way."""
GATHER_BYTES_MAX = 16 * 1024
"""A body up to this size is gathered with its head; a larger one gets a buffer of its own."""
DISCARD_BYTES_MAX = 1 << 20
"""A refused body up to this size is read and dropped, so that its connection can go on."""
LINGER_NS = 2_000_000_000
"""How long a refused client may go on sending before it is cut off, so that it can read why."""
INLINE_BYTES_MAX = 16 * 1024
"""Compressed bodies up to this size are inflated on the loop."""


class Connection(asyncio.Protocol):
    """One client. Also the `Reply` of the request under way."""

    __slots__ = (
        "_body", "_busy", "_choked_ns", "_chunks", "_discard", "_ending", "_free", "_head", "_heads",
        "_idle_ns", "_lingers_ns", "_listener", "_paused", "_request", "_seen", "_since_ns", "_tail",
        "served", "transport",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._heads = listener.heads
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # Set once connected.
        self._head: Head | None = None
        self._request: InferRequest | None = None
        self._free = True
        """Whether the next bytes begin a request that can be served at once."""
        self._busy = False
        self._ending = False
        self._tail = b""
        self._body: memoryview | None = None
        self._chunks: Chunks | None = None
        self._discard = 0
        self._paused = False
        self._choked_ns = 0
        self._lingers_ns = 0
        self._since_ns = 0
        self._idle_ns = monotonic_ns()
        self._seen = 0
        self.served = 0

    # --- The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, or turn it away if there are too many."""
        self.transport = transport  # type: ignore[assignment]
        if not self._listener.admit(self):
            self._send_error(Unavailable("too many connections; try again later"), keep_alive=False)

    def data_received(self, data: bytes) -> None:
        """Take what was read: mostly one request, whose head was seen before."""
        if self._free:
            end = data.find(b"\r\n\r\n") + 4
            head = self._heads.get(data[:end])
            if head is not None and len(data) - end == head.content_length:
                self._head = head
                self.served += 1
                self._attempt(head, data[end:])
                return
        self._take(data)

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop what the client no longer waits for. Its run may still be reading its body."""
        if self._request is not None:
            self._request.dropped = True
            self._request = None
        self._drop_body(read=True)
        self._listener.forget(self)

    def eof_received(self) -> bool:
        """Take the end of the input as the end of interest, as nginx does."""
        return False

    def pause_writing(self) -> None:
        """Stop taking requests from a client that does not read its answers."""
        self._choked_ns = monotonic_ns()
        self._free = False

    def resume_writing(self) -> None:
        """Go on once it has read them."""
        self._choked_ns = 0
        if not self._busy:
            self._go_on()

    # --- Requests in.

    def _take(self, data: bytes) -> None:
        """Take any bytes in any state."""
        if self._lingers_ns:
            return
        if self._busy or self._choked_ns:
            self._tail += data
            if len(self._tail) > TAIL_BYTES_MAX and not self._paused:
                self._paused = True
                self.transport.pause_reading()
            return
        if self._tail:
            data = self._tail + data
            self._tail = b""
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Serve the requests in `data`, as far as they are there and can be served now."""
        while data and not (self._busy or self._choked_ns or self._ending or self._body is not None):
            if self._chunks is not None or self._discard:
                data = self._parse_more_body(data)
                continue
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 and len(data) <= self._listener.limits.head_bytes_max:
                self._since_ns = self._since_ns or monotonic_ns()
                break
            try:
                head = self._listener.head(data[:end] if end >= 4 else data)
            except TurnoutError as error:
                self._send_error(error, keep_alive=False)
                return
            if head is None:  # Only an empty line before the request: RFC 9112, section 2.2.
                data = data[2:]
                continue
            self._head = head
            stop = end + head.content_length
            if len(data) >= stop and not head.chunked:
                self._serve(head, data[end:stop])
                data = data[stop:]
            else:
                data = self._begin_body(head, data, end)
        if data:
            self._tail = data
        self._free = not (
            self._busy or self._choked_ns or self._ending or self._tail or self._discard or self._chunks
        )

    def _begin_body(self, head: Head, data: bytes, end: int) -> bytes:
        """Prepare for a body that is not all there; return the bytes that are not yet dealt with."""
        gathered = bool(self._since_ns)
        self._since_ns = self._since_ns or monotonic_ns()
        error = head.problem or self._listener.too_much(head.content_length)
        if error is not None:
            # After an error, a client that waits for "100 Continue" may send its body or not: nobody knows.
            short = head.content_length <= DISCARD_BYTES_MAX and not head.chunked and not head.expect_continue
            keep_alive = head.keep_alive and short
            self._discard = head.content_length if keep_alive else 0
            self._send_error(error, keep_alive=keep_alive)
            return data[end:]
        if head.expect_continue and len(data) == end:
            self.transport.write(CONTINUE)
        if head.chunked:
            self._chunks = Chunks(self._listener.limits)
            return data[end:]
        if head.content_length <= GATHER_BYTES_MAX and not gathered:
            self._tail = data
            return b""
        self._body = self._listener.bodies.take(head.content_length)
        BodyReceiver(self, self.transport, self._body, memoryview(data)[end:])
        return b""

    def body_received(self) -> None:
        """Go on when the buffer of a large body is full. Called by its receiver."""
        assert self._head is not None
        assert self._body is not None
        self._serve(self._head, self._body)
        if not self._busy:
            self._go_on()

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
        except TurnoutError as error:
            self._chunks = None
            self._send_error(error, keep_alive=False)
            return b""
        if self._chunks.done:
            body = bytes(self._chunks.body)
            self._chunks = None
            self._serve(self._head, body)
        return data[used:]

    # --- One request.

    def _serve(self, head: Head, body: bytes | memoryview) -> None:
        """Answer the request whose head and body are complete, now or later."""
        self._since_ns = 0
        self.served += 1
        if head.problem is not None:
            self._send_error(head.problem, keep_alive=head.keep_alive)
        elif head.coding and len(body) > INLINE_BYTES_MAX:
            self._busy = True
            self._listener.spawn(self._inflate_and_serve(head, body))
        else:
            self._attempt(head, body)

    async def _inflate_and_serve(self, head: Head, body: bytes | memoryview) -> None:
        """Inflate a large body off the loop, then go on as if it had come so."""
        loop = asyncio.get_running_loop()
        try:
            plain = await loop.run_in_executor(None, decompress, body, head.coding, self._listener.limits)
        except TurnoutError as error:
            self._send_error(error, keep_alive=head.keep_alive)
        else:
            self._busy = False
            self._drop_body(read=False)
            self._head = replace(head, coding="")
            if not self.transport.is_closing():
                self._attempt(self._head, plain)
        if not self._busy:
            self._go_on()

    def _attempt(self, head: Head, body: bytes | memoryview) -> None:
        """Handle a request, and answer whatever goes wrong with it."""
        try:
            if head.coding:
                body = decompress(body, head.coding, self._listener.limits)
            if head.target.resource is INFER:
                self._infer(head, body)
            else:
                self._answer_plainly(head, bytes(body))
        except TurnoutError as error:
            self._send_error(error, keep_alive=head.keep_alive)
        except Exception:
            log.exception("event=handler_broke resource=%s", head.target.resource)
            self._send_error(Failed("an internal error; it was logged"), keep_alive=head.keep_alive)
        if self._body is not None and not self._busy:
            self._drop_body(read=False)

    def _infer(self, head: Head, body: bytes | memoryview) -> None:
        listener = self._listener
        target = head.target
        if head.json_bytes:
            call, payloads, id_ = decode_binary(body, head.json_bytes, listener.limits)
        elif head.json_bytes is None:
            call, payloads, id_ = decode_json(body, listener.limits)
        else:
            spec = listener.gateway.find(target.model, target.version).spec
            call, payloads, id_ = decode_raw(body, spec, listener.limits)
        request = InferRequest(call, payloads, self, id_, monotonic_ns())
        listener.gateway.infer(target.model, target.version, request, head.timeout_ns)
        self._request = request
        self._busy = True
        self._free = False

    def _answer_plainly(self, head: Head, body: bytes) -> None:
        plain = resources.answer(self._listener.gateway, head.target, body)
        keep_alive = head.keep_alive and not self._listener.draining
        data = message(plain.status, plain.body, keep_alive=keep_alive, with_body=head.method != "HEAD")
        self._send(data, keep_alive=keep_alive)

    # --- Answers out: `Reply`.

    def answer(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send a request's part of `results`, and go on with the next request."""
        if self._request is not request:
            return
        head = self._head
        if head.keep_alive and not head.accept and not self._listener.draining:  # type: ignore[union-attr]
            self.transport.write(frame(request, results, start, stop))
        else:
            self._answer_fully(request, results, start, stop)
        self._request = None
        self._busy = False
        self._free = True
        if self._body is not None:
            self._drop_body(read=False)
        if self._tail or self._ending or self._choked_ns:
            self._go_on()

    def _answer_fully(self, request: InferRequest, results: Results, start: int, stop: int) -> None:
        """Send an answer that may be compressed, or is the connection's last."""
        head = self._head
        assert head is not None
        keep_alive = head.keep_alive and not self._listener.draining
        encoded = encode(request, results, start, stop)
        self._send(inference_message(encoded, head.accept, keep_alive=keep_alive), keep_alive=keep_alive)

    def fail(self, request: InferRequest, error: TurnoutError) -> None:
        """Send why a request has no answer. Its run may still be reading its body, so that is let go."""
        if self._request is not request:
            return
        assert self._head is not None
        self._request = None
        self._drop_body(read=True)
        self._send_error(error, keep_alive=self._head.keep_alive)
        self._go_on()

    def _send_error(self, error: TurnoutError, *, keep_alive: bool) -> None:
        """Send an error; without `keep_alive`, end the connection once the client had time to read it."""
        self._listener.count(error)
        self._busy = False
        self._drop_body(read=False)
        if not self.transport.is_closing():
            keep_alive = keep_alive and not self._listener.draining
            with_body = self._head is None or self._head.method != "HEAD"
            self._send(
                error_message(error, keep_alive=keep_alive, with_body=with_body), keep_alive=keep_alive
            )

    def _send(self, data: bytes, *, keep_alive: bool) -> None:
        self.transport.write(data)
        if not keep_alive:
            self._end()

    def _end(self) -> None:
        """Close once all is sent. Input is read and dropped for a moment: closing a socket with unread
        input resets the connection, and the client might never see the answer.
        """
        self._ending = True
        self._free = False
        self._lingers_ns = monotonic_ns()
        self._tail = b""
        self._chunks = None
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _go_on(self) -> None:
        """Serve what came in while the connection was busy."""
        if self._paused and not self._ending:
            self._paused = False
            self.transport.resume_reading()
        data, self._tail = self._tail, b""
        self._parse(data)

    def _drop_body(self, *, read: bool) -> None:
        """Give up the buffer of a large body; one that a run may still be `read`ing is not used again."""
        if self._body is not None:
            self._listener.bodies.give_back(self._body, read=read)
            self._body = None

    # --- Time.

    def look(self, now_ns: int) -> None:
        """Act on what has taken too long. Called by the listener about once a second."""
        limits = self._listener.limits
        if self._choked_ns and now_ns - self._choked_ns > limits.send_s_max * 1e9:
            self.transport.abort()
        elif self._lingers_ns:
            if now_ns - self._lingers_ns > LINGER_NS:
                self.transport.abort()
        elif self._since_ns and not self._busy:
            if now_ns - self._since_ns <= limits.receive_s_max * 1e9:
                return
            if self._discard:  # It has its answer already.
                self.transport.abort()
            else:
                self._drop_body(read=True)
                self._send_error(TooSlow("the request was not complete in time"), keep_alive=False)
        elif self._busy or self.served != self._seen:
            self._seen, self._idle_ns = self.served, now_ns
        elif now_ns - self._idle_ns > self._listener.idle_ns_max:
            self.transport.close()
