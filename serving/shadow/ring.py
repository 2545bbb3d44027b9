"""What waits between two processes? Whole entries of bytes, in order, within a fixed number of bytes.

A ring in shared memory with one writer and one reader. Its size is all that can wait: what does not fit
is refused, and nobody ever waits for room. An entry lies in one piece, so that the reader need not
copy it together, at the price of up to half of the ring at its end.

The writer alone says where entries end (`tail`), and tells the reader by other means, such as a message:
that is also what orders its writes before the reader's reads. The reader says in the shared memory how far
it is: `head` is before what it still reads, and `ahead` behind that. Both count laps, too: in lap n byte
`at` of the ring is n times its size plus `at`.

The writer begins a lap anew as early as it can, so that the memory that is in use, and in the caches, is
no more than what really waits, and not all of the ring in turn.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from struct import Struct

HEAD_BYTES = 4096
"""In front of the entries: a page of its own for the reader's place."""
LENGTH_BYTES = 8
"""In front of each entry, and of each gap at the end of the ring."""
GAP = 1 << 63
"""Marks a length as that of a gap."""
BYTES_MIN = 4096
LAP_BYTES = 2 << 20
"""From here on a lap ends early, if hardly anything waits."""
LAP_USED_BYTES_MAX = LAP_BYTES // 16
LAP_ENTRIES_MIN = 8
"""Entries like the one that ends it that a lap must have had room for."""
TAIL = Struct("<Q")
"""What the writer sends the reader: its `tail`."""
_HEAD, _AHEAD = 0, 1


class Torn(Exception):
    """The other side wrote what it never would."""


class Ring:
    """The writer's end, which owns the memory.

    Parameters
    ----------
    bytes_max : int
        What can wait, the lengths in front of entries included; a multiple of 8.
    """

    __slots__ = ("_at", "_bytes", "_memory", "_words", "bytes_max", "entry_bytes_max", "fd", "tail")

    def __init__(self, bytes_max: int) -> None:
        bytes_max -= bytes_max % 8
        assert bytes_max >= BYTES_MIN
        self.bytes_max = bytes_max
        # In an empty ring this much always fits, wherever in it the next entry begins.
        self.entry_bytes_max = bytes_max // 2 - LENGTH_BYTES
        self.fd = shared(HEAD_BYTES + bytes_max)
        self._memory, self._bytes, self._words = _map(self.fd)
        self.tail = 0
        """Bytes ever written; what is behind it is not told yet."""

    def __repr__(self) -> str:
        return f"<Ring: {self.used_bytes} of {self.bytes_max} bytes>"

    @property
    def used_bytes(self) -> int:
        """What waits, or lies in a gap."""
        return self.tail - self._words[_HEAD]

    def room(self, size: int) -> bool:
        """Say whether there is room for an entry of this size, and make sure that it lies in one piece."""
        if size > self.entry_bytes_max:
            return False
        room = LENGTH_BYTES + size + (-size & 7)
        at = self.tail % self.bytes_max
        lap = self.tail - at
        head = self._words[_HEAD]
        if head < lap:  # The reader is in the lap before this one, and its place ends this one.
            return room <= head + self.bytes_max - self.tail
        # Until the reader is through with this lap, the next one has only the room that it left behind.
        behind = head - lap
        idle = self.tail - head <= LAP_USED_BYTES_MAX and room * LAP_ENTRIES_MIN <= behind
        early = idle and at >= LAP_BYTES
        fits = room <= self.bytes_max - at
        if fits and not early:
            return True
        if room <= behind:
            self._words[(HEAD_BYTES + at) >> 3] = GAP | (self.bytes_max - at)
            self.tail = lap + self.bytes_max
            return True
        return False

    def put(self, parts: Sequence[bytes | memoryview], size: int) -> None:
        """Add an entry made of `parts`, `size` bytes in all. Only after `room` said so, and at once."""
        place = HEAD_BYTES + self.tail % self.bytes_max
        self._words[place >> 3] = size
        place += LENGTH_BYTES
        for part in parts:
            stop = place + len(part)
            self._bytes[place:stop] = part
            place = stop
        self.tail += LENGTH_BYTES + size + (-size & 7)

    def prepare(self) -> None:
        """Have the memory of a lap ready before it is written, which takes long. In a thread."""
        os.posix_fallocate(self.fd, 0, min(HEAD_BYTES + self.bytes_max, 2 * LAP_BYTES))

    def skip(self) -> bool:
        """Leave out the entry that the reader was at, and say whether there was one. The reader is dead.

        Raises
        ------
        Torn
            If the reader's place cannot be true, and the ring is emptied.
        """
        head, ahead = self._words[_HEAD], self._words[_AHEAD]
        if not (head <= ahead <= self.tail and self.tail - head <= self.bytes_max) or (head | ahead) & 7:
            self._words[_HEAD] = self._words[_AHEAD] = self.tail
            raise Torn
        self._words[_HEAD] = ahead
        return head != ahead

    def close(self) -> None:
        """Give the memory back; the reader keeps its own view."""
        self._bytes.release()
        self._words.release()
        self._memory.close()
        os.close(self.fd)


class Reader:
    """The other end: one entry at a time, in order.

    Parameters
    ----------
    fd : int
        The ring's memory.
    """

    __slots__ = ("_bytes", "_memory", "_words", "bytes_max", "tail")

    def __init__(self, fd: int) -> None:
        self._memory, self._bytes, self._words = _map(fd)
        self.bytes_max = len(self._memory) - HEAD_BYTES
        self.tail = self._words[_HEAD]
        """How far the writer said that it is; whoever hears of it sets this."""

    def take(self) -> memoryview | None:
        """Return the next entry, None if there is none; it stays in place until `done`."""
        while (head := self._words[_HEAD]) < self.tail:
            place = HEAD_BYTES + head % self.bytes_max
            size = self._words[place >> 3]
            if not size & GAP:
                self._words[_AHEAD] = head + LENGTH_BYTES + size + (-size & 7)
                return self._bytes[place + LENGTH_BYTES : place + LENGTH_BYTES + size]
            self._words[_AHEAD] = self._words[_HEAD] = head + size - GAP
        return None

    def done(self) -> None:
        """Make room: nobody reads the entry taken last any more."""
        self._words[_HEAD] = self._words[_AHEAD]

    def close(self) -> None:
        """Give the view of the memory back."""
        self._bytes.release()
        self._words.release()
        self._memory.close()


def shared(bytes_total: int) -> int:
    """Return a descriptor of anonymous memory that no holder can shrink under another's feet."""
    fd = os.memfd_create("turnout", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, bytes_total)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def _map(fd: int) -> tuple[mmap.mmap, memoryview, memoryview]:
    memory = mmap.mmap(fd, 0)
    whole = memoryview(memory)
    return memory, whole, whole.cast("Q")
