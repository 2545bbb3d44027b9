"""What waits to be sent on an HTTP/2 connection, for want of the socket's room or of the peer's?"""

from __future__ import annotations

import socket
import ssl
from collections import deque
from itertools import islice

from serving.bench.openings import NOT_NOW
from serving.http2 import frames
from serving.http2.bounds import FRAME_BYTES_MIN, WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX
from serving.http2.errors import Code, ConnectionFault
from serving.http2.frames import DATA, END_HEADERS, END_STREAM, HEADER, HEADERS
from serving.http2.settings import INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE

JOINED_BYTES_MAX = 1 << 16
"""What goes out is joined up to this size; to join more takes longer than to send it in pieces."""
PARTS_SENT_MAX = 1000
"""Of one system call; Linux takes 1,024."""
FRAME_BYTES_MAX = 1 << 20


class Unsent:
    """A message of which the peer takes only a part for now."""

    __slots__ = ("at", "content", "window")

    def __init__(self, content: bytes, window: int) -> None:
        self.content, self.at, self.window = memoryview(content), 0, window


class Outlet:
    """The sending side of a connection.

    Attributes
    ----------
    rest : deque of memoryview
        What the socket did not take yet.
    unsent : dict of int to Unsent
        By stream, messages for which the peer has no room.
    """

    __slots__ = (
        "_frame_max", "_initial_window", "_out", "_out_bytes", "_sealed", "_socket", "_window", "rest",
        "unsent",
    )  # fmt: skip

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._sealed = isinstance(connected, ssl.SSLSocket)  # It takes one piece at a time.
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self.rest: deque[memoryview] = deque()
        self._window = self._initial_window = WINDOW_BYTES_DEFAULT
        self._frame_max = FRAME_BYTES_MIN
        self.unsent: dict[int, Unsent] = {}

    def __bool__(self) -> bool:
        """Return whether there is something that was not handed to the socket."""
        return bool(self._out)

    def add(self, part: bytes | memoryview) -> None:
        """Have whole frames sent."""
        self._out.append(part)
        self._out_bytes += len(part)

    def call(self, stream: int, block: bytes, content: bytes | bytearray) -> None:
        """Have a call's head and its message sent; the latter as far as there is room for it."""
        length, window = len(content), self._initial_window
        if length <= self._window and length <= window and length <= self._frame_max:
            self._window -= length
            whole = (
                HEADER.pack(0, len(block), HEADERS, END_HEADERS, stream)
                + block
                + HEADER.pack(length >> 16, length & 0xFFFF, DATA, END_STREAM, stream)
                + content
            )
            self._out.append(whole)
            self._out_bytes += len(whole)
        else:
            self.add(HEADER.pack(0, len(block), HEADERS, END_HEADERS, stream) + block)
            self.unsent[stream] = Unsent(bytes(content), window)
            self._pump()

    def cancel(self, stream: int) -> None:
        """Break a call off."""
        self.unsent.pop(stream, None)
        self.add(frames.reset(stream, Code.CANCEL))

    def ended(self, stream: int) -> None:
        """Send no more of a call that was answered before all of it was sent."""
        if self.unsent and self.unsent.pop(stream, None) is not None:
            self.add(frames.reset(stream, Code.NO_ERROR))

    def settle(self, said: dict[int, int]) -> None:
        """Follow the peer's settings."""
        self._frame_max = min(said.get(MAX_FRAME_SIZE, self._frame_max), FRAME_BYTES_MAX)
        window = said.get(INITIAL_WINDOW_SIZE, self._initial_window)
        for each in self.unsent.values():
            each.window += window - self._initial_window
        self._initial_window = window
        self._pump()

    def widen(self, stream: int, increment: int) -> None:
        """Take note that the peer has room for more, of the whole connection if `stream` is 0.

        Raises
        ------
        ConnectionFault
            If that is more than there can be.
        """
        if not stream:
            self._window += increment
            if self._window > WINDOW_BYTES_MAX:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window that is too large")
        elif (unsent := self.unsent.get(stream)) is not None:
            unsent.window += increment
        if self.unsent:
            self._pump()

    def _pump(self) -> None:
        """Send of the messages that wait what the peer has room for."""
        for stream, unsent in [*self.unsent.items()]:
            end = len(unsent.content)
            while (room := min(end - unsent.at, self._window, unsent.window, self._frame_max)) > 0:
                stop = unsent.at + room
                flags = END_STREAM if stop == end else 0
                self.add(HEADER.pack(room >> 16, room & 0xFFFF, DATA, flags, stream))
                self.add(unsent.content[unsent.at : stop])
                unsent.at = stop
                unsent.window -= room
                self._window -= room
            if unsent.at == end:
                del self.unsent[stream]

    def flush(self) -> bool:
        """Hand to the socket what it takes; False if the connection has ended."""
        if self._out:
            if self._out_bytes <= JOINED_BYTES_MAX:
                self.rest.append(memoryview(b"".join(self._out)))
            else:
                self.rest.extend(map(memoryview, self._out))
            self._out.clear()
            self._out_bytes = 0
        rest = self.rest
        try:
            while rest:
                if len(rest) == 1 or self._sealed:
                    sent = self._socket.send(rest[0])
                else:
                    sent = self._socket.sendmsg(islice(rest, PARTS_SENT_MAX))
                self._taken(sent)
        except NOT_NOW:
            pass
        except OSError:
            return False
        return True

    def _taken(self, sent: int) -> None:
        rest = self.rest
        while rest and sent >= len(rest[0]):
            sent -= len(rest.popleft())
        if sent:
            rest[0] = rest[0][sent:]
