"""What is a panel counted against: the edges of a reference, cells, an alphabet, or nothing yet?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import loglinear
from serving.drift.packing import pack, unpack
from serving.drift.profile import NO_CODE, Alphabet, Edges, Reference
from serving.drift.view import Kind, Look

SPREAD_FEATURES_MAX = 64
"""Features up to which numbers without a reference are counted in cells, 12 KiB each; more are added up."""


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """How one panel is counted.

    Attributes
    ----------
    panel : str
    kind : Kind
    features : int
    dtype : {"float32", "float64", "int64"}
        Of what is counted.
    edges : float64[K, F]
        Of numbers; K is 0 without a reference.
    shift : float64[2, F]
        Mean and 1 / standard deviation of the reference; 0 and 1 without one.
    alphabet : int64[S, F], sizes : int64[F]
        Of categories. Without a reference nothing is in it yet, and `learns`.
    """

    panel: str
    kind: Kind
    features: int
    dtype: str
    edges: NDArray[np.float64]
    shift: NDArray[np.float64]
    alphabet: NDArray[np.int64]
    sizes: NDArray[np.int64]
    learns: bool = False

    @property
    def counts(self) -> int:
        """How many counts each feature has."""
        match self.kind:
            case Kind.VALUES:
                return 2 + len(self.edges)
            case Kind.SPREAD:
                return loglinear.CELLS
            case Kind.CATEGORIES:
                return len(self.alphabet) + 1

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads back."""
        plain = {"panel": self.panel, "kind": str(self.kind), "features": self.features}
        plain |= {"dtype": self.dtype, "learns": self.learns, "rows": [len(self.edges), len(self.alphabet)]}
        return plain | {name: pack(getattr(self, name)) for name in ("edges", "shift", "alphabet", "sizes")}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Measure:
        """Read what `to_json` wrote."""
        features, (edges, codes) = document["features"], document["rows"]
        return cls(
            document["panel"],
            Kind(document["kind"]),
            features,
            document["dtype"],
            unpack(document["edges"], "float64", (edges, features)),
            unpack(document["shift"], "float64", (2, features)),
            unpack(document["alphabet"], "int64", (codes, features)),
            unpack(document["sizes"], "int64", (features,)),
            document["learns"],
        )


def measures(look: Look, reference: Reference | None, categories_max: int) -> tuple[Measure, ...]:
    """Return how each panel of a look is counted, against `reference` if there is one that matches."""
    made = []
    for panel in look.panels:
        known = reference.panels[panel.name] if reference is not None else None
        if panel.kind is Kind.CATEGORIES:
            made.append(_categories(panel.name, len(panel.features), known, categories_max))
        else:
            dtype = known.dtype if isinstance(known, Edges) else look.panel_dtype(panel)
            made.append(_values(panel.name, len(panel.features), known, dtype))
    return tuple(made)


def _values(panel: str, features: int, known: Edges | Alphabet | None, dtype: str) -> Measure:
    kind, edges = Kind.VALUES, np.zeros((0, features))
    shift = np.stack([np.zeros(features), np.ones(features)])
    if isinstance(known, Edges):
        edges, shift = known.edges, np.stack([known.mean, 1 / known.std])
    elif features <= SPREAD_FEATURES_MAX:
        kind = Kind.SPREAD
    return Measure(panel, kind, features, dtype, edges, shift, *_no_codes(features, 0))


def _categories(panel: str, features: int, known: Edges | Alphabet | None, categories_max: int) -> Measure:
    alphabet, sizes = _no_codes(features, categories_max)
    if isinstance(known, Alphabet):
        alphabet, sizes = known.codes, known.sizes
    nothing = np.zeros((0, features)), np.zeros((2, features))
    learns = not isinstance(known, Alphabet)
    return Measure(panel, Kind.CATEGORIES, features, "int64", *nothing, alphabet, sizes, learns)


def _no_codes(features: int, room: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.full((room, features), NO_CODE), np.zeros(features, np.int64)
