"""Is a value within fixed thresholds, interval by interval, and how often may it not be? Argo's limits.

A value that lies outside although so few requests can do that by chance says nothing: the interval is neither
good nor bad. What chance can do is bounded over all intervals there will ever be: that any good value is
called bad has at most the probability `level` in the whole rollout, however many are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from kernels.confidence import log_e_rate
from kernels.evalue import bar
from serving.rollout.metric import Kind, Metric, Threshold

Reading = Sequence[Sequence[int]]
"""``[events, trials]`` for each check, as of `checks`; sums since anything was counted."""


class Outcome(StrEnum):
    """What an interval came to."""

    GOOD = "good"
    BAD = "bad"
    UNSURE = "unsure"
    """There was no value, or one that is outside but may be so by chance."""
    MISSING = "missing"
    """Nobody could tell."""


class Check(NamedTuple):
    """Between what the share of events among trials has to lie."""

    low: float
    high: float


def checks(metric: Metric) -> tuple[Check, ...]:
    """Return what a metric's thresholds ask of shares of bad events.

    A quantile is at most a value if at most the rest is above it, so a duration has two shares: what took
    longer than `Threshold.high`, and what took longer than `Threshold.low`.
    """
    threshold = _of(metric)
    low, high = threshold.low, threshold.high
    if metric.kind is Kind.DURATION:
        rest = 1 - metric.quantiles[0]
        return Check(0.0, 1.0 if high is None else rest), Check(0.0 if low is None else rest, 1.0)
    if metric.kind is Kind.SUCCESS_RATE:
        low, high = (None if each is None else 1 - each for each in (high, low))
    return (Check(low or 0.0, 1.0 if high is None else high),)


def _of(metric: Metric) -> Threshold:
    assert metric.threshold is not None
    return metric.threshold


def outcome(metric: Metric, reading: Reading | None, number: int, level: float) -> Outcome:
    """Return what the interval of that `number`, from 1, came to.

    Its share of `level` is ``1 / (number (number + 1))``, which adds up to 1 over all numbers.
    """
    if reading is None:
        return Outcome.MISSING
    most = bar(level / (number * (number + 1)))
    each = [
        _outcome(check, events, trials, most)
        for check, (events, trials) in zip(checks(metric), reading, strict=True)
    ]
    return next((word for word in (Outcome.BAD, Outcome.UNSURE) if word in each), Outcome.GOOD)


def _outcome(check: Check, events: int, trials: int, most: float) -> Outcome:
    if not trials:
        return Outcome.UNSURE
    share = events / trials
    if check.low <= share <= check.high:
        return Outcome.GOOD
    bound = check.high if share > check.high else check.low
    return Outcome.BAD if log_e_rate(events, trials, bound) >= most else Outcome.UNSURE


class Tally(NamedTuple):
    """How intervals came out."""

    good: int = 0
    bad: int = 0
    unsure: int = 0
    missing: int = 0
    """One after the other, up to the latest."""

    def plus(self, latest: Outcome) -> Tally:
        """Return it with one more interval."""
        more = Tally(*(int(latest is each) for each in Outcome))
        return Tally(
            self.good + more.good,
            self.bad + more.bad,
            self.unsure + more.unsure,
            self.missing + 1 if more.missing else 0,
        )


State = Mapping[str, Any]
"""Where a metric is in its intervals, as plain values: `stage` is what it began with, `begins_us` when the
first one begins, `at` its reading at the beginning of this one, which ends at `due_us`; `number` and `latest`
are of the last one that has ended, and `before` is the tally of those before."""


def begun(stage: str, now_us: int, threshold: Threshold, state: State | None) -> State:
    """Return where intervals are that begin at a `stage`; what came of those before it stays."""
    kept = state or {"number": 0, "latest": None, "before": list(Tally())}
    begins_us = now_us + int(threshold.initial_delay_s * 1e6)
    return {**kept, "stage": stage, "begins_us": begins_us, "at": None, "due_us": 0}


def looked(state: State, metric: Metric, reading: Reading | None, now_us: int, level: float) -> State:
    """Return where intervals are after a look; `reading` is None if nobody can tell."""
    due_us = now_us + int(_of(metric).interval_s * 1e6)
    now = None if reading is None else [list(counts) for counts in reading]
    if state["at"] is None and state["due_us"] == 0:
        return state if now_us < state["begins_us"] else {**state, "at": now, "due_us": due_us}
    if now_us < state["due_us"]:
        return state
    return {
        **state,
        "at": now,
        "due_us": due_us,
        "number": state["number"] + 1,
        "latest": _since(state["at"], now),
        "before": list(tally(state, metric, level)),
    }


def _since(before: Reading | None, now: Reading | None) -> list[list[int]] | None:
    if before is None or now is None:
        return None
    new = [[b - a for a, b in zip(old, each, strict=True)] for old, each in zip(before, now, strict=True)]
    # Whoever counted is gone, or began anew.
    return None if any(each < 0 for counts in new for each in counts) else new


def tally(state: State, metric: Metric, level: float) -> Tally:
    """Return how all intervals that have ended came out."""
    before = Tally(*state["before"])
    if not state["number"]:
        return before
    return before.plus(outcome(metric, state["latest"], state["number"], level))


def value(metric: Metric, reading: Reading) -> float:
    """Return the share that people think of: of successes, or of what was above a threshold; NaN if none."""
    at = 1 if metric.kind is Kind.DURATION and _of(metric).high is None else 0
    events, trials = reading[at]
    if not trials:
        return math.nan
    return 1 - events / trials if metric.kind is Kind.SUCCESS_RATE else events / trials
