"""How many rows a second does ONNX Runtime itself do on a GPU, in a loop, with no server around it?

    python -m loadtests.gpubench.limit MODEL.onnx --case bert_fp16 [--rows 1,8,64] [--seconds 0.5] [--cpu]

prints a JSON object: rows of a batch to rows a second. Inputs are bound on the device before the start and
outputs stay there, so that nothing is copied: what is left is the model. No graph is captured. It is a
process of its own, so that what it allocates on the GPU is gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from loadtests.bench.errors import BenchError
from loadtests.gpubench.cases import BY_NAME, Case

ROWS = (1, 2, 4, 8, 16, 32, 64)
CUDA = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1"})
LIMIT_S_MAX = 600.0
RUNS_MIN = 3


def opened(path: str, *, cpu: bool) -> ort.InferenceSession:
    """Open a model where it is to run, and nowhere else.

    Raises
    ------
    BenchError
        If that is a GPU, and there is none.
    """
    if cpu:
        return ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ort.preload_dlls()
    session = ort.InferenceSession(path, providers=[CUDA, "CPUExecutionProvider"])
    if session.get_providers()[0] != CUDA[0]:
        raise BenchError("ONNX Runtime's CUDA provider did not start")
    return session


def bound(
    session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]], device: str
) -> tuple[Callable[[], None], Callable[[], list[NDArray[Any]]]]:
    """Return what runs a batch whose inputs are on the device already, and what then fetches the outputs."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device, 0)

    def run() -> None:
        session.run_with_iobinding(binding)

    return run, binding.copy_outputs_to_cpu


def per_s(run: Callable[[], None], rows: int, seconds: float, now_s: Callable[[], float]) -> float:
    """Repeat `run` for so long, after one that does not count, and return the rows a second."""
    run()
    runs, start_s = 0, now_s()
    while (spent_s := now_s() - start_s) < seconds or runs < RUNS_MIN:
        run()
        runs += 1
    return runs * rows / spent_s


def rates(path: str, case: Case, batches: Sequence[int], seconds: float, *, cpu: bool) -> dict[int, float]:
    """Measure a model with each size of batch."""
    session = opened(path, cpu=cpu)
    measured = {}
    for rows in batches:
        run, _ = bound(session, case.sample(rows, rows), "cpu" if cpu else "cuda")
        measured[rows] = per_s(run, rows, seconds, time.perf_counter)
    return measured


def measure(path: Path, case: Case, seconds: float) -> dict[int, float]:
    """Do so in a process of its own.

    Raises
    ------
    BenchError
        If it fails.
    """
    command = [sys.executable, "-m", "loadtests.gpubench.limit", str(path), "--case", case.name]
    done = subprocess.run(
        [*command, "--seconds", str(seconds)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S_MAX,
    )
    if done.returncode:
        raise BenchError(f"the limit of {case.name} ended with {done.returncode}: {done.stderr[-300:]}")
    return {int(rows): rate for rows, rate in json.loads(done.stdout).items()}


def best(measured: Mapping[int, float]) -> tuple[int, float]:
    """Return the rows of the best batch, and its rows a second."""
    rows = max(measured, key=lambda rows: measured[rows])
    return rows, measured[rows]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--case", required=True, choices=BY_NAME)
    parser.add_argument("--rows", type=_numbers, default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    case = BY_NAME[given.case]
    print(json.dumps(rates(given.path, case, given.rows, given.seconds, cpu=given.cpu)))


if __name__ == "__main__":
    main()
