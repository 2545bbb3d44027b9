"""How is the rate of false rollbacks that a rollout may have shared among the ways to find one?

One number bounds all of it, however many metrics there are and however often one looks. Whatever is
looked at beside the evidence of the arms takes half of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from serving.rollout.metric import COUNTED, Metric


@dataclass(frozen=True, slots=True)
class Budget:
    """Probabilities of a false rollback; they add up to `alpha`, and one that is not needed is 0."""

    evidence: float
    """By what fell on the candidate while the router drew."""
    thresholds: float
    """By intervals that are beyond fixed numbers."""
    watch: float
    """After the promotion, when nothing is drawn any more."""

    def level(self, metrics: Sequence[Metric], metric: Metric) -> float:
        """Return the part of `thresholds` that a metric has; one of a dry run, which takes none, all."""
        counted = [each.weight for each in metrics if each.threshold is not None and not each.dry_run]
        if metric.dry_run or not counted:
            return self.thresholds or self.evidence
        return self.thresholds * metric.weight / math.fsum(counted)


def is_watched(metric: Metric) -> bool:
    """Say whether a metric's rate is compared with the stable version's after the promotion.

    Latency is not: all of the traffic makes other batches than a part of it. Thresholds may be set for that.
    """
    return metric.weighed and metric.kind in COUNTED


def shared(alpha: float, metrics: Sequence[Metric], watch_s: float) -> Budget:
    """Share `alpha` among what these metrics need."""
    thresholds = any(each.threshold is not None and not each.dry_run for each in metrics)
    watch = watch_s > 0 and any(is_watched(each) for each in metrics)
    more = thresholds + watch
    if not more:
        return Budget(alpha, 0.0, 0.0)
    part = alpha / 2 / more
    return Budget(alpha / 2, part * thresholds, part * watch)
