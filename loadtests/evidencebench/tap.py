"""What does the event loop pay for each request whose answer is counted as evidence?

A lane shows batches of S, one float32 input of 16 and one output of 2, to the tap of a version whose
latencies and confidences are compared with frozen ones. What a lane pays without a tap is subtracted.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row, or_reason
from loadtests.bench.turnout import Bench
from serving.evidence.intake import Intake
from serving.evidence.page import Arm, Page
from serving.evidence.spread import Spread
from serving.evidence.terms import Terms
from serving.layout import bind
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.track import Batch
from serving.wire import DATATYPES, Call, InferRequest, TensorIn, TensorSpec

BATCHES = (1, 8, 64)
GOALS = {8: Goal(0.2, Better.LOWER), 64: Goal(0.2, Better.LOWER)}
REQUESTS = 65_536
ALIVE = 64
"""Batches that take turns, as many as are in a core's cache in a busy server."""
TERMS = Terms("S", frozenset({"1"}), (200_000, 400_000, 900_000), 0.55)


def tap(bench: Bench) -> Iterator[Row]:
    """Measure it, per request."""
    for rows in BATCHES:
        name = f"evidence/tap, batches of {rows}"
        if bench.wants(name):
            yield from or_reason(_tap(name, rows, max(3 * bench.repeat, 5)), name, "us", GOALS.get(rows))


def _tap(name: str, rows: int, repeat: int) -> Iterator[Row]:
    page = Page(Arm("S", 1, "1", "split"))
    intake, batches = Intake(_spec(), TERMS, Spread()), [_batch(page, rows, seed) for seed in range(ALIVE)]
    count = REQUESTS // rows
    took_s: tuple[list[float], list[float]] = [], []
    for _ in range(repeat):
        for taps, took in zip(([], [intake.tap]), took_s, strict=True):
            gc.collect()
            began_s = time.perf_counter()
            for at in range(count):
                for each in taps:
                    each(batches[at % ALIVE])
            intake.flush()
            took.append(time.perf_counter() - began_s)
    shown, counted = repeat * count * rows, page.counts().requests
    if counted != shown:
        raise BenchError(f"{counted} of {shown} requests were counted")
    costs_us = tuple((each - min(took_s[0])) / (count * rows) * 1e6 for each in took_s[1])
    yield Row(
        name,
        min(costs_us),
        "us",
        GOALS.get(rows),
        runs=costs_us,
        note=f"{shown} requests, all of them counted",
    )


def _spec() -> ModelSpec:
    tensors = (TensorSpec("x", DATATYPES["FP32"], (-1, 16)),), (TensorSpec("y", DATATYPES["FP32"], (-1, 2)),)
    return ModelSpec(Artifact("S", 1, "", Path("S"), 0), ModelConfig("S"), *tensors, 64)


def _batch(page: Page, rows: int, seed: int) -> Batch:
    rng, call = np.random.default_rng(seed), Call((TensorIn("x", DATATYPES["FP32"], (1, 16)),))
    layout, requests = bind(_spec(), call), []
    for took_ns in rng.integers(100_000, 1_000_000, rows).tolist():
        request = InferRequest(call, [b""], None, b"", 10**12 - took_ns)  # type: ignore[arg-type]
        request.layout, request.page = layout, page
        requests.append(request)
    x, y = (rng.random((rows, size), dtype=np.float32) for size in (16, 2))
    made = Batch(requests, rows, 0, feeds={"x": x}, outputs=[y / y.sum(axis=1, keepdims=True)])
    made.answered_ns, made.arrivals = 10**12, [request.arrived_ns for request in requests]
    return made
