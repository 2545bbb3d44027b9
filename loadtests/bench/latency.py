"""How long do requests take where throughput does not show it: in a crowd, and while a version loads?"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import uvloop

from loadtests.bench import client, models, traffic
from loadtests.bench.client import Sample, percentile
from loadtests.bench.errors import BenchError
from loadtests.bench.readings import limit
from loadtests.bench.rows import Better, Goal, Row, or_reason, ratio
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup

HEAVY = "Heavy"
HEAVY_VERSIONS = (2, 3, 4, 5, 6)
"""Loaded one after the other, each compared with the quiet span before it."""
LOAD_S_MAX = 60.0
S_PER_S = 2000.0
"""What an asyncio client sends evenly; half of what the server does would be beyond it."""
SETTLE_S = 1.0


def wire(kind: Traffic, count: int) -> list[bytes]:
    """Return whole requests."""
    return [body.head(kind.path) + body.data for body in traffic.bodies(kind, count)]


def fairness(bench: Bench) -> Iterator[Row]:
    """Ask M without batching over 64 connections: first come, first served keeps p99 near p50."""
    name, goal = "local/M-fairness-64: p99 to p50", Goal(1.3, Better.LOWER)
    if bench.wants(name):
        yield from or_reason(_fairness(bench, name, goal), name, "ratio", goal)


def _fairness(bench: Bench, name: str, goal: Goal) -> Iterator[Row]:
    (request,) = wire(Traffic("M", Encoding.BINARY, distinct=False), 1)
    setup = Setup(bench.repository, models=("M",), state="fairness-state")
    with bench.turnout("fairness", setup) as running:
        samples = uvloop.run(client.crowd(running.port, request, 64, bench.seconds * 4.0))
    p50, p99 = (percentile((sample.took_s for sample in samples), percent) for percent in (50, 99))
    note = f"{len(samples)} requests"
    yield Row(name, p99 / p50, "ratio", goal, p50_us=p50 * 1e6, p99_us=p99 * 1e6, note=note)


def loading(bench: Bench) -> Iterator[Row]:
    """Ask evenly while versions of 100 MiB are put into the repository, with one core for all of it."""
    for model in ("M", "S"):
        name, goal = f"local/{model}-while-loading: p99 to p99 before", Goal(1.2, Better.LOWER)
        if bench.wants(name):
            yield from or_reason(_loading(bench, model, name, goal), name, "ratio", goal)


def _loading(bench: Bench, model: str, name: str, goal: Goal) -> Iterator[Row]:
    per_s = S_PER_S if model == "S" else limit(bench, model, 1, bench.seconds).per_s / 2
    repository, spare = lay_out(bench.folder, model)
    requests = wire(Traffic(model, Encoding.BINARY, distinct=True), 256)
    setup = Setup(repository, poll_s=0.5, state=f"loading-{model}-state")
    # A store that knew the versions already would have nothing to admit.
    shutil.rmtree(bench.folder / "run" / setup.state, ignore_errors=True)
    with bench.turnout(f"loading-{model}", setup) as running:
        watched = uvloop.run(watch(running.port, requests, per_s, float(bench.seconds), repository, spare))
    yield from watched.rows(model, name, goal)


@dataclass(frozen=True, slots=True)
class Watched:
    """Requests at a steady rate, and when what was loaded. Times are on one clock, in seconds.

    Of each load, `quiet` has the span before it, and `loads` its own.
    """

    samples: Sequence[Sample]
    quiet: Sequence[tuple[float, float]]
    loads: Sequence[tuple[float, float]]

    def took_s(self, span: tuple[float, float]) -> list[float]:
        """Return how long those requests took that were due in `span`."""
        return [sample.took_s for sample in self.samples if span[0] <= sample.due_s < span[1]]

    def percentiles_s(self, spans: Sequence[tuple[float, float]], percent: float) -> list[float]:
        """Return the percentile in each span."""
        return [percentile(self.took_s(span), percent) for span in spans]

    def rows(self, model: str, name: str, goal: Goal) -> Iterator[Row]:
        """Give the medians over the spans of before and during, and of the ratios of the pairs."""
        for label, spans in (("before", self.quiet), ("during", self.loads)):
            p50, p99 = (median(self.percentiles_s(spans, percent)) for percent in (50, 99))
            row_name, note = f"local/{model}-{label}-loading", f"{len(spans)} spans"
            yield Row(row_name, p99 * 1e3, "ms p99", p50_us=p50 * 1e6, p99_us=p99 * 1e6, note=note)
        mean_s = sum(end - start for start, end in self.loads) / len(self.loads)
        note = f"a load takes {mean_s:.1f} s; everything is on one core"
        during, before = (self.percentiles_s(spans, 99) for spans in (self.loads, self.quiet))
        yield replace(ratio(name, during, before, f"local/{model}-before-loading", goal), note=note)


def lay_out(folder: Path, model: str) -> tuple[Path, Path]:
    """Write a repository with the served model and version 1 of the heavy one; keep the others aside."""
    repository, spare = folder / f"loading-{model}", folder / "spare"
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(folder / "models" / model, repository / model)
    models.save(models.heavy(1, width=64), models.path(repository, HEAVY))
    for version in HEAVY_VERSIONS:
        models.save(models.heavy(version), models.path(spare, HEAVY, version))
    return repository, spare


async def watch(
    port: int, requests: Sequence[bytes], per_s: float, quiet_s: float, repository: Path, spare: Path
) -> Watched:
    """Ask at `per_s` throughout; put one version after the other into the repository, `quiet_s` apart."""
    stop, quiet, loads = asyncio.Event(), [], []
    asking = asyncio.create_task(client.steady(port, requests, per_s, stop))
    try:
        for version in HEAVY_VERSIONS:
            # The copy holds this loop up; what it delayed is answered before the load begins. The rename
            # then shows the server a whole version at once.
            shutil.copytree(spare / HEAVY / str(version), repository / f".{version}")
            await asyncio.sleep(SETTLE_S)
            start_s = time.perf_counter()
            await asyncio.sleep(quiet_s)
            put_s = time.perf_counter()
            (repository / f".{version}").rename(repository / HEAVY / str(version))
            await until_ready(port, version, asking)
            quiet.append((start_s, put_s))
            loads.append((put_s, time.perf_counter()))
    finally:
        stop.set()
        samples = await asking
    return Watched(samples, quiet, loads)


async def until_ready(port: int, version: int, asking: asyncio.Task[list[Sample]]) -> None:
    """Wait until the heavy model's `version` is ready, looking ten times a second."""
    (connection,) = await client.connect(port, 1)
    request = f"GET /v2/models/{HEAVY}/versions/{version}/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    end_s = time.perf_counter() + LOAD_S_MAX
    while await connection.ask(request) != 200:
        if time.perf_counter() > end_s or asking.done():
            raise BenchError(f"version {version} of {HEAVY} was not ready within {LOAD_S_MAX:.0f} s")
        await asyncio.sleep(0.1)
    connection.close()
