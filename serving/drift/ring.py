"""What waits to be counted? Rows of one tensor, in order, within a fixed number of bytes.

A ring in shared memory with one writer and one reader. What does not fit is refused, and nobody waits for
room. The writer says in the memory how many rows there ever were (`TAIL`); the reader looks there when it
likes, and takes only what it saw at its look before, so that on any processor the rows are there by then.

How far the reader is belongs to what it shows of its counts (`serving.drift.sheet`), so that the two never
differ. In the ring it says so a moment later (`HEAD`), which makes room: a reader that dies in between
leaves less room, and nothing wrong.

The writer begins at the ring's first place anew where nothing waits, so that what is hardly used takes
hardly any memory. From which row on that was, it says, too (`BASE`). To begin anew while a little waits would
leave less room than there is, should the reader be dead just then.
"""

from __future__ import annotations

import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.shadow.ring import shared

HEAD_BYTES = 4096
"""In front of the rows: a page of its own."""
TAIL, BASE, HEAD, FULL, MISFIT, BROKEN = range(6)
"""Words in that page: rows ever written, the row that stands first, rows ever counted; and rows that were
refused, by `serving.drift.reading.Drop`."""
WORDS = 8
EARLY_BYTES = 256 << 10
"""From here on the writer begins anew where nothing waits: what fits a core's own cache."""

Rows = NDArray[Any]


def capacity(bytes_max: int, row_bytes: int) -> int:
    """Return how many rows can wait, one in any case."""
    return max(bytes_max // row_bytes, 1)


class RowRing:
    """The writer's end.

    Parameters
    ----------
    dtype : numpy.dtype
    elements : int
        Of a row.
    bytes_max : int
        What can wait.
    fd : int
        Of a ring that there is; without it a new one is made.
    """

    __slots__ = (
        "_bytes", "_early", "_memory", "_place", "_rows", "_stop", "_words", "capacity", "fd", "row_bytes",
        "tail",
    )  # fmt: skip

    def __init__(self, dtype: np.dtype[Any], elements: int, bytes_max: int, fd: int = -1) -> None:
        self.row_bytes = dtype.itemsize * elements
        self.capacity = capacity(bytes_max, self.row_bytes)
        self.fd = fd if fd >= 0 else shared(HEAD_BYTES + self.capacity * self.row_bytes)
        self._memory = mmap.mmap(self.fd, 0)
        whole = memoryview(self._memory)
        self._words = whole[: 8 * WORDS].cast("q")
        self._bytes = whole[HEAD_BYTES:]
        self._rows: Rows = np.frombuffer(self._bytes, dtype).reshape(self.capacity, elements)
        self._early = max(EARLY_BYTES // self.row_bytes, 1)
        self.tail = self._words[TAIL]
        self._place = self._stop = 0
        """Where the next row goes, and up to where rows can follow it before somebody has to think."""

    def __repr__(self) -> str:
        return f"<RowRing: {self.tail - self._words[HEAD]} of {self.capacity} rows of {self.row_bytes} bytes>"

    @property
    def dropped(self) -> tuple[int, int, int]:
        """Rows that were refused as there was no room, as misfits, and for a fault of ours."""
        return self._words[FULL], self._words[MISFIT], self._words[BROKEN]

    @property
    def written(self) -> int:
        """Rows that were ever written, by whichever process writes."""
        return self._words[TAIL]

    def refuse(self, word: int, rows: int) -> None:
        """Count rows that are not written, under `FULL`, `MISFIT` or `BROKEN`."""
        self._words[word] += rows

    def put_bytes(self, rows: bytes, count: int) -> None:
        """Write `count` rows that are bytes already; those that do not fit are refused."""
        row_bytes, place = self.row_bytes, self._place
        stop = place + count
        if stop <= self._stop:
            self._bytes[place * row_bytes : stop * row_bytes] = rows
            self._advance(count)
            return
        self._renew(count)
        written = 0
        while some := min(count - written, self._room()):
            part = memoryview(rows)[written * row_bytes : (written + some) * row_bytes]
            self._bytes[self._place * row_bytes : (self._place + some) * row_bytes] = part
            self._advance(some)
            written += some
        self._words[FULL] += count - written

    def put(self, rows: Rows) -> None:
        """Write a matrix of rows; those that do not fit are refused."""
        written, count, place = 0, len(rows), self._place
        if place + count <= self._stop:
            self._rows[place : place + count] = rows
            self._advance(count)
            return
        self._renew(count)
        while some := min(count - written, self._room()):
            self._rows[self._place : self._place + some] = rows[written : written + some]
            self._advance(some)
            written += some
        self._words[FULL] += count - written

    def _advance(self, count: int) -> None:
        self._place += count
        self.tail += count
        self._words[TAIL] = self.tail

    def _renew(self, count: int) -> None:
        """Begin anew at the first place where nothing waits, and `count` rows more would go far."""
        waits = self.tail - self._words[HEAD]
        if not waits and (self.tail - self._words[BASE]) % self.capacity + count > self._early:
            self._words[BASE] = self.tail
            self._place = self._stop = 0

    def _room(self) -> int:
        """Return how many rows can be written from `_place` on, up to where it is asked again."""
        if self._place < self._stop:
            return self._stop - self._place
        place = (self.tail - self._words[BASE]) % self.capacity
        room = min(self.capacity - (self.tail - self._words[HEAD]), self.capacity - place)
        room = min(room, self._early - place if place < self._early else self._early)
        self._place, self._stop = place, place + room
        return room

    def close(self) -> None:
        """Give the memory back; the reader keeps its own view."""
        self._rows = np.empty((0, 0))
        self._words.release()
        os.close(self.fd)


class RowReader:
    """The reader's end.

    Parameters
    ----------
    fd : int
        The ring's memory.
    dtype, elements
        As the writer has them.
    """

    __slots__ = ("_memory", "_rows", "_words", "capacity", "seen")

    def __init__(self, fd: int, dtype: np.dtype[Any], elements: int) -> None:
        self._memory = mmap.mmap(fd, 0)
        self._words = np.frombuffer(self._memory, np.int64, WORDS)
        row_bytes = dtype.itemsize * elements
        self.capacity = (len(self._memory) - HEAD_BYTES) // row_bytes
        self._rows: Rows = np.frombuffer(self._memory, dtype, self.capacity * elements, HEAD_BYTES).reshape(
            self.capacity, elements
        )
        self.seen = 0
        """Rows that may be taken: as many as there were at the look before."""

    def look(self) -> int:
        """See how many rows there are, and return how many there were at the look before."""
        before, self.seen = self.seen, int(self._words[TAIL])
        return before

    def take(self, head: int, until: int, rows_max: int) -> Rows:
        """Return the rows from `head` on, at most `rows_max` and before `until`, as they stand."""
        place = (head - int(self._words[BASE])) % self.capacity
        return self._rows[place : min(place + min(until - head, rows_max), self.capacity)]

    def say(self, head: int) -> None:
        """Make room: the first `head` rows are counted, and that is shown."""
        self._words[HEAD] = head
