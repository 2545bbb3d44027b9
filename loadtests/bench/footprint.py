"""How long from the command to the first answer, and how much memory afterwards?"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.bench.readings import load
from loadtests.bench.rows import Better, Goal, Row, or_reason
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup

DEMO = Path("build/demo/models")


READY = {"local": (True, Goal(3, Better.LOWER)), "ray": (False, Goal(15, Better.LOWER))}
LOADED = (Traffic("S", Encoding.BINARY, distinct=True), Traffic("L", Encoding.BINARY, distinct=True))


def ready(bench: Bench) -> Iterator[Row]:
    """Time the command until it is ready, with the demo models and all cores, as a user has it."""
    for label, (local, goal) in READY.items():
        name = f"{label}/command to ready"
        if bench.wants(name):
            yield from or_reason(_ready(bench, label, local=local, goal=goal), name, "s", goal)


def _ready(bench: Bench, label: str, *, local: bool, goal: Goal) -> Iterator[Row]:
    if not DEMO.is_dir():
        raise BenchError(f"{DEMO} is not there; turnout demo writes it")
    setup = Setup(DEMO, local=local, every_core=True, state=f"ready-{label}-state")
    # With an empty store every model is admitted; the others are restarts.
    shutil.rmtree(bench.folder / "run" / setup.state, ignore_errors=True)
    first, *again = (_ready_s(bench, label, setup) for _ in range(1 + bench.repeat))
    yield Row(f"{label}/command to ready, first start", first, "s", goal)
    yield Row(f"{label}/command to ready", statistics.median(again), "s", goal, runs=tuple(again))


def _ready_s(bench: Bench, label: str, setup: Setup) -> float:
    with bench.turnout(f"ready-{label}", setup) as running:
        return running.ready_s


def memory(bench: Bench) -> Iterator[Row]:
    """Measure what is resident after load on S and L, on a server that serves just these."""
    name, goal = "local/memory of S and L", Goal(250, Better.LOWER)
    if bench.wants(name):
        yield from or_reason(_memory(bench, name, goal), name, "MiB", goal)


def _memory(bench: Bench, name: str, goal: Goal) -> Iterator[Row]:
    setup = Setup(bench.repository, models=("S", "L"), state="memory-state")
    with bench.turnout("memory", setup) as running:
        before = running.resident_mib()
        for kind in LOADED:
            load(bench, kind, 8, running.port)()
        note = f"{before:.0f} MiB before the first request"
        yield Row(name, running.resident_mib(), "MiB", goal, note=note)
