"""Which metric is meant by what was written of it, and what counts where nothing was?"""

from __future__ import annotations

from serving.rollout import units
from serving.rollout.metric import LATE, InvalidMetric, Kind, Metric, Threshold
from serving.rollout.terms import MetricTerm, RangeTerm

GOOD_ENOUGH = 0.01
"""The rate of errors below which a version is good enough, if nothing else is said."""
CRITICAL = {
    *(Kind.REQUEST_FAILURE, Kind.NAN_OUTPUT, Kind.LATENCY, Kind.DISAGREEMENT),
    *(Kind.SUCCESS_RATE, Kind.DURATION),
}
"""Kinds that have to speak for a candidate unless it is said otherwise. Labels may never come."""
ACCEPTABLE = {Kind.REQUEST_FAILURE, Kind.REQUEST_TIMEOUT, Kind.REQUEST_REFUSED, Kind.NAN_OUTPUT}
TOLERANCE = {Kind.LATENCY: 1.25, Kind.SHADOW_LATENCY: 1.5}
"""A tenth slower is no reason to go back, unless it is said to be one."""
QUANTILES = {Kind.LATENCY: LATE, Kind.DURATION: (0.99,)}
USUAL = (Kind.REQUEST_FAILURE, Kind.NAN_OUTPUT, Kind.LATENCY, Kind.WRONG)
"""By what a candidate is judged if nothing is said."""


def metric_of(term: MetricTerm) -> Metric:
    """Return the metric that was written; `InvalidMetric` if there is none of it."""
    kind = term.metric
    if kind is None:
        if term.name not in list(Kind):
            raise InvalidMetric(f"say which one it is; known: {', '.join(Kind)}", "metric")
        kind = Kind(term.name)
    tolerance = TOLERANCE.get(kind, 1.0) if term.tolerance is None else term.tolerance
    acceptable = term.acceptable
    threshold = _threshold(term, kind)
    if "acceptable" not in term.model_fields_set and kind in ACCEPTABLE and threshold is None:
        acceptable = GOOD_ENOUGH
    return Metric(
        (f"{kind}-{term.of}" if term.of else str(kind)) if term.name is None else term.name,
        kind,
        term.of,
        tolerance,
        2 * tolerance if term.rule_out is None else term.rule_out,
        acceptable,
        kind in CRITICAL if term.critical is None else term.critical,
        term.dry_run,
        term.weight,
        _quantiles(term, kind),
        threshold,
    )


def _quantiles(term: MetricTerm, kind: Kind) -> tuple[float, ...]:
    if term.quantile is not None and term.quantiles is not None:
        raise InvalidMetric("say `quantile` or `quantiles`, not both", "quantile")
    if term.quantile is not None:
        return (term.quantile,)
    return tuple(QUANTILES.get(kind, ()) if term.quantiles is None else term.quantiles)


THRESHOLD = {
    "interval": "interval_s",
    "initial_delay": "initial_delay_s",
    **{name: name for name in ("count", "failure_limit", "inconclusive_limit", "consecutive_error_limit")},
}
"""Fields that go with thresholds: how `MetricTerm` and `Threshold` call them."""


def _threshold(term: MetricTerm, kind: Kind) -> Threshold | None:
    given = {
        name: value for written, name in THRESHOLD.items() if (value := getattr(term, written)) is not None
    }
    if term.threshold_range is None:
        if given:
            alias = MetricTerm.model_fields[next(w for w, name in THRESHOLD.items() if name in given)].alias
            raise InvalidMetric("goes with thresholdRange", str(alias))
        return None
    low, high = (_bound(term.threshold_range, name, kind) for name in ("min", "max"))
    return Threshold(low, high, **given)


def _bound(term: RangeTerm, name: str, kind: Kind) -> float | None:
    value = getattr(term, name)
    if value is None:
        return None
    try:
        return units.milliseconds(value) if kind is Kind.DURATION else units.percentage(value)
    except ValueError as error:
        raise InvalidMetric(str(error), f"thresholdRange.{name}") from None
