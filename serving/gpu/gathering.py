"""How do the payloads of a batch get into a slot, with few copies and little of the interpreter?

Where they were received they often lie side by side (`serving.slots`), and what does is copied at once. A
large copy lets other threads run meanwhile; a small one does not, since each such offer may cost a wait for
the interpreter, a millisecond where the event loop is busy, before the next copy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.slots import SLOT_BYTES_MIN, address

LET_GO_BYTES_MIN = 1 << 20
"""Copies from this size on are made without the interpreter; one takes about 0.1 ms."""


class Room:
    """An array of a slot, as bytes to be written."""

    __slots__ = ("_at", "_bytes", "size_bytes")

    def __init__(self, array: NDArray[Any]) -> None:
        flat = array.reshape(-1).view(np.uint8)
        assert np.shares_memory(flat, array) or not flat.size, "a slot's arrays are contiguous"
        self._bytes, self._at, self.size_bytes = flat.data, address(flat), flat.nbytes

    def write(self, payloads: Sequence[Any]) -> None:
        """Write these, bytes or views of bytes, one behind the other from the beginning."""
        if sum(map(len, payloads)) > self.size_bytes:
            raise ValueError("the payloads are larger than their slot")
        at = 0
        if len(payloads[0]) < SLOT_BYTES_MIN:
            for each in payloads:
                self._bytes[at : at + len(each)] = each
                at += len(each)
            return
        for start, size_bytes, alone in stretches(payloads):
            if alone is not None and size_bytes < LET_GO_BYTES_MIN:
                self._bytes[at : at + size_bytes] = alone
            else:
                ctypes.memmove(self._at + at, start, size_bytes)
            at += size_bytes


def stretches(
    payloads: Sequence[bytes | memoryview],
) -> Iterator[tuple[int, int, bytes | memoryview | None]]:
    """Yield address and size of what lies in one piece, with the payload where it is only one."""
    start = end = 0
    alone: bytes | memoryview | None = None
    for each in payloads:
        at = address(np.frombuffer(each, np.uint8)) if len(each) else end
        if at != end or not end:
            if end > start:
                yield start, end - start, alone
            start, alone = at, each
        elif len(each):
            alone = None
        end = at + len(each)
    if end > start:
        yield start, end - start, alone
