"""What was counted of a panel, so that counts of other rows, processes and replicas can be added?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.packing import pack, unpack
from serving.drift.view import Kind

Counts = NDArray[np.int64]
Sums = NDArray[np.float64]

NO_CODE = np.iinfo(np.int64).max
"""Pads an alphabet that is shorter than others beside it."""
FEATURES_MAX = 1 << 16
ROWS_MAX = 1 << 14
"""Of an array of counts: cells, edges or categories."""


class Apart(ValueError):
    """Two tallies are of different things."""


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """The counts of one panel of F features. They only grow; equal rows make equal ones, however cut.

    Attributes
    ----------
    kind : Kind
    n : int
        Rows.
    counts : int64[2 + K, F] or int64[CELLS, F] or int64[S + 1, F]
        By kind: NaN, Inf, and values at or above each of K edges (`kernels.fold`); values in each cell
        (`kernels.loglinear`); codes as in `alphabet`, and in the last row all others (`kernels.categories`).
    sums : float64[2, F], optional
        Of z and z squared, over finite values: z is (value - mean) / std of the reference, or the value
        where there is none.
    extremes : float64[2, F], optional
        The least and the greatest finite value: +inf and -inf where there was none.
    alphabet : int64[S, F], optional
        The codes that are told apart, ascending, padded with `NO_CODE`.
    sizes : int64[F], optional
        How many codes each feature has.
    """

    kind: Kind
    n: int
    counts: Counts
    sums: Sums | None = None
    extremes: Sums | None = None
    alphabet: Counts | None = None
    sizes: Counts | None = None

    def __post_init__(self) -> None:
        assert (self.sums is None) == (self.extremes is None) == (self.kind is Kind.CATEGORIES)
        assert (self.alphabet is None) == (self.sizes is None) == (self.kind is not Kind.CATEGORIES)

    def __repr__(self) -> str:
        return f"<Tally of {self.features} {self.kind}: {self.n} rows>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        mine, theirs = self._arrays(), other._arrays()
        return (self.kind, self.n, *mine) == (other.kind, other.n, *theirs) and all(
            np.array_equal(mine[name], theirs[name], equal_nan=name == "sums") for name in mine
        )

    __hash__ = None  # type: ignore[assignment]  # Arrays have none.

    @property
    def features(self) -> int:
        """How many features there are."""
        return int(self.counts.shape[1])

    @property
    def nbytes(self) -> int:
        """How much memory its arrays have."""
        return sum(array.nbytes for array in self._arrays().values())

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both's rows; `Apart` if they were counted by different references."""
        self._check(other)
        if self.alphabet is not None and other.alphabet is not None:
            return self._merge(other)
        assert self.sums is not None
        assert other.sums is not None
        assert self.extremes is not None
        assert other.extremes is not None
        low = np.minimum(self.extremes[0], other.extremes[0])
        high = np.maximum(self.extremes[1], other.extremes[1])
        counts, sums = self.counts + other.counts, self.sums + other.sums
        return Tally(self.kind, self.n + other.n, counts, sums, np.stack([low, high]))

    def minus(self, earlier: Tally) -> Tally:
        """Return the tally of the rows since `earlier`, but for the extremes, which are those of all.

        `earlier` is of the same stream: what it had counted, this has counted as well.
        """
        self._check(earlier)
        n = self.n - earlier.n
        if self.alphabet is None or earlier.alphabet is None:
            assert self.sums is not None
            assert earlier.sums is not None
            return replace(self, n=n, counts=self.counts - earlier.counts, sums=self.sums - earlier.sums)
        if np.array_equal(self.alphabet, earlier.alphabet):
            return replace(self, n=n, counts=self.counts - earlier.counts)
        before = realigned(earlier.counts, earlier.alphabet, self.alphabet)
        return replace(self, n=n, counts=self.counts - before)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        arrays = {name: pack(array) for name, array in self._arrays().items()}
        return {"kind": str(self.kind), "n": self.n, "shape": list(self.counts.shape), **arrays}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tally:
        """Read what `to_json` wrote; a `ValueError`, `TypeError` or `KeyError` says that it is another's."""
        rows, features = document["shape"]
        if not 0 < rows <= ROWS_MAX or not 0 < features <= FEATURES_MAX:
            raise ValueError(f"{rows} counts of {features} features; within {ROWS_MAX} and {FEATURES_MAX}")
        kind, n = Kind(document["kind"]), int(document["n"])
        counts = unpack(document["counts"], "int64", (rows, features))
        if kind is Kind.CATEGORIES:
            alphabet = unpack(document["alphabet"], "int64", (rows - 1, features))
            return cls(kind, n, counts, None, None, alphabet, unpack(document["sizes"], "int64", (features,)))
        sums, extremes = (unpack(document[name], "float64", (2, features)) for name in ("sums", "extremes"))
        return cls(kind, n, counts, sums, extremes)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        names = ("counts", "sums", "extremes", "alphabet", "sizes")
        found = {name: getattr(self, name) for name in names}
        return {name: array for name, array in found.items() if array is not None}

    def _check(self, other: Tally) -> None:
        same = self.kind is other.kind and self.features == other.features
        if not same or (self.kind is not Kind.CATEGORIES and len(self.counts) != len(other.counts)):
            raise Apart(f"{self!r} and {other!r} are of different references")

    def _merge(self, other: Tally) -> Tally:
        """Add by code. Where both know more codes than either has room for, the rarest are others."""
        assert self.alphabet is not None
        assert other.alphabet is not None
        n, room = self.n + other.n, max(len(self.alphabet), len(other.alphabet))
        if np.array_equal(self.alphabet, other.alphabet):
            return replace(self, n=n, counts=self.counts + other.counts)
        alphabet = np.full((room, self.features), NO_CODE)
        counts = np.zeros((room + 1, self.features), np.int64)
        sizes = np.zeros(self.features, np.int64)
        for at in range(self.features):
            codes, often, others = _union(self, other, at, room)
            sizes[at] = len(codes)
            alphabet[: len(codes), at] = codes
            counts[: len(codes), at] = often
            counts[-1, at] = others
        return Tally(self.kind, n, counts, None, None, alphabet, sizes)


def realigned(counts: Counts, before: Counts, after: Counts) -> Counts:
    """Return counts by the alphabet `before` as counts by `after`, which has all of its codes."""
    moved = np.zeros((len(after) + 1, after.shape[1]), np.int64)
    moved[-1] = counts[-1]
    for at in range(after.shape[1]):
        known = before[:, at] != NO_CODE
        moved[np.searchsorted(after[:, at], before[known, at]), at] = counts[:-1][known, at]
    return moved


def _union(one: Tally, other: Tally, at: int, room: int) -> tuple[Counts, Counts, int]:
    """Return the codes of a feature that there is room for, their counts, and the count of all others."""
    often: dict[int, int] = {}
    others = 0
    for tally in (one, other):
        assert tally.alphabet is not None
        assert tally.sizes is not None
        size = int(tally.sizes[at])
        codes, counts = tally.alphabet[:size, at].tolist(), tally.counts[:size, at].tolist()
        for code, count in zip(codes, counts, strict=True):
            often[code] = often.get(code, 0) + count
        others += int(tally.counts[-1, at])
    kept = sorted(sorted(often, key=lambda code: (-often[code], code))[:room])
    others += sum(count for code, count in often.items()) - sum(often[code] for code in kept)
    return np.array(kept, np.int64), np.array([often[code] for code in kept], np.int64), others
