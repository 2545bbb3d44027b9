"""Batches as lanes show them when they were answered, without a lane."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from serving.model import Artifact, ModelConfig, ModelSpec
from serving.track import Batch
from serving.wire import DATATYPES, InferRequest, TensorSpec

CLOCK = count(1)
LAYOUTS: dict[Any, SimpleNamespace] = {}


def spec(
    version: int = 7,
    rows_max: int = 64,
    digest: str = "d",
    **inputs: tuple[str, Sequence[int]],
) -> ModelSpec:
    """Return a version that takes these inputs: datatype and whole shape."""
    taken = inputs or {"x": ("FP32", (-1, 16))}
    tensors = tuple(TensorSpec(name, DATATYPES[kind], tuple(shape)) for name, (kind, shape) in taken.items())
    return ModelSpec(Artifact("m", version, digest, Path("m"), 1), ModelConfig("m"), tensors, (), rows_max)


def request(id_: bytes, rows: int, form: Any = ()) -> InferRequest:
    """Return one that was answered; those of one form and size have one layout."""
    made = InferRequest(None, (), None, id_, next(CLOCK))  # type: ignore[arg-type]
    made.layout = LAYOUTS.setdefault((rows, form), SimpleNamespace(rows=rows))
    return made


def batch(feeds: dict[str, np.ndarray], sizes: Sequence[int] = (), ids: Sequence[bytes] = ()) -> Batch:
    """Return a batch of requests of so many rows each; of a whole run where nothing is said of rows."""
    form = tuple((name, each.dtype, each.shape[1 if sizes else 0 :]) for name, each in sorted(feeds.items()))
    names = [*ids, *[b""] * max(len(sizes) - len(ids), 1 - len(ids))]
    requests = [request(name, rows, form) for name, rows in zip(names, sizes or (0,), strict=False)]
    return Batch(requests, sum(sizes), 0, feeds=feeds, outputs=[])
