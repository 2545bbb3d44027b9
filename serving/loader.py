"""Make an admitted version ready to serve: open it, find out whether its rows are independent, warm it."""

from __future__ import annotations

import ctypes
import itertools
import logging
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import monotonic_ns, perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.config import Config
from serving.device import NoDevice, choose, gpus
from serving.errors import Expired, Failed, Invalid
from serving.gpu.bound import NoGraphs
from serving.gpu.kept import Kept, used_on_gpus
from serving.gpu.placing import Placing, takes_anything
from serving.gpu.providers import Wanted, wanted
from serving.gpu.session import DeviceSession
from serving.gpu.taken import taking
from serving.model import Artifact, Device, ModelConfig, ModelSpec, Warmup
from serving.session import Feeds, Session, Stop, open_onnx, reason
from serving.signature import complete, could_batch, signature
from serving.wire import TensorSpec

log = logging.getLogger("turnout.loader")

SIZES_TRIED = (1, 2, 4, 8, 16, 32, 64, 128, 224, 256, 512, 1024)
"""What a dimension that the graph leaves open is set to, until the model accepts it."""
ELEMENTS_MAX = 1 << 22
"""Of an input, where its open dimensions were chosen here and so might be too large for the model."""
LOOKS_MAX, LOOK_S = 10, 0.1
"""How often, and how long apart, it is looked whether memory that is missing comes back."""
TIMED_RUNS = 5
ROUGHLY = 1e-2
"""A device may add up batches of each size in another order, and round products to 10 bits (TF32)."""
FULL_BATCH_FACTOR = 8
"""A full batch on the loop may take this many times `inline_us_max`: 2.4 ms by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A version that is ready to serve.

    `run_ns` is the median run at one row, `full_ns` at as many rows as the configuration lets requests
    share, or at one; 0 if no sample could be found that the model runs on, so that it was not warmed.
    `load_s` is what all this took, and `memory_bytes` by how much the process grew meanwhile.
    """

    spec: ModelSpec
    session: Session
    run_ns: int
    full_ns: int
    load_s: float
    memory_bytes: int
    on_gpu: Mapping[str, int] = field(default_factory=dict)
    """By how much less of each GPU is free."""
    device: DeviceSession | None = None
    """The same on a device, where batches follow each other; it has what fits no batch run by `session`."""

    def __str__(self) -> str:
        return f"load_s={self.load_s:.3f} run_us={self.run_ns // 1000} rows_max={self.spec.rows_max}"

    def inline(self, inline_us_max: int) -> bool:
        """Say whether runs are short enough for the event loop, full batches included."""
        return self.device is None and are_short(self.run_ns, self.full_ns, inline_us_max * 1000)


def are_short(run_ns: int, full_ns: int, inline_ns_max: int) -> bool:
    """Say whether runs of one row and of a full batch may execute on the event loop."""
    return 0 < run_ns <= inline_ns_max and full_ns <= FULL_BATCH_FACTOR * inline_ns_max


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs made up to try a model: open dimensions other than the batch set to `size`.

    Without `everywhere` only the last one is, and those between are 1: they often count rows, as in
    a recurrent state of [layers, rows, width] beside a signal of [rows, samples].
    """

    inputs: tuple[TensorSpec, ...]
    size: int
    everywhere: bool = True

    def feeds(self, rows: int, rng: np.random.Generator | None = None) -> dict[str, NDArray[Any]]:
        """Return arrays with `rows` in an open first dimension: random ones, or zeros without `rng`."""
        return {spec.name: _made_up(spec, self._shape(spec, rows), rng) for spec in self.inputs}

    @property
    def elements(self) -> int:
        """How many elements the largest input has at one row."""
        return max((math.prod(self._shape(spec, 1)) for spec in self.inputs), default=0)

    def _shape(self, spec: TensorSpec, rows: int) -> tuple[int, ...]:
        last = len(spec.shape) - 1
        between = self.size if self.everywhere else 1
        return tuple(
            extent if extent >= 0 else rows if axis == 0 else self.size if axis == last else between
            for axis, extent in enumerate(spec.shape)
        )


def _made_up(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator | None) -> NDArray[Any]:
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
    artifact: Artifact,
    config: ModelConfig,
    labels: Mapping[str, tuple[str, ...]],
    settings: Config,
    placing: Placing | None = None,
) -> Prepared:
    """Load a version and warm every batch that can be formed for it. Blocking; for the loader's thread.

    Without `placing` batches wait for each other, also where they run on a device.

    Raises
    ------
    TurnoutError, NoDevice, NoRoom, OSError, ValueError
        If the version cannot be served as configured.
    """
    asked = _asked(config, settings, artifact)
    with taking(asked, artifact) as on_gpu:
        try:
            prepared = _prepared(artifact, config, labels, settings, placing, asked)
        except NoGraphs as error:
            assert asked is not None
            if asked.graphs:
                raise Failed(f"optimization.cuda.graphs: {error}") from None
            log.warning(
                "version=%s@%d event=no_cuda_graphs reason=%r", config.name, artifact.version, str(error)
            )
            prepared = None
        if prepared is None:  # Only now: the error had the session that could not be captured.
            without = asked and replace(asked, graphs=False)
            prepared = _prepared(artifact, config, labels, settings, placing, without)
    return replace(prepared, on_gpu=on_gpu)


def _prepared(
    artifact: Artifact,
    config: ModelConfig,
    labels: Mapping[str, tuple[str, ...]],
    settings: Config,
    placing: Placing | None,
    asked: Wanted | None,
) -> Prepared:
    give_back()
    began_s, began_bytes = perf_counter(), resident_bytes()
    onnx_session = _open(artifact, config, settings, asked)
    inputs, outputs = signature(onnx_session)
    automatic = config.rows_max is None and settings.batching.rows_max > 1 and could_batch(inputs, outputs)
    spec = complete(artifact, config, inputs, outputs, settings.batching.rows_max * automatic, labels)
    session = Session(onnx_session, spec.inputs, spec.outputs)
    run_ns = full_ns = 0
    inline_ns_max, until_s = settings.engine.inline_us_max * 1000, began_s + settings.admission.deadline_s / 2
    with _within(settings.admission.deadline_s) as stop:
        sample = find_sample(session, spec, stop)
        if sample is None and asked is not None and takes_anything(spec):
            raise Failed("it loads on the GPU, but does not run there; the log says why")
        accelerate = placing.device(onnx_session) if placing is not None else None
        if automatic:
            # On a device larger batches gain, and nobody waits for company (docs/decisions/020).
            limit_ns = inline_ns_max if accelerate is None else None
            joined = rows_worth_joining(session, spec, sample, limit_ns, stop) if sample else 0
            spec = complete(artifact, config, inputs, outputs, joined, labels)
        device = None
        if placing is not None and accelerate is not None and sample is not None:
            device = placing.place(accelerate, onnx_session, session, spec, sample, settings, stop, until_s)
            device = _unless_short(device, spec.rows_max, inline_ns_max)
        warm(session, spec, sample if device is None else None, stop, until_s)
        if device is not None:
            run_ns, full_ns = device.alone_ns(1), device.alone_ns(spec.rows_max)
        elif sample is not None:
            run_ns = full_ns = timed(session, sample, 1, stop)
            # An automatic batch was made to fit just now; a second look would let noise decide again.
            if spec.rows_max > 1 and not automatic:
                full_ns = timed(session, sample, spec.rows_max, stop)
    give_back()
    grown_bytes = max(resident_bytes() - began_bytes, 0)
    return Prepared(spec, session, run_ns, full_ns, perf_counter() - began_s, grown_bytes, device=device)


def _unless_short(device: DeviceSession | None, rows_max: int, inline_ns_max: int) -> DeviceSession | None:
    """Give back the device of a version whose runs may as well execute on the event loop."""
    if device is None or not are_short(device.alone_ns(1), device.alone_ns(rows_max), inline_ns_max):
        return device
    device.close()
    return None


def _asked(config: ModelConfig, settings: Config, artifact: Artifact) -> Wanted | None:
    """Return how a version is to be opened on a GPU; None for one that is to run on the CPU."""
    device = config.device if config.device is not Device.AUTO else settings.engine.device
    on_gpu = choose(device, gpus()) is Device.GPU
    return wanted(config, settings, artifact.bytes_total) if on_gpu else None


def _open(artifact: Artifact, config: ModelConfig, settings: Config, asked: Wanted | None) -> Any:
    device = Device.CPU if asked is None else Device.GPU
    try:
        return open_onnx(str(artifact.path), device, settings.engine.threads, config.graph_level, asked)
    except NoDevice:
        raise
    except Exception as error:
        # ONNX Runtime's classes have no base but this. Admission saw the file load, but not on this device.
        raise Failed(f"it cannot be loaded: {reason(error, artifact.path)}") from error


@contextmanager
def _within(limit_s: float) -> Iterator[Stop]:
    """Lend a stop that ends runs after `limit_s`.

    Admission ran the model on zeros and ones; what it does on other values and in batches is seen here
    for the first time, and must not hold up the loader for ever.
    """
    stop = Stop()
    timer = threading.Timer(limit_s, stop.now)
    timer.daemon = True
    timer.start()
    try:
        yield stop
    except Expired:
        message = f"its first runs did not finish within {limit_s:g} s (admission.deadline_s)"
        raise Failed(message) from None
    finally:
        timer.cancel()


def give_back() -> None:
    """Return freed memory to the system: what a session's creation or end leaves, glibc still holds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def settle(kept: Kept, memory: Sequence[Mapping[str, int]]) -> None:
    """Give back what an unloaded version left, and see what is missing; `memory` is what the others hold."""
    for _ in range(LOOKS_MAX):
        give_back()
        used = {"cpu": resident_bytes(), **used_on_gpus()}
        if not kept.over(used, memory):
            break
        sleep(LOOK_S)  # Some thread may be late to let go of it.
    kept.look(used, memory)


def resident_bytes() -> int:
    """Return the memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def find_sample(session: Session, spec: ModelSpec, stop: Stop) -> Sample | None:
    """Return a sample that the model runs on, or None if none of those tried does."""
    required = tuple(each for each in spec.inputs if not each.optional)
    open_elsewhere = any(-1 in each.shape[1:] for each in required)
    open_between = any(-1 in each.shape[1:-1] for each in required)
    sizes = SIZES_TRIED if open_elsewhere else SIZES_TRIED[:1]
    for size, everywhere in itertools.product(sizes, (True, False) if open_between else (True,)):
        sample = Sample(required, size, everywhere)
        if size > 1 and sample.elements > ELEMENTS_MAX:
            continue
        try:
            session.run(sample.feeds(1), stop)
        except (Invalid, Failed) as error:
            log.info("version=%s event=sample_refused size=%d reason=%r", spec, size, str(error))
        else:
            return sample
    log.warning("version=%s event=not_warmed reason='no made-up input fits its open dimensions'", spec)
    return None


def rows_worth_joining(
    session: Session, spec: ModelSpec, sample: Sample, inline_ns_max: int | None, stop: Stop
) -> int:
    """Return how many rows to join for a model that does not say; 0 if it is not to be batched.

    Only where two rows together give what they give apart, and, unless `inline_ns_max` is None, only for
    runs so short that they execute on the loop: a longer one gains nothing by default and would make its
    first caller wait.
    """
    if inline_ns_max is None:
        return spec.rows_max if rows_are_independent(session, sample, stop, ROUGHLY) else 0
    if timed(session, sample, 1, stop) > inline_ns_max or not rows_are_independent(session, sample, stop):
        return 0
    rows = spec.rows_max
    while rows > 1 and timed(session, sample, rows, stop) > FULL_BATCH_FACTOR * inline_ns_max:
        rows //= 2
    return rows if rows > 1 else 0


def rows_are_independent(session: Session, sample: Sample, stop: Stop, within: float = 0.0) -> bool:
    """Say whether a batch of random rows gives what each row gives alone, within rounding.

    Or, of floats, `within` so much of the largest.
    """
    rng = np.random.default_rng(7)
    for rows in (2, 3):
        alone = [sample.feeds(1, rng) for _ in range(rows)]
        together = {name: np.concatenate([feeds[name] for feeds in alone]) for name in alone[0]}
        try:
            apart = [session.run(feeds, stop) for feeds in alone]
            joined = session.run(together, stop)
        except (Invalid, Failed):
            return False
        for index, output in enumerate(joined):
            parts = [part[index] for part in apart]
            # A shape may follow from values: how many words a string has, say. Then nothing is joined.
            if output.shape[:1] != (rows,) or any(part.shape != (1, *output.shape[1:]) for part in parts):
                return False
            if not _alike(output, np.concatenate(parts), within):
                return False
    return True


def _alike(one: NDArray[Any], other: NDArray[Any], within: float) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fV":  # V is bfloat16's kind.
        tolerance = 1e-4 if one.dtype.itemsize > 2 else 2e-2
        wide, wide_other = one.astype(np.float64), other.astype(np.float64)
        if within:
            least = within * float(np.nanmax(np.abs(wide), initial=0.0))
            return bool(np.allclose(wide, wide_other, rtol=0.0, atol=least, equal_nan=True))
        return bool(np.allclose(wide, wide_other, rtol=tolerance, atol=tolerance, equal_nan=True))
    return bool(np.array_equal(one, other))


def warm(session: Session, spec: ModelSpec, sample: Sample | None, stop: Stop, until_s: float) -> None:
    """Run every number of rows that a batch can have, and the samples that the configuration names.

    The largest comes first: if it does not fit into memory, better now than under load. Of those in
    between, only as many are run as there is time for until `until_s`, by `perf_counter`.
    """
    if sample is not None:
        _warm_sizes(session, spec, sample, stop, until_s)
    for warmup in spec.config.warmup:
        for _ in range(warmup.count):
            session.run(_configured(warmup, spec.inputs), stop)


def _warm_sizes(session: Session, spec: ModelSpec, sample: Sample, stop: Stop, until_s: float) -> None:
    rows_max = max(spec.rows_max, 1)
    for done, rows in enumerate((rows_max, *range(1, rows_max))):
        if perf_counter() > until_s:
            log.warning("version=%s event=warmed_partly sizes=%d of=%d", spec, done, rows_max)
            return
        session.run(sample.feeds(rows), stop)


def _configured(warmup: Warmup, inputs: Sequence[TensorSpec]) -> Feeds:
    specs = {each.name: each for each in inputs}
    rng = np.random.default_rng(7)
    feeds = {}
    for tensor in warmup.tensors:
        shape = (warmup.rows, *tensor.shape) if warmup.rows else tensor.shape
        feeds[tensor.name] = _made_up(specs[tensor.name], shape, rng if tensor.fill == "random" else None)
    return feeds


def timed(session: Session, sample: Sample, rows: int, stop: Stop) -> int:
    """Return the median duration of a run with so many rows, in ns; the first is not counted."""
    feeds = sample.feeds(rows)
    session.run(feeds, stop)
    return int(median(itertools.islice(_durations(session, feeds, stop), TIMED_RUNS)))


def _durations(session: Session, feeds: Feeds, stop: Stop) -> Iterator[int]:
    while True:
        began_ns = monotonic_ns()
        session.run(feeds, stop)
        yield monotonic_ns() - began_ns
