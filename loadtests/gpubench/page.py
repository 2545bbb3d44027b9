"""What has a simulated device done so far, told to other processes?"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ENTRY = struct.Struct("<11q")
"""A number that changes with each entry, before and after it, by which a reader knows half an entry."""
NUMBER = struct.Struct("<q")
READS_MAX = 10_000


class Done(NamedTuple):
    """The counts of a device; those of time in nanoseconds.

    `busy_ns` counts what is queued as well, of which `free_ns` is the end, by `time.monotonic_ns`. `late` are
    runs that began after the device had been idle, `idle_ns` for how long it had been. The first run began at
    `first_ns`, and copies each way are over at `inward_ns` and `outward_ns`.
    """

    busy_ns: int = 0
    free_ns: int = 0
    runs: int = 0
    rows: int = 0
    late: int = 0
    idle_ns: int = 0
    first_ns: int = 0
    inward_ns: int = 0
    outward_ns: int = 0

    def ran_ns(self, now_ns: int) -> int:
        """Return for how long something has run by now."""
        return self.busy_ns - max(self.free_ns - now_ns, 0)


@dataclass(frozen=True, slots=True)
class Seen:
    """The counts at a moment."""

    done: Done
    at_ns: int

    def busy_since(self, before: Seen) -> float:
        """Return the share of the time since then in which something ran."""
        ran_ns = self.done.ran_ns(self.at_ns) - before.done.ran_ns(before.at_ns)
        return ran_ns / max(self.at_ns - before.at_ns, 1)

    def rows_a_run_since(self, before: Seen) -> float:
        """Return the mean of the rows of a run since then."""
        return (self.done.rows - before.done.rows) / max(self.done.runs - before.done.runs, 1)


class Page:
    """A file with the counts of one device, mapped: whoever holds it writes, and anybody reads."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as opened:
            if opened.tell() < ENTRY.size:
                opened.truncate(ENTRY.size)
            self._map = mmap.mmap(opened.fileno(), ENTRY.size)
            self._fd = os.dup(opened.fileno())
        weakref.finalize(self, os.close, self._fd)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from holding it until the block ends. One thread at a time."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def write(self, done: Done) -> None:
        """Tell the counts."""
        (number,) = NUMBER.unpack_from(self._map)
        ENTRY.pack_into(self._map, 0, number + 1, *done, number + 1)

    def read(self) -> Seen:
        """Return what was told last."""
        for _ in range(READS_MAX):
            first, *values, last = ENTRY.unpack_from(self._map)
            if first == last:
                return Seen(Done(*values), time.monotonic_ns())
        raise RuntimeError("a page that is written without end")
