"""What went wrong with the journal's files, was anything written, and what would help?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EDQUOT, EFBIG, EMFILE, ENFILE, ENOSPC, EPERM, EROFS, ETIMEDOUT
from pathlib import Path

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from router.entry import BrokenChain
from serving.journal.duplicate import COPY_SUFFIX, WAIT_S_MAX
from serving.private import NotPrivate

_WAY_OUT = (
    f"If you know which is wrong, this file or the one beside it that ends in {COPY_SUFFIX}, move that one "
    f"away and start again: it is restored from the other"
)

# After these nothing was written. After any other error that is open until the files are read again.
_NOT_WRITTEN = ("SQLITE_BUSY", "SQLITE_CANTOPEN", "SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_READONLY")
_NO_ROOM = (ENOSPC, EDQUOT, EFBIG)
_NOT_OPENED = (EACCES, EMFILE, ENFILE, EPERM, EROFS, ETIMEDOUT)


class JournalError(Exception):
    """The journal cannot be read or written. The message is for whoever runs the gateway.

    Attributes
    ----------
    final : bool
        Whether trying again is of no use: another control took over, or it takes a new look at the files.
        Otherwise nothing was written, and the same entry can be appended later.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class OlderTerm(JournalError):
    """Another control took over; this one may write no more."""

    def __init__(self, message: str) -> None:
        super().__init__(message, final=True)


@contextmanager
def told(path: Path, deed: str, *, broken: bool = True) -> Iterator[None]:
    """Turn what can go wrong below into `JournalError`; `BrokenChain`, too, if `broken`."""
    try:
        yield
    except BrokenChain as error:
        if not broken:
            raise
        raise JournalError(f"{path} cannot be {deed}: {error}. {_WAY_OUT}", final=True) from None
    except NotPrivate as error:
        raise JournalError(str(error)) from None
    except (SQLAlchemyError, OSError, UnicodeError) as error:
        raise _explained(path, deed, error.orig if isinstance(error, DBAPIError) else error) from error


def _explained(path: Path, deed: str, error: BaseException | None) -> JournalError:
    name, number = getattr(error, "sqlite_errorname", ""), getattr(error, "errno", None)
    if name == "SQLITE_FULL" or number in _NO_ROOM:
        why = "there is no room on its disk. Nothing was written; make room and try again"
    elif name.startswith("SQLITE_READONLY") or number == EROFS:
        why = "it, or its disk, is read-only. Nothing was written; make it writable and try again"
    elif name.startswith("SQLITE_BUSY") or number == ETIMEDOUT:
        why = f"another process has used it for {WAIT_S_MAX:.0f} s. Nothing was written; try again"
    elif name == "SQLITE_IOERR_WRITE":
        why = f"a write failed ({error}). Nothing was written; see to its disk and try again"
    elif name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or not isinstance(
        error, sqlite3.Error | OSError
    ):
        why = f"it is damaged ({error}). {_WAY_OUT}"
    else:
        why = f"{error}"
    known = name.startswith(_NOT_WRITTEN) or number in (*_NO_ROOM, *_NOT_OPENED)
    again = "" if known or deed != "written" else ". It is open whether that was written; restart the gateway"
    return JournalError(f"{path} cannot be {deed}: {why}{again}", final=not known)
