"""How is a connection opened without waiting for it, plain or over TLS?"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

CONNECT_NS_MAX = 10_000_000_000
"""What a connection may take to be made, TLS included; then it counts as refused."""
RETRY_NS = 50_000_000
"""How long no connection is opened after one was refused."""
READABLE: int = select.EPOLLIN
WRITABLE: int = select.EPOLLIN | select.EPOLLOUT
NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""What a socket says that would have to wait."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Whom a certificate has to name, what is trusted, and what ALPN has to agree on, if anything."""

    context: ssl.SSLContext
    host: str
    protocol: str = ""


class Opening:
    """A connection that is being made."""

    __slots__ = ("_shaking", "_tls", "begun_ns", "fd", "socket")

    def __init__(self, at: tuple[str, int], tls: Tls | None, now_ns: int) -> None:
        self._tls, self._shaking = tls, False
        self.begun_ns = now_ns
        family = socket.AF_INET6 if ":" in at[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.fd = self.socket.fileno()
        code = self.socket.connect_ex(at)
        if code not in (0, errno.EINPROGRESS):
            self.close()
            raise OSError(code, os.strerror(code))

    def go_on(self) -> int:
        """Go on with what happened on the socket, and return what to wait for; 0 once it is made.

        Raises
        ------
        OSError
            If it was refused, or the certificate is not to be trusted.
        """
        if not self._shaking:
            if code := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code))
            if self._tls is None:
                return 0
            self._shaking = True
            # It takes the number of the socket along.
            self.socket = self._tls.context.wrap_socket(
                self.socket, server_hostname=self._tls.host, do_handshake_on_connect=False
            )
        return self._shake()

    def _shake(self) -> int:
        assert isinstance(self.socket, ssl.SSLSocket), "it was wrapped"
        assert self._tls is not None, "it was wrapped for it"
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return READABLE
        except ssl.SSLWantWriteError:
            return WRITABLE
        if self._tls.protocol and self.socket.selected_alpn_protocol() != self._tls.protocol:
            raise OSError(f"TLS without {self._tls.protocol}")
        return 0

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self.socket.close()


class Openings:
    """The connections that are being made, to each of some addresses in turn.

    Attributes
    ----------
    why : str
        Why the last one that was refused was.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], tls: Tls | None, epoll: select.epoll) -> None:
        self._addresses, self._tls, self._epoll = cycle(addresses), tls, epoll
        self._under_way: dict[int, Opening] = {}
        self._retry_ns = 0
        self.why = ""

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, fd: int) -> bool:
        return fd in self._under_way

    def begin(self, now_ns: int) -> bool:
        """Begin to make another; False if that is refused, or one was a moment ago."""
        if now_ns < self._retry_ns:
            return False
        try:
            made = Opening(next(self._addresses), self._tls, now_ns)
        except OSError as error:
            self._refused(error, now_ns)
            return False
        self._under_way[made.fd] = made
        self._epoll.register(made.fd, WRITABLE)
        return True

    def go_on(self, fd: int, now_ns: int) -> socket.socket | None:
        """Go on with one of them; return its socket once it is made, which epoll looks after already."""
        opening = self._under_way[fd]
        try:
            events = opening.go_on()
        except (OSError, ValueError) as error:  # A name that TLS cannot ask for is a ValueError.
            self._refused(error, now_ns)
            self._drop(opening)
            return None
        self._epoll.modify(fd, events or READABLE)
        if events:
            return None
        del self._under_way[fd]
        return opening.socket

    def expire(self, now_ns: int) -> None:
        """Give up those that take too long."""
        for each in [*self._under_way.values()]:
            if now_ns - each.begun_ns > CONNECT_NS_MAX:
                self._refused(TimeoutError("it took too long to connect"), now_ns)
                self._drop(each)

    def close(self) -> None:
        """End them all."""
        for each in [*self._under_way.values()]:
            self._drop(each)

    def _refused(self, error: Exception, now_ns: int) -> None:
        self._retry_ns = now_ns + RETRY_NS
        self.why = str(error)

    def _drop(self, opening: Opening) -> None:
        del self._under_way[opening.fd]
        opening.close()  # Which takes it from epoll, too.
