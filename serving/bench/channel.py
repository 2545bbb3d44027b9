"""How is one connection asked and read, without ever waiting? One request is on it at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from serving.bench.heads import LOST, MIXED, UNREADABLE, Heads

READ_BYTES = 1 << 16
HEAD_BYTES_MAX = 1 << 16
END = b"\r\n\r\n"


CONNECTING, IDLE, ASKED, CLOSED = range(4)
"""What a connection is at. Plain numbers: they are compared with for every answer."""
NOT_YET = -1
"""In the place of an outcome's code: the answer is not there, or not all of it."""


class Channel:
    """A connection.

    Attributes
    ----------
    due_ns, sent_ns : int
        When the request on it was due, and when it was sent.
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
        "due_ns",
        "fd",
        "last",
        "rest",
        "sent_ns",
        "socket",
        "state",
    )

    def __init__(self, at: tuple[str, int], heads: Heads) -> None:
        self._heads = heads
        self._id = b""
        self._parts = b""
        self._left = 0
        self.rest = memoryview(b"")
        self.due_ns = self.sent_ns = 0
        self.last = False
        family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.socket.fileno()
        self.state = CONNECTING
        code = self.socket.connect_ex(at)
        if code not in (0, errno.EINPROGRESS):
            self.close()
            raise OSError(code, os.strerror(code))

    def connected(self) -> bool:
        """Take note that the socket is writable for the first time: it is connected, or refused."""
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        self.state = IDLE
        return True

    def ask(self, content: bytearray, id_: bytes) -> bool:
        """Send a request, or as much of it as the socket takes; False if the connection has ended."""
        self.state, self._id = ASKED, id_
        try:
            taken = self.socket.send(content)
        except BlockingIOError:
            taken = 0
        except OSError:
            return False
        if taken < len(content):
            self.rest = memoryview(bytes(content))[taken:]
        return True

    def send_rest(self) -> bool:
        """Send more of what is left; False if the connection has ended."""
        try:
            self.rest = self.rest[self.socket.send(self.rest) :]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def read(self) -> int:
        """Read what has come, and return the code of the outcome, or `NOT_YET`."""
        try:
            got = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return NOT_YET
        except OSError:
            return LOST
        if not got:
            return LOST
        if self._left:
            return self._read_on(len(got))
        if self._parts:
            got = self._parts + got
        end = got.find(END)
        if end < 0:
            self._parts = got
            return NOT_YET if len(got) <= HEAD_BYTES_MAX else UNREADABLE
        head = self._heads.known.get(got[:end]) or self._heads.read(got[:end])
        missing = head.body_bytes + end + 4 - len(got)
        self.last = head.last
        if missing == 0:
            # An error need not repeat the id: a request that was not read has none.
            mixed = self._id not in got and self._heads.outcomes[head.code].good
            self._parts = b""
            return MIXED if mixed else head.code
        if head.body_bytes < 0 or missing < 0:
            return UNREADABLE
        self._parts, self._left = got[: end + 4 + 512], missing
        return NOT_YET

    def _read_on(self, more: int) -> int:
        self._left -= more
        if self._left > 0:
            return NOT_YET
        opening, self._parts = self._parts, b""
        if self._left < 0:
            return UNREADABLE
        head = self._heads.known.get(opening[: opening.find(END)])
        if head is None:  # Forgotten meanwhile.
            head = self._heads.read(opening[: opening.find(END)])
        return head.code

    def close(self) -> None:
        """End it."""
        self.state = CLOSED
        with contextlib.suppress(OSError):
            self.socket.close()
