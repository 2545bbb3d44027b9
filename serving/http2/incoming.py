"""Which bytes of requests' bodies come in, and how many may?  (RFC 9113, sections 5.2 and 6.1)"""

from __future__ import annotations

from typing import Protocol

from serving.http2 import frames
from serving.http2.bounds import Bounds
from serving.http2.errors import Code, ConnectionFault, StreamFault
from serving.http2.frames import DATA, END_STREAM, PADDED, unpadded
from serving.http2.patience import Patience
from serving.http2.sending import Sender
from serving.http2.streams import Stream, Streams


class Takes(Protocol):
    """Who takes the bodies."""

    def take(self, stream: Stream, data: bytes, begin: int, stop: int) -> None:
        """Take a part of a body, to be read before this returns; the last if it is not `receiving`."""


class Incoming:
    """The DATA frames of a connection.

    A short one is passed on when it is whole. One beyond `FRAME_BYTES_MIN` is passed on as it arrives.

    Attributes
    ----------
    left : int
        Bytes that are still to come of a frame that is passed on as it arrives.
    taker : Takes
    """

    __slots__ = (
        "_bounds", "_content_left", "_ends", "_partial", "_patience", "_room", "_room_min", "_sender",
        "_streams", "_under_way", "left", "taker",
    )  # fmt: skip

    def __init__(
        self, taker: Takes, bounds: Bounds, streams: Streams, patience: Patience, sender: Sender
    ) -> None:
        self.taker: Takes = taker
        self._bounds = bounds
        self._streams = streams
        self._under_way = streams.under_way
        self._patience = patience
        self._sender = sender
        self._room = bounds.connection_window_bytes
        self._room_min = bounds.connection_window_bytes // 2
        self._partial: Stream | None = None
        self.left = self._content_left = 0
        self._ends = False

    def take(self, flags: int, id_: int, data: bytes, begin: int, stop: int) -> None:
        """Take a whole DATA frame.

        Raises
        ------
        ConnectionFault, StreamFault
            If its sender may not send it.
        """
        stream = self._under_way.get(id_)
        length = stop - begin
        # Nearly every one: the whole of a body that nothing was said of, and within its windows.
        if flags == END_STREAM and stream is not None and stream.announced < 0 and stream.receiving:
            room = self._room - length
            if room >= self._room_min and length <= stream.room:
                self._room = room
                stream.receiving = False
                self.taker.take(stream, data, begin, stop)
                return
        stream = self._admit(id_, length)
        if stream is None:
            return
        if flags & PADDED:
            begin, stop = unpadded(data, begin, stop)
        if stream.announced >= 0:
            count_down(stream, stop - begin, ended=bool(flags & END_STREAM))
        if flags & END_STREAM:
            stream.receiving = False
        elif begin == stop:
            self._patience.idle("DATA without data")
        self.taker.take(stream, data, begin, stop)

    def _admit(self, id_: int, length: int) -> Stream | None:
        """Count a DATA frame against the windows; return its stream if that is under way."""
        self._room -= length
        if self._room < self._room_min:
            self._make_room()
        stream = self._under_way.get(id_)
        if stream is None:
            self._streams.check_late(id_, "DATA")
            self._patience.idle("DATA of a stream that was broken off")
            return None
        stream.room -= length
        if not stream.receiving:
            raise StreamFault(Code.STREAM_CLOSED, "DATA behind the end of the request")
        if stream.room < 0:
            raise StreamFault(Code.FLOW_CONTROL_ERROR, "more DATA than the stream's window has room for")
        return stream

    def _make_room(self) -> None:
        if self._room < 0:
            raise ConnectionFault(
                Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window has room for"
            )
        most = self._bounds.connection_window_bytes
        self._sender.out.append(frames.window_update(0, most - self._room))
        self._room = most

    def begin(self, kind: int, flags: int, id_: int, length: int, first: int) -> int:
        """Begin with a frame that is passed on as it arrives; return how far its content is behind `first`.

        `first` is the first byte of its payload.

        Raises
        ------
        ConnectionFault, StreamFault
            If its sender may not send it. After the latter its payload is passed over.
        """
        if kind != DATA or length > self._bounds.frame_bytes_max:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
        self.left, self._content_left, self._partial = length, 0, None
        stream = self._admit(id_, length)
        if stream is None:
            return 0
        padding = 1 + first if flags & PADDED else 0
        skipped = int(padding > 0)
        self.left, self._content_left = length - skipped, length - padding
        self._ends = bool(flags & END_STREAM)
        if stream.announced >= 0:
            count_down(stream, self._content_left, ended=self._ends)
        self._partial = stream
        return skipped

    def go_on(self, data: bytes, at: int) -> int:
        """Take what there is of a frame that is passed on as it arrives; return where it stops."""
        length = min(len(data) - at, self.left)
        content = min(length, self._content_left)
        self.left -= length
        self._content_left -= content
        stream = self._partial
        if stream is not None and stream.id in self._under_way:
            if self._ends and not self.left:
                stream.receiving = False
            if content or not stream.receiving:
                self.taker.take(stream, data, at, at + content)
        if not self.left:
            self._partial = None
        return at + length


def count_down(stream: Stream, length: int, *, ended: bool) -> None:
    """Hold a part of a request's body against its content-length.

    Raises
    ------
    StreamFault
        If they contradict each other: RFC 9113, 8.1.1.
    """
    stream.announced -= length
    if stream.announced < 0 or (ended and stream.announced):
        raise StreamFault(Code.PROTOCOL_ERROR, "malformed request: a content-length of something else")
