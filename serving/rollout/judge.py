"""Is a candidate good, bad, or not yet known? A function of what is known at a moment, and of nothing else.

Failed is evidence that it is worse, and wrong with the probability `Plan.alpha` in the whole rollout.
Successful is evidence that it is not, and wrong with the probability `Plan.beta`. Inconclusive and Error are
neither, and take no traffic from anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from kernels.evalue import bar
from router.rollout import Rollout, Verdict, Word
from serving.rollout import wording
from serving.rollout.arms import Draw
from serving.rollout.budget import is_watched
from serving.rollout.evidence import Cells
from serving.rollout.facts import SILENT_S_MAX, Extras, Facts, gather
from serving.rollout.metric import LABELLED, Kind
from serving.rollout.weighing import Weighed, Weights, good_bar, log10, weigh

TERMS_S_MAX = 900.0
"""How long it may take until it is known what is normal for the stable version."""
NO_DRIFT, DRIFT = "no drift", "drift"
"""Words of `serving.drift.report`."""


class Decision(NamedTuple):
    """What facts come to, in a word, in a sentence and in numbers."""

    word: Word
    message: str
    weights: Weights


def judge(rollout: Rollout, cells: Cells, draws: Mapping[int, Draw], extras: Extras, now_us: int) -> Verdict:
    """Judge the candidate of a rollout that is watched.

    Parameters
    ----------
    cells : mapping of Cell to Counts
        What replicas counted: `serving.rollout.evidence.Evidence.of`.
    draws : mapping of int to Draw
        How each epoch dealt its requests: `serving.rollout.arms.draws`.
    extras : Extras
    now_us : int
        The time, in microseconds of Unix time.

    Returns
    -------
    Verdict
        Its document is all that it was judged by, from which `serving.rollout.recompute` judges again.
    """
    facts = gather(rollout, cells, draws, extras, now_us)
    decision = decide(facts)
    found = {"word": str(decision.word), "message": decision.message, "found": shown(facts, decision)}
    return Verdict(decision.word, decision.message, {**facts, **found})


def decide(facts: Facts) -> Decision:
    """Return what facts come to."""
    weights = weigh(facts)
    ruling = (
        _failed(facts, weights)
        or _error(facts, weights)
        or _inconclusive(facts, weights)
        or _good(facts, weights)
    )
    return Decision(*ruling, weights)


Ruling = tuple[Word, str]


def _failed(facts: Facts, weights: Weights) -> Ruling | None:
    counted = [each for each in weights.metrics if each.metric.weighed]
    against, after = weights.bars
    if counted and weights.against >= against:
        worst = max(counted, key=lambda each: each.against)
        words = wording.failed(facts, worst, mean=weights.against, bar=against, many=len(counted))
        return Word.FAILED, words
    if counted and weights.after >= after:
        worst = max((each for each in counted if is_watched(each.metric)), key=lambda each: each.after)
        return Word.FAILED, wording.watched(facts, worst, mean=weights.after, bar=after)
    for each in _real(weights):
        threshold = each.metric.threshold
        if threshold is not None and each.tally.bad > threshold.failure_limit:
            what = "were beyond its thresholds"
            words = wording.interval(facts, each, what, each.tally.bad, threshold.failure_limit)
            return Word.FAILED, words
        if each.metric.kind is Kind.DRIFT and drifts(facts, "candidate") and not drifts(facts, "stable"):
            return Word.FAILED, f"{each.metric.name}: version {facts['candidate']} drifts from its profile"
    return None


def _real(weights: Weights) -> Iterable[Weighed]:
    return (each for each in weights.metrics if not each.metric.dry_run)


def drifts(facts: Facts, side: str) -> bool:
    """Say whether one side is said to drift."""
    return bool(facts["drift"].get(side, {}).get("word") == DRIFT)


def _error(facts: Facts, weights: Weights) -> Ruling | None:
    heard_us = facts["heard_us"]
    if heard_us is not None and facts["at_us"] - heard_us > SILENT_S_MAX * 1e6:
        silent_s = (facts["at_us"] - heard_us) / 1e6
        return Word.ERROR, f"no replica has been there for {silent_s:.0f} s to tell what it counts"
    long = facts["at_us"] - facts["began_us"] > TERMS_S_MAX * 1e6
    for each in _real(weights):
        metric, threshold = each.metric, each.metric.threshold
        if threshold is not None and each.tally.missing > threshold.consecutive_error_limit:
            what = "running could not be judged"
            words = wording.interval(facts, each, what, each.tally.missing, threshold.consecutive_error_limit)
            return Word.ERROR, words
        needed = {Kind.LATENCY: "late_ns", Kind.LOW_CONFIDENCE: "confidence"}.get(metric.kind)
        if long and needed and facts[needed] is None and metric.name in facts["asked"]:
            why = f"version {facts['stable']} could not be measured within {TERMS_S_MAX:g} s"
            return Word.ERROR, f"{metric.name}: {why}, so there is nothing to compare with"
    return None


def _inconclusive(facts: Facts, weights: Weights) -> Ruling | None:
    for each in _real(weights):
        threshold = each.metric.threshold
        if threshold is not None and each.tally.unsure > threshold.inconclusive_limit:
            what = "had no value, or one that chance explains"
            words = wording.interval(facts, each, what, each.tally.unsure, threshold.inconclusive_limit)
            return Word.INCONCLUSIVE, words
    return None


def _good(facts: Facts, weights: Weights) -> Ruling:
    """Say whether everything that is asked speaks for the candidate."""
    asked = [each for each in weights.metrics if each.metric.name in facts["asked"]]
    if not asked:
        return Word.RUNNING, "nothing speaks against it, and nothing is asked that could speak for it"
    if any(each.metric.kind in LABELLED for each in asked) and weights.apart >= bar(facts["beta"]):
        return Word.RUNNING, wording.apart(facts)
    missing = [each for each in asked if not speaks(facts, each)]
    if missing:
        return Word.RUNNING, wording.waiting(facts, missing)
    return Word.SUCCESSFUL, wording.successful(facts, asked)


def speaks(facts: Facts, weighed: Weighed) -> bool:
    """Say whether a metric speaks for the candidate."""
    metric = weighed.metric
    if metric.threshold is not None:
        return weighed.tally.good >= metric.threshold.count
    if metric.kind is Kind.DRIFT:
        return bool(facts["drift"].get("candidate", {}).get("word") == NO_DRIFT)
    return max(weighed.within, weighed.acceptable) >= good_bar(facts["beta"])


def shown(facts: Facts, decision: Decision) -> dict[str, Any]:
    """Return the numbers of a decision, as plain values."""
    weights = decision.weights
    against, after = weights.bars
    return {
        "e_log10": log10(weights.against),
        "bar_log10": log10(against),
        "after_log10": log10(weights.after),
        "after_bar_log10": log10(after),
        "good_bar_log10": log10(good_bar(facts["beta"])),
        "labels_apart_log10": log10(weights.apart),
        "budget": asdict(weights.budget),
        "metrics": [_shown(facts, each) for each in weights.metrics],
    }


def _shown(facts: Facts, weighed: Weighed) -> dict[str, Any]:
    metric = weighed.metric
    told: dict[str, Any] = {"name": metric.name, "speaks": speaks(facts, weighed)}
    if metric.threshold is not None:
        return {**told, "tally": weighed.tally._asdict()}
    return {
        **told,
        "e_log10": log10(weighed.against),
        "within_log10": log10(weighed.within),
        "acceptable_log10": log10(weighed.acceptable),
        "after_log10": log10(weighed.after),
        "events": dict(weighed.events or {}),
    }


def e_of(document: Mapping[str, Any]) -> dict[str, float]:
    """Return log10 of the evidence against the candidate by metric, of those that weigh any."""
    metrics: Sequence[Mapping[str, Any]] = document["found"]["metrics"]
    return {each["name"]: each["e_log10"] for each in metrics if "e_log10" in each}
