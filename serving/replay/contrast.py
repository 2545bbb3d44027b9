"""How do two versions' answers to the same inputs differ? Decisions that flip, numbers, and who is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.replay import report
from serving.replay.runner import Runner, Taken
from serving.replay.verdicts import word

FLIPS_MAX = 10
FLIPS_COUNTED_MAX = 4096
"""Different flips that are told apart."""
OTHERS = (None, None)
OUTPUTS_MAX = 16


class Output:
    """One output that two versions have: where it stands in each of them."""

    def __init__(self, name: str, at: tuple[int, int]) -> None:
        self.name, self.at = name, at
        self._rows = self._misfits = self._elements = self._unequal = self._numbers = 0
        self._total = self._largest = 0.0

    def add(self, one: NDArray[Any], other: NDArray[Any], units: int) -> None:
        """Compare what both said."""
        if one.shape != other.shape or one.dtype != other.dtype:
            self._misfits += units
            return
        self._rows += units
        if one.dtype.kind in "fV":
            self._subtract(one.astype(np.float64), other.astype(np.float64))
        else:
            self._elements += one.size
            self._unequal += int(np.count_nonzero(one != other))

    def _subtract(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        both = np.isfinite(one) & np.isfinite(other)
        with np.errstate(over="ignore"):
            off = np.minimum(np.abs(one[both] - other[both]), np.finfo(np.float32).max)
        if off.size:
            self._numbers += off.size
            self._total += float(off.sum())
            self._largest = max(self._largest, float(off.max()))

    def document(self) -> report.OutputPair:
        """Say how they compare."""
        return {
            "output": self.name,
            "rows": self._rows,
            "misfits": self._misfits,
            "unequal": self._unequal / self._elements if self._elements else None,
            "mean_difference": self._total / self._numbers if self._numbers else None,
            "max_difference": self._largest if self._numbers else None,
        }


class Contrast:
    """Two versions."""

    def __init__(self, one: Runner, other: Runner) -> None:
        self.one, self.other = one, other
        places = {each.name: at for at, each in enumerate(other.outputs)}
        common = [(at, each.name) for at, each in enumerate(one.outputs) if each.name in places]
        self._outputs = [Output(name, (at, places[name])) for at, name in common[:OUTPUTS_MAX]]
        self._decided = 0
        self._flips: Counter[tuple[int | None, int | None]] = Counter()
        self._right: Counter[tuple[bool, bool]] = Counter()

    def add(self, one: Sequence[NDArray[Any]], other: Sequence[NDArray[Any]], units: int) -> None:
        """Compare the outputs of a run."""
        for each in self._outputs:
            each.add(one[each.at[0]], other[each.at[1]], units)

    def judge(self, one: Taken, other: Taken) -> None:
        """Count where they decided differently, and who is right."""
        if one.classes is not None and other.classes is not None and len(one.classes) == len(other.classes):
            self._decided += len(one.classes)
            differ = np.flatnonzero(one.classes != other.classes)
            for pair in zip(one.classes[differ].tolist(), other.classes[differ].tolist(), strict=True):
                room = pair in self._flips or len(self._flips) < FLIPS_COUNTED_MAX
                self._flips[pair if room else OTHERS] += 1
        for left, right in zip(one.right, other.right, strict=True):
            if left is not None and right is not None:
                self._right[left, right] += 1

    def document(self) -> report.Pair:
        """Say how they compare."""
        right = self._right
        labelled: report.LabelledPair | None = None
        if right:
            labelled = {
                "both": right[True, True],
                "one": right[True, False],
                "other": right[False, True],
                "neither": right[False, False],
            }
        flips: list[report.Flip] = [
            {"one": _word(self.one, one), "other": _word(self.other, other), "rows": rows}
            for (one, other), rows in self._flips.most_common(FLIPS_MAX)
        ]
        return {
            "one": self.one.given.version,
            "other": self.other.given.version,
            "decided": self._decided,
            "disagreement": self._flips.total() / self._decided if self._decided else None,
            "flips": flips,
            "outputs": [each.document() for each in self._outputs],
            "labelled": labelled,
        }


def _word(runner: Runner, number: int | None) -> str:
    assert runner.decision is not None
    return "others" if number is None else word(runner.decision.names, number)
