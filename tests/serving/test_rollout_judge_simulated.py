"""Good candidates are rolled back no more often than was said, bad ones soon, by whole rollouts that are simulated.

Every second is looked at. A twin of the evidence, vectorised over rollouts and seconds, says where the judge would
find one; the judge itself is asked there, and at other seconds, and has to say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import sqrt

import numpy as np
import pytest

from kernels.evalue import RATIOS
from router.rollout import Word
from serving.evidence.counts import Counts
from serving.rollout.facts import Extras
from tests.judging import (
    BEGAN_US,
    FAILURE,
    LATENCY,
    WRONG,
    cells_of,
    judged,
    plan_of,
    promoted,
    rollout_of,
)

EXACT = replace(LATENCY, tolerance=1.0, rule_out=2.0)


@dataclass
class Arm:
    """What fell on one side, (rollouts, seconds) each and cumulative: of one epoch."""

    requests: np.ndarray
    failed: np.ndarray
    late: list[np.ndarray]
    labelled: np.ndarray
    wrong: np.ndarray

    def counts(self, rollout: int, second: int) -> Counts:
        def at(counted):
            return int(counted[rollout, second])

        return Counts(
            requests=at(self.requests),
            failed=at(self.failed),
            timed=at(self.requests),
            late=tuple(at(each) for each in self.late),
            labelled=at(self.labelled),
            wrong=at(self.wrong),
        )


@dataclass
class World:
    """What requests are like; rates of the candidate are these times its factor."""

    a_second: float = 100.0
    failure: float = 0.01
    late: tuple[float, float, float] = (0.5, 0.1, 0.01)
    wrong: float = 0.1
    labelled: float = 0.5
    lag_s: int = 20
    failure_of_candidate: float = 1.0
    late_of_candidate: tuple[float, float, float] | None = None
    bursts: float = 1.0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(8))

    def epoch(self, rollouts, seconds, during, weight):
        """Return the two sides of an epoch that lasts `during` some seconds, a slice: candidate and the rest."""
        n = np.zeros((rollouts, seconds))
        many = during.stop - during.start
        n[:, during] = self.rng.poisson(self.a_second, (rollouts, many))
        # Both sides have bad times together.
        bad = np.where(self.rng.random((rollouts, seconds)) < 0.1, self.bursts, 1.0)
        mine = self.rng.binomial(n.astype(int), weight)
        late = self.late_of_candidate or self.late
        return (
            self._arm(mine, np.minimum(self.failure * self.failure_of_candidate * bad, 1), late),
            self._arm(n.astype(int) - mine, np.minimum(self.failure * bad, 1), self.late),
        )

    def _arm(self, n, failure, late):
        rng = self.rng
        slow = rng.binomial(n, late[0])
        slower = rng.binomial(slow, late[1] / late[0])
        slowest = rng.binomial(slower, late[2] / late[1])
        labelled = np.zeros_like(n)
        labelled[:, self.lag_s :] = rng.binomial(n[:, : n.shape[1] - self.lag_s], self.labelled)
        each = [
            n,
            rng.binomial(n, failure),
            slow,
            slower,
            slowest,
            labelled,
            rng.binomial(labelled, self.wrong),
        ]
        requests, failed, slow, slower, slowest, labelled, wrong = (
            np.cumsum(counts, axis=1) for counts in each
        )
        return Arm(requests, failed, [slow, slower, slowest], labelled, wrong)


def log_e(epochs, events):
    """Return the twin of a metric's evidence, (rollouts, seconds): the log of the mean stake."""
    stakes = 0.0
    for weight, *sides in epochs:
        a, b = (events(side) for side in sides)
        if isinstance(a, tuple):
            (a, of), (b, of_rest) = a, b
            both = np.maximum(of + of_rest, 1)
            weight = np.maximum(weight, of / both)  # noqa: PLW2901 - labels that came more often.
        w = np.clip(weight, 1e-12, 1 - 1e-12)
        q = [w * ratio / (w * ratio + 1 - w) for ratio in RATIOS]
        stakes = stakes + np.stack([a * np.log(each / w) + b * np.log((1 - each) / (1 - w)) for each in q])
    return np.logaddexp.reduce(stakes, axis=0) - np.log(len(RATIOS))


def mean(logs):
    return np.logaddexp.reduce(np.stack(logs), axis=0) - np.log(len(logs))


TWINS = {
    "failure": lambda epochs: log_e(epochs, lambda side: side.failed),
    "wrong": lambda epochs: log_e(epochs, lambda side: (side.wrong, side.labelled)),
    "latency": lambda epochs: mean([log_e(epochs, lambda side, at=at: side.late[at]) for at in range(3)]),
}


def asked_of_the_judge(rollout, epochs, at, second):
    return judged(rollout, cells_of(*((a.counts(at, second), b.counts(at, second)) for _, a, b in epochs)))


def first(crossed):
    """Return the second of the first crossing of each rollout; the number of seconds if there is none."""
    return np.where(crossed.any(axis=1), crossed.argmax(axis=1), crossed.shape[1])


def simulated(world, metrics, weights_bp, each_s, rollouts, alpha):
    """Return the rollout, its epochs, the evidence at each second, and where it reaches the bar."""
    rollout = rollout_of(plan_of(*metrics, weights_bp=weights_bp, alpha=alpha))
    seconds = each_s * len(weights_bp)
    epochs = [
        (w / 1e4, *world.epoch(rollouts, seconds, slice(n * each_s, (n + 1) * each_s), w / 1e4))
        for n, w in enumerate(weights_bp)
    ]
    e = mean([TWINS[each.name](epochs) for each in metrics])
    return rollout, epochs, e, first(e >= -np.log(alpha))


def check(rollout, epochs, e, at, second):
    """Ask the judge whether it says what the twin does."""
    verdict = asked_of_the_judge(rollout, epochs, at, second)
    assert verdict.document["found"]["e_log10"] == pytest.approx(
        e[at, second] / np.log(10), rel=1e-9, abs=1e-9
    )
    assert (verdict.word is Word.FAILED) == (e[at, second] >= -np.log(rollout.plan.alpha))


@pytest.mark.parametrize("bursts", [1.0, 20.0])
def test_of_good_candidates_at_most_alpha_are_rolled_back_in_whole_rollouts(bursts):
    rollouts, alpha = 500, 0.05
    rollout, epochs, e, crossed = simulated(
        World(bursts=bursts), (FAILURE, WRONG, EXACT), (100, 500, 2500), 60, rollouts, alpha
    )
    seconds = e.shape[1]
    assert (crossed < seconds).mean() <= alpha + 3 * sqrt(alpha * (1 - alpha) / rollouts)
    for at in range(0, rollouts, 10):
        check(rollout, epochs, e, at, int(e[at].argmax()))
    for at in np.flatnonzero(crossed < seconds):
        check(rollout, epochs, e, at, int(crossed[at]))


@pytest.mark.parametrize(
    ("metrics", "requests_max"),
    [((FAILURE,), 6500), ((FAILURE, WRONG, EXACT), 9000)],
    ids=["alone", "among three"],
)
def test_ten_times_the_errors_are_found_in_time(metrics, requests_max):
    world = World(failure=0.001, failure_of_candidate=10)
    rollout, epochs, e, crossed = simulated(world, metrics, (1000,), 200, 200, 0.01)
    assert (crossed < e.shape[1]).mean() > 0.95
    assert np.median(crossed) * world.a_second <= requests_max
    for at in range(0, 200, 10):
        if 0 < crossed[at] < e.shape[1]:
            check(rollout, epochs, e, at, int(crossed[at]))
            check(rollout, epochs, e, at, int(crossed[at]) - 1)


def test_of_good_candidates_at_most_alpha_are_rolled_back_after_their_promotion():
    rng, rollouts, alpha = np.random.default_rng(11), 200, 0.1
    rollout = promoted(rollout_of(plan_of(FAILURE, alpha=alpha, watch_s=1e5)), BEGAN_US)
    failed = 0
    for _ in range(rollouts):
        stable = Counts(requests=400, failed=int(rng.binomial(400, 0.02)))
        cells = cells_of((Counts(requests=44, failed=1), stable))
        first = judged(rollout, cells, Extras(totals={"failure": (0, 0)}))
        totals = np.cumsum(rng.binomial(500, 0.02, 15)).tolist()
        marks, words = first.document["marks"], []
        for at, events in enumerate(totals, 1):
            extras = Extras(totals={"failure": (events, 500 * at)}, marks=marks)
            words.append(judged(rollout, cells, extras).word)
        failed += Word.FAILED in words
    assert failed / rollouts <= alpha


def test_twice_the_latency_is_found_within_some_hundred_requests():
    world = World(a_second=10, late_of_candidate=(0.99, 0.852, 0.5), lag_s=1)
    rollout, epochs, e, crossed = simulated(world, (EXACT,), (1000,), 60, 200, 0.01)
    assert np.median(crossed + 1) * world.a_second <= 130
    for at in range(0, 200, 20):
        check(rollout, epochs, e, at, int(crossed[at]))
