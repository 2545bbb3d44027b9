"""Is the journal what was written, and what is in it, whether or not a gateway runs?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from router.entry import BrokenChain, Entry, check_chain
from serving.access import JOURNAL
from serving.admin.chronicle import journal
from serving.journal.journal import JournalError, read


def verify(path: Path, in_force: Sequence[Entry] = ()) -> tuple[int, str]:
    """Return the last revision and hash of a journal's file.

    Parameters
    ----------
    in_force : sequence of Entry
        What a control has that runs; the file has to hold at least that.

    Raises
    ------
    BrokenChain
        If it is not what was written.
    JournalError
        If it cannot be read.
    """
    entries = read(path)
    last = check_chain(entries)
    for (entry, stored), expected in zip(entries, in_force, strict=False):
        if stored != expected.hash:
            raise BrokenChain(
                f"{path.name} was written anew: revision {entry.revision} is not what is in force"
            )
    if len(entries) < len(in_force):
        raise BrokenChain(
            f"{path.name} ends with revision {last[0]}, and revision {len(in_force)} is in force"
        )
    return last


def offline(folder: Path, *, show: bool) -> tuple[int, dict[str, Any]]:
    """Return what the admin application would say, its status first, out of a gateway's private folder."""
    try:
        if show:
            return 200, journal(read(folder / JOURNAL))
        revision, digest = verify(folder / JOURNAL)
    except BrokenChain as error:
        return 409, {"error": str(error)}
    except (JournalError, OSError) as error:
        return 503, {"error": str(error)}
    return 200, {"ok": True, "revision": revision, "hash": digest}
