"""How far are inputs, and a version's answers to them, from the version's own reference? In NumPy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import distance
from kernels.detect import REFERENCE_MIN
from serving.drift import features
from serving.drift.features import Misfit
from serving.drift.profile import Alphabet, Edges, Panel, Profile
from serving.drift.view import Look
from serving.replay import report

WORST_MAX = 5
P_MAX = 1e-3
"""Of all features of a version together: a replay is one look, so a p value may be used here."""

Counts = NDArray[np.int64]


class Tensor:
    """What is counted of one tensor: [F, bins] for each panel of its reference."""

    def __init__(self, look: Look, panels: Mapping[str, Panel]) -> None:
        self.look = look
        self.panels = panels
        self.rows = 0
        self.counts = {name: np.zeros_like(_reference(each)) for name, each in panels.items()}

    def add(self, array: NDArray[Any]) -> None:
        """Count rows."""
        try:
            taken = features.rows(self.look, array)
        except Misfit:
            return
        self.rows += len(taken)
        for name, matrix in features.panels(self.look, taken).items():
            self.counts[name] += _binned(self.panels[name], matrix)


class Bearing:
    """The inputs and answers of one version, against its profile.

    Parameters
    ----------
    profile : Profile
    looks : sequence of Look
        Of those tensors of the profile that the version has as they were.
    psi_min : float
        The least change that matters.
    """

    def __init__(self, profile: Profile, looks: Sequence[Look], psi_min: float) -> None:
        self._profile, self._psi_min = profile, psi_min
        self._tensors = {each.tensor: Tensor(each, profile.tensors[each.tensor].panels) for each in looks}

    def add(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Count the tensors of a run, by name."""
        for name, tensor in self._tensors.items():
            if name in arrays:
                tensor.add(arrays[name])

    def document(self) -> report.Drift:
        """Say how far they are off."""
        together = sum(_features(each) for each in self._tensors.values())
        thin = self._profile.n < REFERENCE_MIN
        tensors = [self._tensor(name, each, together, thin) for name, each in self._tensors.items()]
        drifted = any(each["features_drifted"] for each in tensors)
        return {"profile": self._profile.hash, "thin": thin, "drifted": drifted, "tensors": tensors}

    def _tensor(self, name: str, tensor: Tensor, together: int, thin: bool) -> report.TensorDrift:
        found: list[report.WorstFeature] = []
        for panel, live in tensor.counts.items():
            found += self._panel(tensor.panels[panel], live, together, thin)
        found.sort(key=lambda each: (not each["drifted"], each["p"] is None, -(each["psi_corrected"] or 0.0)))
        return {
            "tensor": name,
            "of": tensor.look.of,
            "rows": tensor.rows,
            "rows_reference": min(each.n for each in tensor.panels.values()),
            "features": len(found),
            "features_drifted": sum(each["drifted"] for each in found),
            "worst": found[:WORST_MAX],
        }

    def _panel(self, panel: Panel, live: Counts, together: int, thin: bool) -> list[report.WorstFeature]:
        between = distance.between(_reference(panel), live, ordered=isinstance(panel, Edges))
        with np.errstate(invalid="ignore"):
            # An alarm needs both, as everywhere: evidence, and a change that is large enough to matter.
            drifted = (between.psi_excess >= self._psi_min) & (between.p * together <= P_MAX) & (not thin)
        return [
            {
                "feature": feature,
                "psi": _number(between.psi[at]),
                "psi_corrected": _number(between.psi_excess[at]),
                "p": _number(between.p[at]),
                "drifted": bool(drifted[at]),
            }
            for at, feature in enumerate(panel.features)
        ]


def _features(tensor: Tensor) -> int:
    return sum(len(panel.features) for panel in tensor.panels.values())


def _reference(panel: Panel) -> Counts:
    """Return the counts of what was normal, [F, bins]."""
    if isinstance(panel, Alphabet):
        return np.ascontiguousarray(panel.counts.T)
    return distance.bins(panel.counts, panel.n)


def _binned(panel: Panel, matrix: NDArray[Any]) -> Counts:
    """Return the counts of rows [n, F] in the bins of a reference, [F, bins]."""
    if isinstance(panel, Alphabet):
        known = np.stack([(matrix == codes).sum(axis=0) for codes in panel.codes])
        known *= np.arange(len(panel.codes))[:, None] < panel.sizes  # What only pads is no code.
        return np.vstack([known, len(matrix) - known.sum(axis=0)]).T
    values = matrix.astype(panel.dtype)
    with np.errstate(invalid="ignore"):
        above = [(values >= edge).sum(axis=0) for edge in panel.edges.astype(panel.dtype)]
    counts = np.array([np.isnan(values).sum(axis=0), np.isinf(values).sum(axis=0), *above])
    return distance.bins(counts, len(values))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
