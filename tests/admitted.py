"""Which files has this run admitted already? What is about something else does not have them tried again.

A gateway's store learns of the verdicts that others came to before it, and what it came to itself is kept when
it ends. Only who was admitted is: whoever is refused is tried, and refused, by each gateway. Nothing outlives
the run, so the first gateway that serves a file always has it tried by the real process.
"""

from __future__ import annotations

from pathlib import Path

from serving.store import Store

_ADMITTED: set[tuple[str, str]] = set()
"""SHA-256 of a version's files, and the rules by which they were judged."""


def lend(state: Path) -> None:
    """Tell the store in `state`, which may be yet to be made, of all that was admitted so far."""
    with Store(state)._database() as database:
        database.executemany("insert or ignore into verdicts values (?, ?)", _ADMITTED)


def keep(state: Path) -> None:
    """Remember what the gateway that used `state` admitted."""
    if (state / "store.sqlite").exists():
        with Store(state)._database() as database:
            _ADMITTED.update(database.execute("select digest, rules from verdicts"))
