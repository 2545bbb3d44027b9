"""Which events fell on a candidate and which beside it, and how were they dealt? One row for each epoch.

Requests that were drawn at random fall on the candidate with the probability of its weight. Where a caller's
key decides, the caller was dealt, once: of all that happens to callers in one slot only the first event
counts, over all epochs. So of the slots that had none before, the candidate's share is counted out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from router.change import Refused
from router.history import History
from router.rollout import Rollout
from router.table import Route
from serving.evidence.counts import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    LABELLED,
    LATENCIES,
    LOW_CONFIDENCE,
    REQUEST,
    WRONG,
    Counts,
    key,
)
from serving.evidence.page import BASELINE, SPLIT
from serving.rollout.evidence import Cell, Cells

LABELS = frozenset({WRONG, FALSE_POSITIVE, FALSE_NEGATIVE})
"""Events of requests that have a label."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Which slots of a route fell to whom, in an epoch."""

    candidate: range
    stable: range
    baseline: range
    """Those of the stable version's that were answered apart; none without such an arm."""

    @classmethod
    def of(cls, route: Route, candidate: str, stable: str) -> Draw | None:
        """Return how a route deals requests; None if it deals none to either of the two."""
        slots = {
            share.version: range(end - share.weight_bp, end)
            for share, end in zip(route.shares, route.ends_bp, strict=True)
        }
        theirs = slots.get(candidate, range(0)), slots.get(stable, range(0))
        if route.pinned or not (theirs[0] and theirs[1]):
            return None
        return cls(*theirs, route.baseline_slots if route.primary == stable else range(0))


def draws(history: History, rollout: Rollout, cells: Iterable[Cell]) -> dict[int, Draw]:
    """Return how each epoch of which there is evidence dealt its requests."""
    found = {}
    for epoch in sorted({cell.epoch for cell in cells if cell.epoch >= rollout.first}):
        try:
            route = history.at(epoch).routes.get(rollout.plan.model)
        except Refused:  # Told by replicas of a journal that has been lost since.
            continue
        draw = None if route is None else Draw.of(route, rollout.plan.candidate, rollout.stable)
        if draw is not None:
            found[epoch] = draw
    return found


class Row(NamedTuple):
    """Events of an epoch, and of how many.

    `weight` is the candidate's share of what was dealt to either. The counts are of events and of what had
    one or not: requests, or those with a label.
    """

    epoch: int
    weight: float
    candidate: int
    stable: int
    candidate_of: int
    stable_of: int


class Sum(NamedTuple):
    """Events of one side over all epochs, and of how many."""

    events: int
    trials: int


class Side(NamedTuple):
    """The counts of one side in one epoch, of each arm that belongs to it."""

    slots: int
    """The bitmap of those that it was dealt, as an integer."""
    arms: tuple[Counts, ...]

    def drawn(self, metric: str, of: str) -> int:
        """Count requests with an event that were drawn at random."""
        count = 0
        for arm in self.arms:
            count += arm.times(metric, of)
            if arm.held:
                count -= arm.held.get(key(metric, of), 0)
        return count

    def callers(self, metric: str, of: str) -> int:
        """Return the bitmap of the callers who had one, as an integer."""
        callers = 0
        for arm in self.arms:
            callers |= int.from_bytes(arm.callers_of(metric, of), "little")
        return callers

    def trials(self, metric: str) -> int:
        """Count requests that were drawn at random and might have had an event."""
        name = "timed" if metric in LATENCIES else "scored" if metric == LOW_CONFIDENCE else ""
        if not name or any([arm.held for arm in self.arms]):
            return self.drawn(trial_of(metric), "")
        return sum([getattr(arm, name) for arm in self.arms])


class Epoch(NamedTuple):
    """Both sides in one epoch."""

    number: int
    weight: float
    candidate: Side
    stable: Side
    sticky: bool
    """Whether there were callers whose keys decided."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One event, on both sides."""

    rows: tuple[Row, ...]
    candidate: Sum
    """A caller who was there in several epochs is one."""
    stable: Sum


def epochs_of(
    cells: Cells, draws: Mapping[int, Draw], candidate: str, stable: str, *, apart: bool
) -> tuple[Epoch, ...]:
    """Return the two sides of each epoch, oldest first.

    Parameters
    ----------
    apart : bool
        Whether the candidate is compared with the baseline arm alone, in epochs in which there is one.
    """
    found = []
    for number, draw in sorted(draws.items()):
        split, arm = (cells.get(Cell(number, stable, each), _NONE) for each in (SPLIT, BASELINE))
        beside, slots = ([split, arm], draw.stable)
        if apart and draw.baseline:
            beside, slots = ([arm], draw.baseline)
        weight = len(draw.candidate) / (len(draw.candidate) + len(slots))
        ours = Side(_bits(draw.candidate), (cells.get(Cell(number, candidate, SPLIT), _NONE),))
        theirs = Side(_bits(slots), tuple(beside))
        sticky = any(arm.callers for arm in (*ours.arms, *theirs.arms))
        found.append(Epoch(number, weight, ours, theirs, sticky))
    return tuple(found)


_NONE = Counts()


def _bits(slots: range) -> int:
    return ((1 << len(slots)) - 1) << slots.start


def trial_of(metric: str) -> str:
    """Return what had the event or not: a request, or one with a label."""
    return LABELLED if metric in LABELS else REQUEST


def compare(epochs: Iterable[Epoch], metric: str, of: str = "") -> Compared:
    """Return an event's rows and sums over these epochs."""
    epochs = tuple(epochs)
    rows = []
    for epoch, mine, theirs in ((each, each.candidate, each.stable) for each in epochs):
        counts = mine.drawn(metric, of), theirs.drawn(metric, of), mine.trials(metric), theirs.trials(metric)
        if any(counts):
            rows.append(Row(epoch.number, epoch.weight, *counts))
    sums = [
        Sum(sum(row.candidate for row in rows), sum(row.candidate_of for row in rows)),
        Sum(sum(row.stable for row in rows), sum(row.stable_of for row in rows)),
    ]
    if any([each.sticky for each in epochs]):
        dealt, more = _callers(epochs, metric, of)
        rows += dealt
        sums = [Sum(a.events + b.events, a.trials + b.trials) for a, b in zip(sums, more, strict=True)]
    # Of counts that were made up there may be more than there can be.
    whole = [Sum(each.events, max(each)) for each in sums]
    return Compared(tuple(rows), whole[0], whole[1])


def _callers(epochs: Iterable[Epoch], metric: str, of: str) -> tuple[list[Row], list[Sum]]:
    """Return the same of callers whose keys decided; see `kernels.callers`."""
    rows, seen = [], 0
    ever = [[0, 0], [0, 0]]
    for epoch in epochs:
        sides = epoch.candidate, epoch.stable
        events = [side.callers(metric, of) for side in sides]
        trials = [side.callers(trial_of(metric), "") for side in sides]
        # Who had events on both sides, because the route was changing, counts for neither.
        fresh = (events[0] ^ events[1]) & ~seen
        left = [(side.slots & ~seen).bit_count() for side in sides]
        counts = [(each & fresh).bit_count() for each in events] + [each.bit_count() for each in trials]
        slots = left[0] + left[1]
        if slots and any(counts):
            rows.append(Row(epoch.number, left[0] / slots, *counts))
        seen |= events[0] | events[1]
        for both, event, trial in zip(ever, events, trials, strict=True):
            both[0] |= event
            both[1] |= trial
    return rows, [Sum(event.bit_count(), trial.bit_count()) for event, trial in ever]


def requests(epochs: Iterable[Epoch], metric: str, of: str = "") -> tuple[Sum, Sum]:
    """Return how many requests had an event, on either side and whoever their callers were."""
    sums = []
    for sides in zip(*((each.candidate, each.stable) for each in epochs), strict=True):
        arms = [arm for side in sides for arm in side.arms]
        events = sum(arm.times(metric, of) for arm in arms)
        trials = sum(arm.times(trial_of(metric)) for arm in arms)
        sums.append(Sum(events, max(events, trials)))
    return (sums[0], sums[1]) if sums else (Sum(0, 0), Sum(0, 0))
