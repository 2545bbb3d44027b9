"""After how many requests is a bad canary rolled back, and is that as soon as it was meant to be?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from kernels.passage import Passage, finding, finding_paired
from loadtests.bench.rows import Goal, Row
from loadtests.rolloutbench import measures, walks
from loadtests.rolloutbench.walks import ALPHA, Floats, Rollout, paired


@dataclass(frozen=True, slots=True)
class Meant:
    """How soon it was meant to be: what came of so many runs of the first design."""

    requests: float
    p90: float | None
    runs: int
    share: float = 0.5
    """Of them that were found by then."""

    def by_then(self, runs: int) -> float:
        """Return what share of `runs` has to be found by then: as much, less 3 deviations of both."""
        return self.share - 3 * math.sqrt(self.share * (1 - self.share) * (1 / self.runs + 1 / runs))


@dataclass(frozen=True, slots=True)
class Worse:
    """Rollouts of a bad canary."""

    name: str
    runs: int
    rolled: Callable[[np.random.Generator, int], Floats]
    meant: Meant | None = None
    exact: Callable[[], Passage] | None = None


def counted(name: str, rollout: Rollout, horizon: int, meant: Meant, exact: Callable[[], Passage]) -> Worse:
    """Return a case of bad events, of which the exact distribution is known, too."""
    return Worse(
        name,
        10_000,
        lambda rng, runs: walks.alarms(rng, rollout, runs=runs, horizon=horizon),
        meant,
        exact,
    )


def errors(base: float, bad: float, weight: float, horizon: int, meant: Meant) -> Worse:
    """Return a case of errors that became more frequent."""
    name = f"errors {100 * base:g} to {100 * bad:g} %, weight {100 * weight:g} %"
    return counted(
        name, Rollout(base, bad, weight), horizon, meant, lambda: finding(base, bad, weight, alpha=ALPHA)
    )


def pairs(worse: float, better: float, meant: Meant) -> Worse:
    """Return a case of a shadow."""
    name = f"shadow, {100 * worse:g} and {100 * better:g} % of pairs"
    return counted(
        name, paired(worse, better), 50_000, meant, lambda: finding_paired(worse, better, alpha=ALPHA)
    )


def late(name: str, factor: float, part: float, horizon: int, meant: Meant) -> Worse:
    """Return a case of a slow canary."""
    return Worse(
        f"latency {name}",
        2_000,
        lambda rng, runs: measures.latencies(rng, factor=factor, part=part, runs=runs, horizon=horizon),
        meant,
    )


def scored(weight: float, horizon: int, meant: Meant) -> Iterator[Worse]:
    """Return cases of scores that fell from 0.80 to 0.75 on average."""
    for name, alarms in (("bet that learns", measures.scores), ("histogram", measures.binned_scores)):
        yield Worse(
            f"scores 0.80 to 0.75, {name}, weight {100 * weight:g} %",
            2_000,
            lambda rng, runs, alarms=alarms: alarms(
                rng, 0.8, 0.75, weight=weight, runs=runs, horizon=horizon
            ),
            meant,
        )


CASES = (
    errors(0.001, 0.01, 0.1, 60_000, Meant(4768, 10044, 1_000)),
    errors(0.01, 0.02, 0.1, 200_000, Meant(15042, 32404, 1_000)),
    errors(0.05, 0.07, 0.1, 200_000, Meant(16366, 35147, 1_000)),
    errors(0.05, 0.07, 0.5, 60_000, Meant(6288, 13023, 1_000)),
    errors(0.001, 0.002, 0.1, 1_000_000, Meant(100_000, None, 1_000, share=0.31)),
    pairs(0.03, 0.01, Meant(896, 1884, 1_000)),
    pairs(0.06, 0.04, Meant(2520, 5013, 1_000)),
    late("x2", 2, 1, 1_000, Meant(62, 121, 500)),
    late("x3 of 3 % of requests", 3, 0.03, 20_000, Meant(3441, 6948, 500)),
    *scored(0.1, 12_000, Meant(2330, None, 300)),
    *scored(0.5, 5_000, Meant(568, None, 300)),
    Worse(
        "errors 0.1 to 1 %, mean of 5 metrics of which the others do not change",
        2_000,
        lambda rng, runs: walks.averaged(
            rng, 0.001, 0.01, metrics=5, alike=0.0, runs=runs, horizon=60_000
        ),
    ),
)  # fmt: skip


def worse(*, scale: float, seed: int) -> Iterator[Row]:
    """Yield after how many requests half of the rollouts were rolled back, and how many as soon as meant."""
    for number, case in enumerate(CASES):
        runs = max(1, round(case.runs * scale))
        found = case.rolled(np.random.default_rng([seed, 1000 + number]), runs)
        yield Row(f"delay: {case.name}", _finite(found, 0.5), "requests", note=_note(case, found))
        if case.meant is not None:
            by_then = float((found <= case.meant.requests).mean())
            goal = Goal(round(case.meant.by_then(runs), 3))
            note = f"by {case.meant.requests:,.0f} requests; meant {case.meant.share:.0%}"
            yield Row(f"found by then: {case.name}", by_then, "share", goal, note=note)


def _finite(found: Floats, share: float) -> float | None:
    value = float(np.quantile(found, share, method="higher"))
    return value if math.isfinite(value) else None


def _note(case: Worse, found: Floats) -> str:
    words = [f"p90 {_words(_finite(found, 0.9))}"]
    if case.exact is not None:
        exact = case.exact()
        words.append(f"exactly {_words(exact.requests(0.5))} and {_words(exact.requests(0.9))}")
    if case.meant is not None and case.meant.share == 0.5:
        words.append(f"meant {_words(case.meant.requests)} and {_words(case.meant.p90)}")
    return f"{', '.join(words)}; {len(found):,} runs"


def _words(requests: float | None) -> str:
    return "-" if requests is None else f"{requests:,.0f}"
