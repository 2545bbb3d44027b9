"""How many rows a second does ONNX Runtime itself do, in a loop, with no server around it?

    python -m loadtests.bench.limit MODEL.onnx --shape 1,16 --rows 1,8 --seconds 1 [--copy FILE]

prints a JSON object: rows of a batch to rows a second. With a FILE each batch is copied from there, in turn,
instead of being the same one every time. It is a process of its own so that it can have the server's core,
and a fresh heap.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


def rate(run: Callable[[], Any], rows: int, seconds: float, now_s: Callable[[], float]) -> float:
    """Repeat `run` for `seconds` and return the rows a second."""
    run()
    runs, start_s = 0, now_s()
    while (spent_s := now_s() - start_s) < seconds:
        run()
        runs += 1
    return runs * rows / spent_s if runs else 0.0


def copying(run: Callable[[], Any], batch: NDArray[np.float32], file: str) -> Callable[[], Any]:
    """Return what copies the next batch of `file` into place, then does `run`."""
    flat, there = batch.reshape(-1), np.memmap(file, batch.dtype, "r")
    batches = itertools.cycle(there[: len(there) // flat.size * flat.size].reshape(-1, flat.size))

    def copy_and_run() -> None:
        flat[:] = next(batches)
        run()

    return copy_and_run


def rates(
    path: str, shape: Sequence[int], batches: Sequence[int], seconds: float, file: str = ""
) -> dict[int, float]:
    """Measure the model at `path` with each size of batch; `shape` is that of one row, its 1 included."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    measured = {}
    for rows in batches:
        feed = {"x": np.random.default_rng(rows).standard_normal((rows, *shape[1:]), dtype=np.float32)}
        run: Callable[[], Any] = partial(session.run, ["y"], feed)
        measured[rows] = rate(
            copying(run, feed["x"], file) if file else run, rows, seconds, time.perf_counter
        )
    return measured


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--shape", type=_numbers, required=True)
    parser.add_argument("--rows", type=_numbers, default=[1])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--copy", default="", metavar="FILE")
    given = parser.parse_args()
    print(json.dumps(rates(given.path, given.shape, given.rows, given.seconds, given.copy)))


if __name__ == "__main__":
    main()
