"""Has a stream drifted, since when, and is it over? The rule by which alarms are raised and cleared.

An alarm needs both: evidence that is strong enough however often one looks, and a change that is large
enough to matter. It is over when the latest rows, enough of them, and all from after it was raised, are
clearly closer to the reference than what raised it (hysteresis): then everything begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import detect
from serving.drift.case import Case

Booleans = NDArray[np.bool_]
Numbers = NDArray[np.float64]

CLEARED_AT = 0.8
"""Of `psi_min`: below it in the latest rows an alarm is over."""
FEATURES_TOLD_MAX = 10
"""How many an event names."""
LN10 = log(10)


class Turn(StrEnum):
    """What can happen to a stream."""

    DETECTED = "detected"
    CLEARED = "cleared"


@dataclass(frozen=True, slots=True)
class Bar:
    """What an alarm takes.

    Attributes
    ----------
    alpha : float
        The probability of a false alarm of this stream within the horizon.
    blocks : float
        How often it is evaluated within the horizon at most.
    psi_min : float
        How large a change has to be, as corrected PSI.
    """

    alpha: float
    blocks: float
    psi_min: float

    @property
    def evidence(self) -> float:
        """What the log10 of the mean e-value has to reach."""
        return log(self.blocks / self.alpha) / LN10


@dataclass(frozen=True, slots=True)
class Finding:
    """What happened, in numbers. `evidence` is log10 of the mean e-value."""

    turn: Turn
    features: tuple[str, ...]
    evidence: float
    psi: float


class Judge:
    """The verdict on one stream, over all of its panels.

    Attributes
    ----------
    drifted : bool
    since_us : int
        Unix time of the verdict's last turn; 0 if there was none.
    turns : dict of Turn to int
        How often each happened.
    """

    def __init__(self, cases: Mapping[str, Case]) -> None:
        self._cases = tuple(cases.values())
        self.drifted = False
        self.since_us = 0
        self.turns = dict.fromkeys(Turn, 0)
        self._sizes = [len(case.features) for case in self._cases]
        self._named_s = np.full(sum(self._sizes), np.inf)
        """Since when each feature is named; inf where it is not."""

    @property
    def named(self) -> Booleans:
        """Which features drifted, in the order of the panels."""
        named: Booleans = np.isfinite(self._named_s)
        return named

    @property
    def log_e(self) -> Numbers:
        """The evidence of each feature, as natural logarithm."""
        return self._joined(case.detector.log_e for case in self._cases)

    @property
    def evidence(self) -> float:
        """Log10 of the mean e-value; at least 0, which is none."""
        return max(detect.mean_e(self.log_e) / LN10, 0.0)

    def psi(self) -> Numbers:
        """Return how large the change of each feature is, since it began; NaN where it has just begun."""
        return self._joined(case.psi_changed() for case in self._cases)

    def per_case(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Return what is known of all features panel by panel."""
        return np.split(values, np.cumsum(self._sizes)[:-1])

    def decide(self, bar: Bar, now_us: int) -> Finding | None:
        """Judge anew, after the cases took what there was."""
        psi, log_e = self.psi(), self.log_e
        verdict = detect.verdict(log_e, psi, blocks=bar.blocks, alpha=bar.alpha, distance_min=bar.psi_min)
        if not self.drifted:
            return self._raise(verdict.drifted, psi, now_us) if verdict.any else None
        self._named_s = np.where(verdict.drifted, np.minimum(self._named_s, now_us / 1e6), self._named_s)
        return self._look_for_end(bar, now_us)

    def _raise(self, named: Booleans, psi: Numbers, now_us: int) -> Finding:
        now_s = now_us / 1e6
        self.drifted, self.since_us = True, now_us
        self.turns[Turn.DETECTED] += 1
        self._named_s = np.where(named, now_s, np.inf)
        for case in self._cases:
            case.follow(now_s)
        return Finding(Turn.DETECTED, self._worst(named, psi), self.evidence, _most(psi))

    def _look_for_end(self, bar: Bar, now_us: int) -> Finding | None:
        """See whether the latest rows are as they should be: of single features, and of all."""
        latest = [case.psi_latest() for case in self._cases]
        whole = [each for each in latest if each is not None]
        if len(whole) < len(latest):
            return None
        calm = np.concatenate(whole) <= CLEARED_AT * bar.psi_min
        if calm.all():
            finding = Finding(
                Turn.CLEARED, self._worst(self.named, self.psi()), self.evidence, _most(np.concatenate(whole))
            )
            self._end(now_us)
            return finding
        self._release(calm & (self._named_s <= self._followed_s()))
        return None

    def _release(self, over: Booleans) -> None:
        """Name features no more whose change is over; rows from before they were named do not say so."""
        self._named_s = np.where(over, np.inf, self._named_s)
        for case, which in zip(self._cases, self.per_case(over), strict=True):
            case.detector.reset(which)

    def _end(self, now_us: int) -> None:
        self.drifted, self.since_us = False, now_us
        self.turns[Turn.CLEARED] += 1
        self._named_s[:] = np.inf
        for case in self._cases:
            case.rest()

    def _followed_s(self) -> Numbers:
        began = [case.latest.began_s if case.latest is not None else np.inf for case in self._cases]
        return np.repeat(np.array(began), self._sizes)

    def _worst(self, named: Booleans, psi: Numbers) -> tuple[str, ...]:
        """Return the features that an event names: by size, those that are named; of none, the worst."""
        names = [name for case in self._cases for name in case.features]
        order = np.argsort(-np.nan_to_num(psi), kind="stable")
        chosen: Sequence[int] = [at for at in order.tolist() if named[at]] or order[:1].tolist()
        return tuple(names[at] for at in chosen[:FEATURES_TOLD_MAX])

    def _joined(self, parts: Iterable[Numbers]) -> Numbers:
        return np.concatenate(list(parts))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `restore` goes on from."""
        turns = np.array([int(self.drifted), self.since_us, *self.turns.values()], np.int64)
        return {"turns": turns, "named_s": self._named_s}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `arrays` returned."""
        drifted, self.since_us, *turns = arrays["turns"].tolist()
        self.drifted, self.turns = bool(drifted), dict(zip(Turn, turns, strict=True))
        self._named_s = arrays["named_s"].astype(np.float64)


def _most(psi: Numbers) -> float:
    return float(np.nanmax(psi)) if np.isfinite(psi).any() else 0.0
