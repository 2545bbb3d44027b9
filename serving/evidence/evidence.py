"""Whose answers are counted in this process, and on which pages? On the engine's event loop."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import sub
from typing import TYPE_CHECKING

from serving.evidence.book import Book
from serving.evidence.intake import Intake
from serving.evidence.page import Page
from serving.evidence.spread import Spread
from serving.evidence.terms import Terms
from serving.ledger import Durations, Ledger
from serving.model import ModelSpec
from serving.track import Tap

if TYPE_CHECKING:
    from serving.lane import Lane
    from serving.servable import Servable

SWEEP_NS = 200_000_000
"""How long a batch is held at most."""
MARK_NS = 30_000_000_000
"""How often it is noted how a version's latencies are spread."""
MARKS_MAX = 10
"""How many such notes are kept: what is measured are the last five minutes."""
MEASURED_MIN = 1000
"""Requests below which all since the version was loaded are measured instead."""

log = logging.getLogger("turnout.evidence")

Named = tuple[str, str]
"""Model and version."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How a version's requests were of late.

    Attributes
    ----------
    durations : Durations
        From arrival to answer.
    confidences : list of int
        As `Spread.to_json` has it: top scores since the model has terms without a confidence.
    """

    durations: Durations = field(default_factory=Durations)
    confidences: list[int] = field(default_factory=list)


class Seat:
    """A version whose answers are counted."""

    __slots__ = ("_lanes", "intake", "ledger", "marks", "spec", "spread", "terms")

    def __init__(self, servable: Servable, terms: Terms) -> None:
        self.spec: ModelSpec = servable.spec
        self.terms = terms
        self.ledger: Ledger = servable.ledger
        self.spread = Spread()
        self.intake = Intake(servable.spec, terms, self.spread)
        self.marks: deque[Durations] = deque([_durations(self.ledger)], MARKS_MAX)
        self._lanes: list[weakref.ref[Lane]] = []  # Not kept, for with them goes the version's memory.
        self.follow(servable)

    def follow(self, servable: Servable) -> None:
        """Note which lanes there are."""
        self._lanes = [weakref.ref(lane) for lane in servable.lanes]

    def resume(self, before: Seat) -> None:
        """Go on with what another seat of the same version measured."""
        self.marks = before.marks
        self.spread = before.spread
        self.intake = Intake(self.spec, self.terms, self.spread)

    @property
    def idle(self) -> bool:
        """Whether there is nothing more to come."""
        return not any(lane is not None and len(lane) for lane in (ref() for ref in self._lanes))


class Evidence:
    """What is counted of the requests that the router drew.

    Parameters
    ----------
    changed : callable
        Told when other pages and taps are wanted than before.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        self.book = Book()
        self._changed = changed
        self._terms: dict[str, Terms] = {}
        self._servables: Mapping[str, Mapping[str, Servable]] = {}
        self._seats: dict[Named, Seat] = {}
        self._leaving: list[Seat] = []
        self._swept_ns = 0
        self._marked_ns = 0

    def __repr__(self) -> str:
        return f"<Evidence: terms of {len(self._terms)} models, {len(self._seats)} versions, {self.book!r}>"

    def agree(self, terms: Iterable[Terms]) -> None:
        """Count by these terms from now on, and nothing of models that have none."""
        wanted = {each.model: each for each in terms if each.versions}
        if wanted != self._terms:
            self._terms = wanted
            self._changed()

    def page(self, model: str, epoch: int, version: str, arm: str) -> Page | None:
        """Return the page of an arm; None if its model has no terms."""
        return self.book.page(model, epoch, version, arm) if model in self._terms else None

    def follow(self, servables: Mapping[str, Mapping[str, Servable]]) -> None:
        """Count the answers of these versions, as far as there are terms."""
        self._servables = servables
        wanted = {
            (model, version): servables[model][version]
            for model, terms in self._terms.items()
            for version in terms.versions
            if version in servables.get(model, {})
        }
        for named, seat in list(self._seats.items()):
            servable = wanted.get(named)
            if servable is not None and servable.spec is seat.spec and self._terms[named[0]] == seat.terms:
                seat.follow(servable)
            else:
                # What its lanes still have to answer is counted, too.
                self._leaving.append(self._seats.pop(named))
                seat.intake.flush()
        for named, servable in wanted.items():
            if named not in self._seats:
                self._seats[named] = self._seat(named, servable)

    def _seat(self, named: Named, servable: Servable) -> Seat:
        seat = Seat(servable, self._terms[named[0]])
        for before in self._leaving:
            if before.ledger is seat.ledger and before.spec.artifact.digest == seat.spec.artifact.digest:
                seat.resume(before)
        return seat

    def taps(self, model: str, version: str) -> list[Tap]:
        """Return what the lanes of a version are to show their batches to."""
        seat = self._seats.get((model, version))
        return [seat.intake.tap] if seat is not None else []

    def flush(self) -> None:
        """Count what is held."""
        for seat in (*self._seats.values(), *self._leaving):
            seat.intake.flush()

    def sweep(self, now_ns: int) -> None:
        """Count what is held for long enough."""
        if now_ns - self._swept_ns < SWEEP_NS:
            return
        self._swept_ns = now_ns
        self.flush()
        self._leaving = [seat for seat in self._leaving if not seat.idle]
        if now_ns - self._marked_ns >= MARK_NS:
            self._marked_ns = now_ns
            for seat in self._seats.values():
                seat.marks.append(_durations(seat.ledger))

    def measure(self, model: str, version: str, *, ever: bool = False) -> Measure:
        """Return how a version's requests were in the last minutes; if they were few, since it was loaded.

        Parameters
        ----------
        ever : bool
            Since it was loaded in any case.

        Raises
        ------
        LookupError
            If it is not loaded.
        """
        servable = self._servables.get(model, {}).get(version)
        if servable is None:
            raise LookupError(f"version {version} of model {model!r} is not loaded here")
        seat = self._seats.get((model, version))
        durations = _durations(servable.ledger)
        if seat is None:
            return Measure(durations)
        seat.intake.flush()
        lately = _less(durations, seat.marks[0])
        enough = not ever and sum(lately.counts) >= MEASURED_MIN
        return Measure(lately if enough else durations, seat.spread.to_json())


def _durations(ledger: Ledger) -> Durations:
    return ledger.snapshot().request


def _less(now: Durations, before: Durations) -> Durations:
    counts = tuple(map(sub, now.counts, before.counts))
    return Durations(now.total_ns - before.total_ns, counts)
