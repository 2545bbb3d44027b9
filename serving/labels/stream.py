"""Is a version wrong more often than it was? Labels in the order in which they arrive, one version at a time.

How often it may be wrong is configured, or learned from its first labels and then frozen: the highest rate
that these leave credible. An e-detector (`kernels.concept.ErrorRate`) says when there is evidence for more,
and ADWIN how often it was wrong of late. For scores "wrong" is to be further off than nine tenths of the
first labels were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kernels.concept import Adwin, Bucket, ErrorRate
from serving.labels.reading import DEGRADED, EVENTS, RECOVERED, LossReading

FAR = 0.9
"""What share of the first labels of scores is nearer than what counts as wrong from then on."""
RATE_MIN = 1e-6
RECOVERED_WRONG = 20
"""A version has recovered when no more are wrong of so many labels that by the frozen rate this many would.
One that is wrong twice as often passes for that once in 2,000 times."""
RECOVERED_LABELS_MIN = 200
BITS = 50
LN10 = math.log(10)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a stream.

    Attributes
    ----------
    rate : float
        How often a version may be wrong; 0 learns it from the first labels.
    baseline_labels : int
        From how many.
    false_alarms : float
        The probability of an alarm of a version that stays as it was, within the horizon.
    horizon_labels : int
    """

    rate: float
    baseline_labels: int
    false_alarms: float
    horizon_labels: int

    @property
    def evidence(self) -> float:
        """What an alarm takes, as natural logarithm. Half of the false alarms are left for the baseline."""
        return math.log(2 * self.horizon_labels / self.false_alarms)


@dataclass(slots=True)
class Stream:
    """What the labels of one version said so far.

    Attributes
    ----------
    labels, wrong : int
    rate : float
        How often it may be wrong; 0 while that is being learned.
    far : float
        From where on a score counts as wrong; 0 for classes, of which 1 is.
    degraded : bool
    since_us : int
        Unix time of the last turn; 0 if there was none.
    turns : dict of str to int
        How often it degraded and recovered.
    """

    terms: Terms
    scores: bool = False
    labels: int = 0
    wrong: int = 0
    rate: float = 0.0
    far: float = 0.0
    degraded: bool = False
    since_us: int = 0
    turns: dict[str, int] = field(default_factory=lambda: dict.fromkeys(EVENTS, 0))
    adwin: Adwin = field(default_factory=Adwin)
    changes: int = 0
    """How often the window of ADWIN no longer fitted."""
    first: list[float] = field(default_factory=list)
    """Of scores how far off the first answers were, until that is frozen."""
    latest: list[int] = field(default_factory=lambda: [0, 0])
    """Since the alarm, or since the last look whether it is over: labels, and of these wrong."""
    _detector: ErrorRate | None = None

    def __post_init__(self) -> None:
        if self.terms.rate and not self.scores:
            self._freeze(self.terms.rate)

    @property
    def log_e(self) -> float:
        """The evidence that it is wrong more often than it may be; at least 0, which is none."""
        return max(self._detector.log_e, 0.0) if self._detector is not None else 0.0

    def take(self, loss: float, now_us: int) -> str:
        """Take in what the next label said, and return `DEGRADED` or `RECOVERED` if that is the news."""
        if self.scores and not self.far:
            return self._learn(loss, now_us)
        wrong = loss > self.far if self.scores else loss > 0
        self.labels += 1
        self.wrong += wrong
        self.changes += self.adwin.update(float(wrong))
        if self._detector is None:
            if self.labels >= self.terms.baseline_labels:
                self._freeze(highest_rate(self.wrong, self.labels, self.terms.false_alarms / 2))
            return ""
        self._detector.update(wrong)
        return self._look(wrong=wrong, now_us=now_us)

    def _learn(self, loss: float, now_us: int) -> str:
        """Put the first scores' distances aside; they make the baseline once there are enough."""
        self.first.append(loss)
        if len(self.first) < self.terms.baseline_labels:
            return ""
        first, self.first = self.first, []
        self.far = max(sorted(first)[int(FAR * len(first))], math.ulp(0.0))
        for each in first:
            self.take(each, now_us)
        return ""

    def _freeze(self, rate: float) -> None:
        self.rate = min(max(rate, RATE_MIN), 1 - RATE_MIN)
        self._detector = ErrorRate(self.rate)

    def _look(self, *, wrong: bool, now_us: int) -> str:
        if not self.degraded:
            if self.log_e < self.terms.evidence:
                return ""
            self.latest = [0, 0]
            return self._turn(DEGRADED, now_us)
        self.latest[0] += 1
        self.latest[1] += wrong
        if self.latest[0] < max(RECOVERED_WRONG / self.rate, RECOVERED_LABELS_MIN):
            return ""
        over = self.latest[1] <= self.rate * self.latest[0]
        self.latest = [0, 0]
        if not over:
            return ""
        self._detector = ErrorRate(self.rate)
        return self._turn(RECOVERED, now_us)

    def _turn(self, turn: str, now_us: int) -> str:
        self.degraded = turn == DEGRADED
        self.since_us = now_us
        self.turns[turn] += 1
        return turn

    def reading(self) -> LossReading:
        """Return what metrics say of it."""
        recent = self.adwin.window.mean if self.labels else None
        return LossReading(self.degraded, self.log_e / LN10, recent, dict(self.turns))

    def document(self) -> dict[str, Any]:
        """Return what people are shown."""
        known = self._detector is not None
        state = "degraded" if self.degraded else "as before" if known else "learning"
        return {
            "state": state,
            "since_us": self.since_us,
            "labels": self.labels,
            "wrong": self.wrong,
            "labels_wanted": 0 if known else self.terms.baseline_labels - (self.labels or len(self.first)),
            "rate": self.rate if known else None,
            "far": self.far if self.scores and self.far else None,
            "recent": self.adwin.window.mean if self.labels else None,
            "recent_labels": self.adwin.window.count,
            "changes": self.changes,
            "evidence": self.log_e / LN10,
            "evidence_needed": self.terms.evidence / LN10,
            "turns": dict(self.turns),
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        document = {name: getattr(self, name) for name in PLAIN}
        stakes = self._detector.stakes if self._detector is not None else []
        document["stakes"] = [None if stake == -math.inf else stake for stake in stakes]
        document["adwin"] = {
            "count": self.adwin.count,
            "window": list(asdict(self.adwin.window).values()),
            "sizes": [[list(asdict(each).values()) for each in size] for size in self.adwin.sizes],
        }
        return document

    @classmethod
    def from_json(cls, terms: Terms, document: Mapping[str, Any]) -> Stream:
        """Go on from what `to_json` wrote; `ValueError`, `TypeError` or `KeyError` if it is another's."""
        made = cls(terms, **{name: document[name] for name in PLAIN})
        adwin = document["adwin"]
        made.adwin.count, made.adwin.window = adwin["count"], Bucket(*adwin["window"])
        made.adwin.sizes = [[Bucket(*each) for each in size] for size in adwin["sizes"]]
        if document["rate"] and not (terms.rate and not made.scores):
            made._freeze(document["rate"])
        if made._detector is not None and len(document["stakes"]) == len(made._detector.stakes):
            made._detector.stakes = [-math.inf if stake is None else stake for stake in document["stakes"]]
        return made


PLAIN = (
    *("scores", "labels", "wrong", "rate", "far", "degraded", "since_us"),
    *("turns", "changes", "first", "latest"),
)


def highest_rate(wrong: int, labels: int, alpha: float) -> float:
    """Return the highest rate at which so few are wrong with probability `alpha` (Clopper & Pearson 1934)."""
    if wrong >= labels:
        return 1.0
    low, high = wrong / labels, 1.0
    for _ in range(BITS):
        middle = (low + high) / 2
        low, high = (low, middle) if _at_most(wrong, labels, middle) < alpha else (middle, high)
    return high


def _at_most(wrong: int, labels: int, rate: float) -> float:
    """Return the probability that at most so many of `labels` are wrong."""
    log_one = labels * math.log1p(-rate)  # That none is.
    odds = math.log(rate) - math.log1p(-rate)
    logs = [log_one]
    for count in range(1, wrong + 1):
        log_one += math.log((labels - count + 1) / count) + odds
        logs.append(log_one)
    most = max(logs)
    return math.exp(most) * math.fsum(math.exp(each - most) for each in logs)
