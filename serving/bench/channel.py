"""How is one connection asked and read, without ever waiting? One request is on it at a time."""

from __future__ import annotations

import contextlib
import socket

from serving.bench.heads import Heads
from serving.bench.openings import NOT_NOW
from serving.bench.outcomes import LOST, MIXED, NOT_YET, UNREADABLE

READ_BYTES = 1 << 16
HEAD_BYTES_MAX = 1 << 16
OPENING_BYTES = 4096
"""Of each piece of a large answer that are kept until it is whole; the id has to be there."""
END = b"\r\n\r\n"


class Channel:
    """A connection.

    Attributes
    ----------
    due_ns, sent_ns : int
        When the request on it was due, and when it was sent.
    asked : bool
        There is one.
    rest : memoryview
        What of the request the socket did not take yet.
    last : bool
        The server closes after the answer that was read last.
    """

    __slots__ = (
        "_heads",
        "_id",
        "_left",
        "_parts",
        "_recv",
        "_send",
        "asked",
        "due_ns",
        "fd",
        "last",
        "rest",
        "sent_ns",
        "socket",
    )

    def __init__(self, connected: socket.socket, heads: Heads) -> None:
        self._heads = heads
        self._id = b""
        self._parts = b""
        self._left = 0
        self.rest = memoryview(b"")
        self.due_ns = self.sent_ns = 0
        self.asked = self.last = False
        self.socket = connected
        self._send, self._recv = connected.send, connected.recv
        self.fd = connected.fileno()

    def ask(self, content: bytearray, id_: bytes) -> bool:
        """Send a request, or as much of it as the socket takes; False if the connection has ended."""
        self.asked, self._id = True, id_
        try:
            taken = self._send(content)
        except NOT_NOW:
            taken = 0
        except OSError:
            return False
        if taken < len(content):
            self.rest = memoryview(bytes(content))[taken:]
        return True

    def send_rest(self) -> bool:
        """Send more of what is left; False if the connection has ended."""
        try:
            self.rest = self.rest[self._send(self.rest) :]
        except NOT_NOW:
            pass
        except OSError:
            return False
        return True

    def read(self) -> int:
        """Read what has come, and return the code of the outcome, or `NOT_YET`."""
        try:
            got = self._recv(READ_BYTES)
        except NOT_NOW:
            return NOT_YET
        except OSError:
            return LOST
        if not got:
            return LOST
        if self._left:
            return self._read_on(got)
        if self._parts:
            got = self._parts + got
        end = got.find(END)
        if end < 0:
            self._parts = got
            return NOT_YET if len(got) <= HEAD_BYTES_MAX else UNREADABLE
        head = self._heads.known.get(got[:end]) or self._heads.read(got[:end])
        code, body_bytes, self.last, good = head
        missing = body_bytes + end + 4 - len(got)
        if missing == 0:
            self._parts = b""
            # An error need not repeat the id: a request that was not read has none.
            return code if self._id in got or not good else MIXED
        if body_bytes < 0 or missing < 0:
            return UNREADABLE
        self._parts, self._left = got[: end + 4 + OPENING_BYTES], missing
        return NOT_YET

    def _read_on(self, got: bytes) -> int:
        self._left -= len(got)
        if len(self._parts) < HEAD_BYTES_MAX:
            self._parts += got[:OPENING_BYTES]
        if self._left > 0:
            return NOT_YET
        opening, self._parts = self._parts, b""
        if self._left < 0:
            return UNREADABLE
        said = opening[: opening.find(END)]
        head = self._heads.known.get(said) or self._heads.read(said)  # Forgotten meanwhile.
        return head.code if self._id in opening or not head.good else MIXED

    def close(self) -> None:
        """End it."""
        self.asked = False
        with contextlib.suppress(OSError):
            self.socket.close()
