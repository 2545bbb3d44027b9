"""How are many calls made on one HTTP/2 connection, without ever waiting?"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

from serving.bench.openings import NOT_NOW
from serving.bench.outcomes import LOST, MIXED, NOT_YET, UNREADABLE, Outcomes
from serving.bench.outlet import FRAME_BYTES_MAX, Outlet
from serving.bench.plan import Calling
from serving.bench.trailers import Said, Trailers
from serving.http2 import frames, settings
from serving.http2.bounds import TABLE_BYTES, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX, Bounds
from serving.http2.errors import Code, ConnectionFault
from serving.http2.fragments import Fragments
from serving.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADER,
    HEADERS,
    PADDED,
    PING,
    PRIORITISED,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)

READ_BYTES = 1 << 17
OPENING_BYTES = 4096
"""Of an answer's message the id has to be in so many first bytes."""
WIDEN_BYTES = 1 << 29
"""How much is received before the connection's window is opened again."""
GREETING = (
    frames.PREFACE
    + frames.settings(
        {
            settings.ENABLE_PUSH: 0,
            settings.INITIAL_WINDOW_SIZE: WINDOW_BYTES_MAX,
            settings.MAX_FRAME_SIZE: FRAME_BYTES_MAX,
        }
    )
    + frames.window_update(0, WINDOW_BYTES_MAX - WINDOW_BYTES_DEFAULT)
)
_U32 = struct.Struct(">I")
_USUAL = END_HEADERS | END_STREAM
_UNUSUAL = PADDED | PRIORITISED
clock = time.perf_counter_ns


class Call:
    """A call.

    Attributes
    ----------
    due_ns, sent_ns : int
        When it was due, and when it was sent.
    id : bytes
        What its answer has to have in it.
    seen : bool
        It had.
    whole : bool
        All of the answer is kept, not only its opening until the id was found.
    kept : bytes
        What is.
    answer_bytes : int
        How long the answer is so far, its prefix included.
    said : Said
        What its headers said.
    """

    # What is the same of all calls at first is not written into each: 0.4 us of 0.7.
    seen = whole = False
    kept = b""
    answer_bytes = 0
    said = Said(NOT_YET)

    def __init__(self, due_ns: int, sent_ns: int, id_: bytes) -> None:
        self.due_ns, self.sent_ns, self.id = due_ns, sent_ns, id_


Ended = Callable[[Call, int, int], None]
"""Told of a call, of the code of what came of it, and of when, in nanoseconds."""


class Trunk:
    """A connection.

    Attributes
    ----------
    calls : dict of int to Call
        What is under way, by stream.
    ready : bool
        The server has greeted, and takes calls.
    leaving : bool
        It takes no further ones.
    streams : int
        How many may be under way.
    heard_ns : int
        When something was read last.
    outlet : Outlet
        What waits to be sent; to be flushed by whoever called or read.
    """

    __slots__ = (
        "_block", "_calling", "_ended", "_fragments", "_received_bytes", "_tail", "_trailers", "calls", "fd",
        "heard_ns", "leaving", "next", "outlet", "ready", "socket", "streams", "turns",
    )  # fmt: skip

    def __init__(self, connected: socket.socket, calling: Calling, outcomes: Outcomes, ended: Ended) -> None:
        self.socket, self.fd = connected, connected.fileno()
        self._calling, self._ended = calling, ended
        self._block = calling.opening
        self.streams = calling.streams
        self.outlet = Outlet(connected)
        self.outlet.add(GREETING)
        self._trailers = Trailers(outcomes)
        self._fragments = Fragments(Bounds())
        self._tail = b""
        self._received_bytes = 0
        self.calls: dict[int, Call] = {}
        self.next = 1
        self.ready = self.leaving = self.turns = False
        self.heard_ns = clock()

    def __repr__(self) -> str:
        return f"<Trunk {self.fd}: {len(self.calls)} of {self.streams} calls under way>"

    @property
    def room(self) -> bool:
        """Whether it takes another call."""
        return len(self.calls) < self.streams and not self.leaving

    def call(self, call: Call, more: bytes, message: bytes | bytearray) -> None:
        """Make a call, whose head has `more` fields; the message is copied."""
        stream = self.next
        self.next += 2  # A run has fewer requests than there are streams.
        self.calls[stream] = call
        self.outlet.call(stream, self._block + more, message)
        self._block = self._calling.usual

    def cancel(self, stream: int) -> Call:
        """Give a call up, of which no end is told."""
        self.outlet.cancel(stream)
        return self.calls.pop(stream)

    def read(self) -> bool:
        """Take what has come; False if the connection has ended, after which all calls have."""
        try:
            data = self.socket.recv(READ_BYTES)
        except NOT_NOW:
            return True
        except OSError:
            data = b""
        if not data:
            self.lose(LOST)
            return False
        self.heard_ns = clock()
        try:
            self._take(self._tail + data if self._tail else data)
        except ConnectionFault:
            self.lose(UNREADABLE)
            return False
        return True

    def lose(self, code: int) -> None:
        """End all calls."""
        self.leaving = True
        calls, self.calls = self.calls, {}
        now_ns = clock()
        for call in calls.values():
            self._ended(call, code, now_ns)

    def _take(self, data: bytes) -> None:
        calls, known, fragments = self.calls, self._trailers.known, self._fragments
        at, end, received = 0, len(data), 0
        unpack = HEADER.unpack_from
        while end - at >= 9:
            high, low, kind, flags, stream = unpack(data, at)
            begin = at + 9
            at = begin + (high << 16 | low)
            if at > end:
                self._check(at - begin)
                at = begin - 9
                break
            if fragments.begun:
                fragments.check(kind, stream)
            if kind == DATA:
                received += at - begin
                call = calls.get(stream)
                if call is None:
                    continue
                if flags & PADDED or call.seen or data.find(call.id, begin, at) < 0:
                    self._answer(call, data, begin, at, flags)
                else:
                    call.seen = True
                    call.answer_bytes += at - begin
                if flags & END_STREAM:
                    self._end(stream, call.said)
            elif kind == HEADERS and flags & END_HEADERS and not flags & _UNUSUAL:
                block = data[begin:at]
                said = known.get(block) or self._trailers.read(block)
                if flags & END_STREAM:
                    self._end(stream, said)
                elif (call := calls.get(stream)) is not None and call.said.code == NOT_YET:
                    call.said = said
            else:
                self._control(kind, flags, stream, data, begin, at)
        self._tail = data[at:]
        self._received_bytes += received
        if self._received_bytes > WIDEN_BYTES:
            self.outlet.add(frames.window_update(0, self._received_bytes))
            self._received_bytes = 0

    def _check(self, length: int) -> None:
        if length > FRAME_BYTES_MAX:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame longer than was allowed")

    def _answer(self, call: Call, data: bytes, begin: int, stop: int, flags: int) -> None:
        if flags & PADDED:
            begin, stop = frames.unpadded(data, begin, stop)
        call.answer_bytes += stop - begin
        if call.whole:
            call.kept += data[begin:stop]
        elif not call.seen and len(call.kept) < OPENING_BYTES:
            call.kept += data[begin : min(stop, begin + OPENING_BYTES)]
            call.seen = call.id in call.kept

    def _end(self, stream: int, said: Said) -> None:
        call = self.calls.pop(stream, None)
        if call is None:
            return
        if self.outlet.unsent:
            self.outlet.ended(stream)
        code = said.code
        if code == NOT_YET:  # Neither trailers nor another status.
            code = UNREADABLE
        elif said.good and not call.seen:
            code = MIXED
        call.said = said
        self._ended(call, code, self.heard_ns)

    def _control(self, kind: int, flags: int, stream: int, data: bytes, begin: int, stop: int) -> None:
        payload = data[begin:stop]
        if kind == SETTINGS and not flags & ACK:
            self._settle(settings.read(payload, Bounds().settings_max))
        elif kind == PING and not flags & ACK:
            self.outlet.add(frames.ping(payload, ack=True))
        elif kind == WINDOW_UPDATE:
            self.outlet.widen(stream, _number(payload, 0))
        elif kind == RST_STREAM:
            if (call := self.calls.pop(stream, None)) is not None:
                self.outlet.ended(stream)
                self._ended(call, LOST, self.heard_ns)
        elif kind == GOAWAY:
            self._leave(_number(payload, 0))
        elif kind in (HEADERS, CONTINUATION):
            fragments = self._fragments
            if kind == HEADERS:
                block = fragments.begin(flags, stream, data, begin, stop)
                ended = flags & END_STREAM
            else:
                if not fragments.begun:
                    raise ConnectionFault(Code.PROTOCOL_ERROR, "a CONTINUATION of nothing")
                ended = fragments.flags & END_STREAM
                block = fragments.go_on(kind, flags, stream, payload)
            if block is not None:
                self._said(stream, self._trailers.read(block), ended=bool(ended))

    def _said(self, stream: int, said: Said, *, ended: bool) -> None:
        if ended:
            self._end(stream, said)
        elif (call := self.calls.get(stream)) is not None:
            call.said = said

    def _settle(self, said: dict[int, int]) -> None:
        if said.get(settings.HEADER_TABLE_SIZE, TABLE_BYTES) < TABLE_BYTES:
            self._block = self._calling.plain
            self._calling = Calling(self._block, self._block, self._block, self._calling.streams)
        most = said.get(settings.MAX_CONCURRENT_STREAMS, self.streams)
        self.streams = min(most, self._calling.streams)
        self.outlet.settle(said)
        self.outlet.add(frames.SETTINGS_ACK)
        self.ready = True

    def _leave(self, last: int) -> None:
        """Make no further calls; those of a stream after the `last` were not looked at."""
        self.leaving = True
        for stream in [each for each in self.calls if each > last]:
            self._ended(self.calls.pop(stream), LOST, self.heard_ns)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.socket.close()


def _number(payload: bytes, at: int) -> int:
    if len(payload) < at + 4:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame that is too short")
    (number,) = _U32.unpack_from(payload, at)
    return int(number) & 0x7FFFFFFF
