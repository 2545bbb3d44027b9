"""How is a verdict said to people? Sentences with the counts that it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from serving.evidence.counts import LATENCIES, QUANTILES, key
from serving.rollout.intervals import checks, value
from serving.rollout.metric import LABELLED, Kind, Metric
from serving.rollout.weighing import LN10, Weighed, good_bar

Facts = Mapping[str, Any]

WORDS_MAX = 800
"""Characters of a message."""
NAMES: Mapping[Kind, str] = {
    Kind.REQUEST_FAILURE: "failures",
    Kind.REQUEST_TIMEOUT: "timeouts",
    Kind.REQUEST_REFUSED: "refusals",
    Kind.NAN_OUTPUT: "answers with NaN or infinity",
    Kind.LATENCY: "late answers",
    Kind.LOW_CONFIDENCE: "answers of low confidence",
    Kind.WRONG: "wrong answers",
    Kind.FALSE_POSITIVE: "false positives",
    Kind.FALSE_NEGATIVE: "false negatives",
    Kind.DISAGREEMENT: "disagreements",
    Kind.SHADOW_LATENCY: "slower runs",
    Kind.PAIRED_WRONG: "answers of which one is wrong",
    Kind.SUCCESS_RATE: "successes",
    Kind.DURATION: "slow answers",
}


def name_of(metric: Metric) -> str:
    """Return what a metric's events are called."""
    of = f" of `{metric.of}`" if metric.of else ""
    return f"{NAMES.get(metric.kind, metric.name)}{of}"


def evidence(log_e: float) -> str:
    """Write an e-value: ``e = 1.3e5``."""
    log10 = log_e / LN10
    if -3 < log10 < 4:
        return f"e = {math.exp(log_e):{',.0f' if log10 > 2 else '.3g'}}"
    exponent = math.floor(log10 + 0.022)  # So that 9.95 is 1.0 of the next one.
    return f"e = {10 ** (log10 - exponent):.1f}e{exponent}"


def failed(facts: Facts, weighed: Weighed, *, mean: float, bar: float, many: int) -> str:
    """Say that there is evidence against a candidate, by the metric that has the most."""
    bound = f"{math.exp(bar):.4g}"
    words = f"{evidence(mean)} >= {bound}"
    if many > 1:
        words = f"{evidence(weighed.against)}, over {many} metrics {words}"
    return f"{counts(facts, weighed)}; {words}{drifting(facts)}"[:WORDS_MAX]


def drifting(facts: Facts) -> str:
    """Say which sides drift, as far as that is known: today's requests may be others for both."""
    sides = [side for side in ("candidate", "stable") if facts["drift"].get(side, {}).get("word") == "drift"]
    versions = " and ".join(f"version {facts[side]}" for side in sides)
    return f"; {versions} drift{'s' * (len(sides) == 1)} from what is on profile" if sides else ""


def counts(facts: Facts, weighed: Weighed) -> str:
    """Say how often something happened on either side, of the event with the most evidence."""
    metric = weighed.metric
    told = _told(facts, metric)
    candidate, stable = facts["candidate"], facts["stable"]
    if metric.kind is Kind.DISAGREEMENT:
        events, trials = told["pairs"]
        return f"disagreements: {events:,} of {trials:,} answers of version {candidate} and {stable}"
    if "pairs" in told:
        worse, better = told["pairs"]
        return f"{name_of(metric)}: {worse:,} times version {candidate}'s, {better:,} times {stable}'s"
    found = weighed.events or {}
    event = max(found, key=lambda each: found[each]["e_log10"])
    (ours, of), (theirs, of_theirs) = (told["events"][event][side] for side in ("candidate", "stable"))
    what = _late(facts, event) if metric.kind is Kind.LATENCY else name_of(metric)
    labelled = " labelled" if metric.kind in LABELLED else ""
    beside = f"{theirs:,} of {of_theirs:,} at {stable}"
    return f"{what}: {ours:,} of {of:,}{labelled} at version {candidate}, {beside}"


def _told(facts: Facts, metric: Metric) -> Facts:
    return next(each for each in facts["metrics"] if each["metric"]["name"] == metric.name)


def _late(facts: Facts, event: str) -> str:
    at = LATENCIES.index(event)
    bound = f"{facts['late_ns'][at] / 1e6:.3g} ms, " if facts["late_ns"] else ""
    return f"answers later than {bound}p{QUANTILES[at]} of {facts['stable']}"


def watched(facts: Facts, weighed: Weighed, *, mean: float, bar: float) -> str:
    """Say that a candidate has become worse since its promotion."""
    told = _told(facts, weighed.metric)
    name = key(weighed.metric.counted[0], weighed.metric.of)
    after = told["events"][name]["after"]
    (events, trials), (before, of) = after["candidate"], after["stable"]
    return (
        f"{name_of(weighed.metric)} since the promotion: {events:,} of {trials:,} at version "
        f"{facts['candidate']}, where {facts['stable']} had {before:,} of {of:,} before; "
        f"{evidence(mean)} >= {math.exp(bar):.4g}{drifting(facts)}"
    )[:WORDS_MAX]


def interval(facts: Facts, weighed: Weighed, what: str, times: int, limit: int) -> str:
    """Say that thresholds were not kept too often."""
    metric = weighed.metric
    assert metric.threshold is not None
    latest = facts["marks"]["intervals"][metric.name]["latest"]
    lately = "no value"
    if latest is not None and not math.isnan(value(metric, latest)):
        (low, high), counted = checks(metric)[0], latest[0]
        bounds = (
            f"{1 - high:.4g} to {1 - low:.4g}"
            if metric.kind is Kind.SUCCESS_RATE
            else f"{low:.4g} to {high:.4g}"
        )
        lately = f"{value(metric, latest):.4g} of {counted[1]:,}, where {bounds} is allowed"
    return (
        f"{metric.name}: {times} of its intervals of {metric.threshold.interval_s:g} s {what}, "
        f"{limit} may; the latest has {lately}"
    )[:WORDS_MAX]


def waiting(facts: Facts, missing: Iterable[Weighed]) -> str:
    """Say what does not speak for a candidate yet."""
    words = []
    for each in missing:
        metric = each.metric
        if metric.threshold is not None:
            words.append(f"{metric.name} ({each.tally.good} of {metric.threshold.count} good intervals)")
        elif metric.kind is Kind.DRIFT:
            word = facts["drift"].get("candidate", {}).get("word", "nothing is known")
            words.append(f"{metric.name} ({word})")
        else:
            best = max(each.within, each.acceptable)
            needed = math.exp(good_bar(facts["beta"]))
            words.append(f"{metric.name} ({evidence(best)} of {needed:.4g})")
    return f"not certain yet that it is good enough: {', '.join(words)}"[:WORDS_MAX]


def apart(facts: Facts) -> str:
    """Say that labels come for one side more often than for the other."""
    (ours, of), (theirs, of_theirs) = facts["labels"]["candidate"], facts["labels"]["stable"]
    return (
        f"labels came for {_share(ours, of)} of version {facts['candidate']}'s answers and for "
        f"{_share(theirs, of_theirs)} of {facts['stable']}'s, so those that are missing may be the bad ones"
    )


def _share(events: int, trials: int) -> str:
    return f"{events:,} of {trials:,}"


def successful(facts: Facts, asked: Iterable[Weighed]) -> str:
    """Say that everything that was asked speaks for a candidate."""
    words = [_why(facts, each) for each in asked]
    return f"version {facts['candidate']} is good enough: {'; '.join(words)}"[:WORDS_MAX]


def _why(facts: Facts, weighed: Weighed) -> str:
    metric = weighed.metric
    if metric.threshold is not None:
        return f"{metric.name} was within its thresholds {weighed.tally.good} times"
    if metric.kind is Kind.DRIFT:
        return f"{metric.name}: none"
    if weighed.within >= good_bar(facts["beta"]) or metric.acceptable is None:
        return f"{counts(facts, weighed)}, so less than {metric.rule_out:g} times as many"
    return f"{counts(facts, weighed)}, so less than {100 * metric.acceptable:g}%"
