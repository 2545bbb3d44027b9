"""Streams of rows for tests of drift: what replicas would tell of them, counted in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.drift.profile import Alphabet, Panel, Profile, Reference
from serving.drift.reading import Key, StreamReading
from serving.drift.references import alphabet_of, edges_of
from serving.drift.tally import Tally
from serving.drift.view import Kind, Look, View

NAMES = ("a", "b", "c")
WIDTH = len(NAMES)
MADE_AT = "2026-11-25T14:05:00Z"


def look(tensor: str = "x", width: int = WIDTH) -> Look:
    """Return how rows of numbers are looked at."""
    return Look(tensor, "input", View.FEATURES, "FP32", (width,))


def normal(rows: int, seed: int = 0, shift: float = 0.0, width: int = WIDTH) -> NDArray[np.float32]:
    """Return rows of normally distributed numbers."""
    return (np.random.default_rng(seed).standard_normal((rows, width)) + shift).astype(np.float32)


def profile(
    rows: NDArray[np.float32] | None = None, *, version: str = "7", digest: str = "", tensor: str = "x"
) -> Profile:
    """Return the profile of rows of one tensor."""
    matrix = normal(20_000, 1) if rows is None else rows
    names = NAMES if matrix.shape[1] == WIDTH else tuple(map(str, range(matrix.shape[1])))
    reference = Reference(
        "input", "features", "float32", matrix.shape[1], {"values": edges_of(matrix, names)}
    )
    return Profile("m", version, digest, {tensor: reference}, MADE_AT, "a test")


def codes_profile(codes: NDArray[np.int64]) -> Profile:
    """Return the profile of rows of categories."""
    alphabet = alphabet_of(codes, ("a",), {}, 16)
    return Profile(
        "m",
        "7",
        "",
        {"x": Reference("input", "codes", "int64", 1, {"codes": alphabet})},
        MADE_AT,
        "a test",
    )


def tally(panel: Panel, matrix: NDArray[Any]) -> Tally:
    """Count rows by a reference, the slow way."""
    if isinstance(panel, Alphabet):
        return _codes(panel, matrix)
    with np.errstate(invalid="ignore"):
        above = [(matrix >= edge).sum(axis=0) for edge in panel.edges.astype(matrix.dtype)]
    counts = np.stack([np.isnan(matrix).sum(axis=0), np.isinf(matrix).sum(axis=0), *above]).astype(np.int64)
    finite = np.isfinite(matrix)
    z = np.where(finite, (np.where(finite, matrix, 0).astype(np.float64) - panel.mean) / panel.std, 0)
    low = np.where(finite, matrix, np.inf).min(axis=0, initial=np.inf)
    high = np.where(finite, matrix, -np.inf).max(axis=0, initial=-np.inf)
    extremes = np.stack([low, high]).astype(np.float64)
    return Tally(Kind.VALUES, len(matrix), counts, np.stack([z.sum(axis=0), (z * z).sum(axis=0)]), extremes)


def _codes(panel: Alphabet, matrix: NDArray[np.int64]) -> Tally:
    counts = np.zeros((len(panel.codes) + 1, matrix.shape[1]), np.int64)
    for feature, column in enumerate(matrix.T):
        known = panel.codes[: panel.sizes[feature], feature].tolist()
        for code in column.tolist():
            counts[known.index(code) if code in known else -1, feature] += 1
    return Tally(Kind.CATEGORIES, len(matrix), counts, None, None, panel.codes, panel.sizes)


class Counted:
    """One stream of one replica, that counts rows and tells of them."""

    def __init__(self, number: int, reference: Profile, tensor: str = "x") -> None:
        self.number = number
        self.dropped: dict[str, int] = {}
        self._profile = reference
        self._reference = reference.tensors[tensor]
        self._look = look(tensor, self._reference.elements)
        self._panels: dict[str, Tally] = {}
        self._rows = 0
        self.count(np.zeros((0, self._reference.elements), np.float32))

    def count(self, rows: NDArray[Any]) -> None:
        """Count rows."""
        self._rows += len(rows)
        for name, panel in self._reference.panels.items():
            new = tally(panel, rows)
            self._panels[name] = self._panels[name] + new if name in self._panels else new

    def tell(self) -> StreamReading:
        """Return all that was counted."""
        return StreamReading(
            self.number, self._profile.hash, self._look, self._rows, dict(self.dropped), dict(self._panels)
        )

    def told(
        self, replica: str, version: str = "7", role: str = "live"
    ) -> dict[tuple[str, int], tuple[Key, dict[str, Any]]]:
        """Return the same as the control has it."""
        key = ("m", version, role, self._look.tensor)
        return {(replica, self.number): (key, self.tell().to_json())}
