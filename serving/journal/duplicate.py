"""What if a journal's database loses what it had? A copy does: a line an entry, synced before the commit."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EIO, ETIMEDOUT
from pathlib import Path

from router.entry import GENESIS, BrokenChain, Entry, parse

COPY_SUFFIX = ".copy"
WAIT_S_MAX = 5.0
"""How long others may write or read before it is told as an error."""
_LOOK_S = 0.002
_LINE = re.compile(rb'[0-9a-f]{64} \{.*"revision":([0-9]{1,18}),.*\}')


class Duplicate:
    """A file of lines ``HASH TEXT``, see `router.entry.Entry`; only added to, and cut where it was torn.

    Not a second database: nothing is looked up in it. It is read when a journal is opened or verified.
    """

    def __init__(self, path: Path, *, writable: bool = True) -> None:
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self.path = path
        self._file = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._bytes = 0
        """Of the lines that are whole."""
        self._lines = 0
        self._revision_lost = 0
        """The highest that can be read behind a line that cannot."""

    def __repr__(self) -> str:
        return f"<Duplicate {self.path.name}: {self._bytes} bytes>"

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    @contextmanager
    def held(self, *, alone: bool = True) -> Iterator[None]:
        """Keep other writers away meanwhile, and other readers, too, if `alone`.

        Raises
        ------
        TimeoutError
            If others do not finish within `WAIT_S_MAX`.
        """
        how = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB
        end_s = time.monotonic() + WAIT_S_MAX
        while True:
            try:
                fcntl.flock(self._file, how)
                break
            except BlockingIOError:
                if time.monotonic() > end_s:
                    raise TimeoutError(ETIMEDOUT, f"{self.path.name} is in use") from None
                time.sleep(_LOOK_S)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def read(self) -> list[tuple[Entry, str]]:
        """Return the entries that are whole and their hashes, up to the first that is not."""
        text = os.pread(self._file, os.fstat(self._file).st_size, 0)
        found: list[tuple[Entry, str]] = []
        self._bytes = 0
        lines = text.split(b"\n")[:-1]  # What follows the last line feed is a line that was torn.
        for line in lines:
            record = _record(line, found)
            if record is None:
                break
            found.append(record)
            self._bytes += len(line) + 1
        self._lines = len(found)
        strange = [int(match[1]) for line in lines[len(found) :] if (match := _LINE.fullmatch(line))]
        self._revision_lost = max(strange, default=0)
        return found

    @property
    def is_torn(self) -> bool:
        """Whether there is anything behind what `read` found whole."""
        return os.fstat(self._file).st_size != self._bytes

    def missing_from(self, stored: list[tuple[Entry, str]], copied: list[tuple[Entry, str]]) -> list[Entry]:
        """Return those that were `copied`, as read here, and follow on those that are `stored`.

        Raises
        ------
        BrokenChain
            If the two do not agree, or an entry that is not stored can be read here no more.
        """
        for (one, one_hash), (_, other_hash) in zip(stored, copied, strict=False):
            if one_hash != other_hash:
                raise BrokenChain(f"revision {one.revision} differs from its copy in {self.path.name}")
        if self._revision_lost > max(len(stored), len(copied)):
            raise BrokenChain(
                f"revision {self._revision_lost} was written, but is not there; "
                f"its copy in {self.path.name}, line {len(copied) + 1}, is damaged"
            )
        return [entry for entry, _ in copied[len(stored) :]]

    def complete(self, stored: list[Entry]) -> int:
        """Cut off what `read` found torn, and add what is `stored` and was not here; return how many."""
        self.cut(self._bytes)
        self.add(absent := stored[self._lines :])
        return len(absent)

    def size(self) -> int:
        """Return how long it is; OSError if that is not what this process made it, or it was moved."""
        here = os.fstat(self._file)
        if here.st_size != self._bytes or not os.path.samestat(here, self.path.stat()):
            raise OSError(EIO, f"{self.path.name} was changed or moved by another program")
        return self._bytes

    def add(self, entries: Sequence[Entry]) -> None:
        """Write entries at the end. They are on the disk when this returns; if it fails, `cut` them off."""
        lines = b"".join(f"{entry.hash} {entry.text}\n".encode("ascii") for entry in entries)
        rest = memoryview(lines)
        while rest:
            written = os.pwrite(self._file, rest, self._bytes)
            self._bytes += written
            rest = rest[written:]
        os.fdatasync(self._file)

    def cut(self, size: int) -> None:
        """Take back what was written beyond `size` bytes."""
        if os.fstat(self._file).st_size != size:
            os.ftruncate(self._file, size)
            os.fdatasync(self._file)
        self._bytes = size


def copy_of(path: Path) -> Path:
    """Return where the copy of a journal is."""
    return path.with_name(path.name + COPY_SUFFIX)


def _record(line: bytes, before: list[tuple[Entry, str]]) -> tuple[Entry, str] | None:
    """Read a line that has to follow `before`; None if it is not what was written."""
    try:
        digest, text = line.decode("ascii").split(" ", 1)
        entry = parse(text, before[-1][1] if before else GENESIS)
    except ValueError:
        return None
    follows = entry.revision == len(before) + 1 and entry.hash == digest
    return (entry, digest) if follows else None
