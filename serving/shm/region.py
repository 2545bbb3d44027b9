"""Which memory is a region, and how is it read and written while somebody else has it too?

Read and written by the kernel alone: whoever made the memory may cut it short at any moment, and who touches
it in a mapping then ends with SIGBUS. See docs/decisions/015-shared-memory-is-copied.md.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from serving.errors import Invalid
from serving.expect import JsonObject, string, whole
from serving.regular import Refusal, check_regular, irregular
from serving.shm.kinds import Entry, size_asked
from serving.shm.mapping import Mapping
from serving.wire import Window

FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is.
OPENED = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
KEY_BYTES_MAX = 200
BLOCK_BYTES = 512
"""What `st_blocks` counts in."""


class Region:
    """A part of the shared memory of one name, which stays open as long as anybody holds this."""

    __slots__ = ("__weakref__", "_fd", "_mapping", "entry")

    def __init__(self, fd: int, entry: Entry) -> None:
        self._fd = fd
        self._mapping: Mapping | None = None
        self.entry = entry
        weakref.finalize(self, os.close, fd).atexit = False

    def __repr__(self) -> str:
        about = self.entry
        return f"<Region {about.name}: {about.size_bytes} bytes of {about.key} from {about.offset}>"

    def read(self, window: Window, room: memoryview | None = None) -> bytes | memoryview:
        """Return what is in a window that was checked: a copy, in the slot `room` if there is one."""
        at = self.entry.offset + window.offset
        if room is None:
            data = os.pread(self._fd, window.size_bytes, at)
            if len(data) != window.size_bytes:
                raise self._cut_short()
            return data
        # 28 us for 602 kB, from memory no cache has 42; `preadv` takes 37 and 100.
        if not self._copied(window, room) and os.preadv(self._fd, (room,), at) != window.size_bytes:
            raise self._cut_short()
        return room

    def _copied(self, window: Window, room: memoryview) -> bool:
        """Say whether a window could be copied out of a mapping."""
        state = os.fstat(self._fd)
        if state.st_blocks * BLOCK_BYTES < state.st_size:
            return False  # What was never written to would get memory by this, and on our account.
        if state.st_size < self.entry.offset + window.offset + window.size_bytes:
            return False  # Of a last page all can be copied, also what is behind the end.
        if self._mapping is None:
            try:
                self._mapping = Mapping(self._fd, self.entry.offset, self.entry.size_bytes)
            except (OSError, ValueError):  # It was cut short, but not in this window; or there is no room.
                return False
        return self._mapping.copy(window.offset, room)

    def write(self, window: Window, data: memoryview) -> None:
        """Put `data` at the beginning of a window that was checked, and holds as much."""
        at = self.entry.offset + window.offset
        if at + len(data) > os.fstat(self._fd).st_size:  # Else it would grow.
            raise self._cut_short()
        try:
            while data:
                written = os.pwrite(self._fd, data, at)
                data, at = data[written:], at + written
        except OSError as error:  # What was never written to has no memory yet, and there may be none left.
            raise Invalid(f"region {self.entry.name!r} cannot be written: {error.strerror}") from None

    def _cut_short(self) -> Invalid:
        return Invalid(f"the memory of region {self.entry.name!r} was cut short since it was registered")


class Files:
    """The system's shared memory, whose names begin with a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def asked(self, name: str, asked: JsonObject) -> Entry:
        """Return the region that a request asks to have registered."""
        offset = whole(asked, "offset", "$") if asked.get("offset") is not None else 0
        size_bytes = size_asked(asked)
        key = string(asked, "key", "$")
        key_named(key, self._prefix)
        return Entry(name, key, offset, size_bytes)

    def find(self, entry: Entry) -> Region:
        """Open the memory that is to be registered."""
        return find(entry, self._prefix)

    def find_again(self, entry: Entry) -> Region:
        """Open the memory that was registered elsewhere on this node."""
        return find_again(entry, self._prefix)

    def shown(self, entry: Entry) -> dict[str, Any]:
        """Return what the status of a region says."""
        return {"name": entry.name, "key": entry.key, "offset": entry.offset, "byte_size": entry.size_bytes}


def key_named(key: str, prefix: str) -> str:
    """Return the file's name that a key stands for.

    Raises
    ------
    Invalid
        If it is not one name with the `prefix`, which begins with a slash.
    """
    name = key.removeprefix("/")
    plain = name.isascii() and name.isprintable() and "/" not in name and len(name) <= KEY_BYTES_MAX
    if not plain or not f"/{name}".startswith(prefix) or f"/{name}" == prefix:
        raise Invalid(f"expected a key that begins with {prefix} and is one name, as {prefix}input")
    return name


def find(entry: Entry, prefix: str) -> Region:
    """Open the memory that is to be registered as `entry`, all of which must be there.

    Raises
    ------
    Invalid
        If there is none, or it is not to be used; the message says why.
    """
    fd = _open(entry, prefix)
    state = os.fstat(fd)
    region = Region(fd, entry._replace(device=state.st_dev, inode=state.st_ino))
    if entry.offset + entry.size_bytes > state.st_size:
        raise Invalid(
            f"the shared memory {entry.key} has {state.st_size} bytes; "
            f"{entry.size_bytes} from {entry.offset} on is more"
        )
    return region


def find_again(entry: Entry, prefix: str) -> Region:
    """Open the memory that was registered as `entry` elsewhere on this node; the same, or `Invalid`."""
    fd = _open(entry, prefix)
    state = os.fstat(fd)
    region = Region(fd, entry)
    if (state.st_dev, state.st_ino) != (entry.device, entry.inode):
        raise Invalid(f"the memory of region {entry.name!r} is not what was registered; register it anew")
    return region


def _open(entry: Entry, prefix: str) -> int:
    name = key_named(entry.key, prefix)
    shown = f"the shared memory {entry.key}"
    try:
        check_regular(FOLDER / name, shown)  # Before, because opening anything else has effects.
        fd = os.open(FOLDER / name, OPENED)
    except Refusal as refused:
        raise Invalid(str(refused)) from None
    except OSError as error:
        raise Invalid(f"{shown}: {error.strerror}") from None
    state = os.fstat(fd)
    fault = irregular(state)
    if fault is None and state.st_uid != os.geteuid():
        fault = "belongs to another user than the server's"
    if fault is not None:
        os.close(fd)
        raise Invalid(f"{shown} {fault}")
    return fd
