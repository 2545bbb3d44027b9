"""Which output of a version decides, and what did it decide for each row?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.config import Deciding
from serving.model import ModelSpec
from serving.wire import TensorSpec

Classes = NDArray[np.int32]
Scores = NDArray[np.float32]
Arrays = Sequence[NDArray[Any]]

NO_CLASS = -1
"""The class of a row whose scores say none: they are not numbers."""
CLASS_MAX = (1 << 31) - 1
BLOCK_SCORES = 1 << 14
"""What is worked on at once: what is made of it on the way is 64 KiB each, which need no new pages."""
OFF_MAX = 1e-3
"""How far from 1 the sum of scores may be that are taken for probabilities."""


class By(StrEnum):
    """How an output says what it decided."""

    CLASS = "class"
    """It is the class: a whole number, or a truth value."""
    SCORES = "scores"
    """It has a score for each class, and the highest decides."""
    SCORE = "score"
    """It is a single score: of class 1 from the threshold on, of class 0 below; or simply a number."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How the decisions of a version are read from its outputs.

    Attributes
    ----------
    output : int
        The place of the output that decides.
    scores : int
        The place of the one that says how sure the version is; -1 if none does.
    classes : int
        How many scores a row of that has; 0 where it has none, or their number varies.
    names : tuple of str
        Of the classes; perhaps none.
    """

    by: By
    output: int
    scores: int
    classes: int
    names: tuple[str, ...]
    threshold: float

    @property
    def outputs(self) -> tuple[int, ...]:
        """The places of the outputs that are looked at, the one that decides first."""
        if self.scores < 0 or self.scores == self.output:
            return (self.output,)
        return self.output, self.scores


class Undecided(Exception):
    """No output decides, or not the one that was named. The message says which could."""


def decision(spec: ModelSpec, chosen: Deciding) -> Decision:
    """Work out which output of a version decides.

    Of all outputs it is the first with one whole number a row; else the first with at least two scores a
    row; else the first with a single one.

    Raises
    ------
    Undecided
        If there is none, or the one that is `chosen` cannot.
    """
    found = {at: how for at, each in enumerate(spec.outputs) if (how := _how(spec, each)) is not None}
    if chosen.output:
        at = next((at for at, each in enumerate(spec.outputs) if each.name == chosen.output), -1)
        if at not in found:
            names = ", ".join(spec.outputs[at].name for at in found) or "none"
            raise Undecided(
                f"{spec}: output {chosen.output!r} decides nothing about a row; outputs that can: {names}"
            )
    else:
        at = next((at for by in By for at, how in found.items() if how is by), -1)
        if at < 0:
            raise Undecided(f"{spec}: no output has a class or a score for each row")
    by = found[at]
    scores = at if by is not By.CLASS else next((each for each, how in found.items() if how is By.SCORES), -1)
    classes = 0
    if scores >= 0 and found[scores] is By.SCORES:
        classes = max(_row(spec, spec.outputs[scores])[-1], 0)
    return Decision(by, at, scores, classes, _names(spec, at, found), chosen.threshold)


def _how(spec: ModelSpec, tensor: TensorSpec) -> By | None:
    """Say how an output could decide about each row, if it could."""
    row, kind = _row(spec, tensor), tensor.datatype.dtype.kind
    if kind in "iub":
        return By.CLASS if math.prod(row) == 1 else None
    if kind not in "fV":
        return None
    if row and math.prod(row[:-1]) == 1 and (row[-1] == -1 or row[-1] >= 2):
        return By.SCORES
    return By.SCORE if math.prod(row) == 1 else None


def _row(spec: ModelSpec, tensor: TensorSpec) -> tuple[int, ...]:
    """Return the shape of a row: where the first dimension is free it is rows, also of one request."""
    rows = spec.rows_max > 0 or tensor.shape[:1] == (-1,)
    return tensor.shape[1:] if tensor.shape and rows else tensor.shape


def _names(spec: ModelSpec, at: int, found: dict[int, By]) -> tuple[str, ...]:
    """Return the names of the classes: the output's own, or else those of another that decides alike."""
    for each in (at, *found):
        names = spec.labels.get(spec.outputs[each].name, ())
        if names:
            return tuple(names)
    return ()


def decide(decision: Decision, arrays: Arrays) -> tuple[Classes, Scores]:
    """Return the class of each row, and how sure the version is of it, or its score.

    Parameters
    ----------
    arrays : sequence of ndarray
        Those of `Decision.outputs`, of equally many rows; flat ones will do where `classes` is known.

    Returns
    -------
    classes : (rows,) int32
        `NO_CLASS` where scores are not numbers.
    scores : (rows,) float32
        The probability of that class; NaN where nothing says it. Of a single score, the score itself.

    Raises
    ------
    ValueError
        If they are not of so many rows.
    """
    first = arrays[0]
    match decision.by:
        case By.SCORES:
            return highest(_matrix(first, decision.classes))
        case By.SCORE:
            with np.errstate(over="ignore"):  # What a float32 cannot hold is infinite.
                scores = first.reshape(-1).astype(np.float32)
            return _above(scores, decision.threshold), scores
        case By.CLASS:
            classes = whole(first.reshape(-1))
    if len(arrays) == 1:
        return classes, np.full(len(classes), np.nan, np.float32)
    surest, scores = highest(_matrix(arrays[1], decision.classes))
    if len(surest) != len(classes):
        raise ValueError(f"{len(classes)} classes and the scores of {len(surest)} rows")
    # Of another class than the highest score's it is not known how sure the version is.
    return classes, np.where(surest == classes, scores, np.float32(np.nan))


def _matrix(array: NDArray[Any], classes: int) -> NDArray[Any]:
    return array.reshape(-1, classes or array.shape[-1])


def whole(values: NDArray[Any]) -> Classes:
    """Return whole numbers as classes; what is none that there can be is `NO_CLASS`."""
    return np.where((values >= 0) & (values <= CLASS_MAX), values, NO_CLASS).astype(np.int32)


def _above(scores: Scores, threshold: float) -> Classes:
    classes = (scores >= threshold).astype(np.int32)
    return np.where(np.isnan(scores), np.int32(NO_CLASS), classes)


def highest(scores: NDArray[Any]) -> tuple[Classes, Scores]:
    """Return the class with the highest score of each row, the first of equal ones, and its probability.

    Scores that are nowhere below 0 and add up to 1 are probabilities; of others the softmax is. A row with a
    NaN has no class.

    Parameters
    ----------
    scores : (rows, classes) of any floating type
    """
    count, width = scores.shape
    rows = max(BLOCK_SCORES // max(width, 1), 1)
    if count <= rows:
        return _highest(scores)
    found = [_highest(scores[at : at + rows]) for at in range(0, count, rows)]
    return np.concatenate([each for each, _ in found]), np.concatenate([each for _, each in found])


def _highest(scores: NDArray[Any]) -> tuple[Classes, Scores]:
    if scores.dtype.itemsize < 4 or scores.dtype.kind == "V":
        scores = scores.astype(np.float32)
    count, width = scores.shape
    classes = scores.argmax(axis=1)
    top = scores.reshape(-1).take(np.arange(0, count * width, width) + classes)
    unclear = np.isnan(top)  # To NumPy a NaN is the highest.
    with np.errstate(invalid="ignore", over="ignore"):
        # NumPy's own sums of short rows take twice the time, its least of each four times.
        given = np.abs(np.einsum("ij->i", scores) - 1) <= OFF_MAX
        if not scores.min(initial=0) >= 0:
            given &= (scores >= 0).all(axis=1)
        if not given.all():
            soft = 1 / np.exp(scores - top[:, None]).sum(axis=1)
            top = np.where(given, top, np.where(np.isfinite(top), soft, np.nan))
    if unclear.any():
        classes[unclear] = NO_CLASS
    return classes.astype(np.int32), top.astype(np.float32)
