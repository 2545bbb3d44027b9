"""How does SQLite hold a journal? Two tables that are only added to, and how they are opened and read."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    func,
    insert,
    select,
)
from sqlalchemy.pool import StaticPool

from router.entry import GENESIS, BrokenChain, Entry, parse
from serving.journal.duplicate import WAIT_S_MAX
from serving.journal.error import JournalError

FORMAT = 1
"""Of the tables; kept in SQLite's user_version."""
CHECKPOINT_PAGES = 1000
"""SQLite's default: about every 300 entries, the log of what was written goes into the file itself."""

_TABLES = MetaData()
ENTRIES = Table(
    "entries",
    _TABLES,
    Column("revision", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
)
TERMS = Table(
    "terms",
    _TABLES,
    Column("term", Integer, primary_key=True),
    Column("at_us", Integer, nullable=False),
    Column("holder", Text, nullable=False),
)
_GUARD = """CREATE TRIGGER {table}_{deed} BEFORE {deed} ON {table} {when}
BEGIN SELECT raise(ABORT, 'the journal is only added to'); END"""


class Torn(Exception):
    """A file that SQLite can open, but not make sense of."""


def engine(path: Path, checkpoint_pages: int | None) -> Engine:
    """Return an engine with one connection, which only reads if `checkpoint_pages` is None."""
    mode = "ro" if checkpoint_pages is None else "rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}",
            uri=True,
            timeout=WAIT_S_MAX,
            isolation_level=None,
            check_same_thread=False,
        )
        if checkpoint_pages is not None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {checkpoint_pages:d}")
        return connection

    made = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    begin = "BEGIN" if checkpoint_pages is None else "BEGIN IMMEDIATE"
    event.listen(made, "begin", lambda connection: connection.exec_driver_sql(begin))
    return made


def is_torn(error: Exception) -> bool:
    """Return whether an error says that a file is not, or no more, one of SQLite's."""
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    # What is no UTF-8 is a name in the schema that SQLite complains of.
    return isinstance(error, Torn | UnicodeError) or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def make(connection: Connection, path: Path) -> None:
    """Make the tables and their guards if they are not there.

    Raises
    ------
    Torn
        If SQLite finds the file damaged.
    JournalError
        If a later release made it.
    """
    _check_whole(connection, path)
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version > FORMAT:
        raise JournalError(f"{path} was written by a newer Turnout (format {version}); use that one")
    if version == FORMAT:
        return
    _TABLES.create_all(connection)
    for table in (ENTRIES.name, TERMS.name):
        for deed in ("UPDATE", "DELETE"):
            connection.exec_driver_sql(_GUARD.format(table=table, deed=deed, when=""))
    # INSERT OR REPLACE deletes without asking the guard of deletions.
    there = "WHEN EXISTS (SELECT 1 FROM entries WHERE revision >= NEW.revision)"
    connection.exec_driver_sql(_GUARD.format(table=ENTRIES.name, deed="INSERT", when=there))
    connection.exec_driver_sql(f"PRAGMA user_version = {FORMAT:d}")


def _check_whole(connection: Connection, path: Path) -> None:
    fault = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if fault != "ok":
        raise Torn(fault)
    # Of a last page that was cut, SQLite takes what is missing for zeros.
    if path.stat().st_size % connection.exec_driver_sql("PRAGMA page_size").scalar_one():
        raise Torn("its last page is cut")


def entries(connection: Connection) -> list[tuple[Entry, str]]:
    """Return the entries and the hashes that are stored with them; `BrokenChain` if one cannot be read."""
    rows = connection.execute(select(ENTRIES).order_by(ENTRIES.c.revision)).all()
    found: list[tuple[Entry, str]] = []
    for revision, text, previous_hash, digest in rows:
        try:
            entry = parse(text, previous_hash)
        except ValueError as error:
            raise BrokenChain(f"revision {revision} is not what was written: {error}") from None
        if entry.revision != revision:
            raise BrokenChain(f"revision {revision} is not what was written: it says {entry.revision}")
        found.append((entry, digest))
    return found


# Built once: to build them anew for each append took a third of its time, 1.2 instead of 0.8 ms.
_LAST_ENTRY = select(ENTRIES.c.revision, ENTRIES.c.hash).order_by(ENTRIES.c.revision.desc()).limit(1)
_LAST_TERM = select(func.max(TERMS.c.term))
_ADD_ENTRY = insert(ENTRIES)


def last_entry(connection: Connection) -> tuple[int, str]:
    """Return the revision and the hash of the last entry."""
    last = connection.execute(_LAST_ENTRY).first()
    return (last.revision, last.hash) if last is not None else (0, GENESIS)


def add_entry(connection: Connection, entry: Entry) -> None:
    """Write an entry."""
    row = {
        "revision": entry.revision,
        "text": entry.text,
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }
    connection.execute(_ADD_ENTRY, row)


def last_term(connection: Connection) -> int:
    """Return the last term that was taken, 0 if none was."""
    return connection.execute(_LAST_TERM).scalar() or 0


def add_term(connection: Connection, term: int, at_us: int, holder: str) -> None:
    """Write that a term was taken."""
    connection.execute(insert(TERMS).values(term=term, at_us=at_us, holder=holder))


def holder(connection: Connection, term: int) -> str:
    """Return who took a term."""
    return str(connection.execute(select(TERMS.c.holder).where(TERMS.c.term == term)).scalar_one())
