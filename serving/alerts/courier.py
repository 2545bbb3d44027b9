"""What is a receiver told next, and what becomes of it if it does not listen?

In order: those of the journal, and between them, by their time, those that were posted. An event is told
again and again until it is taken. Only if the receiver itself says that it does not want it, it is set aside
after a few times, so that the others go out. The position is on the disk before the next one is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from random import Random
from typing import Protocol

from router.entry import GENESIS, Entry
from router.table import RoutingTable
from serving.alerts.answer import Answer
from serving.alerts.cursor import Cursor, Position
from serving.alerts.entries import told
from serving.alerts.event import Event, Kind
from serving.alerts.outbox import Outbox

log = logging.getLogger("turnout.alerts")

DOUBLINGS_MAX = 30


class Journalled(Protocol):
    """What was decided so far; see `router.history.History`."""

    @property
    def revision(self) -> int:
        """That of the last entry."""

    def __iter__(self) -> Iterator[Entry]:
        """Go over all entries."""

    def at(self, revision: int) -> RoutingTable:
        """Return the table as of a revision."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait between tries, and how often to take a no for something else."""

    s_min: float
    s_max: float
    refusals_max: int

    def pause_s(self, tries: int, answer: Answer, random: Random) -> float:
        """Return how long to wait after so many tries: twice as long each time, the last half by chance."""
        longest_s = min(self.s_max, self.s_min * 2.0 ** min(tries - 1, DOUBLINGS_MAX))
        return max(longest_s * (1 + random.random()) / 2, min(answer.retry_after_s, self.s_max))


@dataclass(frozen=True, slots=True)
class Due:
    """An event, and the position of a receiver that has it."""

    event: Event
    after: Position


def digest_of(journal: Journalled, revision: int) -> str:
    """Return the hash of an entry; that of nothing for revision 0."""
    entry = next(islice(journal, revision - 1, revision), None) if revision else None
    return entry.hash if entry is not None else GENESIS


class Courier:
    """What goes to one receiver. For one thread; others may look at what is public.

    Parameters
    ----------
    kinds : set of Kind
        What the receiver wants to hear of.
    send : callable
        Sends an event, and returns what came of it.
    keep : callable
        Is given an event that was set aside, and what the receiver said.

    Attributes
    ----------
    position : Position
    tries : int
        How often what comes next was sent in vain.
    trouble : str
        Why, the last time; empty if all is well.
    """

    def __init__(
        self,
        name: str,
        kinds: frozenset[Kind],
        journal: Journalled,
        outbox: Outbox,
        cursor: Cursor,
        send: Callable[[Event], Answer],
        keep: Callable[[Event, str], None],
        patience: Patience,
        random: Random,
    ) -> None:
        self.name = name
        self._kinds = kinds
        self._journal = journal
        self._outbox = outbox
        self._cursor = cursor
        self._send = send
        self._keep = keep
        self._patience = patience
        self._random = random
        self.position = Position()
        self.tries = self._refusals = 0
        self.trouble = ""

    def __repr__(self) -> str:
        behind = self._journal.revision - self.position.revision
        return f"<Courier to {self.name}: {behind} behind, {self.trouble or 'all is well'}>"

    def begin(self, end: int) -> None:
        """Go on where the last one was; the first begins at the end, which is that revision.

        `OSError` says that a position cannot be written.
        """
        found = self._cursor.read()
        if found is not None:
            if self._is_of_journal(found):
                self.position = found
                return
            log.error("event=alerts_of_another_journal receiver=%s revision=%d", self.name, found.revision)
        start = Position(posted=self._outbox.last) if found is None else found
        self.position = replace(start, revision=end, digest=digest_of(self._journal, end), part=0)
        self._cursor.write(self.position)

    def _is_of_journal(self, position: Position) -> bool:
        known = 0 <= position.revision <= self._journal.revision
        return known and position.digest == digest_of(self._journal, position.revision)

    def step(self) -> float | None:
        """Send what is next; return how long to wait, or None if there is nothing until somebody says so."""
        due = self._due()
        if due is None:
            return None
        answer = self._send(due.event)
        if answer.taken:
            self._advance(replace(due.after, delivered=due.after.delivered + 1))
            log.info("event=alerted receiver=%s kind=%s id=%s", self.name, due.event.kind, due.event.id)
            return 0.0
        self.tries += 1
        self._refusals += answer.refused
        if answer.words != self.trouble:
            self.trouble = answer.words
            log.warning("event=alert_not_taken receiver=%s reason=%r", self.name, answer.words)
        if self._refusals >= self._patience.refusals_max:
            self._keep(due.event, answer.words)
            log.error("event=alert_set_aside receiver=%s id=%s", self.name, due.event.id)
            self._advance(replace(due.after, set_aside=due.after.set_aside + 1))
            return 0.0
        return self._patience.pause_s(self.tries, answer, self._random)

    def save(self) -> None:
        """Write down what was passed over, so that nobody looks at it again."""
        try:
            self._cursor.write(self.position)
        except OSError as error:
            log.error("event=alert_cursor_not_written receiver=%s reason=%r", self.name, str(error))

    def _advance(self, position: Position) -> None:
        self.position = position
        self.tries = self._refusals = 0
        self.trouble = ""
        self.save()

    def _due(self) -> Due | None:
        """Return what is next, having passed over what the receiver does not want to hear of."""
        journalled, posted = self._of_journal(), self._of_outbox()
        if journalled is None or posted is None:
            return journalled or posted
        return posted if posted.event.at_us < journalled.event.at_us else journalled

    def _of_journal(self) -> Due | None:
        for entry in islice(self._journal, self.position.revision, self._journal.revision):
            events = self._told(entry)
            done = replace(self.position, revision=entry.revision, digest=entry.hash, part=0)
            for part in range(self.position.part, len(events)):
                if events[part].kind in self._kinds:
                    last = part + 1 == len(events)
                    return Due(events[part], done if last else replace(self.position, part=part + 1))
            self.position = done
        return None

    def _of_outbox(self) -> Due | None:
        while (posted := self._outbox.after(self.position.posted)) is not None:
            event, after = posted.event(), replace(self.position, posted=posted.number)
            if event.kind in self._kinds:
                return Due(event, after)
            self.position = after
        return None

    def _told(self, entry: Entry) -> list[Event]:
        try:
            return told(entry, self._journal.at(entry.revision - 1))
        except Exception:  # Of another release, perhaps; what comes after it must not wait for ever.
            log.exception("event=entry_not_told revision=%d", entry.revision)
            return []
