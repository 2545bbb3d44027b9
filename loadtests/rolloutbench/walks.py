"""When does evidence reach its bar in simulated rollouts? Many at once, and events only where they are few.

An alarm is told as the number of requests of both arms until then; infinite if there was none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kernels.evalue import EVEN, PAIRED_SHARES, RATIOS, Events, bar, log_stakes, odds

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

ALPHA = 0.01
VALUES_MAX = 4_000_000
"""Events of all runs that are held at once."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """A canary beside a baseline: what part of requests it gets, and what part of either's go wrong."""

    base: float
    bad: float
    weight: float = 0.1
    ratios: tuple[float, ...] = RATIOS

    @property
    def rate(self) -> float:
        """Of bad events among all requests."""
        return self.weight * self.bad + (1 - self.weight) * self.base


def paired(worse: float, better: float) -> Rollout:
    """Return what counts pairs: how often only the shadow's answer is bad, and only the other."""
    return Rollout(2 * better, 2 * worse, EVEN, tuple(odds(share) for share in PAIRED_SHARES))


def chunks(runs: int, values: int) -> Iterator[int]:
    """Divide `runs` so that those of one part have no more than `VALUES_MAX` values together."""
    most = max(1, VALUES_MAX // max(values, 1))
    for start in range(0, runs, most):
        yield min(most, runs - start)


def log_e(
    canary: Booleans | Integers, events: Integers, weight: float, ratios: Sequence[float] = RATIOS
) -> list[Floats]:
    """Return the logarithm of each bet's stake.

    Parameters
    ----------
    canary : (...) of integers
        Events of the canary's so far.
    events : (...) int64
        Events so far.
    """
    ups = log_stakes((Events(1, 0, weight),), ratios=ratios)
    downs = log_stakes((Events(0, 1, weight),), ratios=ratios)
    return [canary * (up - down) + events * down for up, down in zip(ups, downs, strict=True)]


def log_mean(logs: Sequence[Floats]) -> Floats:
    """Return the logarithm of the mean of e-values, elementwise."""
    most = reduce(np.maximum, logs)
    total: Floats = sum(np.exp(log - most) for log in logs)
    return most + np.log(total / len(logs))


def first(evidence: Floats, at: Floats | Integers, alpha: float = ALPHA) -> Floats:
    """Return `at`, (..., looks), where evidence reaches the bar first along the last axis; else infinity."""
    told = evidence >= bar(alpha)
    where = np.where(told.any(axis=-1), told.argmax(axis=-1), -1)
    found = np.take_along_axis(np.broadcast_to(at, told.shape), np.maximum(where, 0)[..., None], -1)[..., 0]
    return np.where(where >= 0, found, np.inf)


def alarms(
    rng: np.random.Generator, rollout: Rollout, *, runs: int, horizon: int, alpha: float = ALPHA
) -> Floats:
    """Return when each of `runs` rollouts alarms within `horizon` requests."""
    most = math.ceil(horizon * rollout.rate + 6 * math.sqrt(horizon * rollout.rate) + 6)
    share = rollout.weight * rollout.bad / rollout.rate
    found = []
    for some in chunks(runs, most):
        at = np.cumsum(rng.geometric(rollout.rate, (some, most)), axis=1)
        canary = np.cumsum(rng.random((some, most)) < share, axis=1)
        evidence = log_mean(log_e(canary, np.arange(1, most + 1), rollout.weight, rollout.ratios))
        found.append(first(np.where(at <= horizon, evidence, -np.inf), at, alpha))
    return np.concatenate(found)


def bursts(
    rng: np.random.Generator, base: float, *, begins: float, rows: int, share: float, runs: int, horizon: int
) -> Floats:
    """Return the alarms of good canaries where now and then all goes wrong together, whoever answers.

    Drawn request by request: a burst begins with the probability `begins`, is of `rows` requests, and
    of these a `share` goes wrong.
    """
    weight, found = 0.1, []
    for some in chunks(runs, horizon):
        begun = np.cumsum(rng.random((some, horizon)) < begins, axis=1)
        begun[:, rows:] -= begun[:, :-rows].copy()
        wrong = rng.random((some, horizon)) < np.where(begun > 0, share, base)
        canary = rng.random((some, horizon)) < weight
        for run in range(some):
            at = np.flatnonzero(wrong[run])
            events = np.arange(1, len(at) + 1)
            evidence = log_mean(log_e(np.cumsum(canary[run, at]), events, weight))
            found.append(first(np.append(evidence, -np.inf), np.append(at + 1, horizon)))
    return np.array(found)


def stepped(
    rng: np.random.Generator, base: float, bad: float, steps: Sequence[tuple[float, int]], *, runs: int
) -> Floats:
    """Return the alarms of rollouts that grow: `steps` are weights and for how many requests each holds."""
    found = np.full(runs, np.inf)
    stakes: list[Floats] = [np.zeros((runs, 1)) for _ in RATIOS]
    begun = 0
    for weight, horizon in steps:
        rollout = Rollout(base, bad, weight)
        most = math.ceil(horizon * rollout.rate + 6 * math.sqrt(horizon * rollout.rate) + 6)
        at = np.cumsum(rng.geometric(rollout.rate, (runs, most)), axis=1)
        within = at <= horizon
        canary = np.cumsum((rng.random((runs, most)) < weight * bad / rollout.rate) & within, axis=1)
        gained = log_e(canary, np.cumsum(within, axis=1), weight)
        stakes = [stake[:, -1:] + gain for stake, gain in zip(stakes, gained, strict=True)]
        found = np.minimum(found, begun + first(np.where(within, log_mean(stakes), -np.inf), at))
        begun += horizon
    return found


def averaged(
    rng: np.random.Generator, base: float, bad: float, *, metrics: int, alike: float, runs: int, horizon: int
) -> Floats:
    """Return the alarms of the mean over metrics, of which the first goes wrong `bad` often on the canary.

    A share `alike` of what the first counts is counted by all the others, too; what they count else is
    their own, as often as the first would on the baseline, and the same on either side.
    """
    weight, block = 0.1, 10
    found = []
    for some in chunks(runs, metrics * horizon // block):
        rates = block * np.array([weight * bad, (1 - weight) * base])
        own = block * base * np.array([weight, 1 - weight])
        canary, rest = (rng.poisson(rate, (some, horizon // block)) for rate in rates)
        logs = []
        for metric in range(metrics):
            sides = [canary, rest]
            if metric:
                sides = [
                    rng.binomial(side, alike) + rng.poisson(rate * (1 - alike), side.shape)
                    for side, rate in zip(sides, own, strict=True)
                ]
            ours, both = np.cumsum(sides[0], axis=1), np.cumsum(sides[0] + sides[1], axis=1)
            logs.append(log_mean(log_e(ours, both, weight)))
        found.append(first(log_mean(logs), block * np.arange(1, horizon // block + 1)))
    return np.concatenate(found)


def peeking(rng: np.random.Generator, rollout: Rollout, *, runs: int, horizon: int, every: int) -> Floats:
    """Return the alarms of a one-sided z-test at 1 % that is looked at every so many requests, as many do.

    What evidence is held against: it has forgotten how often it looks.
    """
    looks = horizon // every
    asked = np.cumsum(rng.binomial(every, rollout.weight, (runs, looks)), axis=1)
    fresh = np.diff(asked, axis=1, prepend=0)
    ours = np.cumsum(rng.binomial(fresh, rollout.bad), axis=1)
    theirs = np.cumsum(rng.binomial(every - fresh, rollout.base), axis=1)
    rest = every * np.arange(1, looks + 1) - asked
    pooled = (ours + theirs) / (asked + rest)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (ours / asked - theirs / rest) / np.sqrt(pooled * (1 - pooled) * (1 / asked + 1 / rest))
    told = (z > 2.3263) & (ours + theirs >= 5)
    return first(np.where(told, np.inf, -np.inf), every * np.arange(1, looks + 1))
