"""What becomes of evidence where a caller always gets the same version, and counts more than once?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.callers import Callers, first_events
from kernels.evalue import Events, bar, log_e
from loadtests.rolloutbench.walks import ALPHA, Booleans, Integers

PLACES = 10_000
"""Among which callers are dealt, as by the router's table."""
GROWING = (0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
"""The weights of a rollout, one after the other."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The bad events of one weight: the place of each caller in the order in which events came."""

    places: Integers
    weight: float


Counting = Callable[[Sequence[Seen]], Sequence[Events]]


def each_event(seen: Sequence[Seen]) -> list[Events]:
    """Count every event, as if each had been drawn."""
    return [_counted(epoch.places, epoch.weight) for epoch in seen]


def once_a_weight(seen: Sequence[Seen]) -> list[Events]:
    """Count a caller once at each weight."""
    return [_counted(np.unique(epoch.places), epoch.weight) for epoch in seen]


def once(seen: Sequence[Seen]) -> tuple[Events, ...]:
    """Count a caller once, as `kernels.callers` does."""
    bits = []
    for epoch in seen:
        canary = _marked(epoch.places, epoch.places < epoch.weight * PLACES)
        baseline = _marked(epoch.places, epoch.places >= epoch.weight * PLACES)
        bits.append(Callers(canary, baseline, epoch.weight))
    return first_events(bits)


def _counted(places: Integers, weight: float) -> Events:
    ours = int((places < weight * PLACES).sum())
    return Events(ours, len(places) - ours, weight)


def _marked(places: Integers, which: Booleans) -> bytes:
    marks = np.zeros(PLACES, np.bool_)
    marks[places[which]] = True
    return np.packbits(marks, bitorder="little").tobytes()


def alarmed(
    rng: np.random.Generator, *, counting: Counting, notorious: int, events: int, runs: int, looks: int = 2
) -> Booleans:
    """Return which rollouts of good canaries alarm, at any of so many looks at each weight.

    Of the `events` of each weight half are of `notorious` callers, who are dealt at random and send what
    no version answers; the others are anybody's.
    """
    found = np.zeros(runs, np.bool_)
    for run in range(runs):
        known = rng.choice(PLACES, notorious, replace=False)
        past: list[Seen] = []
        for weight in GROWING:
            theirs = rng.choice(known, events)
            places = np.where(rng.random(events) < 0.5, theirs, rng.integers(PLACES, size=events))
            for look in range(1, looks + 1):
                now = Seen(places[: events * look // looks], weight)
                found[run] |= log_e(counting([*past, now])) >= bar(ALPHA)
            past.append(Seen(places, weight))
    return found
