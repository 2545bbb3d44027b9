"""What goes out to the peer, in which order, and what has to wait?  (RFC 9113, section 5.2)

An answer that the peer's windows have room for, which is nearly every one, is joined at once. Others wait
in their stream, and go out in turns, a frame each, as the peer makes room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from serving.http2 import frames
from serving.http2.bounds import FRAME_BYTES_MIN, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX, Bounds
from serving.http2.errors import Code, ConnectionFault, StreamFault, Stuck
from serving.http2.frames import DATA, HEADER, STREAM_ID, Block
from serving.http2.patience import Patience
from serving.http2.streams import Stream, Streams

PUMP_BYTES_MAX = 1 << 20
"""How much of what waits goes out at once, before there is a look whether the peer takes it."""
CHUNK_BYTES_MAX = 64 * 1024
"""The longest DATA frame of an answer that waited, so that streams share the connection evenly."""
EARNING_BYTES_MIN = 1024
"""A shorter frame of what waited is the peer's making, and earns it no patience."""
_NO_TABLE = b"\x20"
"""HPACK: the table's size is 0 from here on."""


class Sender:
    """The outgoing half of a connection.

    Parameters
    ----------
    count : callable
        Told of each change of how many bytes wait; it may refuse more by raising.

    Attributes
    ----------
    out : list of bytes
        What is ready to be written. Whoever writes it takes it by `collect`.
    window, frame_bytes_max, stream_window : int
        What the peer takes: of the whole connection, in a frame, and on a new stream.
    choked : bool
        The transport holds more than it should, so that what can wait shall wait here.
    ready : dict of int to Stream
        Streams of which something waits that their own windows have room for.
    """

    __slots__ = (
        "_bounds", "_count", "_patience", "_plain_bytes_max", "_streams", "_under_way", "_unshrunk", "choked",
        "frame_bytes_max", "out", "ready", "stream_window", "turn", "unsent_bytes", "window",
    )  # fmt: skip

    def __init__(
        self, bounds: Bounds, streams: Streams, patience: Patience, count: Callable[[int], None]
    ) -> None:
        self._bounds = bounds
        self._streams = streams
        self._under_way = streams.under_way
        self._patience = patience
        self._count = count
        self.out: list[bytes | memoryview] = []
        self.window = self.stream_window = WINDOW_BYTES_DEFAULT
        self.frame_bytes_max = FRAME_BYTES_MIN
        self.choked = False
        self._unshrunk = False
        self._plain_bytes_max = FRAME_BYTES_MIN
        self.unsent_bytes = 0
        self.ready: dict[int, Stream] = {}
        self.turn = 0

    def collect(self) -> list[bytes | memoryview]:
        """Return what is ready to be written, and forget it."""
        out, self.out = self.out, []
        return out

    def answer(
        self, stream: Stream, opening: Block, parts: tuple[bytes, ...], length: int, closing: Block
    ) -> None:
        """Send a whole answer: headers, `length` bytes of data in `parts`, trailers.

        Raises
        ------
        Stuck, or what the counter of waiting bytes raises
            If it would have to wait and may not. Then nothing was sent.
        """
        if (
            length > self._plain_bytes_max  # 0 where nothing can be sent in the plain way.
            or length > stream.window
            or length > self.window
        ):
            waits = self._reserve(stream, length)
            self._block(stream, opening)
            self._data(stream, parts, length, waits=waits)
            self.close(stream, closing)
            return
        self.window -= length
        number = stream.id
        header = HEADER.pack(length >> 16, length & 0xFFFF, DATA, 0, number)
        id_ = header[5:]
        self.out.append(b"".join((opening[0], id_, opening[1], header, *parts, closing[0], id_, closing[1])))
        patience = self._patience
        if stream.receiving or patience.idle_frames or patience.resets:
            self._end(stream)
        else:
            del self._under_way[number]

    def _reserve(self, stream: Stream, length: int) -> bool:
        """Say whether `length` bytes more have to wait for the peer; raises if they may not."""
        if length <= self.window and length <= stream.window and not self.choked and not stream.unsent:
            return False
        unsent, most = self.unsent_bytes, self._bounds.unsent_bytes_max
        if unsent and unsent + length > most:
            raise Stuck(f"{unsent} bytes wait already to be taken; {most} may")
        self._count(length)
        self.unsent_bytes += length
        return True

    def open(self, stream: Stream, opening: Block) -> None:
        """Send an answer's headers."""
        self._block(stream, opening)

    def send(self, stream: Stream, parts: tuple[bytes, ...]) -> None:
        """Send data, as far as the peer takes it; the rest waits.

        Raises
        ------
        Stuck, or what the counter of waiting bytes raises
            If too much would wait. Then nothing of it was sent.
        """
        length = sum(map(len, parts))
        self._data(stream, parts, length, waits=self._reserve(stream, length))
        self._patience.earn_frame()

    def _data(self, stream: Stream, parts: tuple[bytes, ...], length: int, *, waits: bool) -> None:
        """Send data, or let what was reserved wait as far as it cannot be sent now."""
        pieces = deque([memoryview(part) for part in parts if part])
        if not waits:
            self.window -= length
            stream.window -= length
            while pieces:
                self._frame(stream, *_cut(pieces, min(self.frame_bytes_max, CHUNK_BYTES_MAX)))
            return
        if stream.unsent is None:
            stream.unsent = deque()
            stream.stuck_since = self.turn
        stream.unsent.extend(pieces)
        self._make_ready(stream)

    def _make_ready(self, stream: Stream) -> None:
        if stream.window > 0:
            self.ready[stream.id] = stream
            self.pump()

    def close(self, stream: Stream, closing: Block) -> None:
        """End an answer with its trailers, which wait behind its data."""
        if stream.unsent:
            stream.closing = closing
        else:
            self._block(stream, closing)
            self._end(stream)

    def refuse(self, stream: Stream, closing: Block) -> None:
        """Answer with headers that are all there is."""
        self._block(stream, closing)
        self._end(stream)

    def reset(self, stream: Stream, code: Code) -> None:
        """Break off a stream, and whatever waits of it."""
        self.forget(stream)
        del self._under_way[stream.id]
        self._streams.drop(stream.id)
        self.out.append(frames.reset(stream.id, code))

    def forget(self, stream: Stream) -> None:
        """Let go of what waits of a stream that is over."""
        self.ready.pop(stream.id, None)
        if stream.unsent is not None:
            self._shrink(sum(map(len, stream.unsent)))
        stream.unsent = stream.closing = None

    def _shrink(self, sent: int) -> None:
        self.unsent_bytes -= sent
        self._count(-sent)

    def _block(self, stream: Stream, block: Block) -> None:
        id_ = STREAM_ID.pack(stream.id)
        if self._unshrunk:
            self._unshrunk = False
            self._settle()
            flags = block[0][4]
            fields = _NO_TABLE + block[1]
            self.out.append(frames.frame(frames.HEADERS, flags, stream.id, fields))
            return
        self.out.append(b"".join((block[0], id_, block[1])))

    def _end(self, stream: Stream) -> None:
        """Be done with a stream whose answer is out."""
        del self._under_way[stream.id]
        self._patience.earn_answer()
        if stream.receiving:
            # RFC 9113, 8.1: the answer does not need the rest of the request, and the client may know.
            self._streams.drop(stream.id)
            self.out.append(frames.reset(stream.id, Code.NO_ERROR))

    def pump(self) -> None:
        """Send of what waits as much as may be sent now, the streams in turns."""
        ready, budget = self.ready, PUMP_BYTES_MAX
        while ready and budget > 0 and self.window > 0 and not self.choked:
            id_, stream = next(iter(ready.items()))
            del ready[id_]
            budget -= self._send_frame(stream)
            if stream.unsent and stream.window > 0:
                ready[id_] = stream

    def _send_frame(self, stream: Stream) -> int:
        """Send a frame of what waits of a stream, and what comes behind; return how many bytes it has."""
        assert stream.unsent
        most = min(self.frame_bytes_max, CHUNK_BYTES_MAX, self.window, stream.window)
        waiting = len(stream.unsent)
        pieces, length = _cut(stream.unsent, most)
        if len(stream.unsent) < waiting:  # A piece is through. Who reads in crumbs gets no further time.
            stream.stuck_since = self.turn
        self._frame(stream, pieces, length)
        self.window -= length
        stream.window -= length
        self._shrink(length)
        if length >= EARNING_BYTES_MIN:
            self._patience.earn_frame()
        if not stream.unsent:
            stream.unsent = None
            if stream.closing is not None:
                self._block(stream, stream.closing)
                self._end(stream)
        return length

    def _frame(self, stream: Stream, pieces: list[memoryview], length: int) -> None:
        self.out += [HEADER.pack(length >> 16, length & 0xFFFF, DATA, 0, stream.id), *pieces]

    def choke(self, *, choked: bool) -> None:
        """Take note that the transport holds too much, or no longer."""
        self.choked = choked
        self._settle()
        if not choked:
            self.pump()

    def resize_frames(self, frame_bytes_max: int) -> None:
        """Follow the peer's SETTINGS_MAX_FRAME_SIZE."""
        self.frame_bytes_max = frame_bytes_max
        self._settle()

    def _settle(self) -> None:
        self._plain_bytes_max = 0 if self.choked or self._unshrunk else self.frame_bytes_max

    def shrink_table(self) -> None:
        """Tell the peer with the next block that its HPACK table is not used: RFC 7541, 4.2."""
        self._unshrunk = True
        self._settle()

    def widen(self, increment: int) -> None:
        """Add to the connection's window.

        Raises
        ------
        ConnectionFault
            If it were larger than windows can be.
        """
        if self.window + increment > WINDOW_BYTES_MAX:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window update beyond 2147483647 bytes")
        self.window += increment
        self.pump()

    def widen_stream(self, stream: Stream, increment: int) -> None:
        """Add to a stream's window.

        Raises
        ------
        StreamFault
            If it were larger than windows can be.
        """
        if stream.window + increment > WINDOW_BYTES_MAX:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "a window update beyond 2147483647 bytes")
        stream.window += increment
        if stream.unsent:
            self._make_ready(stream)

    def resize(self, stream_window: int) -> None:
        """Follow the peer's SETTINGS_INITIAL_WINDOW_SIZE, for the streams under way too.

        Raises
        ------
        ConnectionFault
            If a window were larger than windows can be.
        """
        grown = stream_window - self.stream_window
        self.stream_window = stream_window
        for stream in self._under_way.values():
            stream.window += grown  # It may be negative from here on: RFC 9113, 6.9.2.
            if stream.window > WINDOW_BYTES_MAX:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a stream's window beyond 2147483647 bytes")
            if stream.unsent and stream.window > 0:
                self.ready[stream.id] = stream
        self.pump()


def _cut(pieces: deque[memoryview], most: int) -> tuple[list[memoryview], int]:
    """Take `most` bytes at most from the front of `pieces`; return them, and how many they are."""
    taken: list[memoryview] = []
    length = 0
    while pieces and length < most:
        piece = pieces.popleft()
        if len(piece) > most - length:
            pieces.appendleft(piece[most - length :])
            piece = piece[: most - length]
        taken.append(piece)
        length += len(piece)
    return taken, length
