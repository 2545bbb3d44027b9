"""What have all replicas counted of a rollout, also those that are gone? Sums by epoch, version and arm.

A replica tells all that it has counted since it began, again and again, under a name that no other ever has.
So a telling that is repeated or comes late adds nothing, one that was lost is made up for by the next, and
what a replica told last stays counted when it is gone. A control that starts reads what the last one wrote
down, and is told the rest again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from serving.evidence.counts import MAPPED, PLAIN, Counts, either
from serving.rollout.store import Store

log = logging.getLogger("turnout.rollout")

EPOCHS_MAX = 128
"""Epochs of a model that are kept, the latest; more than a plan has steps."""
REPLICAS_MAX = 2048
"""Replicas of which is known what each has told; of further ones only the sum is, and the name."""
NAMES_MAX = 16_384
SAVE_S = 2.0
"""How much time passes at least between two times of writing a model's evidence down."""


class Cell(NamedTuple):
    """What counts are of, within a model. `arm` is as in `serving.evidence.page`."""

    epoch: int
    version: str
    arm: str


Cells = Mapping[Cell, Counts]


class Pile:
    """The evidence of one model.

    Attributes
    ----------
    first : int
        Epochs before it are no part of the rollout.
    total : dict of Cell to Counts
        Over all replicas there ever were. Replaced whole, never edited.
    marks : mapping
        What `serving.rollout.judge` has to remember between two looks, as plain values.
    """

    def __init__(self) -> None:
        self.first = 0
        self.total: dict[Cell, Counts] = {}
        self.marks: Mapping[str, Any] = {}
        self._told: dict[str, dict[Cell, Counts]] = {}
        """By replica, that told last at the end."""
        self._over: dict[str, None] = {}
        """Names of replicas that are counted in `total` alone."""

    def __repr__(self) -> str:
        return f"<Pile from {self.first}: {len(self.total)} cells, {len(self._told)} replicas>"

    def take(self, replica: str, cell: Cell, counts: Counts) -> bool:
        """Take over what a replica has counted, and say whether that is new."""
        if cell.epoch < self.first or replica in self._over:
            return False
        theirs = self._told.setdefault(replica, {})
        before = theirs.get(cell, _NONE)
        if not _is_later(counts, before):
            return False
        if cell not in self.total and not self._has_room(cell):
            return False
        theirs[cell] = counts
        self.total = {**self.total, cell: _grown(self.total.get(cell, _NONE), before, counts)}
        self._told[replica] = self._told.pop(replica)
        while len(self._told) > REPLICAS_MAX:
            self._note_over(next(iter(self._told)))
        return True

    def _has_room(self, cell: Cell) -> bool:
        epochs = sorted({each.epoch for each in self.total} | {cell.epoch})
        if len(epochs) > EPOCHS_MAX:
            self.forget(epochs[-EPOCHS_MAX])
        return cell.epoch >= self.first

    def _note_over(self, replica: str) -> None:
        del self._told[replica]
        self._over[replica] = None
        while len(self._over) > NAMES_MAX:
            del self._over[next(iter(self._over))]

    def forget(self, first: int) -> bool:
        """Drop what is of epochs before `first`, and say whether anything changed."""
        if first <= self.first:
            return False
        self.first = first
        self.total = {cell: each for cell, each in self.total.items() if cell.epoch >= first}
        for theirs in self._told.values():
            for cell in [each for each in theirs if each.epoch < first]:
                del theirs[cell]
        return True

    def to_json(self, model: str) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "model": model,
            "first": self.first,
            "marks": dict(self.marks),
            "total": _rows(self.total),
            "told": {replica: _rows(theirs) for replica, theirs in self._told.items()},
            "over": list(self._over),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Pile:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        made = cls()
        made.first, made.marks = document["first"], document["marks"]
        made.total = _cells(document["total"])
        made._told = {replica: _cells(rows) for replica, rows in document["told"].items()}
        made._over = dict.fromkeys(document["over"])
        return made


class Evidence:
    """The evidence of all models. From any thread.

    Parameters
    ----------
    folder : Path
        The control's private folder; `NotPrivate` if what is in it is not.
    now_s : callable
        A clock that is never set, in seconds.
    """

    def __init__(self, folder: Path, now_s: Callable[[], float] = time.monotonic) -> None:
        self._store = Store(folder)
        self._now_s = now_s
        self._lock = Lock()
        self._changed: set[str] = set()
        """Models that are not as they were written down."""
        self._saved_s: dict[str, float] = {}
        self._piles: dict[str, Pile] = {}
        for path, document in self._store.read():
            try:
                self._piles[document["model"]] = Pile.from_json(document)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.error("event=evidence_not_read file=%s reason=%r", path, str(error))

    def __repr__(self) -> str:
        return f"<Evidence: {self._piles}>"

    def take(self, replica: str, told: Iterable[Iterable[Any]]) -> None:
        """Take over what a replica tells: ``[model, epoch, version, arm, counts]`` of each of its pages."""
        for model, epoch, version, arm, document in told:
            try:
                counts = Counts.from_json(document)
            except (TypeError, ValueError) as error:
                log.error("event=evidence_not_understood replica=%s reason=%r", replica, str(error))
                continue
            with self._lock:
                if self._pile(model).take(replica, Cell(epoch, version, arm), counts):
                    self._changed.add(model)

    def _pile(self, model: str) -> Pile:
        return self._piles.setdefault(model, Pile())

    def of(self, model: str) -> Cells:
        """Return all that was counted of a model in its rollout."""
        with self._lock:
            pile = self._piles.get(model)
            return pile.total if pile is not None else {}

    def marks(self, model: str) -> Mapping[str, Any]:
        """Return what was remembered."""
        with self._lock:
            pile = self._piles.get(model)
            return pile.marks if pile is not None else {}

    def remember(self, model: str, marks: Mapping[str, Any]) -> None:
        """Keep what a judge has to know at its next look."""
        with self._lock:
            pile = self._pile(model)
            if pile.marks != marks:
                pile.marks = marks
                self._changed.add(model)

    def forget(self, model: str, first: int) -> None:
        """Keep nothing of a model but what is of its rollout's epochs."""
        with self._lock:
            if self._pile(model).forget(first):
                self._changed.add(model)

    def drop(self, model: str) -> None:
        """Keep nothing of a model."""
        with self._lock:
            self._changed.discard(model)
            if self._piles.pop(model, None) is not None:
                self._store.drop(model)

    def save(self, *, final: bool = False) -> None:
        """Write down what changed, unless that was done a moment ago and this is not the `final` time.

        Raises
        ------
        OSError
            If it cannot be written; it is tried again next time.
        """
        now_s = self._now_s()
        with self._lock:
            due = [each for each in self._changed if final or now_s >= self._saved_s.get(each, 0) + SAVE_S]
            documents = {model: self._piles[model].to_json(model) for model in due}
            self._changed -= set(due)
        for model, document in documents.items():
            try:
                self._store.write(model, document)
            except OSError:
                with self._lock:
                    self._changed |= documents.keys()
                raise
            self._saved_s[model] = now_s


_NONE = Counts()


def _is_later(counts: Counts, before: Counts) -> bool:
    """Say whether something was counted since; whatever is counted goes up."""
    return _extent(counts) > _extent(before)


def _extent(counts: Counts) -> int:
    # Events of callers are counted in here, too: each is also some plain count.
    extent: int = sum(getattr(counts, name) for name in PLAIN) + sum(counts.late)
    return extent + sum(sum(getattr(counts, name).values()) for name in MAPPED)


def _grown(total: Counts, before: Counts, after: Counts) -> Counts:
    """Return a sum in which one of what it is of has grown."""
    mapped: dict[str, Any] = {}
    for name in MAPPED:
        sums, old, new = (getattr(each, name) for each in (total, before, after))
        grown = {key: sums.get(key, 0) + count - old.get(key, 0) for key, count in new.items()}
        mapped[name] = {**sums, **grown}
    callers = dict(total.callers)
    for event, bitmap in after.callers.items():
        callers[event] = either(callers.get(event, b""), bitmap)
    return Counts(
        **{name: getattr(total, name) + getattr(after, name) - getattr(before, name) for name in PLAIN},
        late=tuple(  # type: ignore[arg-type]
            a + c - b for a, b, c in zip(total.late, before.late, after.late, strict=True)
        ),
        **mapped,
        callers=callers,
    )


def _rows(cells: Cells) -> list[list[Any]]:
    return [[*cell, counts.to_json()] for cell, counts in cells.items()]


def _cells(rows: Iterable[Iterable[Any]]) -> dict[Cell, Counts]:
    return {Cell(*of): Counts.from_json(document) for *of, document in rows}
