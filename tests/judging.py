"""A rollout of version 9 beside 7, and what is counted of it, as the tests of its judge need them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from router.plan import Analysis, Plan, Promote, SetMirror, SetWeight, Step
from router.rollout import Phase, Rollout, Verdict, begin, weighted
from router.table import everything_to
from serving.evidence.counts import Counts
from serving.evidence.page import BASELINE, SPLIT
from serving.rollout.arms import Draw
from serving.rollout.evidence import Cell
from serving.rollout.facts import Extras
from serving.rollout.judge import judge
from serving.rollout.metric import Kind, Metric

CANDIDATE, STABLE, FIRST = "9", "7", 3
BEGAN_US = 1_000_000_000
TERMS = {"late_ns": [5_000_000, 8_000_000, 12_000_000], "confidence": 0.3}
FAILURE = Metric("failure", Kind.REQUEST_FAILURE, critical=True)
WRONG = Metric("wrong", Kind.WRONG, critical=True)
POSITIVE = Metric("false-positive-one", Kind.FALSE_POSITIVE, of="one")
LATENCY = Metric(
    "latency", Kind.LATENCY, tolerance=1.25, rule_out=2.5, critical=True, quantiles=(0.5, 0.9, 0.99)
)
DISAGREEMENT = Metric("disagreement", Kind.DISAGREEMENT, acceptable=0.02, critical=True)


def plan_of(
    *metrics: Metric, weights_bp: Sequence[int] = (1000,), mirror_bp: int = 0, watch_s: float = 0, **rest: Any
) -> Plan:
    """Return a plan: a mirror if there is one, weights, an analysis by all that is critical, and promotion."""
    steps: list[Step] = [SetMirror(mirror_bp)] if mirror_bp else []
    steps += [*(SetWeight(each) for each in weights_bp), Analysis(600), Promote()]
    documents = tuple(each.document() for each in metrics)
    return Plan(
        "fraud",
        "fraud",
        CANDIDATE,
        tuple(steps),
        metrics=documents,
        watch_s=watch_s,
        **{"beta": 0.05, **rest},
    )


def rollout_of(plan: Plan, terms: Mapping[str, Any] | None = TERMS) -> Rollout:
    """Return a rollout in its analysis."""
    began = begin(plan, everything_to(STABLE), FIRST, BEGAN_US, terms)
    return replace(began, step=len(plan.steps) - 2)


def promoted(rollout: Rollout, now_us: int) -> Rollout:
    """Return it with all of the traffic."""
    return replace(rollout, phase=Phase.HEALTHY, step=len(rollout.plan.steps), since_us=now_us)


def draws_of(rollout: Rollout) -> dict[int, Draw]:
    """Return how each of its weights deals requests; one epoch each, from `FIRST` on."""
    found = {}
    for epoch, step in enumerate((s for s in rollout.plan.steps if isinstance(s, SetWeight)), FIRST):
        draw = Draw.of(weighted(rollout, step.weight_bp), CANDIDATE, STABLE)
        assert draw is not None
        found[epoch] = draw
    return found


def cells_of(*epochs: tuple[Counts, Counts] | tuple[Counts, Counts, Counts]) -> dict[Cell, Counts]:
    """Return the evidence of these epochs: of the candidate, of the stable version, of the baseline arm."""
    cells = {}
    for epoch, (candidate, stable, *arm) in enumerate(epochs, FIRST):
        cells[Cell(epoch, CANDIDATE, SPLIT)] = candidate
        cells[Cell(epoch, STABLE, SPLIT)] = stable
        for each in arm:
            cells[Cell(epoch, STABLE, BASELINE)] = each
    return cells


def judged(
    rollout: Rollout, cells: Mapping[Cell, Counts], extras: Extras | None = None, s: float = 60.0
) -> Verdict:
    """Judge it so many seconds after it began."""
    now_us = BEGAN_US + int(s * 1e6)
    return judge(rollout, cells, draws_of(rollout), extras or Extras(), now_us)


def written(verdict: Verdict) -> dict[str, Any]:
    """Return the document of a verdict as it comes out of the journal."""
    document: dict[str, Any] = json.loads(json.dumps(verdict.document, sort_keys=True, allow_nan=False))
    return document


def found(verdict: Verdict, metric: str) -> Mapping[str, Any]:
    """Return what a metric came to."""
    return next(each for each in verdict.document["found"]["metrics"] if each["name"] == metric)
