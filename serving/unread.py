"""How much of answers waits in memory for clients who do not read them?"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Reader(Protocol):
    """A client's connection."""

    transport: asyncio.Transport


class Unread:
    """The answers that wait to be read, bounded together: who has not read for longest is cut off first.

    A client who is merely slow was choked a moment ago, one who never reads long ago.

    Parameters
    ----------
    bytes_max : int
        All of them together. A single answer may be longer, and waits alone.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._waiting: dict[Reader, int] = {}
        self.bytes_now = 0
        self.cut = 0
        """How many clients were cut off."""

    def __repr__(self) -> str:
        """Say how much waits."""
        return f"<Unread: {self.bytes_now} bytes for {len(self._waiting)} clients, {self.cut} cut off>"

    def wait(self, reader: Reader, size_bytes: int) -> None:
        """Note that so much waits for a client; whoever waits longest makes room for it."""
        self.leave(reader)
        while self._waiting and self.bytes_now + size_bytes > self._bytes_max:
            longest = next(iter(self._waiting))
            self.leave(longest)
            self.cut += 1
            longest.transport.abort()
        self._waiting[reader] = size_bytes
        self.bytes_now += size_bytes

    def leave(self, reader: Reader) -> None:
        """Note that nothing waits for a client any more."""
        self.bytes_now -= self._waiting.pop(reader, 0)
