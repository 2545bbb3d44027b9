"""How many rollouts of a good canary are rolled back?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from loadtests.bench.rows import Better, Goal, Row
from loadtests.rolloutbench import callers, measures, walks
from loadtests.rolloutbench.walks import ALPHA, Booleans, Floats, Rollout, paired

HORIZON = 100_000
STEPS = ((0.01, 20_000), (0.05, 20_000), (0.25, 20_000), (0.5, 40_000))
NOTORIOUS, CALLERS_EVENTS = 20, 100
Rolled = Callable[[np.random.Generator, int], Floats | Booleans]
"""From so many runs, when each alarms, or whether it does."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Rollouts of a canary that is as good as the baseline, looked at after every event."""

    name: str
    runs: int
    rolled: Rolled
    promised: bool = True
    """Whether no more than alpha of them may alarm."""


def most(runs: int) -> float:
    """Return the share of so many runs that may alarm: alpha, and three deviations of chance."""
    return ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def bursts(rng: np.random.Generator, runs: int) -> Floats:
    """Let half of 300 requests go wrong at once, five times in a rollout on average."""
    return walks.bursts(rng, 0.001, begins=5e-5, rows=300, share=0.5, runs=runs, horizon=HORIZON)


def _events(rollout: Rollout) -> Rolled:
    return lambda rng, runs: walks.alarms(rng, rollout, runs=runs, horizon=HORIZON)


def _callers(counting: callers.Counting) -> Rolled:
    return lambda rng, runs: callers.alarmed(
        rng, counting=counting, notorious=NOTORIOUS, events=CALLERS_EVENTS, runs=runs
    )


CASES = (
    Alike("errors 0.1 %", 2_000, _events(Rollout(0.001, 0.001))),
    Alike("errors 1 %", 2_000, _events(Rollout(0.01, 0.01))),
    Alike("errors 0.1 %, and shared bursts", 2_000, bursts),
    Alike(
        "errors 1 %, weight 1, 5, 25, 50 %",
        2_000,
        lambda rng, runs: walks.stepped(rng, 0.01, 0.01, STEPS, runs=runs),
    ),
    Alike(
        "errors 1 %, mean of 5 metrics that share half of their events",
        2_000,
        lambda rng, runs: walks.averaged(rng, 0.01, 0.01, metrics=5, alike=0.5, runs=runs, horizon=HORIZON),
    ),
    Alike("sticky callers, each counted once", 2_000, _callers(callers.once)),
    Alike("sticky callers, counted once at each weight", 2_000, _callers(callers.once_a_weight), False),
    Alike("sticky callers, each event counted", 2_000, _callers(callers.each_event), False),
    Alike(
        "latency, lognormal",
        1_000,
        lambda rng, runs: measures.latencies(rng, factor=1, part=0, runs=runs, horizon=50_000),
    ),
    Alike("shadow, 2 % and 2 % of pairs", 2_000, _events(paired(0.02, 0.02))),
    Alike(
        "scores, bet that learns",
        500,
        lambda rng, runs: measures.scores(rng, 0.8, 0.8, weight=0.1, runs=runs, horizon=50_000),
    ),
    Alike(
        "scores, histogram",
        500,
        lambda rng, runs: measures.binned_scores(rng, 0.8, 0.8, weight=0.1, runs=runs, horizon=50_000),
    ),
    Alike(
        "errors 0.1 %, z-test that is looked at every 1,000 requests",
        2_000,
        lambda rng, runs: walks.peeking(
            rng, Rollout(0.001, 0.001), runs=runs, horizon=HORIZON, every=1_000
        ),
        False,
    ),
)  # fmt: skip


def alike(*, scale: float, seed: int) -> Iterator[Row]:
    """Yield the share of rollouts of each case that were rolled back; `scale` is of the number of runs."""
    for number, case in enumerate(CASES):
        runs = max(1, round(case.runs * scale))
        told = case.rolled(np.random.default_rng([seed, number]), runs)
        share = float(np.mean(told if told.dtype == np.bool_ else np.isfinite(told)))
        goal = Goal(most(runs), Better.LOWER) if case.promised else None
        yield Row(f"rolled back: {case.name}", share, "share", goal, note=f"{runs:,} runs")
