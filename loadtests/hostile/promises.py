"""Did a gateway keep its promises to good clients while others were hostile, or is that open?

What is measured in pairs is noisy where machines have other work. So a bound is *broken* only if so many
pairs are beyond it that this were unlikely (at most `DOUBT_MAX`, by a sign test) of a gateway whose median is
on the bound; *open* if the median is beyond it, and the pairs do not suffice to say so; else *kept*. If the
median of the first `PAIRS` is beyond it there are `PAIRS_MORE` before that is decided, over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

from loadtests.hostile.good import Fate
from loadtests.hostile.trial import Trial

P99_RATIO_MAX = 1.1
GOODPUT_RATIO_MIN = 0.9
GROWN_BYTES_MAX = 300 << 20
BACK_BYTES_MAX = 100 << 20
"""What may be left of the growth: buffers of up to 64 MiB are kept, and what malloc does not give back."""
BACK_S_MAX = 10.0
DOUBT_MAX = 0.05
PAIRS, PAIRS_MORE = 5, 6
"""Of 5 pairs all, of 11 pairs 9 have to be beyond a bound."""
ANSWERED = {Fate.GOOD}
TOLD = {Fate.GOOD, Fate.REFUSED}


class Finding(StrEnum):
    """What there is to say of a bound."""

    KEPT = "kept"
    OPEN = "open"
    BROKEN = "broken"


def beyond(ratios: Sequence[float], bound: float, *, above: bool) -> Finding:
    """Hold the ratios of pairs against a bound of their median."""
    count = sum(each > bound if above else each < bound for each in ratios)
    if 2 * count <= len(ratios):
        return Finding.KEPT
    return Finding.BROKEN if doubt(count, len(ratios)) <= DOUBT_MAX else Finding.OPEN


def doubt(count: int, of: int) -> float:
    """Return how likely so many or more of the pairs are beyond the median."""
    return float(sum(math.comb(of, each) for each in range(count, of + 1)) / 2**of)


def is_suspect(trial: Trial) -> bool:
    """Say whether more pairs are needed."""
    return _bound(trial) is not Finding.KEPT


def _bound(trial: Trial) -> Finding:
    if not trial.ratios:
        return Finding.BROKEN
    if trial.overload:
        return beyond(trial.ratios, GOODPUT_RATIO_MIN, above=False)
    return beyond(trial.ratios, P99_RATIO_MAX, above=True)


def _ratios(trial: Trial) -> str:
    if not trial.ratios:
        return "nothing was answered"
    shown = f"{trial.ratio:.2f} times ({min(trial.ratios):.2f} to {max(trial.ratios):.2f})"
    return f"{shown}, {len(trial.ratios)} pairs"


Checker = Callable[[Trial], tuple[Finding, str]]


def p99_hardly_rises(trial: Trial) -> tuple[Finding, str]:
    """Hold the good clients' p99 beside an attack against that without."""
    return (Finding.KEPT, "") if trial.overload else (_bound(trial), _ratios(trial))


def goodput_stays(trial: Trial) -> tuple[Finding, str]:
    """Hold what is answered under overload against what can be."""
    return (_bound(trial), _ratios(trial)) if trial.overload else (Finding.KEPT, "")


def all_are_answered(trial: Trial) -> tuple[Finding, str]:
    """Look for good requests that were lost, answered wrongly, or not answered."""
    fine = TOLD if trial.overload else ANSWERED
    wrong = {fate: count for fate, count in trial.fates.items() if fate not in fine and count}
    theirs = {f"attacker's {name}": trial.seen.get(name, 0) for name in ("mixed", "bare")}
    wrong.update({name: count for name, count in theirs.items() if count})
    told = ", ".join(f"{count} {fate}" for fate, count in sorted(wrong.items()))
    return (Finding.BROKEN if wrong or trial.died else Finding.KEPT), told or "the gateway died" * trial.died


def memory_stays_within_bounds(trial: Trial) -> tuple[Finding, str]:
    """Hold the growth against what an attack may cost."""
    grown = trial.grown_bytes
    return (Finding.BROKEN if grown > GROWN_BYTES_MAX else Finding.KEPT), f"it grew by {grown >> 20} MiB"


def memory_comes_back(trial: Trial) -> tuple[Finding, str]:
    """Hold what is left of it against what was there before."""
    told = f"{trial.left_bytes >> 20} MiB were left after {BACK_S_MAX:g} s"
    return (Finding.BROKEN if trial.back_s is None else Finding.KEPT), told


PROMISES: dict[str, Checker] = {
    "p99 of good clients rises by at most a tenth": p99_hardly_rises,
    "goodput under overload is at least 0.9 of capacity": goodput_stays,
    "good requests are answered rightly, or refused under overload, with Retry-After": all_are_answered,
    "memory grows by at most 300 MiB": memory_stays_within_bounds,
    "memory is back within 10 s": memory_comes_back,
}


def judged(trial: Trial, finding: Finding) -> Iterator[str]:
    """Name the promises of which that is found, each in a line."""
    for promise, checker in PROMISES.items():
        found, how = checker(trial)
        if found is finding:
            yield f"{trial.attack}: {promise}: {how}"
