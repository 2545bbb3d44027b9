"""How did a shadow compare? Readings that add up over replicas, and what people are shown of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import add
from typing import Any

import numpy as np

from kernels.tally import (
    AGREED,
    CLASSED,
    CLASSES_MAX,
    CONCORDANT,
    CORRELATION,
    COUNTS,
    DISCORDANT,
    FINITE,
    LARGEST,
    LARGEST_FLOAT,
    ODD_PRIMARY,
    ODD_SHADOW,
    RANKED,
    ROWS,
    SUMS,
    TOTAL,
    Floats,
    side,
)
from serving.ledger import Durations
from serving.shadow import board
from serving.shadow.board import Sheet
from serving.wire import TensorSpec

FLIPS_SHOWN_MAX = 10
OTHERS = -1
"""The class that stands for all beyond those that are told apart."""


def side_of(output: TensorSpec, *, rows: bool) -> int:
    """Return the side of the flip matrix for `output`, whose first dimension is `rows`, or may not be."""
    kind = output.datatype.dtype.kind
    if kind == "O":
        return 0
    if kind == "b":
        return side(2)
    row = output.shape[1:] if rows else output.shape
    scores = row[-1] if kind in "fV" and row else -1
    return side(scores if scores > 0 else CLASSES_MAX)


class Drop(StrEnum):
    """Why rows that were drawn for a shadow were not compared."""

    FULL = "full"
    """The queue had no room."""
    STALE = "stale"
    """They had waited too long."""
    FAILED = "failed"
    """The shadow's run failed."""
    CRASHED = "crashed"
    """The shadow's process died of them."""
    HUNG = "hung"
    """Their run did not end, and was ended."""
    TOO_LARGE = "too_large"
    """They would not even fit an empty queue."""
    MISFIT = "misfit"
    """The two versions differ in what they take or give."""
    GIVEN_UP = "given_up"
    """The shadow's process has died too often."""
    BROKEN = "broken"
    """A fault of ours."""


@dataclass(frozen=True, slots=True)
class Output:
    """How one output compared. `counts` and `sums` stand as in `kernels.tally`.

    `flips` are rows by the primary's class and the shadow's, also where the two are the same.
    """

    counts: tuple[int, ...] = (0,) * COUNTS
    sums: tuple[float, ...] = (0.0,) * SUMS
    flips: Mapping[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.counts) != COUNTS or len(self.sums) != SUMS:
            raise ValueError("expected other counts: counted by another release?")

    def __add__(self, other: Output) -> Output:
        sums = [min(one + more, LARGEST_FLOAT) for one, more in zip(self.sums, other.sums, strict=True)]
        sums[LARGEST] = max(self.sums[LARGEST], other.sums[LARGEST])
        return Output(tuple(map(add, self.counts, other.counts)), tuple(sums), total(self.flips, other.flips))

    @property
    def disagreement(self) -> float | None:
        """The part of the rows whose classes differ; None where there are no classes."""
        classed = self.counts[CLASSED]
        return 1 - self.counts[AGREED] / classed if classed else None

    @property
    def correlation(self) -> float | None:
        """Spearman's, the mean over the rows; where a row is one score, gamma of neighbouring rows."""
        if ranked := self.counts[RANKED]:
            return self.sums[CORRELATION] / ranked
        alike, unlike = self.counts[CONCORDANT], self.counts[DISCORDANT]
        return (alike - unlike) / (alike + unlike) if alike + unlike else None

    @property
    def difference_max(self) -> float | None:
        """The largest difference of scores that are finite on both sides; None if there are none."""
        return self.sums[LARGEST] if self.counts[FINITE] else None

    @property
    def difference_mean(self) -> float | None:
        """The mean of the same."""
        finite = self.counts[FINITE]
        return self.sums[TOTAL] / finite if finite else None

    def document(self) -> dict[str, Any]:
        """Return what people are shown."""
        flips = {key: rows for key, rows in self.flips.items() if key[0] != key[1] or key[0] == OTHERS}
        most = sorted(flips.items(), key=lambda item: (-item[1], item[0]))[:FLIPS_SHOWN_MAX]
        disagreement = self.disagreement
        return {
            "compared": self.counts[ROWS],
            "agreement": None if disagreement is None else 1 - disagreement,
            "flips": [{"from": _class(a), "to": _class(b), "rows": rows} for (a, b), rows in most],
            "difference": {
                "max": self.difference_max,
                "mean": self.difference_mean,
                "not_finite": {"primary": self.counts[ODD_PRIMARY], "shadow": self.counts[ODD_SHADOW]},
            },
            "rank_correlation": self.correlation,
        }

    def to_json(self) -> list[Any]:
        """Return plain values that `from_json` reads back."""
        return [self.counts, self.sums, [[*key, rows] for key, rows in self.flips.items()]]

    @classmethod
    def from_json(cls, document: list[Any]) -> Output:
        """Read what `to_json` wrote."""
        counts, sums, flips = document
        return cls(tuple(counts), tuple(sums), {(one, other): rows for one, other, rows in flips})


def _class(index: int) -> int | str:
    return "other" if index == OTHERS else index


@dataclass(frozen=True, slots=True)
class Pair:
    """How a shadow compared with one version that answered.

    `primary` and `shadow` are durations of runs of the very same rows, the shadow's in processor time;
    `slower` are the runs in which the shadow's was the longer one. `last_ns` is the monotonic clock's at the
    last comparison.
    """

    rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    primary: Durations = field(default_factory=Durations)
    shadow: Durations = field(default_factory=Durations)
    slower: int = 0
    last_ns: int = 0

    def __add__(self, other: Pair) -> Pair:
        return Pair(
            self.rows + other.rows,
            total(self.dropped, other.dropped),
            total(self.outputs, other.outputs),
            self.primary + other.primary,
            self.shadow + other.shadow,
            self.slower + other.slower,
            max(self.last_ns, other.last_ns),
        )

    @classmethod
    def of(cls, sheet: Sheet, names: tuple[str, ...], dropped: Mapping[str, int]) -> Pair:
        """Return what a process counted, with what was dropped before it came there."""
        words = sheet.words.tolist()
        theirs = {Drop.STALE: words[board.STALE], Drop.FAILED: words[board.FAILED]}
        theirs[Drop.MISFIT] = words[board.MISFIT]
        outputs = {
            name: Output(tuple(sheet.counts[at].tolist()), _numbers(sheet.sums[at]), _flips(sheet, at))
            for at, name in enumerate(names)
        }
        return cls(
            words[board.ROWS],
            {str(key): rows for key, rows in total(dropped, theirs).items() if rows},
            outputs,
            Durations(words[board.PRIMARY_NS], tuple(sheet.durations[0].tolist())),
            Durations(words[board.SHADOW_NS], tuple(sheet.durations[1].tolist())),
            words[board.SLOWER],
            words[board.LAST_NS],
        )

    def each(self, what: str) -> dict[str, float]:
        """Return an attribute of each output, where it has a value."""
        values = {name: getattr(output, what) for name, output in self.outputs.items()}
        return {name: value for name, value in values.items() if value is not None}

    def document(self, *, noise: bool) -> dict[str, Any]:
        """Return what people are shown."""
        runs = sum(self.primary.counts)
        return {
            "noise": noise,
            "meaning": NOISE if noise else DIFFERENCE,
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "outputs": {name: each.document() for name, each in self.outputs.items()},
            "latency": {
                "runs": runs,
                "slower": self.slower / runs if runs else None,
                "primary": _latency(self.primary),
                "shadow": _latency(self.shadow),
            },
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "rows": self.rows,
            "dropped": dict(self.dropped),
            "outputs": {name: each.to_json() for name, each in self.outputs.items()},
            "primary": self.primary.to_json(),
            "shadow": self.shadow.to_json(),
            "slower": self.slower,
            "last_ns": self.last_ns,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Pair:
        """Read what `to_json` wrote."""
        values = dict(document)
        values["outputs"] = {name: Output.from_json(each) for name, each in values["outputs"].items()}
        for name in ("primary", "shadow"):
            values[name] = Durations.from_json(values[name])
        return cls(**values)


NOISE = "the version against itself: what differs here is noise"
DIFFERENCE = "the shadow against the version that answered"


def _numbers(sums: Floats) -> tuple[float, ...]:
    # A process that dies of a bad pointer may have written anything, and JSON has no NaN.
    return tuple(np.nan_to_num(sums).tolist())


def _flips(sheet: Sheet, at: int) -> dict[tuple[int, int], int]:
    flips = sheet.flips[at]
    others = len(flips) - 1

    def told(class_: int) -> int:
        return class_ if class_ < others else OTHERS

    ones, twos = flips.nonzero()
    return {
        (told(one), told(two)): int(flips[one, two])
        for one, two in zip(ones.tolist(), twos.tolist(), strict=True)
    }


def _latency(durations: Durations) -> dict[str, float | None]:
    p50, p99 = durations.quantile_s(0.5), durations.quantile_s(0.99)
    return {"p50_s": None if math.isnan(p50) else p50, "p99_s": None if math.isnan(p99) else p99}


@dataclass(frozen=True, slots=True)
class ShadowReading:
    """What there is to say about one shadow. Those of a node's replicas add up."""

    pairs: Mapping[str, Pair] = field(default_factory=dict)
    """By the version that answered."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """By the `Death` before."""
    running: int = 0
    """Processes that have the version loaded."""
    given_up: str = ""
    """Why there is no process any more, where there should be one."""

    def __add__(self, other: ShadowReading) -> ShadowReading:
        return ShadowReading(
            total(self.pairs, other.pairs),
            total(self.restarts, other.restarts),
            self.running + other.running,
            self.given_up or other.given_up,
        )

    @property
    def last_ns(self) -> int:
        """The monotonic clock's at the last comparison."""
        return max((pair.last_ns for pair in self.pairs.values()), default=0)

    def counters(self) -> ShadowReading:
        """Return what is still true when the replica is gone."""
        return ShadowReading(self.pairs, self.restarts)

    def document(self, version: str) -> dict[str, Any]:
        """Return what people are shown; `version` is the shadow's."""
        return {
            "version": version,
            "running": self.running,
            "given_up": self.given_up,
            "restarts": dict(self.restarts),
            "against": {
                primary: pair.document(noise=primary == version) for primary, pair in self.pairs.items()
            },
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        return {
            "pairs": {primary: pair.to_json() for primary, pair in self.pairs.items()},
            "restarts": dict(self.restarts),
            "running": self.running,
            "given_up": self.given_up,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ShadowReading:
        """Read what `to_json` wrote."""
        pairs = {primary: Pair.from_json(each) for primary, each in document["pairs"].items()}
        return cls(pairs, document["restarts"], document["running"], document["given_up"])


def total(mine: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the sum of two mappings, key by key."""
    result = dict(mine)
    for key, value in theirs.items():
        result[key] = result[key] + value if key in result else value
    return result
