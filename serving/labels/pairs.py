"""Which of two versions was right about the same request, one that answered it and one that shadowed?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from serving.labels.answers import Mark


class Between(NamedTuple):
    """What is compared: two versions, while a model had one and the same route."""

    model: str
    epoch: int
    """The revision that gave the model its route."""
    primary: str
    shadow: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """Labelled requests that both answered."""

    right: int = 0
    """Both were."""
    wrong: int = 0
    """Both were."""
    better: int = 0
    """Only the version that answered was wrong."""
    worse: int = 0
    """Only the shadow was wrong."""

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def all(self) -> int:
        """How many there are."""
        return self.right + self.wrong + self.better + self.worse

    @classmethod
    def of(cls, primary_right: bool, shadow_right: bool) -> Pairs:
        """Return the one pair of these."""
        return cls(
            int(primary_right and shadow_right),
            int(not primary_right and not shadow_right),
            int(shadow_right and not primary_right),
            int(primary_right and not shadow_right),
        )


def told(pairs: Mapping[Between, Pairs]) -> list[list[Any]]:
    """Return plain values that `heard` reads back."""
    return [[*between, *astuple(each)] for between, each in pairs.items()]


def heard(told: Iterable[list[Any]]) -> Iterator[tuple[Between, Pairs]]:
    """Read what `told` wrote."""
    for model, epoch, primary, shadow, *counts in told:
        yield Between(model, epoch, primary, shadow), Pairs(*counts)


Right = Mapping[int, tuple[Mark, bool]]
"""By label: who answered, and whether it was right."""
