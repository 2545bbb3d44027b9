"""Where are decisions about traffic kept, so that none that was acknowledged is ever lost?

In SQLite, chained by hashes (`router.entry`), with a copy beside it (`duplicate`). Decision 009.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from os.path import samestat
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError

from router.entry import GENESIS, BrokenChain, Entry, check_chain
from serving.journal import tables
from serving.journal.duplicate import Duplicate, copy_of
from serving.journal.error import JournalError, OlderTerm, told
from serving.private import NotPrivate, private

__all__ = ["Journal", "JournalError", "OlderTerm", "read"]

log = logging.getLogger("turnout.journal")

DAMAGED_SUFFIX = ".damaged"
"""Of a database that SQLite could not read and that was restored from its copy; the last such is kept."""


class Journal:
    """An append-only file of entries. Several processes may have it open; the one of the last term writes.

    Attributes
    ----------
    entries : list of Entry
        What was there when it was opened or when a term was taken, and what was appended since.
    """

    def __init__(self, path: Path, engine: Engine, copy: Duplicate) -> None:
        self.path = path
        self.entries: list[Entry] = []
        self._engine = engine
        self._copy = copy
        self._lock = threading.Lock()
        self._closed = False
        self._file = path.stat()
        self._over = ""
        """Why this object writes no more, if so."""

    def __repr__(self) -> str:
        return f"<Journal {self.path}: revision {len(self.entries)}>"

    @classmethod
    def open(cls, path: Path, *, checkpoint_pages: int = tables.CHECKPOINT_PAGES) -> Journal:
        """Open a journal or begin one. Everything is read and verified; what one file lost is restored.

        Raises
        ------
        JournalError
            If it is not what was written, cannot be used, or others might have written to it.
        """
        with told(path, "opened"):
            _prepare(path)
            try:
                return cls._opened(path, checkpoint_pages)
            except (DatabaseError, tables.Torn, UnicodeError) as error:
                if not tables.is_torn(error):
                    raise
            _set_aside(path)
            return cls._opened(path, checkpoint_pages)

    @classmethod
    def _opened(cls, path: Path, checkpoint_pages: int) -> Journal:
        journal = cls(path, tables.engine(path, checkpoint_pages), Duplicate(copy_of(path)))
        try:
            with journal._copy.held():
                with journal._engine.begin() as connection:
                    tables.make(connection, path)
                    journal.entries = journal._reconcile(connection)
                journal._complete_copy()
            _sync_folder(path.parent)
        except BaseException:
            journal.close()
            raise
        return journal

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            if not self._closed:
                self._closed, self._over = True, f"{self.path} is closed"
                self._engine.dispose()
                self._copy.close()

    def take_term(self, holder: str, at_us: int) -> int:
        """Return the next term, of which `holder` is; who has an older one can append no more.

        What others appended since this was opened is in `entries` then.

        Raises
        ------
        JournalError
            If it cannot be written down.
        """
        with self._writing():
            with self._engine.begin() as connection:
                entries = self._reconcile(connection)
                term = max(tables.last_term(connection), entries[-1].term if entries else 0) + 1
                tables.add_term(connection, term, at_us, holder)
            self.entries.extend(entries[len(self.entries) :])
            self._complete_copy()
        return term

    def append(self, entry: Entry) -> None:
        """Write an entry. It is on the disk, twice, when this returns.

        Raises
        ------
        ValueError
            If it does not follow the last one, or its term was never taken.
        OlderTerm
            If a newer term was taken.
        JournalError
            If it cannot be written; see `JournalError.final`.
        """
        revision, before = self._last()
        if (entry.revision, entry.previous_hash) != (revision + 1, before):
            raise ValueError(f"revision {entry.revision} does not follow revision {revision} of {self.path}")
        with self._writing():
            whole = None
            try:
                with self._engine.begin() as connection:
                    self._check(connection, entry)
                    tables.add_entry(connection, entry)
                    whole = self._copy.size()
                    self._copy.add([entry])
            except BaseException:
                if whole is not None:
                    self._take_back(whole)
                raise
            self.entries.append(entry)

    def verify(self) -> tuple[int, str]:
        """Read the files again; return the last revision and hash.

        Raises
        ------
        BrokenChain
            If they are not what was written, or lack what this object knows.
        JournalError
            If they cannot be read.
        """
        found = read(self.path)
        end = check_chain(found)
        self._check_known([entry for entry, _ in found])
        return end

    def _last(self) -> tuple[int, str]:
        return (self.entries[-1].revision, self.entries[-1].hash) if self.entries else (0, GENESIS)

    def _check(self, connection: Connection, entry: Entry) -> None:
        """Refuse an entry of another term than the last, and one that follows what is not there."""
        term = tables.last_term(connection)
        if entry.term < term:
            raise OlderTerm(
                f"another control took over ({tables.holder(connection, term)}, term {term}; "
                f"this one has term {entry.term}); ask that one"
            )
        if entry.term > term:
            raise ValueError(f"term {entry.term} was not taken; the last one is {term}")
        here = self.path.exists() and samestat(self._file, self.path.stat())
        if not here or tables.last_entry(connection) != self._last():
            raise JournalError(
                f"{self.path} was moved, or written by another program; restart the gateway", final=True
            )

    def _check_known(self, found: Sequence[Entry]) -> None:
        revision, digest = self._last()
        if revision and (revision > len(found) or found[revision - 1].hash != digest):
            raise BrokenChain(f"revision {revision} is not what was written: the file was replaced")

    def _reconcile(self, connection: Connection) -> list[Entry]:
        """Return all entries, having put back what the database lost."""
        stored = tables.entries(connection)
        check_chain(stored)
        missing = self._copy.missing_from(stored, self._copy.read())
        for entry in missing:
            tables.add_entry(connection, entry)
        if missing:
            lost = f"{missing[0].revision}..{missing[-1].revision}"
            log.warning("event=journal_restored file=%s revisions=%s", self.path, lost)
        found = [entry for entry, _ in stored] + missing
        self._check_known(found)
        return found

    def _complete_copy(self) -> None:
        added = self._copy.complete(self.entries)
        if added:
            log.warning("event=journal_copy_restored file=%s entries=%d", self._copy.path, added)

    def _take_back(self, whole: int) -> None:
        try:
            self._copy.cut(whole)
        except OSError as error:
            raise JournalError(
                f"{self._copy.path} cannot be cut back ({error.strerror}), so it is open whether the last "
                f"change was made; restart the gateway to find out",
                final=True,
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Let nobody else write meanwhile; after an error that leaves open what is there, write no more."""
        with self._lock:
            if self._over:
                raise JournalError(self._over, final=True)
            try:
                with told(self.path, "written"), self._copy.held():
                    yield
            except JournalError as error:
                if error.final and not isinstance(error, OlderTerm):
                    self._over = str(error)
                raise


def read(path: Path) -> list[tuple[Entry, str]]:
    """Return the entries of a journal and the hashes that are stored with them. Changes neither file.

    Raises
    ------
    BrokenChain
        If what is there cannot have been written so, or lacks what its copy has. Whether the hashes are
        those of the entries is for `check_chain`.
    JournalError
        If it cannot be read.
    """
    if not path.exists():
        raise JournalError(f"there is no journal {path}")
    with told(path, "read", broken=False):
        copy = Duplicate(copy_of(path), writable=False)
        engine = tables.engine(path, None)
        try:
            try:
                stored, missing = _look(copy, engine)
            except BrokenChain:
                stored, missing = [], []
            if missing or not stored:
                # Perhaps an entry was on its way from one to the other; who reads holds up nobody for long.
                with copy.held(alone=False):
                    stored, missing = _look(copy, engine)
        finally:
            engine.dispose()
            copy.close()
    if missing:
        raise BrokenChain(
            f"{path} ends with revision {len(stored)}, its copy with revision {missing[-1].revision}: "
            f"entries were lost, and will be restored when a gateway starts"
        )
    return stored


def _look(copy: Duplicate, engine: Engine) -> tuple[list[tuple[Entry, str]], list[Entry]]:
    """Return the entries that the database has, and those that it lacks."""
    copied = copy.read()
    with engine.begin() as connection:
        stored = tables.entries(connection)
    return stored, copy.missing_from(stored, copied)


def _prepare(path: Path) -> None:
    """See to it that nobody else can read or write the files."""
    private(path.parent)
    for each in (path, copy_of(path)):
        try:
            os.close(os.open(each, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            # It is not opened for this: to close any descriptor of it would end SQLite's locks (POSIX).
            status = each.lstat()
            if status.st_mode & 0o170077 != 0o100000 or status.st_uid != os.geteuid():
                raise NotPrivate(
                    f"{each} is no file that only the user who runs this may use; chmod 600 it if it is yours"
                ) from None


def _set_aside(path: Path) -> None:
    """Move a database that SQLite cannot read out of the way, if its copy is there to restore it."""
    copy = Duplicate(copy_of(path))
    try:
        with copy.held():
            if not copy.read() or copy.is_torn:
                raise BrokenChain(f"SQLite cannot read it, and its copy {copy.path.name} is not whole")
            for end in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + end).rename(
                        path.with_name(f"{path.name}{DAMAGED_SUFFIX}{end}")
                    )
            log.warning("event=journal_damaged file=%s kept=%s", path, path.name + DAMAGED_SUFFIX)
    finally:
        copy.close()
    _prepare(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
