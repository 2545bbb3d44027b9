"""Which bad events count where a caller always gets the same version? The first of each, over all weights.

With sticky routing it is the caller that is dealt, once, and not the request: all that happens to the
same caller is one draw. Growing the canary does not deal it anew, either, so an event at 25 % of a caller
that had one at 10 % says nothing new.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kernels.evalue import Events


class Callers(NamedTuple):
    """Callers with at least one bad event while weights were one and the same, as bits of equal places."""

    canary: bytes
    baseline: bytes
    weight: float


def first_events(epochs: Iterable[Callers]) -> tuple[Events, ...]:
    """Count every caller in the first epoch in which it had an event; oldest epoch first.

    One that had events on both sides in the same epoch, because the route was changing, counts for neither.
    """
    seen = 0
    found = []
    for epoch in epochs:
        canary, baseline = (int.from_bytes(each, "little") for each in (epoch.canary, epoch.baseline))
        fresh = (canary ^ baseline) & ~seen
        found.append(Events((canary & fresh).bit_count(), (baseline & fresh).bit_count(), epoch.weight))
        seen |= canary | baseline
    return tuple(found)
