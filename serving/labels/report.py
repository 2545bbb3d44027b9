"""How good are the versions of a model, as people are shown it? With intervals that hold whenever one looks.

Of what has no label nothing is said: every rate is of labelled answers, and the coverage says how many these
are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from kernels.confidence import rate_interval
from kernels.evalue import log_e_paired
from kernels.histogram import BINS as DELAY_BINS
from kernels.histogram import quantile_s
from serving.labels.pairs import Between, Pairs
from serving.labels.quality import MILLION, OTHER, Quality
from serving.labels.reading import VersionLabels

QUANTILES = (0.5, 0.9, 0.99)
OTHER_NAME = "(other)"
LN10 = math.log(10)
LOG_MAX = 700.0


class Rate(TypedDict):
    """A part of all, and between what it lies; null where there is nothing that it could be of."""

    count: int
    of: int
    rate: float | None
    low: float
    high: float


class ClassSaid(TypedDict):
    """How one class is told from the rest."""

    index: int
    name: str
    labels: int
    answers: int
    false_positive: Rate
    false_negative: Rate


class VersionSaid(TypedDict):
    """What labels say of a version in one role."""

    version: str
    role: str
    answered: int
    unnamed: int
    lost: int
    why_not: str
    labelled: int
    coverage: Rate
    accuracy: Rate | None
    classes: list[ClassSaid]
    calibration: dict[str, Any] | None
    scores: dict[str, Any] | None
    delay_s: dict[str, float] | None
    loss: dict[str, Any] | None


class ReportSaid(TypedDict):
    """Everything about the quality of a model."""

    model: str
    at: str
    enabled: bool
    alpha: float
    versions: list[VersionSaid]
    pairs: list[dict[str, Any]]
    events: list[dict[str, Any]]


def rate(count: int, of: int, alpha: float) -> Rate:
    """Return a part and its interval."""
    low, high = rate_interval(count, of, alpha=alpha)
    return Rate(count=count, of=of, rate=count / of if of else None, low=low, high=high)


def version_said(
    version: str,
    role: str,
    known: VersionLabels,
    names: Sequence[str],
    loss: Mapping[str, Any] | None,
    alpha: float,
) -> VersionSaid:
    """Return what is known of a version; `names` are those of its classes."""
    seen, quality = known.seen, known.quality
    # A replica that was lost took along what it had not told yet of answers, but not of labels.
    answered = max(seen.answered, quality.labelled)
    return VersionSaid(
        version=version,
        role=role,
        answered=answered,
        unnamed=seen.unnamed,
        lost=seen.lost,
        why_not=seen.why_not,
        labelled=quality.labelled,
        coverage=rate(quality.labelled, answered, alpha),
        accuracy=rate(quality.right, quality.classed, alpha) if quality.classed else None,
        classes=_classes(quality, names, alpha),
        calibration=_calibration(quality),
        scores=_scores(quality),
        delay_s=_delays(quality),
        loss=dict(loss) if loss is not None else None,
    )


def _classes(quality: Quality, names: Sequence[str], alpha: float) -> list[ClassSaid]:
    said: dict[int, int] = {}
    answered: dict[int, int] = {}
    for (truth, answer), count in quality.cells.items():
        said[truth] = said.get(truth, 0) + count
        answered[answer] = answered.get(answer, 0) + count
    found = []
    for class_ in sorted((said.keys() | answered.keys()) - {OTHER}):
        both = quality.cells.get((class_, class_), 0)
        labels, answers = said.get(class_, 0), answered.get(class_, 0)
        found.append(
            ClassSaid(
                index=class_,
                name=class_name(class_, names),
                labels=labels,
                answers=answers,
                false_positive=rate(answers - both, quality.classed - labels, alpha),
                false_negative=rate(labels - both, labels, alpha),
            )
        )
    return found


def class_name(class_: int, names: Sequence[str]) -> str:
    """Return what a class is called."""
    if class_ == OTHER:
        return OTHER_NAME
    return names[class_] if class_ < len(names) and names[class_] else str(class_)


def _calibration(quality: Quality) -> dict[str, Any] | None:
    """Return how far being sure and being right are apart; None where nothing said how sure it was."""
    labels = sum(each.labels for each in quality.bins.values())
    if not labels:
        return None
    apart = sum(abs(each.sure / MILLION - each.right) for each in quality.bins.values())
    bins = [
        {
            "labels": each.labels,
            "confidence": each.sure / MILLION / each.labels,
            "right": each.right / each.labels,
        }
        for _, each in sorted(quality.bins.items())
    ]
    return {
        "labels": labels,
        "ece": apart / labels,
        "brier": quality.squared / MILLION / labels,
        "bins": bins,
    }


def _scores(quality: Quality) -> dict[str, Any] | None:
    if not quality.scored and not quality.unreal:
        return None
    count = quality.scored
    return {
        "labels": count,
        "no_number": quality.unreal,
        "absolute": quality.absolute / count if count else None,
        "root_square": math.sqrt(quality.square / count) if count else None,
    }


def _delays(quality: Quality) -> dict[str, float] | None:
    if not quality.delays:
        return None
    counts = np.zeros(DELAY_BINS, np.int64)
    for at, count in quality.delays.items():
        counts[at] = count
    # Its bins are of nanoseconds, and ours of microseconds.
    return {f"p{round(100 * q)}": quantile_s(counts, q) * 1e3 for q in QUANTILES}


def pairs_said(pairs: Mapping[Between, Pairs], version: str, alpha: float) -> list[dict[str, Any]]:
    """Return how shadows did beside what answered, the latest route first; perhaps of one version alone."""
    found = []
    for between, each in sorted(pairs.items(), key=lambda item: -item[0].epoch):
        if version not in ("", between.primary, between.shadow):
            continue
        apart = each.better + each.worse
        found.append(
            {
                "epoch": between.epoch,
                "primary": between.primary,
                "shadow": between.shadow,
                "labels": each.all,
                "both_right": each.right,
                "both_wrong": each.wrong,
                "only_primary_wrong": each.better,
                "only_shadow_wrong": each.worse,
                "shadow_worse": rate(each.worse, apart, alpha),
                "evidence_worse": _log10(log_e_paired(each.worse, each.better)),
                "evidence_better": _log10(log_e_paired(each.better, each.worse)),
            }
        )
    return found


def _log10(log_e: float) -> float:
    return max(log_e, -LOG_MAX) / LN10
