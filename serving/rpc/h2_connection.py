"""One client over HTTP/2: what it sends becomes calls, and their answers go out once a tick."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from serving.errors import Expired, TooSlow, TurnoutError, Unavailable
from serving.http2 import connection as http2
from serving.http2.errors import Code, ConnectionFault, Stuck
from serving.http2.streams import Stream
from serving.rpc import fields, status
from serving.rpc.encode import Parts
from serving.rpc.h2_calls import PLAIN, Call, Gathering, Whole
from serving.rpc.h2_line import Line
from serving.rpc.intake import PREFIX, PREFIX_BYTES, SMALL_BYTES_MAX
from serving.rpc.terms import Terms

if TYPE_CHECKING:
    from serving.rpc.serve_h2 import Server

log = logging.getLogger("turnout.grpc")

JOINED_BYTES_MAX = 64 * 1024
"""What goes out is joined up to this size: copying it costs less than many pieces do."""


class Connection(asyncio.Protocol):
    """A client's connection, and the `Server` of its protocol core. Its server looks at the time it takes."""

    __slots__ = (
        "__weakref__", "_core", "_dirty", "_infer", "_server", "_small_max", "_tail", "answer_bytes_max",
        "choked_ns", "heard", "held", "idle_turns", "limits", "lingers_ns", "loop",
        "sender", "silent_turns", "store", "streams", "transport", "window_bytes",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._core = http2.Connection(self, server.bounds, server.heads, server.unsent.count)
        self.sender = self._core.sender
        self.streams = self._core.streams
        self._tail = b""
        self._dirty = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # Set once connected.
        self.loop = server.loop
        self._infer = server.service.infer
        self.limits, self.store = server.limits, server.store
        self.answer_bytes_max = server.limits.answer_bytes_max
        self._small_max = min(SMALL_BYTES_MAX, server.limits.body_bytes_max)
        self.window_bytes = server.bounds.window_bytes
        self.held: set[Line] = set()
        """Lines that have something to take when they are no longer held."""
        self.choked_ns = self.lingers_ns = 0
        """Since when the client does not read, and was told goodbye; 0 is not."""
        self.heard = False
        self.idle_turns = self.silent_turns = 0
        """For how many looks there were no calls, and nothing was heard."""

    @property
    def core(self) -> http2.Connection:
        """The protocol."""
        return self._core

    @property
    def turn(self) -> int:
        """How often the connection was looked at."""
        return self._core.turn

    # --- From the socket.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the client, or turn it away if there are too many."""
        self.transport = transport  # type: ignore[assignment]
        self._core.begin()
        self.touch()
        admitted = self._server.admit(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._core.fail(ConnectionFault(Code.INADEQUATE_SECURITY, "TLS without ALPN's h2"))
        elif not admitted:
            self._core.fail(ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many connections"))

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        used = self._core.receive(data)
        if used != len(data):
            self._tail = data[used:]  # Less than a frame, unless it is others' turn.
            if self._core.patience.weary and not self._core.over:
                self.transport.pause_reading()
                self._server.tire(self)
        self.heard = True
        if not self._dirty and self.sender.out:
            self.touch()

    def go_on(self) -> None:
        """Take more of what was read, now that others had their turn."""
        if not self._core.over and not self.transport.is_closing():
            if not self.choked_ns:
                self.transport.resume_reading()
            self.data_received(b"")

    def eof_received(self) -> bool:
        """Take the end of the input as the end of interest."""
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """Drop what the client no longer waits for."""
        self._core.lose()
        self.sender.collect()
        self._tail = b""
        self._server.forget(self)

    def pause_writing(self) -> None:
        """Take nothing from a client that does not read, and hand the transport no more than it must have."""
        self.choked_ns = monotonic_ns()
        self.sender.choke(choked=True)
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on once it has read."""
        self.choked_ns = 0
        self.sender.choke(choked=False)
        self.transport.resume_reading()
        self.touch()

    # --- From the protocol core.

    def begin(self, stream: Stream) -> None:
        """Take a call whose head is there."""
        terms: Terms = stream.head.terms or self._server.reader.read(stream.head)
        if terms.quiet and stream.receiving:
            stream.head.quiet = True
        elif terms.refusal:
            self.sender.refuse(stream, fields.refusing(terms.refusal))
        elif terms.problem is not None:
            self.refuse(stream, terms.problem)
        elif terms.open is not None:
            line = Line(self, stream)
            stream.work = line
            line.begin()
        elif not stream.receiving:
            self.take(stream, b"", 0, 0)
        elif terms.timeout_ns:
            stream.begun_ns = monotonic_ns()

    def take(self, stream: Stream, data: bytes, begin: int, stop: int) -> None:
        """Take a part of a call's messages: mostly the whole one."""
        work = stream.work
        if work is None:
            at = begin + PREFIX_BYTES
            length = stop - at
            if 0 <= length <= self._small_max and PREFIX.unpack_from(data, begin) == (PLAIN, length):
                if stream.receiving:
                    self._wait(stream, data[at:stop])
                else:
                    self.serve(stream, data[at:stop], None)
                return
            stream.work = work = Gathering(self, stream)
        work.take(data, begin, stop)

    def _wait(self, stream: Stream, message: bytes) -> None:
        try:
            stream.work = Whole(self, stream, message)
        except Unavailable as full:
            self.refuse(stream, full)

    def cut(self, stream: Stream) -> None:
        """Give up a call."""
        work, stream.work = stream.work, None
        if work is not None:
            work.cut()

    def count_fault(self, code: Code) -> None:
        """Count what was ended for what the client did."""
        self._server.faults[code.name] += 1

    # --- To the service, and back.

    def serve(self, stream: Stream, message: bytes | memoryview, buffer: memoryview | None) -> None:
        """Have a call answered whose message is there; it is in `buffer`, if that is to be released later."""
        terms: Terms = stream.head.terms
        stream.work = call = Call(self, stream, buffer)
        timeout_ns = terms.timeout_ns
        if timeout_ns:
            timeout_ns -= monotonic_ns() - stream.begun_ns
            if timeout_ns <= 0:
                call.fail(None, Expired("the call's deadline passed before its message was there"))
                return
        if terms.answer is None:
            call.request = self._infer(message, call, timeout_ns)
            return
        try:
            said = terms.answer(message, terms.peer)
            call.release(read=False)
            if isinstance(said, bytes):
                call.send((said,), b"")
            else:
                self._server.spawn(self._later(call, stream, said))
        except Exception as error:  # noqa: BLE001 - `known` logs what it does not know.
            call.fail(None, status.known(error))

    async def _later(self, call: Call, stream: Stream, said: Awaitable[bytes]) -> None:
        """Answer a call with what took its time, unless the client is gone."""
        try:
            written = await said
            if stream.work is call:
                call.send((written,), b"")
        except Exception as error:  # noqa: BLE001 - `known` logs what it does not know.
            call.fail(None, status.known(error))

    def refuse(self, stream: Stream, error: TurnoutError) -> None:
        """End a call with an error, of which nothing was sent."""
        stream.work = None
        self.count(error)
        self.sender.refuse(stream, fields.failing(error, opened=False))
        self.touch()

    def open(self, stream: Stream) -> None:
        """Send the headers of a line."""
        self.sender.open(stream, fields.OPENING)
        self.touch()

    def send(self, stream: Stream, message: Parts) -> None:
        """Send a message of a line; a client that lets too many of them wait loses the line."""
        length = sum(map(len, message))
        try:
            self.sender.send(stream, (PREFIX.pack(PLAIN, length), *message))
        except (Stuck, Unavailable):
            self._break_off(stream)
        self.touch()

    def close(self, stream: Stream, error: TurnoutError | None, *, opened: bool) -> None:
        """End a line once all is sent."""
        stream.work = OVER
        if error is not None:
            self.sender.close(stream, fields.failing(error, opened=opened))
        else:
            if not opened:
                self.open(stream)
            self.sender.close(stream, fields.CLOSING)
        self.touch()

    def _break_off(self, stream: Stream) -> None:
        self.sender.reset(stream, Code.ENHANCE_YOUR_CALM)
        self.cut(stream)

    def allow(self, stream: Stream, more_bytes: int) -> None:
        """Let the client send more on a stream."""
        self._core.allow(stream, more_bytes)
        self.touch()

    def count(self, error: TurnoutError) -> None:
        """Count a call that was not answered, by why."""
        self._server.service.count(error)

    def aside(
        self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[TurnoutError], None]
    ) -> None:
        """Have a thread do what would hold up the loop, and `then` go on with what it returns."""
        self._server.spawn(self._aside(work, then, failed))

    async def _aside(
        self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[TurnoutError], None]
    ) -> None:
        try:
            then(await self.loop.run_in_executor(self._server.threads, work))
        except Exception as error:  # noqa: BLE001 - `known` logs what it does not know.
            failed(status.known(error))

    # --- To the socket.

    def touch(self) -> None:
        """Have what is ready written at the end of this tick."""
        if not self._dirty:
            self._dirty = True
            self._server.flush_later(self)

    def flush(self) -> None:
        """Write what is ready; what waits goes out in further ticks, for as long as the client reads."""
        self._dirty = False
        sender = self.sender
        if sender.ready:
            sender.pump()
        if self.held:  # Some of them, perhaps, only by what is now out.
            for line in list(self.held):
                line.go_on()
        self.write()
        if self.lingers_ns or self.transport.is_closing():
            return
        if self._core.finished:
            self._end()
        elif sender.ready and not sender.choked:
            self.touch()

    def write(self) -> None:
        """Write what is ready."""
        out, transport = self.sender.collect(), self.transport
        if not out or self.lingers_ns or transport.is_closing():
            return
        if len(out) == 1:
            transport.write(out[0])
        elif sum(map(len, out)) <= JOINED_BYTES_MAX:
            transport.write(b"".join(out))
        else:
            transport.writelines(out)

    def _end(self) -> None:
        """Close once all is sent, and drop what is read until then: unread, it would undo the goodbye."""
        self.lingers_ns = monotonic_ns()
        self._core.over = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # --- As time passes.

    def look(self, now_ns: int) -> None:
        """Act on what takes the client too long. Called about once a second."""
        server, core = self._server, self._core
        core.look()
        self.idle_turns = 0 if core.streams else self.idle_turns + 1
        self.silent_turns = 0 if self.heard else self.silent_turns + 1
        self.heard = False
        if self.choked_ns and now_ns - self.choked_ns > server.send_ns_max:
            self.transport.abort()
        elif self.lingers_ns:
            if now_ns - self.lingers_ns > server.linger_ns_max:
                self.transport.abort()
        elif not core.greeted:
            if core.turn > server.receive_turns_max:
                self.transport.abort()
        elif self.silent_turns > server.idle_turns_max + server.receive_turns_max:
            self.transport.abort()
        else:
            if self.silent_turns == server.idle_turns_max:
                core.ping()
            if self.idle_turns > server.idle_turns_max:
                core.leave()
            for stream in list(core.streams.values()):
                self._look_at(stream, core.turn)
            if self.sender.out or core.finished:
                self.touch()

    def _look_at(self, stream: Stream, turn: int) -> None:
        """Act on a call that takes its client too long."""
        work = stream.work
        if stream.unsent:
            if turn - stream.stuck_since > self._server.send_turns_max:
                self._break_off(stream)
        elif stream.receiving and turn - stream.since > self._server.receive_turns_max:
            late = TooSlow("the request was not complete in time (limits.receive_s_max)")
            if not isinstance(work, Line):
                self.cut(stream)
                self.refuse(stream, late)
            elif work.waits:
                work.fail(late)

    def drain(self) -> None:
        """Take no more calls, and finish those that are under way."""
        self._core.leave()
        for stream in list(self._core.streams.values()):
            if isinstance(stream.work, Line):
                stream.work.drain()
        self.touch()


class _Over:
    """What a call works on that is over but for what its client does not take."""

    def take(self, data: bytes, begin: int, stop: int) -> None:
        """Take no notice."""

    def cut(self) -> None:
        """Take no notice."""


OVER = _Over()
