"""Does a canary do worse than the version beside it? Evidence that may be looked at after every event.

The router draws who answers, so while a canary is no worse than the baseline every bad event falls on it
with the probability of its weight, whatever else there is: busy hours, bursts, callers that send
nonsense. A bet on "it is rho times as bad" multiplies its stake at each bad event by what that makes the
event likelier. Stakes expect at most 1, so they reach 1/alpha with a probability of at most alpha, however
often one looks (Ville 1939). Nothing is kept but two counts for each weight, which add up over replicas.

All evidence is a natural logarithm, because stakes of long rollouts exceed any float. docs/statistics.md
has the argument, what it assumes, and what was simulated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""How many times as bad a canary may be; the evidence is the mean of a bet on each."""
PAIRED_SHARES = (0.55, 0.6, 0.7, 0.8, 0.9)
"""Of answers of which exactly one is bad, the share in which it is the shadow's; a bet on each."""
EVEN = 0.5
"""That share where a shadow is as good as what it shadows; also the weight of either side of a pair."""


@dataclass(frozen=True, slots=True)
class Events:
    """Bad events among requests that the router drew while weights were one and the same.

    Of a shadow's pairs: those in which exactly one answer was bad, with the weight `EVEN`.
    """

    canary: int
    baseline: int
    weight: float
    """The canary's share of what the router drew for either, at the time of the draw: 0.1 at 10 % against
    90 %, and 0.5 at 10 % against a baseline arm of 10 %."""

    def __post_init__(self) -> None:
        if self.canary < 0 or self.baseline < 0:
            raise ValueError(f"counts of events are at least 0, got {self.canary} and {self.baseline}")
        if not 0 < self.weight < 1:
            raise ValueError(f"a weight to compare at lies between 0 and 1, got {self.weight}")


def bar(alpha: float) -> float:
    """Return what evidence has to reach, so that chance gets it there with probability `alpha` at most."""
    if not 0 < alpha < 1:
        raise ValueError(f"a rate of false alarms lies between 0 and 1, got {alpha}")
    return -math.log(alpha)


def shifted(weight: float, ratio: float) -> float:
    """Return what share of events falls on a canary of `weight` that is `ratio` times as bad."""
    return weight * ratio / (weight * ratio + 1 - weight)


def log_stakes(
    epochs: Iterable[Events], *, tolerance: float = 1.0, ratios: Sequence[float] = RATIOS
) -> tuple[float, ...]:
    """Return the logarithm of each bet's stake: ``a ln(q/w) + b ln((1-q)/(1-w))``, summed over epochs.

    Parameters
    ----------
    epochs : iterable of Events
        In any order; two of one weight may as well be one.
    tolerance : float
        How many times as bad the canary may be without any evidence against it. The bets are then on
        `ratios` times that.
    ratios : sequence of float
        What is bet on, each above 1.
    """
    epochs = tuple(epochs)
    if not (tolerance > 0 and min(ratios) > 1):
        raise ValueError(f"a tolerance is above 0 and a bet above 1, got {tolerance} and {list(ratios)}")
    return tuple(math.fsum(_gain(each, tolerance, ratio * tolerance) for each in epochs) for ratio in ratios)


def _gain(events: Events, null: float, ratio: float) -> float:
    """Return what a bet on `ratio` gained where `null` is the truth to beat."""
    # (1 - q) / (1 - w) at a baseline's event; at a canary's it is ratio / null times as much.
    down = math.log1p(events.weight * (null - 1)) - math.log1p(events.weight * (ratio - 1))
    return events.canary * (math.log(ratio / null) + down) + events.baseline * down


def log_e(epochs: Iterable[Events], *, tolerance: float = 1.0, ratios: Sequence[float] = RATIOS) -> float:
    """Return the evidence that the canary is more than `tolerance` times as bad: the log of the mean stake.

    It reaches ``bar(alpha)`` at any time with a probability of at most alpha while each bad event falls
    on the canary with at most the probability ``shifted(weight, tolerance)``, given all before it.
    """
    return log_mean(log_stakes(epochs, tolerance=tolerance, ratios=ratios))


def log_e_within(epochs: Iterable[Events], *, ratio: float) -> float:
    """Return the evidence *for* a canary: that it is less than `ratio` times as bad.

    A bet on "as good as the baseline" against "`ratio` times as bad or worse", which without any event
    is undecided. Where it is known how bad the baseline is, no event at all says something, too: see
    ``kernels.confidence.rate_interval``.

    Parameters
    ----------
    epochs : iterable of Events
    ratio : float
        Above 1.
    """
    if not ratio > 1:
        raise ValueError(f"a ratio to rule out is above 1, got {ratio}")
    return math.fsum(_gain(each, ratio, 1.0) for each in epochs)


def log_e_paired(worse: int, better: int, *, tolerance: float = EVEN) -> float:
    """Return the evidence that a shadow is worse than what it shadows, from pairs of which one answer is bad.

    It is `log_e` at the weight `EVEN`: a bet on a share theta multiplies by ``2 theta`` where the
    shadow's answer is the bad one and by ``2 (1 - theta)`` where the other is.

    Parameters
    ----------
    worse, better : int
        Pairs in which only the shadow's answer is bad, and only the other.
    tolerance : float
        The share of these that may be `worse` without any evidence; `EVEN` says as many as not.
    """
    ratios = [odds(share) for share in PAIRED_SHARES]
    return log_e((Events(worse, better, EVEN),), tolerance=odds(tolerance), ratios=ratios)


def log_e_paired_within(worse: int, better: int, *, share: float) -> float:
    """Return the evidence *for* a shadow: that less than `share` of these pairs are `worse`, above `EVEN`."""
    return log_e_within((Events(worse, better, EVEN),), ratio=odds(share))


def odds(share: float) -> float:
    """Return how many of one side a share has for each of the other."""
    if not 0 < share < 1:
        raise ValueError(f"a share of pairs lies between 0 and 1, got {share}")
    return share / (1 - share)


def log_mean(logs: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Return the logarithm of the mean of e-values, from theirs: an e-value again, however they depend.

    Parameters
    ----------
    logs : sequence of float
        Natural logarithms; -inf is an e-value of 0.
    weights : sequence of float, optional
        Positive, and fixed before anything was seen; equal if not given.
    """
    if not logs:
        raise ValueError("a mean needs at least one e-value")
    weights = [1.0] * len(logs) if weights is None else weights
    if min(weights) <= 0:
        raise ValueError(f"weights of e-values are above 0, got {list(weights)}")
    most = max(logs)
    if math.isinf(most):
        return most
    whole = math.fsum(weights)
    scaled = (weight * math.exp(log - most) for log, weight in zip(logs, weights, strict=True))
    return most + math.log(math.fsum(scaled) / whole)
