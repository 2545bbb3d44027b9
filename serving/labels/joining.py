"""What do labels say of the answers that they are of? Found, told apart, and counted; each answer once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.evidence.page import Page
from serving.labels.answers import Answers, Hits, Keys, Mark, Places, Segment, keys_of, row_key, wire_id
from serving.labels.decision import By, Classes, Scores
from serving.labels.label import ONLY_ROW, Label, Truth
from serving.labels.quality import Quality, of_classes, of_scores

LIVE, SHADOW = "live", "shadow"
"""Whose answers: of those who asked, or of copies of their requests."""

Key = tuple[str, str]
"""A version, and in which of the two roles."""


class Outcome(StrEnum):
    """What came of a label."""

    JOINED = "joined"
    """It is of an answer that had none."""
    REPEATED = "repeated"
    """It is of an answer that has one already, and counts no more."""
    MISFIT = "misfit"
    """It is of an answer, but says nothing about it: a class that the version does not have by that name, or
    a score where it gives none."""
    UNMATCHED = "unmatched"
    """No answer is remembered that it could be of."""


WORTH = {Outcome.UNMATCHED: 0, Outcome.MISFIT: 1, Outcome.REPEATED: 2, Outcome.JOINED: 3}
"""Which outcome counts for a label where replicas differ: the highest."""


class Remark(NamedTuple):
    """What one label says as evidence about a version that was drawn to answer."""

    page: Page
    answered: str
    said: str
    slot: int


class Loss(NamedTuple):
    """How far off an answer was: 0 or 1 for a class, the distance for a score."""

    label: int
    """Which of the labels."""
    loss: float


@dataclass(slots=True)
class Joined:
    """What came of labels.

    Attributes
    ----------
    outcomes : list of Outcome
        Of each label, by the answers that callers got.
    quality : dict of Key to Quality
        What they add to what is known of versions.
    losses : dict of Key to list of Loss
        Of those that say a class.
    distances : dict of Key to list of Loss
        Of those that say a score.
    remarks : list of Remark
    right : dict of int to (Mark, bool)
        Of labels that say a class: who answered, and whether it was right.
    """

    outcomes: list[Outcome]
    quality: dict[Key, Quality] = field(default_factory=dict)
    losses: dict[Key, list[Loss]] = field(default_factory=dict)
    distances: dict[Key, list[Loss]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    right: dict[int, tuple[Mark, bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """Labels of answers that were given alike.

    Attributes
    ----------
    mark : Mark
    labels : (n,) int64
        Which of the labels.
    classes, scores, slots, at_us : (n,) ndarray
        What was answered.
    """

    mark: Mark
    labels: Places
    classes: Classes
    scores: Scores
    slots: Places
    at_us: Places


class Sought:
    """Labels that are looked for.

    Parameters
    ----------
    labels : sequence of Label
    """

    def __init__(self, labels: Sequence[Label]) -> None:
        self.labels = labels
        self._keys = keys_of([wire_id(each.id) for each in labels], len(labels))
        self._rows = np.array([each.row for each in labels], np.int64)
        several = self._rows != ONLY_ROW
        self._first = np.flatnonzero(self._rows == 0)
        self.keys: Keys = self._keys.copy()
        self.keys[several] = row_key(self._keys[several], self._rows[several])
        self.at_us = np.array([each.at_us for each in labels], np.int64)

    def find(self, answers: Answers, now_us: int) -> list[Hits]:
        """Return where they are. The first row of a request may also be its only one."""
        hits = answers.find(self.keys, now_us)
        if len(self._first):
            found = np.zeros(len(self.labels), np.bool_)
            for each in hits:
                found[each.labels] = True
            left = self._first[~found[self._first]]
            more = answers.find(self._keys[left], now_us)
            hits = [*hits, *[Hits(each.segment, left[each.labels], each.rows) for each in more]]
        return hits


def join(sought: Sought, answers: Answers, now_us: int, classes_max: int) -> Joined:
    """Join labels to the answers that are remembered, and mark these as labelled."""
    joined = Joined([Outcome.UNMATCHED] * len(sought.labels))
    for hits in sought.find(answers, now_us):
        codes = hits.segment.marks[hits.rows]
        for code in np.unique(codes).tolist():
            here = codes == code
            labels, rows = hits.labels[here], hits.rows[here]
            said = _said(sought, labels, hits.segment.marks_of[code])
            fresh = said.meant & ~hits.segment.labelled[rows]
            fresh[fresh] = _first(rows[fresh])
            hits.segment.labelled[rows[fresh]] = True
            for at, meant, counts in zip(
                *(each.tolist() for each in (labels, said.meant, fresh)), strict=True
            ):
                repeated = Outcome.REPEATED if meant else Outcome.MISFIT
                joined.outcomes[at] = Outcome.JOINED if counts else repeated
            group = _group(hits.segment, code, labels[fresh], rows[fresh])
            _count(group, said.at(fresh), sought.at_us[group.labels], joined, classes_max)
    return joined


class Said(NamedTuple):
    """What labels say: a class, -1 for none, or a score, NaN for none."""

    classes: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def meant(self) -> NDArray[np.bool_]:
        """Whether each says anything about its answer."""
        meant: NDArray[np.bool_] = (self.classes >= 0) | ~np.isnan(self.scores)
        return meant

    def at(self, chosen: NDArray[np.bool_]) -> Said:
        """Return what some of them say."""
        return Said(self.classes[chosen], self.scores[chosen])


def _said(sought: Sought, labels: Places, mark: Mark) -> Said:
    truths = [sought.labels[at].truth for at in labels.tolist()]
    classes = np.array([_class(truth, mark) for truth in truths], np.int64)
    single = mark.decision.by is By.SCORE
    scores = [truth if single and isinstance(truth, float) else np.nan for truth in truths]
    return Said(classes, np.array(scores, np.float64))


def _first(rows: Places) -> NDArray[np.bool_]:
    """Say which are the first of equal ones."""
    first = np.zeros(len(rows), np.bool_)
    first[np.unique(rows, return_index=True)[1]] = True
    return first


def _group(segment: Segment, code: int, labels: Places, rows: Places) -> Group:
    return Group(
        segment.marks_of[code],
        labels,
        segment.classes[rows],
        segment.scores[rows],
        segment.slots[rows].astype(np.int64),
        segment.at_us[rows],
    )


def _count(group: Group, said: Said, known_us: Places, joined: Joined, classes_max: int) -> None:
    """Count what labels say of the answers of a group, each of which had none."""
    if not len(group.labels):
        return
    classed, scored = said.classes >= 0, ~np.isnan(said.scores)
    delays_us = known_us - group.at_us
    key = (group.mark.version, SHADOW if group.mark.shadow else LIVE)
    quality = joined.quality.get(key, Quality())
    if classed.any():
        sure = _sure(group)[classed]
        answered = group.classes[classed]
        quality += of_classes(said.classes[classed], answered, sure, delays_us[classed], classes_max)
        _note_classes(group, said.classes, classed, joined, key)
    if scored.any():
        quality += of_scores(said.scores[scored], group.scores[scored], delays_us[scored])
        off = np.abs(group.scores.astype(np.float64) - said.scores)
        real = scored & np.isfinite(off)
        found = map(Loss, group.labels[real].tolist(), off[real].tolist())
        joined.distances.setdefault(key, []).extend(found)
    joined.quality[key] = quality


def _class(truth: Truth, mark: Mark) -> int:
    """Return the class that a label says, -1 if it says none that the version has."""
    if isinstance(truth, int):
        count = 2 if mark.decision.by is By.SCORE else mark.decision.classes
        # Of an output that is the class itself nobody knows which there are.
        return truth if mark.decision.by is By.CLASS or not count or truth < count else -1
    names = mark.decision.names
    return names.index(truth) if isinstance(truth, str) and truth in names else -1


def _sure(group: Group) -> Scores:
    """Return how probable the version said that its answers are."""
    if group.mark.decision.by is not By.SCORE:
        return group.scores
    return np.where(group.classes == 1, group.scores, 1 - group.scores).astype(np.float32)


def _note_classes(
    group: Group, classes: NDArray[np.int64], classed: NDArray[np.bool_], joined: Joined, key: Key
) -> None:
    """Note what labels that say a class say of each answer."""
    mark = group.mark
    losses = joined.losses.setdefault(key, [])
    columns = (group.labels, classes, group.classes, group.slots)
    for label, said, answered, slot in zip(*(each[classed].tolist() for each in columns), strict=True):
        losses.append(Loss(label, float(said != answered)))
        joined.right[label] = mark, said == answered
        if mark.page is not None:
            joined.remarks.append(Remark(mark.page, named(mark, answered), named(mark, said), slot))


def named(mark: Mark, class_: int) -> str:
    """Return what a class is called."""
    names = mark.decision.names
    return names[class_] if 0 <= class_ < len(names) and names[class_] else str(class_)
