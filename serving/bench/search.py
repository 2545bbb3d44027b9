"""What is the highest rate at which promises are kept, and how sure is that?

A trial is one run at one rate. The rate is doubled until a trial breaks a promise, or halved until one
keeps them; the gap is bisected, and the best rate has to prove itself by repetition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from serving.bench.arrivals import RATE_MAX

GAP = 1.05
"""Between a rate that is kept and one that is not, where the search ends: trials differ by that anyway."""
REPEATS = 5
RATE_MIN = 1.0
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Trial:
    """One run, and whether it kept the promises. `busy` is what of the time the generator itself needed."""

    rate_per_s: float
    kept: bool
    busy: float = 0.0
    found: str = ""


@dataclass(slots=True)
class Found:
    """What came of a search.

    Attributes
    ----------
    rate_per_s : float
        The highest rate that kept the promises each time it was tried; 0 if none did.
    broken_per_s : float or None
        The lowest rate above it that did not; None if no rate was too high.
    passed, repeats : int
        How often it was tried, and how often that was wanted.
    cut : bool
        Time was over first.
    """

    rate_per_s: float = 0.0
    broken_per_s: float | None = None
    passed: int = 0
    repeats: int = REPEATS
    cut: bool = False
    trials: list[Trial] = field(default_factory=list)

    @property
    def sure(self) -> float:
        """The least probability of a trial to keep the promises, at a confidence of 95 %.

        With n of n kept it is 0.05 ** (1 / n), after Clopper and Pearson (1934).
        """
        return float((1 - CONFIDENCE) ** (1 / self.passed)) if self.passed else 0.0


class _Over(Exception):
    """Time is over."""


class Search:
    """A search, which runs a trial at a time.

    Parameters
    ----------
    run : callable
        Makes a trial at a rate.
    left_s : callable
        How much time is left.
    trial_s : float
        What a trial takes; none is begun that would not end in time.
    """

    def __init__(
        self,
        run: Callable[[float], Trial],
        left_s: Callable[[], float],
        trial_s: float,
        repeats: int = REPEATS,
        rate_max: float = RATE_MAX,
    ) -> None:
        self._run, self._left_s, self._trial_s, self._rate_max = run, left_s, trial_s, rate_max
        self.found = Found(repeats=repeats)

    def look(self, start_per_s: float) -> Found:
        """Search from a rate on."""
        try:
            self._bracket(start_per_s)
            self._bisect()
            self._prove()
        except _Over:
            self.found.cut = True
        return self.found

    def _try(self, rate_per_s: float) -> bool:
        if self._left_s() < self._trial_s:
            raise _Over
        trial = self._run(rate_per_s)
        self.found.trials.append(trial)
        if not trial.kept:
            self.found.broken_per_s = rate_per_s
            if rate_per_s <= self.found.rate_per_s:
                self.found.rate_per_s, self.found.passed = 0.0, 0
        elif rate_per_s > self.found.rate_per_s:
            self.found.rate_per_s, self.found.passed = rate_per_s, 1
        else:
            self.found.passed += 1
        return trial.kept

    def _bracket(self, start_per_s: float) -> None:
        rate = start_per_s
        if self._try(rate):
            while rate < self._rate_max and self._try(rate := min(2 * rate, self._rate_max)):
                pass
            return
        while rate > RATE_MIN and not self._try(rate := max(rate / 2, RATE_MIN)):
            pass

    def _bisect(self) -> None:
        found = self.found
        while found.rate_per_s and found.broken_per_s and found.broken_per_s > GAP * found.rate_per_s:
            self._try((found.rate_per_s * found.broken_per_s) ** 0.5)

    def _prove(self) -> None:
        found = self.found
        while found.passed < found.repeats:
            rate = found.rate_per_s or (found.broken_per_s or 0.0) / GAP
            if rate < RATE_MIN:
                return
            self._try(rate)
