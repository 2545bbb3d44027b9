"""Make an admitted version ready to serve: open it, find out whether its rows are independent, warm it."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import monotonic_ns, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.config import Config
from serving.device import choose, gpus
from serving.errors import Failed
from serving.model import Artifact, Device, ModelConfig, ModelSpec, Warmup
from serving.session import Feeds, Session, Stop, open_onnx
from serving.signature import complete, could_batch, signature
from serving.wire import TensorSpec

log = logging.getLogger("turnout.loader")

SIZES_TRIED = (1, 2, 4, 8, 16, 32, 64, 128, 224, 256, 512, 1024)
"""What a dimension that the graph leaves open is set to, until the model accepts it."""
TIMED_RUNS = 5
FULL_BATCH_FACTOR = 8
"""A full batch on the loop may take this many times `inline_us_max`: 2.4 ms by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A version that is ready to serve.

    `run_ns` is the median run at one row, `full_ns` at `spec.rows_max` rows; 0 if no sample could
    be found that the model runs on, so that it was not warmed. `load_s` is what all this took, and
    `memory_bytes` by how much the process grew meanwhile.
    """

    spec: ModelSpec
    session: Session
    run_ns: int
    full_ns: int
    load_s: float
    memory_bytes: int

    def __str__(self) -> str:
        return f"load_s={self.load_s:.3f} run_us={self.run_ns // 1000} rows_max={self.spec.rows_max}"

    def inline(self, inline_us_max: int) -> bool:
        """Say whether runs are short enough for the event loop, full batches included."""
        limit_ns = inline_us_max * 1000
        return 0 < self.run_ns <= limit_ns and self.full_ns <= FULL_BATCH_FACTOR * limit_ns


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs made up to try a model: open dimensions other than the batch set to `size`."""

    inputs: tuple[TensorSpec, ...]
    size: int

    def feeds(self, rows: int, rng: np.random.Generator | None = None) -> dict[str, NDArray[Any]]:
        """Return arrays with `rows` in an open first dimension: random ones, or zeros without `rng`."""
        return {spec.name: _made_up(spec, rows, self.size, rng) for spec in self.inputs}


def _made_up(spec: TensorSpec, rows: int, size: int, rng: np.random.Generator | None) -> NDArray[Any]:
    shape = tuple(
        extent if extent >= 0 else (rows if axis == 0 else size) for axis, extent in enumerate(spec.shape)
    )
    dtype = spec.datatype.dtype
    if dtype == np.object_:
        words = rng.choice(["", "a", "turnout"], shape) if rng is not None else np.full(shape, "")
        return np.asarray(words, dtype)
    if rng is None:
        return np.zeros(shape, dtype)
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)  # Small, for they may be indices.
    return rng.standard_normal(shape).astype(dtype)


def prepare(
    artifact: Artifact, config: ModelConfig, labels: Mapping[str, tuple[str, ...]], settings: Config
) -> Prepared:
    """Load a version and warm every batch that can be formed for it. Blocking; for the loader's thread.

    Raises
    ------
    TurnoutError, NoDevice, OSError, ValueError
        If the version cannot be served as configured.
    """
    began_s, began_bytes = perf_counter(), resident_bytes()
    asked = config.device if config.device is not Device.AUTO else settings.engine.device
    device = choose(asked, gpus())
    gpu = config.gpus[0] if config.gpus else 0
    onnx_session = open_onnx(str(artifact.path), device, settings.engine.threads, config.graph_level, gpu)
    inputs, outputs = signature(onnx_session)
    automatic = config.rows_max is None and settings.batching.rows_max > 1 and could_batch(inputs, outputs)
    spec = complete(artifact, config, inputs, outputs, settings.batching.rows_max * automatic, labels)
    session = Session(onnx_session, spec.inputs, spec.outputs)
    sample = find_sample(session, spec)
    if sample is None:
        log.warning("version=%s event=not_warmed reason='no made-up input fits its open dimensions'", spec)
    if automatic:
        rows_max = 0
        if sample is not None:
            rows_max = rows_worth_joining(session, spec, sample, settings.engine.inline_us_max * 1000)
        spec = complete(artifact, config, inputs, outputs, rows_max, labels)
    run_ns = full_ns = 0
    if sample is not None:
        warm(session, spec, sample)
        run_ns = full_ns = timed(session, sample, 1)
        if spec.rows_max > 1:
            full_ns = timed(session, sample, spec.rows_max)
    grown_bytes = max(resident_bytes() - began_bytes, 0)
    return Prepared(spec, session, run_ns, full_ns, perf_counter() - began_s, grown_bytes)


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def find_sample(session: Session, spec: ModelSpec) -> Sample | None:
    """Return a sample that the model runs on, or None if none of those tried does."""
    required = tuple(each for each in spec.inputs if not each.optional)
    open_elsewhere = any(-1 in each.shape[1:] for each in required)
    for size in SIZES_TRIED if open_elsewhere else SIZES_TRIED[:1]:
        sample = Sample(required, size)
        try:
            session.run(sample.feeds(1), Stop())
        except Failed as error:
            log.info("version=%s event=sample_refused size=%d reason=%r", spec, size, str(error))
        else:
            return sample
    return None


def rows_worth_joining(session: Session, spec: ModelSpec, sample: Sample, inline_ns_max: int) -> int:
    """Return how many rows to join for a model that does not say; 0 if it is not to be batched.

    Only where two rows together give what they give apart, and only for runs so short that they
    execute on the loop: a longer one gains nothing by default and would make its first caller wait.
    """
    if timed(session, sample, 1) > inline_ns_max or not rows_are_independent(session, sample):
        return 0
    rows = spec.rows_max
    while rows > 1 and timed(session, sample, rows) > FULL_BATCH_FACTOR * inline_ns_max:
        rows //= 2
    return rows if rows > 1 else 0


def rows_are_independent(session: Session, sample: Sample) -> bool:
    """Say whether a batch of random rows gives what each row gives alone, within rounding."""
    rng = np.random.default_rng(7)
    for rows in (2, 3):
        alone = [sample.feeds(1, rng) for _ in range(rows)]
        together = {name: np.concatenate([feeds[name] for feeds in alone]) for name in alone[0]}
        try:
            apart = [session.run(feeds, Stop()) for feeds in alone]
            joined = session.run(together, Stop())
        except Failed:
            return False
        for index, output in enumerate(joined):
            if any(part[index].shape[:1] != (1,) for part in apart) or output.shape[:1] != (rows,):
                return False
            if not _alike(output, np.concatenate([part[index] for part in apart])):
                return False
    return True


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fV":  # V is bfloat16's kind.
        tolerance = 1e-4 if one.dtype.itemsize > 2 else 2e-2
        wide, wide_other = one.astype(np.float64), other.astype(np.float64)
        return bool(np.allclose(wide, wide_other, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(one, other))


def warm(session: Session, spec: ModelSpec, sample: Sample) -> None:
    """Run every number of rows that a batch can have, and the samples that the configuration names."""
    for rows in range(1, max(spec.rows_max, 1) + 1):
        session.run(sample.feeds(rows), Stop())
    for warmup in spec.config.warmup:
        for _ in range(warmup.count):
            session.run(_configured(warmup, spec.inputs), Stop())


def _configured(warmup: Warmup, inputs: Sequence[TensorSpec]) -> Feeds:
    specs = {each.name: each for each in inputs}
    rng = np.random.default_rng(7)
    feeds = {}
    for tensor in warmup.tensors:
        shape = (warmup.rows, *tensor.shape) if warmup.rows else tensor.shape
        whole = TensorSpec(tensor.name, specs[tensor.name].datatype, shape)
        feeds[tensor.name] = _made_up(whole, 1, 1, rng if tensor.fill == "random" else None)
    return feeds


def timed(session: Session, sample: Sample, rows: int) -> int:
    """Return the median duration of a run with so many rows, in ns; the first is not counted."""
    feeds = sample.feeds(rows)
    session.run(feeds, Stop())
    return int(median(itertools.islice(_durations(session, feeds), TIMED_RUNS)))


def _durations(session: Session, feeds: Feeds) -> Iterator[int]:
    while True:
        began_ns = monotonic_ns()
        session.run(feeds, Stop())
        yield monotonic_ns() - began_ns
