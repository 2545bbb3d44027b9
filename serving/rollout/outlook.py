"""What would a plan do, and after how many requests does each of its analyses end, if all is well or not?

By the exact distributions of `kernels.passage`. How often the stable version errs is not known beforehand;
`base` assumes it. How often answers are late is: a half, a tenth and a hundredth, by what quantiles are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from kernels import passage
from kernels.confidence import log_e_rate
from kernels.evalue import bar
from router.plan import Analysis, Plan, SetMirror, SetWeight
from router.table import WHOLE_BP
from serving.rollout.budget import shared
from serving.rollout.metric import LABELLED, SHADOWED, Kind, Metric, metrics_of
from serving.rollout.units import step_words

BASE = 0.001
"""How often something goes wrong, if nobody says."""
WORSE = 2.0
"""How many times what is tolerated a candidate is whose finding is told."""
HALF = 0.5
"""Of rollouts, of which it is told how much they need."""
TRIALS_MAX = 10**9


@dataclass(frozen=True, slots=True)
class Arms:
    """What part of all requests the candidate gets, and what it is compared with."""

    weight: float
    rest: float


def outlook(plan: Plan, base: float = BASE) -> dict[str, Any]:
    """Return what a plan does, step by step, and what each analysis needs, as plain values."""
    metrics = metrics_of(plan)
    steps: list[dict[str, Any]] = []
    weight_bp = 0
    for step in plan.steps:
        needs: list[dict[str, Any]] = []
        match step:
            case SetWeight(bp):
                weight_bp = bp
            case SetMirror():
                weight_bp = 0
            case Analysis(_, named):
                needs = [
                    row if row["awaited"] else row | {"clears": None}
                    for each in metrics
                    for row in _needs(plan, each, weight_bp, base, each.name in named)
                ]
        steps.append({"step": step_words(step), "needs": needs})
    return {
        "name": plan.name,
        "model": plan.model,
        "candidate": plan.candidate,
        "abort": str(plan.abort),
        "alpha": plan.alpha,
        "beta": plan.beta,
        "base": base,
        "baseline": plan.baseline,
        "steps": steps,
    }


def _needs(
    plan: Plan, metric: Metric, weight_bp: int, base: float, awaited: bool
) -> Iterator[dict[str, Any]]:
    """Return a row of what a metric needs; of a latency one for each quantile."""
    if (
        metric.dry_run
        or metric.kind is Kind.DRIFT
        or not (awaited or metric.weighed)
        or (metric.kind in SHADOWED) == bool(weight_bp)
    ):
        return
    row = {
        "metric": metric.name,
        "awaited": awaited,
        "of": "pairs" if metric.kind in SHADOWED else "labels" if metric.kind in LABELLED else "requests",
        "base": base,
        "clears": None,
        "finds": None,
        "bad": None,
    }
    if metric.threshold is not None:
        yield row | {"of": "intervals", "clears": metric.threshold.count, "base": None}
        return
    alpha = _alpha(plan, metric)
    if metric.kind in SHADOWED:
        yield row | _paired(metric, base, alpha, plan.beta / 2)
        return
    weight = weight_bp / WHOLE_BP
    if metric.kind is not Kind.LATENCY:
        yield row | _canary(metric, Arms(weight, 1 - weight), base, alpha, plan.beta / 2)
        return
    rest_bp = plan.baseline_bp(weight_bp) or WHOLE_BP - weight_bp
    arms = Arms(weight, rest_bp / WHOLE_BP)
    for quantile in metric.quantiles:
        late = round(1 - quantile, 6)
        told = _canary(metric, arms, late, alpha, plan.beta / 2)
        yield row | {"metric": f"{metric.name} p{100 * quantile:g}"} | told


def _alpha(plan: Plan, metric: Metric) -> float:
    """Return what a metric's evidence has to reach alone, if the others have none."""
    metrics = metrics_of(plan)
    weights = [each.weight for each in metrics if each.weighed] or [metric.weight]
    return shared(plan.alpha, metrics, plan.watch_s).evidence * metric.weight / math.fsum(weights)


def _canary(metric: Metric, arms: Arms, base: float, alpha: float, beta: float) -> dict[str, Any]:
    ways = [_clearing(base, arms, metric.rule_out, beta)]
    if metric.acceptable is not None:
        enough = _good_enough(base, metric.acceptable, beta)
        ways.append(None if enough is None else math.ceil(enough / arms.weight))
    bad = min(1.0, WORSE * metric.tolerance * base)
    finds = _finding(base, bad, arms, alpha, metric.tolerance)
    clears = min((each for each in ways if each is not None), default=None)
    return {"base": base, "clears": clears, "finds": finds, "bad": bad}


def _paired(metric: Metric, base: float, alpha: float, beta: float) -> dict[str, Any]:
    if metric.kind is Kind.DISAGREEMENT:
        assert metric.acceptable is not None
        most = metric.acceptable
        base, bad = most / 2, min(1.0, WORSE * most)
        finds = _first(lambda n: log_e_rate(round(bad * n), n, most) >= bar(alpha))
        return {"base": base, "clears": _good_enough(base, most, beta), "finds": finds, "bad": bad}
    differing = 1.0 if metric.kind is Kind.SHADOW_LATENCY else min(1.0, 2 * base)
    worse = differing * _share(WORSE * metric.tolerance)
    found = passage.finding_paired(worse, differing - worse, alpha=alpha, tolerance=_share(metric.tolerance))
    cleared = passage.clearing_paired(differing, share=_share(metric.rule_out), alpha=beta)
    clears, finds = (each.requests(HALF) for each in (cleared, found))
    return {"base": differing / 2, "clears": clears, "finds": finds, "bad": worse}


def _share(ratio: float) -> float:
    """Return which share of pairs a ratio of their sides is."""
    return ratio / (1 + ratio)


@lru_cache(256)
def _clearing(base: float, arms: Arms, ratio: float, beta: float) -> int | None:
    return passage.clearing(base, arms.weight, rest=arms.rest, ratio=ratio, alpha=beta).requests(HALF)


@lru_cache(256)
def _finding(base: float, bad: float, arms: Arms, alpha: float, tolerance: float) -> int | None:
    found = passage.finding(base, bad, arms.weight, rest=arms.rest, alpha=alpha, tolerance=tolerance)
    return found.requests(HALF)


def _good_enough(base: float, acceptable: float, beta: float) -> int | None:
    """Return how many requests of the candidate show that its rate is below `acceptable`, if it is `base`."""
    if base >= acceptable:
        return None
    return _first(
        lambda n: round(base * n) < acceptable * n and log_e_rate(round(base * n), n, acceptable) >= bar(beta)
    )


def _first(enough: Callable[[int], bool]) -> int | None:
    """Return about the least number that is enough, where all greater ones are."""
    high = 1
    while not enough(high):
        high *= 2
        if high > TRIALS_MAX:
            return None
    low = high // 2
    while high - low > max(1, high // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
