"""What is normal for the stable version, so that the candidate can be compared with it?

Thresholds must be fixed before what they count: so they are measured once, of the stable version's latest
requests, and frozen in the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import Any, NamedTuple

import orjson

from router.rollout import Rollout
from serving.control.roster import Roster
from serving.evidence.terms import Terms
from serving.ledger import Durations

REQUESTS_MIN = 200
"""Requests that quantiles are measured of, p99 among them: below, it waits for more."""
SILENT_S = 3.0
AGAIN_S = 1.0
QUANTILES = (0.5, 0.9, 0.99)
CONFIDENCE_QUANTILE = 0.1


class Measuring:
    """Asks replicas how requests of a version were."""

    def __init__(self) -> None:
        self._asked_us: dict[str, int] = {}

    async def terms(self, rollout: Rollout, roster: Roster, now_us: int) -> Mapping[str, Any] | None:
        """Return what is to be frozen; None if there is nothing more to freeze, or not enough of it yet."""
        known, model = rollout.terms or {}, rollout.plan.model
        if not rollout.under_way or all(known.get(name) is not None for name in ("late_ns", "confidence")):
            return None
        if now_us - self._asked_us.get(model, 0) < AGAIN_S * 1e6:
            return None
        self._asked_us[model] = now_us
        measured = await _measure(model, rollout.stable, roster)
        found: dict[str, Any] = {"late_ns": None, "confidence": None}
        if known.get("late_ns") is None and sum(measured.durations.counts) >= REQUESTS_MIN:
            found["late_ns"] = [int(measured.durations.quantile_s(each) * 1e9) for each in QUANTILES]
        if known.get("confidence") is None and sum(measured.confidences) >= REQUESTS_MIN:
            found["confidence"] = quantile_of(measured.confidences, CONFIDENCE_QUANTILE)
        return found if any(value is not None for value in found.values()) else None

    async def durations(self, model: str, version: str, roster: Roster) -> Durations:
        """Return how long requests of a version took, from arrival to answer, since replicas loaded it."""
        return (await _measure(model, version, roster, ever=True)).durations


class Measured(NamedTuple):
    """How requests of a version were, over all replicas."""

    durations: Durations
    confidences: list[int]


async def _measure(model: str, version: str, roster: Roster, *, ever: bool = False) -> Measured:
    task, names = next(roster.tasks), list(roster.replicas)
    question = {"say": "measure", "task": task, "model": model, "version": version, "ever": ever}
    roster.send(orjson.dumps(question) + b"\n")
    await roster.answered(names, lambda each: task in each.tasks, SILENT_S)
    durations, confidences = Durations(), list[int]()
    for replica in roster.replicas.values():
        said: Mapping[str, Any] = replica.tasks.pop(task, {})
        if said:
            durations += Durations.from_json(said["durations"])
            counts = zip_longest(confidences, said["confidences"], fillvalue=0)
            confidences = [one + more for one, more in counts]
    return Measured(durations, confidences)


def quantile_of(counts: list[int], q: float) -> float:
    """Return the lower edge of the bin of [0, 1] in which a quantile lies; bins are of equal width."""
    rank, below = q * sum(counts), 0
    for at, count in enumerate(counts):
        below += count
        if below >= rank:
            return at / len(counts)
    return 0.0


def terms_message(rollout: Rollout, *, on: bool = True) -> bytes:
    """Write what replicas are told to count for a rollout; nothing if it is not `on`."""
    frozen = rollout.terms or {}
    late_ns = frozen.get("late_ns")
    terms = Terms(
        rollout.plan.model,
        frozenset({rollout.stable, rollout.plan.candidate} if on else ()),
        None if late_ns is None else tuple(late_ns),
        frozen.get("confidence"),
    )
    return orjson.dumps({"say": "terms", **terms.to_json()}) + b"\n"
