"""Which of a version's outputs are looked at, and what is a request's part of them?"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.model import ModelSpec
from serving.wire import TensorSpec

log = logging.getLogger("turnout.evidence")


@dataclass(frozen=True, slots=True)
class Output:
    """An output of floats.

    Attributes
    ----------
    at : int
        Its place.
    dtype : numpy.dtype
    elements : int
        Of a row, or of the whole where the model takes no batches; 0 where that varies.
    scores : bool
        Whether its last dimension has the scores that say how sure an answer is.
    """

    at: int
    dtype: np.dtype[Any]
    elements: int
    scores: bool


def outputs(spec: ModelSpec, named: str) -> tuple[Output, ...]:
    """Return the outputs that are floats.

    Parameters
    ----------
    named : str
        The one that has the scores; empty for the first of which a row, or each of its rows, has several.
    """
    found = []
    scores = _scores(spec, named)
    for at, each in enumerate(spec.outputs):
        if each.datatype.dtype.kind in "fV":  # V: bfloat16.
            row = _row(spec, each)
            elements = 0 if -1 in row else math.prod(row)
            found.append(Output(at, each.datatype.dtype, elements, at == scores))
    return tuple(found)


def _scores(spec: ModelSpec, named: str) -> int:
    for at, each in enumerate(spec.outputs):
        row, floats = _row(spec, each), each.datatype.dtype.kind in "fV"
        if named == each.name:
            if floats:
                return at
            log.error("version=%s event=no_scores output=%s datatype=%s", spec, named, each.datatype.name)
            return -1
        if not named and floats and 1 <= len(row) <= 2 and row[-1] >= 2:
            return at
    if named:
        log.error("version=%s event=no_scores output=%s: it has no such output", spec, named)
    return -1


def _row(spec: ModelSpec, tensor: TensorSpec) -> tuple[int, ...]:
    free = tensor.shape[:1] == (-1,)
    return tensor.shape[1:] if spec.rows_max or free else tensor.shape
