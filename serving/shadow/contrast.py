"""How do two versions' outputs for the same rows compare, whichever datatype they have?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import compare
from kernels.tally import AGREED, CLASSED, ROWS
from serving.shadow.board import Sheet
from serving.wire import TensorSpec


class Contrast:
    """Compares the outputs of one version that answers with the shadow's, batch after batch.

    Parameters
    ----------
    outputs : sequence of TensorSpec
        The shadow's.
    """

    def __init__(self, outputs: list[TensorSpec]) -> None:
        self._outputs = outputs
        self._last: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        """Where a row is one score: the last one of each output, a neighbour of the next batch's first."""

    def count(
        self, sheet: Sheet, at: int, primary: NDArray[Any], shadow: NDArray[Any], *, rows: bool
    ) -> None:
        """Compare output `at`, of equal shapes; `rows` says whether its first dimension is rows."""
        match primary.dtype.kind:
            case "O":
                sheet.counts[at][[ROWS, CLASSED]] += primary.size
                sheet.counts[at][AGREED] += int((primary == shadow).sum())
            case "b" | "i" | "u":
                compare.labels(_labels(primary), _labels(shadow), sheet.counts[at], sheet.flips[at])
            case _:
                rows = rows or self._outputs[at].shape[:1] == (-1,)
                self._count_scores(sheet, at, _scores(primary, rows=rows), _scores(shadow, rows=rows))

    def _count_scores(self, sheet: Sheet, at: int, primary: NDArray[Any], shadow: NDArray[Any]) -> None:
        if not primary.size:
            return
        compare.scores(primary, shadow, sheet.counts[at], sheet.sums[at], sheet.flips[at])
        if primary.shape[1] == 1:
            one, other = primary.reshape(-1), shadow.reshape(-1)
            if at in self._last:
                one = np.concatenate([self._last[at][0], one])
                other = np.concatenate([self._last[at][1], other])
            compare.neighbours(one, other, sheet.counts[at])
            self._last[at] = one[-1:], other[-1:]


def _labels(array: NDArray[Any]) -> NDArray[np.int64]:
    # Those of UINT64 that INT64 has no room for become negative, and stay different from each other.
    return np.ascontiguousarray(array.reshape(-1).astype(np.int64))


def _scores(array: NDArray[Any], *, rows: bool) -> NDArray[Any]:
    """Return float32 or float64 in two dimensions, the second of which is the scores of a row."""
    scores = array if array.dtype == np.float64 else array.astype(np.float32)
    row = scores.shape[1:] if rows else scores.shape
    width = row[-1] if row else 1
    return np.ascontiguousarray(scores.reshape(-1, width) if scores.size else scores.reshape(0, 1))
