"""How long until a thousand replicas have acknowledged a change?"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loadtests.bench.client import percentile
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row, or_reason
from loadtests.bench.turnout import Bench, module
from loadtests.switching.asking import MODEL

REPLICAS = 1000
TIMES, TIMES_QUICK = 100, 10
GOAL = Goal(200, Better.LOWER)
NAME = "acknowledgement with 1,000 simulated replicas: p99"
S_MAX = 180.0


def thousand(bench: Bench) -> Iterator[Row]:
    """Roll back and forth with a control of its own, and with replicas that share a process."""
    if bench.wants(NAME):
        yield from or_reason(_thousand(bench), NAME, "ms", GOAL)


def _thousand(bench: Bench) -> Iterator[Row]:
    times = TIMES_QUICK if bench.repeat == 1 else TIMES
    # Unix sockets have short names, so not below the folder of the benchmark.
    folder = Path(tempfile.mkdtemp(prefix="turnout-"))
    try:
        receipts = _receipts(folder, bench.folder / "run", times)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield from rows(receipts[1:])  # The first is the one after which they alternate.


def rows(receipts: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Make rows of receipts; one that not everybody acknowledged is no figure."""
    short = min(len(receipt["acknowledged"]) for receipt in receipts)
    if short < REPLICAS or not all(receipt["confirmed"] for receipt in receipts):
        raise BenchError(f"one was acknowledged by {short} only")
    took = [float(receipt["ms"]) for receipt in receipts]
    publish = percentile((receipt["steps_ms"]["publish"] for receipt in receipts), 50)
    note = f"{len(took)} rollbacks; p50 {percentile(took, 50):.0f} ms, of which publishing is {publish:.0f}"
    yield Row(NAME, percentile(took, 99), "ms", GOAL, note=note)


def _receipts(folder: Path, logs: Path, times: int) -> list[dict[str, Any]]:
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(_process("alone", logs, [str(folder), str(REPLICAS), str(times)]))
        assert control.stdout is not None
        if control.stdout.readline() != "started\n":
            raise BenchError(f"the control did not start: {_last(logs / 'alone.log')}")
        stack.enter_context(_process("simulated", logs, [str(folder), str(REPLICAS), MODEL]))
        try:
            output, _ = control.communicate(timeout=S_MAX)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the control was not done in {S_MAX:g} s") from None
    if control.returncode:
        raise BenchError(f"the control ended with {control.returncode}: {_last(logs / 'alone.log')}")
    return [json.loads(line) for line in output.splitlines()]


@contextlib.contextmanager
def _process(name: str, logs: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a module of this folder until the block ends: it ends with its input, or is killed."""
    with (logs / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*module(f"loadtests.switching.{name}"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield process
        if process.poll() is None:
            process.communicate(timeout=10)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")[:300]
