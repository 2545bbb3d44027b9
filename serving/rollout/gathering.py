"""How is what replicas tell of a candidate put into the terms that it is judged by?"""

from __future__ import annotations

from collections.abc import Sequence

from router.rollout import Rollout
from serving.evidence.counts import METRICS, OF_A_CLASS, Counts, key
from serving.labels.pairs import Pairs
from serving.rollout.arms import trial_of
from serving.rollout.evidence import Cells
from serving.rollout.facts import pairs_of
from serving.rollout.metric import Kind, metrics_of
from serving.shadow.comparison import ShadowReading


def durations_wanted(rollout: Rollout) -> bool:
    """Say whether a metric is about how long answers took, whatever the stable version's did."""
    return any(each.kind is Kind.DURATION for each in metrics_of(rollout.plan))


def pairs(reading: ShadowReading | None, stable: str) -> dict[str, tuple[int, int]]:
    """Return how a shadow compared with what it shadows; empty while there is none."""
    return {} if reading is None else pairs_of(reading, stable)


def paired(compared: Pairs) -> dict[str, tuple[int, int]]:
    """Return how often a shadow alone was wrong, and what it shadows alone, where there are labels."""
    return {str(Kind.PAIRED_WRONG): (compared.worse, compared.better)} if compared.all else {}


def totals(cells: Cells, version: str) -> dict[str, Sequence[int]]:
    """Return every event that a version has had since its rollout began, in any arm, and of how many."""
    whole = sum((counts for cell, counts in cells.items() if cell.version == version), Counts())
    found: dict[str, Sequence[int]] = {}
    for metric in METRICS:
        classes = sorted({*whole.fp, *whole.fn}) if metric in OF_A_CLASS else [""]
        for of in classes:
            found[key(metric, of)] = whole.times(metric, of), whole.times(trial_of(metric))
    return found
