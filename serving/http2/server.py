"""Who is told what a connection says?"""

from __future__ import annotations

from typing import Protocol

from serving.http2.errors import Code
from serving.http2.incoming import Takes
from serving.http2.streams import Stream


class Server(Takes, Protocol):
    """Who is told what comes in. It may answer, or break off streams, from within."""

    def begin(self, stream: Stream) -> None:
        """Take a request's head, unless that is `quiet`. There is more to come if it is `receiving`."""

    def cut(self, stream: Stream) -> None:
        """Take note that a stream is over for the peer, or for the connection: nothing can be sent on it."""

    def count_fault(self, code: Code) -> None:
        """Take note that a stream, or the connection, is ended for what the peer did."""


class Nobody:
    """A server that takes no note."""

    def begin(self, stream: Stream) -> None:
        """Take no note."""

    def take(self, stream: Stream, data: bytes, begin: int, stop: int) -> None:
        """Take no note."""

    def cut(self, stream: Stream) -> None:
        """Take no note."""

    def count_fault(self, code: Code) -> None:
        """Take no note."""


NOBODY = Nobody()
