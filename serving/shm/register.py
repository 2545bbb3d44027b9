"""Which regions are registered on this node, whichever of its replicas was told?

One file in the deployment's private folder, replaced whole, and beside it a page that all have mapped, with a
number that is another one after each change. A replica looks at it for every request that means shared
memory, so a registration that was answered holds for all of them.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import orjson

from serving.errors import Invalid, TooLarge
from serving.shm.kinds import Entry, Kind

FILE, LOCK, CHANGES = "regions.json", "regions.lock", "regions.changes"
CHANGES_BYTES = 8
NONE: Mapping[str, Entry] = MappingProxyType({})


class Register:
    """The regions of a node, by their names.

    Parameters
    ----------
    folder : Path
        Which only this user can enter, and all replicas of the node share.
    regions_max, bytes_max : int
        How many there may be, and how large together.
    """

    def __init__(self, folder: Path, regions_max: int, bytes_max: int) -> None:
        self._path = folder / FILE
        self._lock = folder / LOCK
        self._changes = _mapped(folder / CHANGES)
        self._regions_max = regions_max
        self._bytes_max = bytes_max
        self._seen = b""
        self._entries = NONE

    def __repr__(self) -> str:
        return f"<Register: {len(self._entries)} of {self._regions_max} regions>"

    def entries(self) -> Mapping[str, Entry]:
        """Return what is registered now; the same object as before if nothing has changed."""
        changes = self._changes[:CHANGES_BYTES]  # 0.1 us; to ask for the file took 1.3.
        if changes != self._seen:
            self._entries, self._seen = self._read(), changes
        return self._entries

    def add(self, entry: Entry) -> None:
        """Register a region.

        Raises
        ------
        Invalid
            If there is one of that name.
        TooLarge
            If there are too many, or they are too large together.
        """
        with self._held():
            entries = dict(self._read())
            if entry.name in entries:
                raise Invalid(f"region {entry.name!r} is registered already; unregister it first")
            if len(entries) >= self._regions_max:
                raise TooLarge(f"{len(entries)} regions are registered (shared_memory.regions_max)")
            if sum(each.size_bytes for each in entries.values()) + entry.size_bytes > self._bytes_max:
                raise TooLarge(f"regions have {self._bytes_max} bytes together (shared_memory.bytes_max)")
            self._write({**entries, entry.name: entry})

    def remove(self, name: str, kind: Kind = Kind.SYSTEM) -> None:
        """Forget a region of a kind, or all of it without a name; as in Triton it need not be there."""
        with self._held():
            entries = dict(self._read())
            kept = {
                key: entry
                for key, entry in entries.items()
                if entry.kind is not kind or (name and key != name)
            }
            if len(kept) < len(entries):
                self._write(kept)

    def close(self) -> None:
        """Let go of the page. What is registered stays so for the other replicas."""
        self._changes.close()

    def _read(self) -> Mapping[str, Entry]:
        """Return what the file says."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:  # Nothing was ever registered.
            return NONE
        with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor.
            listed = orjson.loads(file.read())
        return MappingProxyType({each[0]: Entry(*each) for each in listed})

    def _write(self, entries: Mapping[str, Entry]) -> None:
        unfinished = self._path.with_suffix(".tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with open(os.open(unfinished, flags, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor.
            file.write(orjson.dumps([tuple(each) for each in entries.values()]))
        unfinished.replace(self._path)
        # Only now: whoever sees the number change is to find the new file.
        changes = int.from_bytes(self._changes[:CHANGES_BYTES], sys.byteorder) + 1
        self._changes[:CHANGES_BYTES] = changes.to_bytes(CHANGES_BYTES, sys.byteorder)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keep the others from writing; for as long as it takes to write a small file."""
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # Freed with the process, however it ends.
            yield
        finally:
            os.close(fd)


def _mapped(path: Path) -> mmap.mmap:
    """Return a page that all who have it mapped write and read; a new one is zeros."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < CHANGES_BYTES:
            os.truncate(fd, CHANGES_BYTES)
        return mmap.mmap(fd, CHANGES_BYTES)
    finally:
        os.close(fd)
