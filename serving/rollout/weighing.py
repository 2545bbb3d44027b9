"""What do the facts of a rollout come to, in numbers? Evidence against its candidate, and for it.

Against it: while the candidate is no worse than tolerated, the evidence of each metric expects to be at most
1 at any time, and so does the mean over metrics, however they depend. For it: each metric that is asked has
to rule out by itself that the candidate is much worse; as all have to, no correction is needed.

Labels may be missing, and so may requests that were drawn for a candidate which was not loaded. Nothing is
made of that: evidence is what the worse of two weights leaves of it, the one by which requests were dealt
and the candidate's share of those that there is anything to say of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.confidence import NEAR_RATIOS, log_e_rate, rate_interval
from kernels.evalue import (
    Events,
    bar,
    log_e,
    log_e_paired,
    log_e_paired_within,
    log_e_within,
    log_mean,
)
from serving.rollout.arms import Row
from serving.rollout.budget import Budget, is_watched, shared
from serving.rollout.intervals import Tally, tally
from serving.rollout.metric import LABELLED, SHADOWED, Kind, Metric, parse_metric

Facts = Mapping[str, Any]
Plain = dict[str, Any]

LN10 = math.log(10)
LOG10_MAX = 1e6
"""Where numbers end, as JSON has no infinity."""
_NO_INTERVALS = Tally()


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a metric comes to. Evidence is a natural logarithm, and 0 where there is none.

    Attributes
    ----------
    against : float
        That the candidate is more than tolerated times as bad.
    within : float
        That it is less than `Metric.rule_out` times as bad; of several quantiles the least.
    acceptable : float
        That its rate is below `Metric.acceptable`.
    after : float
        That it has become worse since its promotion than the stable version was.
    tally : Tally
        How intervals came out, where there are thresholds.
    events : mapping
        Of each event: rates, and its own evidence, as plain values.
    """

    metric: Metric
    against: float = 0.0
    within: float = 0.0
    acceptable: float = 0.0
    after: float = 0.0
    tally: Tally = _NO_INTERVALS
    events: Mapping[str, Plain] | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """What all of them come to.

    Attributes
    ----------
    against, after : float
        The means over the metrics that count.
    apart : float
        The evidence that labels come for one side more often than for the other.
    """

    budget: Budget
    metrics: tuple[Weighed, ...]
    against: float
    after: float
    apart: float

    @property
    def bars(self) -> tuple[float, float]:
        """What `against` and `after` have to reach."""
        watch = self.budget.watch
        return bar(self.budget.evidence), bar(watch / 2) if watch else math.inf


def good_bar(beta: float) -> float:
    """Return what `Weighed.within` or `Weighed.acceptable` has to reach; either may, so each has a half."""
    return bar(beta / 2)


def weigh(facts: Facts) -> Weights:
    """Return what facts come to."""
    metrics = [parse_metric(each["metric"]) for each in facts["metrics"]]
    budget = shared(facts["alpha"], metrics, facts["watch_s"])
    watched = sum(is_watched(each) for each in metrics)
    watch_alpha = budget.watch / 2 / watched if budget.watch else 0.0
    weighed = []
    for metric, told in zip(metrics, facts["metrics"], strict=True):
        if metric.threshold is not None:
            state = facts["marks"]["intervals"].get(metric.name)
            level = budget.level(metrics, metric)
            weighed.append(Weighed(metric, tally=Tally() if state is None else tally(state, metric, level)))
        elif metric.kind in SHADOWED:
            weighed.append(_paired(metric, told["pairs"], facts["beta"]))
        else:
            weighed.append(_counted(metric, told["events"], facts["beta"], watch_alpha))
    counted = [each for each in weighed if each.metric.weighed]
    watches = [each for each in counted if is_watched(each.metric)]
    return Weights(
        budget,
        tuple(weighed),
        _mean((each.against for each in counted), counted),
        _mean((each.after for each in watches), watches),
        _apart(_rows(facts["labels"])),
    )


def _mean(logs: Iterable[float], of: Sequence[Weighed]) -> float:
    return log_mean(list(logs), [each.metric.weight for each in of]) if of else 0.0


def _rows(told: Mapping[str, Any]) -> list[Row]:
    return [Row(*each) for each in told["rows"]]


def _counted(metric: Metric, events: Mapping[str, Any], beta: float, watch_alpha: float) -> Weighed:
    """Weigh a metric whose events were dealt to two arms."""
    if not events:
        return Weighed(metric)
    against, within, after, found = [], [], [], {}
    labelled = metric.kind in LABELLED
    for event, told in events.items():
        rows = _rows(told)
        against.append(log_e(_against(rows, labelled=labelled), tolerance=metric.tolerance))
        within.append(log_e_within(_for(rows), ratio=metric.rule_out))
        after.append(_after(told.get("after"), metric, watch_alpha))
        found[event] = {
            "e_log10": log10(against[-1]),
            "within_log10": log10(within[-1]),
            "after_log10": log10(after[-1]),
            "candidate_rate": list(rate_interval(*told["candidate"], alpha=beta)),
            "stable_rate": list(rate_interval(*told["stable"], alpha=beta)),
        }
    (first, *_) = events.values()
    acceptable = 0.0 if metric.acceptable is None else log_e_below(first["candidate"], metric.acceptable)
    return Weighed(metric, log_mean(against), min(within), acceptable, log_mean(after), events=found)


def _against(rows: Iterable[Row], *, labelled: bool) -> list[Events]:
    """Return events as they speak against the candidate: labels that came more often for it do not."""
    return _events(rows, lambda weight, share: max(weight, share) if labelled else weight)


def _for(rows: Iterable[Row]) -> list[Events]:
    """Return events as they speak for the candidate: what is missing of it does not."""
    return _events(rows, min)


def _events(rows: Iterable[Row], choose: Callable[[float, float], float]) -> list[Events]:
    found = []
    for row in rows:
        trials = row.candidate_of + row.stable_of
        weight = choose(row.weight, row.candidate_of / trials) if trials else row.weight
        if 0 < weight < 1:
            found.append(Events(row.candidate, row.stable, weight))
    return found


def _after(told: Mapping[str, Any] | None, metric: Metric, alpha: float) -> float:
    """Weigh what came since the promotion against the most that the stable version's rate may have been.

    That holds at all times with the probability ``1 - alpha``, so it need not be frozen to be fair.
    """
    if told is None or not alpha:
        return 0.0
    _, most = rate_interval(*told["stable"], alpha=alpha)
    return log_e_above(told["candidate"], min(most * metric.tolerance, 1.0))


def _paired(metric: Metric, pairs: Sequence[int], beta: float) -> Weighed:
    """Weigh a metric of a shadow's pairs."""
    one, other = pairs
    if metric.kind is Kind.DISAGREEMENT:
        most = metric.acceptable
        assert most is not None
        interval = list(rate_interval(one, other, alpha=beta))
        return Weighed(
            metric,
            log_e_above(pairs, most),
            acceptable=log_e_below(pairs, most),
            events={str(metric.kind): {"candidate_rate": interval}},
        )
    against = log_e_paired(one, other, tolerance=_share(metric.tolerance))
    return Weighed(metric, against, log_e_paired_within(one, other, share=_share(metric.rule_out)))


def _share(ratio: float) -> float:
    return ratio / (1 + ratio)


def _apart(rows: Sequence[Row]) -> float:
    """Return the evidence that labels come for one of the sides more often, whichever it is."""
    ours = [Events(row.candidate, row.stable, row.weight) for row in rows if 0 < row.weight < 1]
    theirs = [Events(each.baseline, each.canary, 1 - each.weight) for each in ours]
    return log_mean([log_e(each, ratios=NEAR_RATIOS) for each in (ours, theirs)])


def log_e_above(counts: Sequence[int], rate: float) -> float:
    """Return the evidence that events are more frequent than `rate`: the least against any rate up to it.

    Parameters
    ----------
    counts : (int, int)
        Events, and of how many.
    """
    events, trials = counts
    return log_e_rate(events, trials, min(rate, events / trials)) if trials else 0.0


def log_e_below(counts: Sequence[int], rate: float) -> float:
    """Return the evidence that events are less frequent than `rate`."""
    events, trials = counts
    return log_e_rate(events, trials, max(rate, events / trials)) if trials else 0.0


def log10(log: float) -> float:
    """Return a natural logarithm as a decimal one, within what JSON can tell."""
    return max(min(log / LN10, LOG10_MAX), -LOG10_MAX)
