"""What does a client's connection say? Bytes in; requests, their bodies and their ends out, as calls."""

from __future__ import annotations

from collections.abc import Callable

from serving.http2 import frames, settings
from serving.http2.blocks import Blocks
from serving.http2.bounds import FRAME_BYTES_MIN, TABLE_BYTES, WINDOW_BYTES_DEFAULT, Bounds
from serving.http2.errors import Code, ConnectionFault, StreamFault
from serving.http2.fragments import Fragments
from serving.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADER,
    HEADER_BYTES,
    HEADERS,
    PREFACE,
    STREAM_ID,
    STREAM_ID_MAX,
)
from serving.http2.heads import Field, Head, check_trailers
from serving.http2.incoming import Incoming, count_down
from serving.http2.patience import Patience
from serving.http2.sending import Sender
from serving.http2.server import NOBODY, Server
from serving.http2.streams import Stream, Streams
from serving.memo import Memo

_NAMES = {
    frames.PRIORITY: "PRIORITY",
    frames.RST_STREAM: "RST_STREAM",
    frames.SETTINGS: "SETTINGS",
    frames.PUSH_PROMISE: "PUSH_PROMISE",
    frames.PING: "PING",
    frames.GOAWAY: "GOAWAY",
    frames.WINDOW_UPDATE: "WINDOW_UPDATE",
    CONTINUATION: "CONTINUATION",
}
_LENGTHS = {frames.PRIORITY: 5, frames.RST_STREAM: 4, frames.PING: 8, frames.WINDOW_UPDATE: 4}
_OF_A_STREAM = frozenset((frames.PRIORITY, frames.RST_STREAM))
_OF_THE_CONNECTION = frozenset((frames.SETTINGS, frames.PING, frames.GOAWAY))
_HELLO, _FAREWELL = b"anybody?", b"farewell"
"""What our PINGs say. The answer to the second shows that the peer has read our GOAWAY."""


class Connection:
    """A server's end of a connection.

    Parameters
    ----------
    server : Server
    bounds : Bounds
    heads : Memo
        The listener's: `blocks.shared_heads`.
    count : callable
        Told of each change of how many bytes of answers wait; it may refuse more by raising.

    Attributes
    ----------
    streams : dict of int to Stream
        The requests under way.
    sender : Sender
        By which they are answered.
    greeted : bool
        The peer has begun to speak HTTP/2.
    over : bool
        Nothing more is read; what is ready to be sent is the last.
    turn : int
        How often `look` was called: the connection's clock.
    streams_max : int
        How many requests may be under way; whoever serves may lower it for a while.
    """

    def __init__(
        self,
        server: Server,
        bounds: Bounds,
        heads: Memo[tuple[Field, ...], Head],
        count: Callable[[int], None],
    ) -> None:
        self._server: Server = server
        self._bounds = bounds
        self._streams = Streams(bounds)
        self.streams = self._streams.under_way
        self.patience = Patience(bounds)
        self.sender = Sender(bounds, self._streams, self.patience, count)
        self._blocks = Blocks(bounds, heads)
        self._known = self._blocks.known
        self._incoming = Incoming(server, bounds, self._streams, self.patience, self.sender)
        self.greeted = False
        self._fragments = Fragments(bounds)
        self._served_max = STREAM_ID_MAX
        self._leaving_since = -1
        self.over = False
        self.turn = 0
        self.streams_max = bounds.streams_max

    def __repr__(self) -> str:
        state = "over" if self.over else "leaving" if self.leaving else "open"
        count, unsent = len(self.streams), self.sender.unsent_bytes
        return f"<Connection {state}: {count} streams up to {self._streams.last}, {unsent} bytes unsent>"

    @property
    def leaving(self) -> bool:
        """Whether the peer was told to open no more streams here."""
        return self._leaving_since >= 0

    def begin(self) -> None:
        """Send what a server sends first."""
        window = self._bounds.connection_window_bytes
        self.sender.out.append(frames.settings(settings.ours(self._bounds)))
        if window > WINDOW_BYTES_DEFAULT:
            self.sender.out.append(frames.window_update(0, window - WINDOW_BYTES_DEFAULT))

    def receive(self, data: bytes) -> int:
        """Take what arrived, and return how many of its bytes are done with.

        The rest, less than `FRAME_BYTES_MIN` and a frame's header unless patience is `weary`, is to be given
        again with more behind it.
        """
        if self.over:
            return len(data)
        self.patience.borne = 0
        try:
            if self.greeted and not self._incoming.left:
                return self._frames(data, 0)
            at = self._go_on(data)
            return self._frames(data, at) if self.greeted else 0
        except ConnectionFault as fault:
            self.fail(fault)
            return len(data)

    def _go_on(self, data: bytes) -> int:
        """Take what is no frame of its own at the beginning; return where that stops."""
        if not self.greeted:
            return self._greet(data)
        return self._incoming.go_on(data, 0) if self._incoming.left else 0

    def _frames(self, data: bytes, at: int) -> int:
        """Take the frames from `at` on that are there; return where they stop."""
        incoming, fragments, end = self._incoming, self._fragments, len(data)
        while end - at >= HEADER_BYTES:
            high, low, kind, flags, id_ = HEADER.unpack_from(data, at)
            length = high << 16 | low
            id_ &= STREAM_ID_MAX
            begin = at + HEADER_BYTES
            stop = begin + length
            if stop > end or length > FRAME_BYTES_MIN:
                if length <= FRAME_BYTES_MIN or begin == end:
                    break
                at = self._large(kind, flags, id_, length, data, begin)
                continue
            try:
                if fragments.begun:
                    block = fragments.go_on(kind, flags, id_, data[begin:stop])
                    if block is not None:
                        self._head(fragments.flags, id_, block)
                elif kind == DATA:
                    incoming.take(flags, id_, data, begin, stop)
                elif kind == HEADERS:
                    # Nearly every one is a whole block and nothing else.
                    whole = flags == END_HEADERS
                    block = data[begin:stop] if whole else fragments.begin(flags, id_, data, begin, stop)
                    if block is not None:
                        self._head(flags, id_, block)
                else:
                    self._control(kind, flags, id_, data[begin:stop])
                    if self.patience.weary:
                        at = stop
                        break
            except StreamFault as fault:
                self._break_off(id_, fault)
            at = stop
        return at

    def _large(self, kind: int, flags: int, id_: int, length: int, data: bytes, begin: int) -> int:
        """Take what there is of a frame that is passed on as it arrives; return where that stops."""
        self._fragments.check(kind, id_)
        try:
            begin += self._incoming.begin(kind, flags, id_, length, data[begin])
        except StreamFault as fault:
            self._break_off(id_, fault)
        return self._incoming.go_on(data, begin)

    def _greet(self, data: bytes) -> int:
        """Take the client's preface, which ends with the beginning of a SETTINGS frame."""
        if not data.startswith(PREFACE[: len(data)]):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "not HTTP/2: its preface is missing")
        if len(data) < len(PREFACE) + HEADER_BYTES:
            return 0
        _, _, kind, flags, _ = HEADER.unpack_from(data, len(PREFACE))
        if kind != frames.SETTINGS or flags & ACK:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a first frame other than SETTINGS")
        self.greeted = True
        return len(PREFACE)

    # --- Heads.

    def _head(self, flags: int, id_: int, block: bytes) -> None:
        """Take a whole header block: a request's head, or its trailers."""
        streams = self._streams
        if id_ <= streams.last or not id_ & 1:
            self._trailers(flags, id_, block)
            return
        streams.last = id_
        head = self._known.get(block)
        if head is None:
            head = self._blocks.head(block)
        if id_ > self._served_max:
            self.patience.idle("HEADERS after GOAWAY")
            return
        if len(self.streams) >= self.streams_max:
            raise StreamFault(Code.REFUSED_STREAM, "more requests at once than are taken")
        stream = Stream(
            id_, head, self._bounds.window_bytes, self.sender.stream_window, self.turn, not flags & END_STREAM
        )
        if stream.announced > 0 and not stream.receiving:
            raise StreamFault(Code.PROTOCOL_ERROR, "malformed request: a content-length, and no content")
        self.streams[id_] = stream
        if not head.quiet or not stream.receiving:
            self._server.begin(stream)

    def _trailers(self, flags: int, id_: int, block: bytes) -> None:
        """Take the header block that ends a request."""
        if not id_ & 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on a stream that clients cannot open")
        fields = self._blocks.fields(block)
        stream = self.streams.get(id_)
        if stream is None:
            self._late(id_, "HEADERS")
            return
        if not stream.receiving:
            raise StreamFault(Code.STREAM_CLOSED, "HEADERS behind the end of the request")
        if not flags & END_STREAM:
            raise StreamFault(Code.PROTOCOL_ERROR, "malformed request: a second head")
        check_trailers(fields)
        if stream.announced >= 0:
            count_down(stream, 0, ended=True)
        stream.receiving = False
        self._server.take(stream, b"", 0, 0)

    def _late(self, id_: int, what: str) -> None:
        self._streams.check_late(id_, what)
        self.patience.idle(f"{what} of a stream that was broken off")

    def allow(self, stream: Stream, more_bytes: int) -> None:
        """Let the peer send `more_bytes` on a stream, beyond what it may already."""
        stream.room += more_bytes
        self.sender.out.append(frames.window_update(stream.id, more_bytes))

    # --- All other frames.

    def _control(self, kind: int, flags: int, id_: int, payload: bytes) -> None:
        name = _NAMES.get(kind, "a frame of unknown kind")
        if kind in _LENGTHS and len(payload) != _LENGTHS[kind]:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"{name} of {len(payload)} bytes")
        if (kind in _OF_A_STREAM and not id_) or (kind in _OF_THE_CONNECTION and id_):
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"{name} on stream {id_}")
        match kind:
            case frames.WINDOW_UPDATE:
                self._window_update(id_, STREAM_ID.unpack(payload)[0] & STREAM_ID_MAX)
            case frames.RST_STREAM:
                self._reset(id_)
                return
            case frames.SETTINGS:
                self._settings(flags, payload)
            case frames.PING:
                self._ping(flags, payload)
            case frames.GOAWAY if len(payload) < 8:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
            case frames.PUSH_PROMISE | frames.CONTINUATION:
                raise ConnectionFault(Code.PROTOCOL_ERROR, f"{name}, which has no place here")
        self.patience.idle(name)

    def _window_update(self, id_: int, increment: int) -> None:
        if not id_:
            if not increment:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a window update of nothing")
            self.sender.widen(increment)
            return
        stream = self.streams.get(id_)
        if stream is None:
            self._streams.check_opened(id_, "WINDOW_UPDATE")
        elif not increment:
            raise StreamFault(Code.PROTOCOL_ERROR, "a window update of nothing")
        else:
            self.sender.widen_stream(stream, increment)

    def _reset(self, id_: int) -> None:
        stream = self.streams.pop(id_, None)
        if stream is None:
            self._streams.check_opened(id_, "RST_STREAM")
            self.patience.idle("RST_STREAM of a stream that is over")
            return
        self.sender.forget(stream)
        self._server.cut(stream)
        if stream.since == self.turn:  # Who waits before cancelling has a deadline, and does not flood.
            self.patience.reset("RST_STREAM")

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            if payload:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with entries")
            return
        values = settings.read(payload, self._bounds.settings_max)
        sender = self.sender
        if values.get(settings.HEADER_TABLE_SIZE, TABLE_BYTES) < TABLE_BYTES:
            sender.shrink_table()
        if settings.MAX_FRAME_SIZE in values:
            sender.resize_frames(values[settings.MAX_FRAME_SIZE])
        sender.out.append(frames.SETTINGS_ACK)
        if settings.INITIAL_WINDOW_SIZE in values:
            sender.resize(values[settings.INITIAL_WINDOW_SIZE])

    def _ping(self, flags: int, payload: bytes) -> None:
        if not flags & ACK:
            self.sender.out.append(frames.ping(payload, ack=True))
        elif payload == _FAREWELL and self.leaving:
            self._leave_finally()

    # --- Ends.

    def _break_off(self, id_: int, fault: StreamFault) -> None:
        """End a stream for what its peer did with it."""
        stream = self.streams.get(id_)
        if stream is not None:
            self.sender.reset(stream, fault.code)
            self._server.cut(stream)
        else:
            self._streams.drop(id_)
            self.sender.out.append(frames.reset(id_, fault.code))
        self._server.count_fault(fault.code)
        self.patience.reset(str(fault))

    def look(self) -> None:
        """Let time pass: to be called about once a second."""
        self.turn += 1
        self.sender.turn = self.turn
        self.patience.renew()
        if self.leaving and self.turn - self._leaving_since > 1:
            self._leave_finally()

    def ping(self) -> None:
        """Ask whether the peer is there; whatever comes in says so."""
        self.sender.out.append(frames.ping(_HELLO, ack=False))

    def leave(self) -> None:
        """Tell the peer to open no more streams here. Those that cross with this are still served."""
        if not self.leaving and not self.over:
            self._leaving_since = self.turn
            self.sender.out += [
                frames.goaway(STREAM_ID_MAX, Code.NO_ERROR),
                frames.ping(_FAREWELL, ack=False),
            ]

    def _leave_finally(self) -> None:
        if self._served_max == STREAM_ID_MAX and not self.over:
            self._served_max = self._streams.last
            self.sender.out.append(frames.goaway(self._served_max, Code.NO_ERROR))

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be done here."""
        return self.over or (self._served_max < STREAM_ID_MAX and not self.streams)

    def fail(self, fault: ConnectionFault) -> None:
        """Give up the connection, and tell the peer why."""
        if not self.over:
            self._server.count_fault(fault.code)
            self.sender.out.append(frames.goaway(self._streams.last, fault.code, str(fault)))
            self.lose()

    def lose(self) -> None:
        """Take note that the connection is gone. Nobody is told of anything any more."""
        self.over = True
        server, self._server = self._server, NOBODY
        self._incoming.taker = NOBODY  # Else each would keep the other alive.
        for stream in list(self.streams.values()):
            self.sender.forget(stream)
            del self.streams[stream.id]
            server.cut(stream)
