"""What was normal for a version? A frozen reference: edges, alphabets, counts and moments, with a hash.

Plain values: it knows neither models nor files nor JSON. `build.py` makes one from rows, and
`profile_json.py` writes and reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.drift.packing import raw

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]

EDGES_MAX = 64
FEATURES_MAX = 1 << 16
CATEGORIES_MAX = 4096
PANELS_MAX = 16
TENSORS_MAX = 256
NO_CODE = np.iinfo(np.int64).max
"""Pads an alphabet that is shorter than others beside it."""


class InvalidProfile(ValueError):
    """It contradicts itself. The message says what, and in which of its arrays."""


@dataclass(frozen=True, slots=True, eq=False)
class Edges:
    """The reference of a panel of numbers.

    Attributes
    ----------
    features : tuple of str, [F]
        Their names, each once.
    dtype : {"float32", "float64"}
        What values are compared as; each edge is exact in it.
    n : int
        Rows counted; of each feature as many values.
    edges : float64[K, F]
        Ascending; the first is the least finite value seen, the last that is finite the next number above the
        greatest. A feature of fewer values has fewer edges, padded with +inf.
    counts : int64[2 + K, F]
        NaN, Inf, and the values >= edge 0 to K - 1. Infinite values count in both.
    mean, std : float64[F]
        Of the finite values; `std` is 1 where it would be 0.
    low, high : float64[F]
        Of the finite values; both 0 where there is none.
    """

    features: tuple[str, ...]
    dtype: Literal["float32", "float64"]
    n: int
    edges: Numbers
    counts: Counts
    mean: Numbers
    std: Numbers
    low: Numbers
    high: Numbers

    def __post_init__(self) -> None:
        _check_features(self.features)
        _require(self.dtype in {"float32", "float64"}, f"dtype {self.dtype!r} is neither float32 nor float64")
        _check_n(self.n)
        size, count = len(self.features), len(self.edges)
        _require(1 <= count <= EDGES_MAX, f"{count} edges; at least 1 and at most {EDGES_MAX} are kept")
        _check_array("edges", self.edges, np.float64, (count, size))
        _check_array("counts", self.counts, np.int64, (2 + count, size))
        for name in ("mean", "std", "low", "high"):
            _check_array(name, getattr(self, name), np.float64, (size,))
            _require(np.isfinite(getattr(self, name)).all(), f"{name} has values that are not finite")
        self._check_edges()
        self._check_counts()
        _require((self.std > 0).all(), "std has values that are not above 0")
        _require((self.low <= self.high).all(), "low is above high")
        _require((self.edges[-1] > self.high).all(), "edges: none is above high")

    @property
    def bins(self) -> int:
        """How many bins: below the first edge, between, above the last, and NaN."""
        return len(self.edges) + 2

    def _check_edges(self) -> None:
        edges = self.edges
        _require(np.isfinite(edges[0]).all(), "edges: the first is not finite")
        with np.errstate(invalid="ignore", over="ignore"):
            ascend = (edges[1:] > edges[:-1]) | (np.isposinf(edges[1:]) & np.isposinf(edges[:-1]))
            exact = edges.astype(self.dtype).astype(np.float64) == edges
        _require(ascend.all(), "edges do not ascend")
        _require(exact.all(), f"edges has values that are not exact in {self.dtype}")

    def _check_counts(self) -> None:
        counts = self.counts
        _require((counts >= 0).all(), "counts has values below 0")
        _require((counts[:3].max(axis=0) <= self.n).all(), f"counts has values above n, which is {self.n}")
        _require(
            (counts[0] + counts[2] <= self.n).all(), "counts: NaN and those from the first edge exceed n"
        )
        _require((counts[0] + counts[1] <= self.n).all(), "counts: NaN and Inf exceed n")
        _require(
            (counts[3:] <= counts[2:-1]).all(), "counts: more values above an edge than above the one before"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Alphabet:
    """The reference of a panel of categories.

    Attributes
    ----------
    features : tuple of str, [F]
        Their names, each once.
    n : int
        Rows counted; of each feature as many codes.
    codes : int64[S, F]
        Ascending; a feature of fewer codes is padded with `NO_CODE`.
    sizes : int64[F]
        How many codes each feature has.
    counts : int64[S + 1, F]
        Of each code; the last row is of all others. They are n in all.
    labels : tuple of tuples of str, [F][size]
        What is shown of each code; the code in digits where it is a number.
    """

    features: tuple[str, ...]
    n: int
    codes: Codes
    sizes: NDArray[np.int64]
    counts: Counts
    labels: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        _check_features(self.features)
        _check_n(self.n)
        size, count = len(self.features), len(self.codes)
        _require(1 <= count <= CATEGORIES_MAX, f"{count} codes; 1 to {CATEGORIES_MAX} are kept")
        _check_array("codes", self.codes, np.int64, (count, size))
        _check_array("sizes", self.sizes, np.int64, (size,))
        _check_array("counts", self.counts, np.int64, (count + 1, size))
        _require(((self.sizes >= 0) & (self.sizes <= count)).all(), f"sizes beyond 0 to {count}")
        used = np.arange(count)[:, None] < self.sizes
        _require((self.codes[~used] == NO_CODE).all(), "codes: one behind the size of its feature")
        _require(((self.codes[1:] > self.codes[:-1]) | ~used[1:]).all(), "codes do not ascend")
        _require((self.counts >= 0).all(), "counts has values below 0")
        _require((self.counts[:-1][~used] == 0).all(), "counts: one behind the size of its feature")
        _require((self.counts.sum(axis=0) == self.n).all(), f"counts do not add up to n, which is {self.n}")
        lengths = [len(each) for each in self.labels]
        _require(lengths == self.sizes.tolist(), "labels are not as many as codes")

    @property
    def bins(self) -> int:
        """How many bins: one for each code, and one for all others."""
        return len(self.codes) + 1


Panel = Edges | Alphabet


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What was normal for one tensor.

    Attributes
    ----------
    of : {"input", "output"}
    view : str
        The value of the `View` in which its rows were looked at; live ones are looked at in the same.
    dtype : str
        Of its rows as they are counted, such as float32; int64 for codes.
    elements : int
        Of a row.
    panels : mapping of str to Edges or Alphabet
    """

    of: Literal["input", "output"]
    view: str
    dtype: str
    elements: int
    panels: Mapping[str, Panel]

    def __post_init__(self) -> None:
        _require(self.of in {"input", "output"}, f"of is {self.of!r}; input or output is meant")
        _require(self.elements >= 1, f"rows of {self.elements} elements")
        _require(
            1 <= len(self.panels) <= PANELS_MAX, f"{len(self.panels)} panels; 1 to {PANELS_MAX} are kept"
        )

    @property
    def features(self) -> int:
        """How many features its panels have together."""
        return sum(len(panel.features) for panel in self.panels.values())

    @property
    def n(self) -> int:
        """The rows counted; the least of its panels."""
        return min(panel.n for panel in self.panels.values())


@dataclass(frozen=True, eq=False)
class Profile:
    """What was normal for a version of a model.

    Attributes
    ----------
    model, version : str
    digest : str
        Of the version's content, as the repository index shows it; empty if it was not known.
    tensors : mapping of str to Reference
        By the tensor's name; an input and an output of one name cannot be told apart and are not kept.
    made_at : str
        When, in UTC.
    source : str
        From what: a file's name, or how many live requests.
    """

    model: str
    version: str
    digest: str
    tensors: Mapping[str, Reference]
    made_at: str
    source: str

    def __post_init__(self) -> None:
        _require(bool(self.model and self.version), "a profile is of a model and a version")
        count = len(self.tensors)
        _require(1 <= count <= TENSORS_MAX, f"{count} tensors; 1 to {TENSORS_MAX} are kept")

    def __repr__(self) -> str:
        return (
            f"<Profile {self.model}@{self.version} {self.hash[:12]}: {self.features} features, n = {self.n}>"
        )

    @property
    def features(self) -> int:
        """How many features all of its tensors have together."""
        return sum(reference.features for reference in self.tensors.values())

    @property
    def n(self) -> int:
        """The rows counted; the least of its tensors."""
        return min(reference.n for reference in self.tensors.values())

    @cached_property
    def hash(self) -> str:
        """sha256 of all that counts; not of `made_at` and `source`, so that the same rows make the same."""
        state = hashlib.sha256()
        for part in self._parts():
            state.update(len(part).to_bytes(8, "little") + part)
        return state.hexdigest()

    def _parts(self) -> Iterator[bytes]:
        yield from map(_bytes, ("turnout profile 1", self.model, self.version, self.digest))
        yield _bytes(sorted(self.tensors))
        for _, tensor in sorted(self.tensors.items()):
            yield from map(_bytes, (tensor.of, tensor.view, tensor.dtype, tensor.elements))
            yield _bytes(sorted(tensor.panels))
            for _, panel in sorted(tensor.panels.items()):
                yield _bytes(type(panel).__name__)
                yield from (_bytes(getattr(panel, each.name)) for each in fields(panel))


def _bytes(value: Any) -> bytes:
    return repr(value.shape).encode() + raw(value) if isinstance(value, np.ndarray) else ascii(value).encode()


def _require(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise InvalidProfile(otherwise)


def _check_features(features: tuple[str, ...]) -> None:
    count = len(features)
    _require(1 <= count <= FEATURES_MAX, f"{count} features; 1 to {FEATURES_MAX} are kept")
    _require(len(set(features)) == count, "features: a name occurs twice")


def _check_n(n: int) -> None:
    _require(0 < n < 1 << 62, f"n is {n}; at least one row makes a reference")


def _check_array(name: str, array: NDArray[Any], dtype: Any, shape: tuple[int, ...]) -> None:
    _require(
        array.dtype == dtype and array.shape == shape,
        f"{name} is {array.dtype}{list(array.shape)}; {np.dtype(dtype)}{list(shape)} is meant",
    )
