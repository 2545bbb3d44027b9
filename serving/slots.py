"""Where do large inputs lie, so that those of a batch lie side by side and are joined without a copy?"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLOT_BYTES_MIN = 64 * 1024
"""Smaller inputs are joined in no time."""
CHUNK_BYTES = 8 << 20
"""What is used again as a whole: room for 13 images of 602 kB."""
HUGE_BYTES = 2 << 20
"""A huge page. The kernel copies 602 kB that no cache has into one in 42 us, into small pages in 88."""
CHUNKS_MAX = 4
"""Inputs that find no room in so many have memory of their own."""


class Slots:
    """Room for inputs, each right behind the one before. On the event loop.

    Nothing is given back: what nobody holds a view of any more is used again, as soon as that is so for all
    of a chunk. Eight images read and run as one batch take 13 to 17 % less than where they are joined.
    """

    __slots__ = ("_at", "_chunk", "_chunks")

    def __init__(self) -> None:
        self._chunk = Chunk(0)
        self._chunks: list[Chunk] = []
        self._at = 0

    def __repr__(self) -> str:
        held = sum(not each.free for each in self._chunks)
        return f"<Slots: {held} of {len(self._chunks)} chunks held>"

    def take(self, size_bytes: int) -> memoryview | None:
        """Return room to write to; None where there is none, or it would save nothing."""
        if not SLOT_BYTES_MIN <= size_bytes <= CHUNK_BYTES // 2:
            return None
        if self._at and self._chunk.free:
            self._at = 0
        if self._at + size_bytes > len(self._chunk.memory):
            self._chunk, self._at = self._another(), 0
            if not len(self._chunk.memory):
                return None
        start, self._at = self._at, self._at + size_bytes
        return self._chunk.memory[start : self._at].data

    def _another(self) -> Chunk:
        """Return a chunk of which nothing is held, an empty one if there is none."""
        found = next((each for each in self._chunks if each.free), None)
        if found is None and len(self._chunks) < CHUNKS_MAX:
            found = Chunk(CHUNK_BYTES)
            self._chunks.append(found)
        return found or Chunk(0)


class Chunk:
    """Memory that is cut into slots, and knows whether anybody holds a part of it."""

    __slots__ = ("_alone", "memory")

    def __init__(self, size_bytes: int) -> None:
        self.memory = _huge(size_bytes) if size_bytes else np.empty(0, np.uint8)
        self._alone = self._holders()

    @property
    def free(self) -> bool:
        """Whether nobody holds a view of it, nor a view of a view."""
        return self._holders() == self._alone

    def _holders(self) -> int:
        return sys.getrefcount(self.memory)


def side_by_side(payloads: Sequence[Any]) -> memoryview | None:
    """Return one view of slots that lie right behind each other, in this order; None if they do not."""
    memory: Any = getattr(getattr(payloads[0], "obj", None), "base", None)
    if not isinstance(memory, np.ndarray) or memory.dtype != np.uint8 or memory.ndim != 1:
        return None
    start = at = address(payloads[0].obj)
    for each in payloads:
        slot: Any = getattr(each, "obj", None)
        if getattr(slot, "base", None) is not memory:
            return None
        if slot.nbytes != len(each) or address(slot) != at:  # A part of a slot has gaps around it.
            return None
        at += len(each)
    first = start - address(memory)
    joined: memoryview = memory[first : first + at - start].data
    return joined


def address(array: Any) -> int:
    """Return where an array begins."""
    at: int = array.__array_interface__["data"][0]
    return at


def _huge(size_bytes: int) -> NDArray[np.uint8]:
    """Return memory of huge pages, if the system has any to give; it is untouched, hence not yet there."""
    mapped = mmap.mmap(-1, size_bytes + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)
    start = -address(np.frombuffer(mapped, np.uint8)) % HUGE_BYTES
    return np.frombuffer(mapped, np.uint8, size_bytes, start)
