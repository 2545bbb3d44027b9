"""Rows of a version, and what a naive count says of them: the specification of counting for drift."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.config import Drift as Settings
from serving.drift import features
from serving.drift.build import build
from serving.drift.profile import Profile
from serving.drift.reading import StreamReading
from serving.drift.tally import Tally
from serving.drift.view import Kind, Look, look
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.track import Batch
from serving.wire import DATATYPES, TensorSpec

READY_S_MAX = 240
"""A process of a low rank gets ready in a second, or far later where others want all processors."""


class Version:
    """What a gateway has of a version: its signature, and a lane that shows batches to taps."""

    def __init__(
        self,
        inputs: dict[str, tuple[str, list[int]]],
        outputs: dict[str, tuple[str, list[int]]],
        rows_max: int = 64,
        number: int = 1,
        digest: str = "d",
    ) -> None:
        def tensors(told):
            return tuple(
                TensorSpec(name, DATATYPES[kind], tuple(shape)) for name, (kind, shape) in told.items()
            )

        artifact = Artifact("m", number, digest, Path("m"), 1)
        self.spec = ModelSpec(artifact, ModelConfig("m"), tensors(inputs), tensors(outputs), rows_max)
        self.lane = Lane()
        self.lanes = [self.lane]
        self.fed: dict[str, list[np.ndarray]] = {
            each.name: [] for each in (*self.spec.inputs, *self.spec.outputs)
        }

    def answer(self, taps, rows: int | None = None, **tensors: np.ndarray) -> None:
        """Show a batch as the lane does; `rows` is 0 where it is none."""
        feeds = {each.name: tensors[each.name] for each in self.spec.inputs if each.name in tensors}
        outputs = [tensors[each.name] for each in self.spec.outputs]
        count = len(next(iter(tensors.values()))) if rows is None else rows
        for name, array in tensors.items():
            self.fed[name].append(array.copy())
        for tap in taps:
            tap(Batch([], count, 0, feeds=feeds, outputs=outputs))


class Lane(list):
    """Requests that a lane has still to answer."""


def mlp(**changes: Any) -> Version:
    return Version({"x": ("FP32", [-1, 16])}, {"y": ("FP32", [-1, 3])}, **changes)


def batch_of(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 16)).astype(np.float32)
    x[rng.random(x.shape) < 0.05] = np.nan
    x[rng.random(x.shape) < 0.02] = -np.inf
    return {"x": x, "y": rng.standard_normal((rows, 3)).astype(np.float32)}


async def until(true, wait_s: float = READY_S_MAX) -> None:
    over_s = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < over_s, "it never came true"
        await asyncio.sleep(0.01)


def profile_of(version: Version, *looks: Look, rows: int = 2000) -> Profile:
    """Return a profile of normal rows of each tensor that is looked at."""
    rng = np.random.default_rng(99)
    block = {}
    for each in looks:
        array = rng.standard_normal((rows, *each.shape)) * (1 if each.numbers.kind == "f" else 5)
        block[each.tensor] = features.rows(each, array.astype(DATATYPES[each.datatype].dtype))
    return build(
        "m", str(version.spec.artifact.version), version.spec.artifact.digest, looks, [block],
        categories_max=64, made_at="2026-11-24T14:05:00Z", source="a test",
    )  # fmt: skip


def looks_of(version: Version, profile: Profile | None = None) -> list[Look]:
    found = [
        look(each, "input", Settings(), version.spec.rows_max > 0, profile) for each in version.spec.inputs
    ]
    found += [
        look(each, "output", Settings(), version.spec.rows_max > 0, profile) for each in version.spec.outputs
    ]
    return [each for each in found if each is not None]


def check(reading: StreamReading, arrays: list[np.ndarray], profile: Profile | None = None) -> None:
    """Compare a reading with what a naive count of the same rows says: counts bitwise, sums to 1e-12."""
    rows = [features.rows(reading.look, each) for each in arrays]
    taken = np.concatenate(rows) if rows else np.empty((0, reading.look.elements), reading.look.dtype)
    assert reading.rows == len(taken)
    reference = profile.tensors[reading.look.tensor] if profile is not None else None
    matrices = dict(features.panels(reading.look, taken))
    assert set(matrices) == set(reading.panels)
    for name, tally in reading.panels.items():
        assert tally.n == len(taken)
        if tally.kind is Kind.CATEGORIES:
            check_categories(tally, matrices[name], reference and reference.panels[name])
        else:
            check_numbers(tally, matrices[name], reference and reference.panels[name])


def check_numbers(tally: Tally, matrix: np.ndarray, edges) -> None:
    finite = np.where(np.isfinite(matrix), matrix.astype(np.float64), np.nan)
    if edges is None:
        mean, std = np.zeros(matrix.shape[1]), np.ones(matrix.shape[1])
        assert tally.counts.sum() == matrix.size if tally.kind is Kind.SPREAD else len(tally.counts) == 2
    else:
        mean, std = edges.mean, edges.std
        expected = [np.isnan(matrix).sum(axis=0), np.isinf(matrix).sum(axis=0)]
        expected += [(matrix >= edge.astype(matrix.dtype)).sum(axis=0) for edge in edges.edges]
        assert np.array_equal(tally.counts, expected)
    z = (finite - mean) * (1 / std)
    assert tally.sums[0] == pytest.approx(np.nansum(z, axis=0), rel=1e-12, abs=1e-9)
    assert tally.sums[1] == pytest.approx(np.nansum(z * z, axis=0), rel=1e-12, abs=1e-9)
    low = np.where(np.isnan(finite), np.inf, finite).min(axis=0, initial=np.inf)
    high = np.where(np.isnan(finite), -np.inf, finite).max(axis=0, initial=-np.inf)
    assert np.array_equal(tally.extremes, [low, high])


def check_categories(tally: Tally, codes: np.ndarray, alphabet) -> None:
    room = len(tally.alphabet)
    for at in range(codes.shape[1]):
        known = [] if alphabet is None else alphabet.codes[: alphabet.sizes[at], at].tolist()
        often = dict.fromkeys(known, 0)
        others = 0
        for code in codes[:, at].tolist():
            if code in often or (alphabet is None and len(often) < room):
                often[code] = often.get(code, 0) + 1
            else:
                others += 1
        size = tally.sizes[at]
        assert tally.alphabet[:size, at].tolist() == sorted(often)
        assert tally.counts[:size, at].tolist() == [often[code] for code in sorted(often)]
        assert tally.counts[-1, at] == others
