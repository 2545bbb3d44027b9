"""How do the messages of a call arrive? Piece by piece, bounded, and large ones without a second copy.

A gRPC message has a byte that says whether it is compressed and four that say its length in front.
"""

from __future__ import annotations

import struct

from serving.config import Limits
from serving.errors import Invalid, TooLarge, Unavailable
from serving.listen_http import Bodies

PREFIX = struct.Struct(">BI")
PREFIX_BYTES = PREFIX.size
SMALL_BYTES_MAX = 16 * 1024
"""A message up to this size is handed over as bytes of its own, a larger one as a view."""
SMALL_BYTES_TOTAL_MAX = 64 << 20
"""Small messages that are not whole, of all clients together."""
FIRST_BYTES_MAX = 1 << 20
"""What is taken for a message of which nothing has arrived yet."""
GROWTH = 8
"""How much more is taken each time that is full: who announces much must have sent some of it."""


class Store:
    """The messages in memory: those that are not whole, and large ones until their calls are over.

    Small ones have a bound of their own, so that large ones cannot take their place.

    Attributes
    ----------
    bodies : Bodies
        The large ones.
    small_bytes : int
    """

    __slots__ = ("bodies", "small_bytes")

    def __init__(self, bytes_max: int) -> None:
        self.bodies = Bodies(bytes_max)
        self.small_bytes = 0

    @property
    def bytes_now(self) -> int:
        """How many bytes are in memory."""
        return self.bodies.bytes_now + self.small_bytes

    def count_small(self, grown: int) -> None:
        """Count `grown` bytes more of small messages, or fewer; `Unavailable` if there are too many."""
        if grown > 0 and self.small_bytes + grown > SMALL_BYTES_TOTAL_MAX:
            raise Unavailable("too many unfinished requests at once; try again later")
        self.small_bytes += grown

    def hold(self, length: int) -> memoryview:
        """Return a buffer, counted until it is released."""
        if length > SMALL_BYTES_MAX:
            return self.bodies.take(length)
        self.count_small(length)
        return memoryview(bytearray(length))

    def adopt(self, content: bytes) -> memoryview:
        """Return a view on a large message that came another way, counted until it is released."""
        return self.bodies.adopt(content)

    def release(self, buffer: memoryview, *, read: bool) -> None:
        """Let go of a buffer. One that may still be `read`, by a run, counts until that is done."""
        if len(buffer) > SMALL_BYTES_MAX:
            self.bodies.give_back(buffer, read=read)
        else:
            self.count_small(-len(buffer))


class Intake:
    """The message that is arriving.

    Attributes
    ----------
    whole : bool
        It is complete, and to be taken before there is more.
    compressed : bool
    """

    __slots__ = (
        "_buffer",
        "_bytes_max",
        "_filled",
        "_length",
        "_pieces_left",
        "_pieces_max",
        "_prefix",
        "_store",
        "compressed",
        "whole",
    )

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._bytes_max, self._pieces_left = limits.body_bytes_max, limits.chunks_max
        self._pieces_max = limits.chunks_max
        self._prefix = b""
        self._buffer: memoryview | None = None
        self._length = self._filled = 0
        self.compressed = self.whole = False

    @property
    def begun(self) -> bool:
        """Whether a part of a message has arrived."""
        return bool(self._prefix)

    @property
    def wants_bytes(self) -> int:
        """How many bytes more there is room for."""
        return 0 if self._buffer is None else len(self._buffer) - self._filled

    def feed(self, data: bytes, begin: int, stop: int) -> int:
        """Take what belongs to the message; return where that ends.

        Raises
        ------
        Invalid, TooLarge, Unavailable
            If it is no message, too long, or there is too much in memory.
        """
        self._pieces_left -= 1
        if self._pieces_left < 0:
            raise TooLarge(f"the message has more than {self._pieces_max} pieces (limits.chunks_max)")
        if self._buffer is None:
            taken = min(PREFIX_BYTES - len(self._prefix), stop - begin)
            self._prefix += data[begin : begin + taken]
            begin += taken
            if len(self._prefix) < PREFIX_BYTES:
                return begin
            self._open()
        taken = min(self._length - self._filled, stop - begin)
        if self._filled + taken > len(self._buffer):  # type: ignore[arg-type]  # `_open` has set it.
            self._grow(self._filled + taken)
        assert self._buffer is not None
        self._buffer[self._filled : self._filled + taken] = memoryview(data)[begin : begin + taken]
        self._filled += taken
        self.whole = self._filled == self._length
        if self._filled == len(self._buffer) and not self.whole:
            self._grow(self._filled)
        return begin + taken

    def _open(self) -> None:
        flag, self._length = PREFIX.unpack(self._prefix)
        if flag > 1:
            raise Invalid("a message is neither compressed nor plain; its first byte is 1 or 0")
        if self._length > self._bytes_max:
            raise TooLarge(f"the message is longer than {self._bytes_max} bytes (limits.body_bytes_max)")
        self.compressed = bool(flag)
        self._buffer = self._store.hold(min(self._length, FIRST_BYTES_MAX))

    def _grow(self, filled: int) -> None:
        old = self._buffer
        assert old is not None
        new = self._store.hold(min(self._length, max(GROWTH * len(old), filled)))
        new[: self._filled] = old[: self._filled]
        self._buffer = new
        self._store.release(old, read=False)

    def take(self) -> tuple[bytes | memoryview, memoryview | None]:
        """Return the whole message, and the buffer that it is in, if it is to be released later."""
        buffer, length = self._buffer, self._length
        assert self.whole
        assert buffer is not None
        self._forget()
        if length > SMALL_BYTES_MAX:
            return buffer, buffer
        message = bytes(buffer)
        self._store.release(buffer, read=False)
        return message, None

    def drop(self) -> None:
        """Let go of what has arrived."""
        if self._buffer is not None:
            self._store.release(self._buffer, read=False)
        self._forget()

    def _forget(self) -> None:
        self._prefix, self._buffer = b"", None
        self._length = self._filled = 0
        self._pieces_left = self._pieces_max
        self.compressed = self.whole = False
