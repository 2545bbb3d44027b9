"""By what is a candidate judged, and how much worse may it be? One metric of a rollout, as plain values, too.

Most metrics count bad events and compare two arms that the router drew. Two questions are then asked of each:
is there evidence that the candidate is *more* than `tolerance` times as bad, which fails it, and is there
evidence that it is *less* than `rule_out` times as bad, which speaks for it? Without either one waits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

from router.plan import S_MAX, Plan
from serving.evidence.counts import (
    FAILURE,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    LATENCIES,
    LOW_CONFIDENCE,
    NAN,
    QUANTILES,
    REFUSED,
    TIMEOUT,
    WRONG,
)

RATIO_MAX = 1000.0
WEIGHT_MAX = 1000.0
TIMES_MAX = 1_000_000
CLASS_MAX = 128
"""Characters of the name of a class."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class InvalidMetric(ValueError):
    """A metric by which nothing can be judged. `field` is what is wrong with it; empty is the whole."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Kind(StrEnum):
    """What is counted or measured."""

    REQUEST_FAILURE = "request-failure"
    """Answered with an error of the model's or the server's, or not within the deadline."""
    REQUEST_TIMEOUT = "request-timeout"
    """Not within the deadline."""
    REQUEST_REFUSED = "request-refused"
    """With an error for what was asked, such as a shape that this version does not take."""
    NAN_OUTPUT = "nan-output"
    """With a NaN or an infinity."""
    LATENCY = "latency"
    """Later than the stable version's quantiles, which are measured and frozen before it is compared."""
    LOW_CONFIDENCE = "low-confidence"
    """With a top score below one that is frozen likewise."""
    WRONG = "wrong"
    """Otherwise than the label says that came later."""
    FALSE_POSITIVE = "false-positive"
    """With a class that the label says it is not."""
    FALSE_NEGATIVE = "false-negative"
    """With another one than a class that the label says it is."""
    DISAGREEMENT = "disagreement"
    """A shadow's, otherwise than what it shadows."""
    SHADOW_LATENCY = "shadow-latency"
    """A shadow's run was the longer one of the two on the same rows."""
    PAIRED_WRONG = "paired-wrong"
    """Of pairs with a shadow and a label in which exactly one is wrong: the shadow is."""
    DRIFT = "drift"
    """Its inputs or outputs are said to drift from its profile, and the stable version's are not."""
    SUCCESS_RATE = "request-success-rate"
    """Flagger's: the share of requests that did not fail; only between thresholds."""
    DURATION = "request-duration"
    """Flagger's: a quantile of the time to the answer; only between thresholds."""


CLASSIC = frozenset({Kind.SUCCESS_RATE, Kind.DURATION})
"""Kinds for which nothing but thresholds makes sense."""
OF_A_CLASS = frozenset({Kind.FALSE_POSITIVE, Kind.FALSE_NEGATIVE})
LABELLED = frozenset({Kind.WRONG, *OF_A_CLASS, Kind.PAIRED_WRONG})
"""Kinds that take labels, which may never come."""
SHADOWED = frozenset({Kind.DISAGREEMENT, Kind.SHADOW_LATENCY, Kind.PAIRED_WRONG})
"""Kinds that compare a shadow with what it shadows."""
COUNTED: Mapping[Kind, str] = {
    Kind.REQUEST_FAILURE: FAILURE,
    Kind.REQUEST_TIMEOUT: TIMEOUT,
    Kind.REQUEST_REFUSED: REFUSED,
    Kind.NAN_OUTPUT: NAN,
    Kind.LOW_CONFIDENCE: LOW_CONFIDENCE,
    Kind.WRONG: WRONG,
    Kind.FALSE_POSITIVE: FALSE_POSITIVE,
    Kind.FALSE_NEGATIVE: FALSE_NEGATIVE,
}
"""Kinds of one event each, and what it is called in `serving.evidence.counts`; `LATENCY` has several."""
RATED = frozenset({*COUNTED, Kind.DISAGREEMENT})
"""Kinds that have a rate: events for each request, or for each label."""
LATE = tuple(quantile / 100 for quantile in QUANTILES)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A value for each interval, held against fixed numbers: Flagger's thresholdRange with Argo's limits.

    There is nothing beside it to compare with; see `serving.rollout.intervals` for what chance may do to it.

    Attributes
    ----------
    low, high : float or None
        What the value may be; rates between 0 and 1, durations in seconds.
    interval_s : float
        How long a value is gathered for.
    initial_delay_s : float
        How long after a weight was set the first interval begins.
    count : int
        Intervals that must be good before the metric speaks for the candidate.
    failure_limit, inconclusive_limit, consecutive_error_limit : int
        Up to how many intervals may be bad, may have no value or one outside that chance explains, and may
        not be judged one after the other.
    """

    low: float | None = None
    high: float | None = None
    interval_s: float = 60.0
    initial_delay_s: float = 0.0
    count: int = 1
    failure_limit: int = 0
    inconclusive_limit: int = 0
    consecutive_error_limit: int = 4

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InvalidMetric("a range of thresholds needs `min`, `max` or both", "thresholdRange")
        for name, value in (("min", self.low), ("max", self.high)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidMetric(f"a threshold is 0 or more, got {value:g}", f"thresholdRange.{name}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InvalidMetric("`min` is above `max`, so that no value would do", "thresholdRange")
        if not 1 <= self.interval_s <= S_MAX:
            raise InvalidMetric(f"an interval takes 1 to {S_MAX:g} s, got {self.interval_s:g}", "interval")
        if not 0 <= self.initial_delay_s <= S_MAX:
            raise InvalidMetric(f"expected 0 to {S_MAX:g} s, got {self.initial_delay_s:g}", "initialDelay")
        for name, times, least in (
            ("count", self.count, 1),
            ("failureLimit", self.failure_limit, 0),
            ("inconclusiveLimit", self.inconclusive_limit, 0),
            ("consecutiveErrorLimit", self.consecutive_error_limit, 0),
        ):
            if not least <= times <= TIMES_MAX:
                raise InvalidMetric(f"expected {least} to {TIMES_MAX}, got {times}", name)

    def allows(self, value: float) -> bool:
        """Say whether a value lies within."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Metric:
    """By what a candidate is judged.

    Attributes
    ----------
    of : str
        The class, of a false positive or negative.
    tolerance : float
        How many times as bad the candidate may be without any evidence against it.
    rule_out : float
        How many times as bad there has to be evidence that it is *not*, for the metric to speak for it.
    acceptable : float or None
        A rate that is good enough whatever the stable version's is: once the candidate's is certainly below
        it, the metric speaks for it. For `DISAGREEMENT`, which has nothing to be compared with, being
        certainly above it also speaks against it.
    critical : bool
        Whether an analysis that names no metrics waits until this one speaks for the candidate. Any other is
        a guard: it can only fail it.
    dry_run : bool
        Judged and shown, and nothing follows from it.
    weight : float
        Its part of the false rollbacks that the whole rollout may have, in relation to other metrics'.
    quantiles : tuple of float
        Which ones, of a latency; of `DURATION` the one.
    threshold : Threshold or None
        If there is one, nothing but that counts.
    """

    name: str
    kind: Kind
    of: str = ""
    tolerance: float = 1.0
    rule_out: float = 2.0
    acceptable: float | None = None
    critical: bool = False
    dry_run: bool = False
    weight: float = 1.0
    quantiles: tuple[float, ...] = ()
    threshold: Threshold | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidMetric("a name has 1 to 64 letters, digits, '.', '_' and '-'", "name")
        if (self.kind in OF_A_CLASS) != bool(self.of):
            raise InvalidMetric(
                f"{self.kind} is of one class, which `class` names"
                if self.kind in OF_A_CLASS
                else f"{self.kind} is of no class; false-positive and false-negative are",
                "class",
            )
        if len(self.of) > CLASS_MAX or not self.of.isprintable():
            raise InvalidMetric(f"a class has at most {CLASS_MAX} printable characters", "class")
        self._check_ratios()
        self._check_rate()
        self._check_quantiles()
        if self.threshold is None and self.kind in CLASSIC:
            raise InvalidMetric(f"{self.kind} is held against thresholds", "thresholdRange")
        if self.threshold is not None and self.kind not in RATED | CLASSIC:
            raise InvalidMetric(
                f"{self.kind} has no single value to hold against thresholds", "thresholdRange"
            )

    def _check_ratios(self) -> None:
        if not 1 <= self.tolerance <= RATIO_MAX:
            raise InvalidMetric(
                f"how many times as bad is tolerated is 1 to {RATIO_MAX:g}, got {self.tolerance:g}",
                "tolerance",
            )
        if not 1 < self.rule_out <= RATIO_MAX:
            raise InvalidMetric(
                f"expected more than 1 and at most {RATIO_MAX:g} times as bad, got {self.rule_out:g}",
                "ruleOut",
            )
        if self.rule_out < self.tolerance:
            raise InvalidMetric(
                f"{self.rule_out:g} times as bad cannot be ruled out where {self.tolerance:g} is tolerated",
                "ruleOut",
            )
        if not 0 < self.weight <= WEIGHT_MAX:
            raise InvalidMetric(
                f"a weight is above 0, and at most {WEIGHT_MAX:g}, got {self.weight:g}", "weight"
            )

    def _check_rate(self) -> None:
        if self.acceptable is None:
            if self.kind is Kind.DISAGREEMENT and self.threshold is None:
                raise InvalidMetric("say which rate of disagreement is acceptable, such as 2%", "acceptable")
            return
        if self.kind not in RATED:
            raise InvalidMetric(f"{self.kind} has no rate that could be acceptable", "acceptable")
        if not 0 < self.acceptable < 1:
            raise InvalidMetric(
                f"an acceptable rate lies between 0% and 100%, got {100 * self.acceptable:g}%", "acceptable"
            )

    def _check_quantiles(self) -> None:
        many = len(self.quantiles)
        match self.kind:
            case Kind.LATENCY:
                known = ", ".join(f"{each:g}" for each in LATE)
                if not many or len(set(self.quantiles)) != many or not set(self.quantiles) <= set(LATE):
                    raise InvalidMetric(f"latency is compared at some of {known}", "quantiles")
            case Kind.DURATION:
                if many != 1 or not 0 < self.quantiles[0] < 1:
                    raise InvalidMetric(f"{self.kind} is one quantile between 0 and 1", "quantile")
            case _ if many:
                raise InvalidMetric(f"{self.kind} has no quantiles", "quantiles")

    @property
    def counted(self) -> tuple[str, ...]:
        """What its events are called in `serving.evidence.counts`; empty if it counts none of these."""
        if self.kind is Kind.LATENCY:
            return tuple(LATENCIES[LATE.index(each)] for each in self.quantiles)
        return (COUNTED[self.kind],) if self.kind in COUNTED else ()

    @property
    def weighed(self) -> bool:
        """Whether its evidence against the candidate takes part in the rate of false rollbacks."""
        return self.threshold is None and self.kind is not Kind.DRIFT and not self.dry_run

    def document(self) -> dict[str, Any]:
        """Return it as plain values, as they are kept in `router.plan.Plan.metrics`."""
        document = asdict(self)
        document["kind"] = str(self.kind)
        document["quantiles"] = list(self.quantiles)
        return {name: value for name, value in document.items() if value is not None}


def parse_metric(document: Mapping[str, Any]) -> Metric:
    """Read what `Metric.document` made."""
    values = {each.name: document[each.name] for each in fields(Metric) if each.name in document}
    values["kind"] = Kind(values["kind"])
    values["quantiles"] = tuple(values.get("quantiles", ()))
    if "threshold" in values:
        values["threshold"] = Threshold(**values["threshold"])
    return Metric(**values)


def metrics_of(plan: Plan) -> tuple[Metric, ...]:
    """Return by what the candidate of a plan is judged."""
    return tuple(parse_metric(each) for each in plan.metrics)


def needs_baseline(metrics: Iterable[Metric]) -> bool:
    """Say whether latencies of two arms are compared, which takes arms of equal weight."""
    return any(each.kind is Kind.LATENCY for each in metrics)
