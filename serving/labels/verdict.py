"""What came of labels, as the person who gave them is told?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from serving.labels.joining import WORTH, Outcome
from serving.labels.label import Label
from serving.labels.teller import LETTERS

IDS_SHOWN_MAX = 10
"""Of labels that did not count."""


@dataclass(frozen=True, slots=True)
class Given:
    """How many labels had which outcome, on whichever replica had their answer.

    Attributes
    ----------
    missing : tuple of str
        Replicas that live and did not say what came of them: what is `unmatched` may be of theirs, and may be
        given again, which counts nothing twice.
    ids : mapping of Outcome to list of str
        Some of those that did not count.
    """

    model: str
    counts: dict[Outcome, int]
    missing: tuple[str, ...]
    ids: dict[Outcome, list[str]]

    def document(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "model": self.model,
            "labels": sum(self.counts.values()),
            **{str(outcome): self.counts[outcome] for outcome in Outcome},
            "missing": list(self.missing),
            "ids": {str(outcome): ids for outcome, ids in self.ids.items()},
        }


def given(model: str, labels: Sequence[Label], outcomes: Iterable[str], missing: Collection[str]) -> Given:
    """Put together what replicas say, each in a letter for every label, of which the best counts."""
    worth = {letter: WORTH[outcome] for letter, outcome in LETTERS.items()}
    best = [0] * len(labels)
    for letters in outcomes:
        best = [max(known, worth[letter]) for known, letter in zip(best, letters, strict=True)]
    of = {rank: outcome for outcome, rank in WORTH.items()}
    counts = {outcome: best.count(rank) for outcome, rank in WORTH.items()}
    ids: dict[Outcome, list[str]] = {}
    for outcome in (Outcome.MISFIT, Outcome.UNMATCHED):
        found = (label.id for label, rank in zip(labels, best, strict=True) if of[rank] is outcome)
        ids[outcome] = list(islice(found, IDS_SHOWN_MAX))
    return Given(model, counts, tuple(sorted(missing)), ids)
