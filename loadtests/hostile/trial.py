"""What was seen of one attack: rounds without and with it, and the memory?"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Round:
    """What came of a while of asking.

    Attributes
    ----------
    fates : mapping of str to int
        What became of the good requests.
    good_per_s, others_per_s : float
        Good answers in time, of the good clients and of those who attack.
    cpu : float
        Cores that the gateway used.
    """

    fates: Mapping[str, int]
    p99_ms: float | None
    good_per_s: float = 0.0
    others_per_s: float = 0.0
    cpu: float = 0.0

    @property
    def goodput_per_s(self) -> float:
        """All right answers."""
        return self.good_per_s + self.others_per_s


@dataclass(frozen=True)
class Trial:
    """An attack, and what was seen.

    Attributes
    ----------
    calm, stormy : sequence of Round
        Rounds without and with the attack, in pairs. Of an overload the calm ones measure capacity.
    seen : mapping of str to int
        What came of the attack: by status, `mixed`, and `bare` where `Retry-After` was missing.
    grown_bytes, left_bytes : int
        By how much memory grew at most, and what of it was left.
    back_s : float or None
        After how long memory was back; None if it was not in time.
    """

    attack: str
    how: str
    overload: bool
    calm: Sequence[Round]
    stormy: Sequence[Round]
    seen: Mapping[str, int] = field(default_factory=dict)
    grown_bytes: int = 0
    left_bytes: int = 0
    back_s: float | None = 0.0
    died: bool = False

    @property
    def ratios(self) -> list[float]:
        """By pair: p99 with the attack to that without; of an overload, goodput to capacity."""
        pairs = list(zip(self.calm, self.stormy, strict=True))
        if self.overload:
            return [b.goodput_per_s / a.goodput_per_s for a, b in pairs if a.goodput_per_s]
        return [b.p99_ms / a.p99_ms for a, b in pairs if a.p99_ms and b.p99_ms]

    @property
    def ratio(self) -> float | None:
        """Return the median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def fates(self) -> Counter[str]:
        """What became of all good requests during the attack."""
        made: Counter[str] = Counter()
        for each in self.stormy:
            made.update(each.fates)
        return made
