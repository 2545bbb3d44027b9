"""How is a client's memory copied at the speed of memory, though it may be cut short at any moment?

By the kernel, from a mapping that nothing in this process ever touches: `process_vm_writev` reads it for us,
and says so where there is nothing any more. Had we read there ourselves, SIGBUS would be the end of us. See
docs/decisions/015-shared-memory-is-copied.md.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Any

import numpy as np

from serving.slots import address

_Parts = ctypes.c_size_t * 4
"""Two `struct iovec`: from where and how much, and where to."""
_HALF = 2 * ctypes.sizeof(ctypes.c_size_t)


class Mapping:
    """A part of a file. On the event loop.

    Raises
    ------
    OSError, ValueError
        If it cannot be mapped, or is no longer there.
    """

    __slots__ = ("_memory", "_parts", "_start")

    def __init__(self, fd: int, offset: int, size_bytes: int) -> None:
        before = offset % mmap.ALLOCATIONGRANULARITY
        self._memory = mmap.mmap(fd, before + size_bytes, access=mmap.ACCESS_READ, offset=offset - before)
        self._start = before + address(np.frombuffer(self._memory, np.uint8))
        self._parts = _Parts()

    def copy(self, at: int, room: memoryview) -> bool:
        """Fill `room`, a slot, from `at` on; False if not all of it was there, or the kernel may not."""
        parts = self._parts
        parts[0], parts[1] = self._start + at, len(room)
        parts[2], parts[3] = address(room.obj), len(room)
        ours = ctypes.addressof(parts)
        return _write is not None and _write(os.getpid(), ours, 1, ours + _HALF, 1, 0) == len(room)


def _call() -> Any:
    """Return the system call; None where there is none."""
    call = getattr(ctypes.CDLL(None), "process_vm_writev", None)
    if call is not None:
        pointer, number = ctypes.c_void_p, ctypes.c_ulong
        call.argtypes = (ctypes.c_int, pointer, number, pointer, number, number)
        call.restype = ctypes.c_ssize_t
    return call


_write = _call()
