"""What did a version decide about inputs, how surely, and is there a number in its answers that is none?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.labels.decision import NO_CLASS, By, Classes, Decision, Scores, decide
from serving.wire import TensorSpec

Arrays = Sequence[NDArray[Any]]


def decided(decision: Decision, outputs: Arrays) -> tuple[Classes, Scores | None]:
    """Return the class of each row, and how sure the version is of it, where anything says that.

    Raises
    ------
    ValueError
        If the outputs are not of so many rows.
    """
    classes, scores = decide(decision, [outputs[at] for at in decision.outputs])
    return classes, None if decision.by is By.SCORE or decision.scores < 0 else scores


def parsed(document: dict[str, Any]) -> Decision:
    """Read a decision that was written with `dataclasses.asdict`."""
    return Decision(**{**document, "by": By(document["by"]), "names": tuple(document["names"])})


def word(names: Sequence[str], number: int) -> str:
    """Return what people call a class."""
    if 0 <= number < len(names):
        return names[number]
    return "none" if number == NO_CLASS else str(number)


def right(names: Sequence[str], number: int, label: str) -> bool:
    """Say whether this is the class that somebody named, by its number or its name."""
    return label in {str(number), word(names, number)}


def by_rows(spec: TensorSpec, array: NDArray[Any], *, whole: bool) -> NDArray[Any]:
    """Return a tensor so that its first dimension is rows, of which a whole run may be a single one."""
    return array if array.ndim and (not whole or spec.shape[:1] == (-1,)) else array[None]


def odd(arrays: Arrays) -> NDArray[np.bool_]:
    """Return which rows of outputs have a NaN or an infinite number anywhere."""
    found = np.zeros(len(arrays[0]) if arrays else 0, np.bool_)
    for array in arrays:
        if array.dtype.kind in "fV" and len(array) == len(found):
            numbers = array.astype(np.float32) if array.dtype.kind == "V" else array
            found |= ~np.isfinite(numbers).reshape(len(array), -1).all(axis=1)
    return found
