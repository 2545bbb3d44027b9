"""Does a shadow delay the version that answers, however badly it behaves?"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import uvloop

from loadtests.bench import client, traffic
from loadtests.bench.client import Sample, percentile
from loadtests.bench.errors import BenchError
from loadtests.bench.latency import S_PER_S
from loadtests.bench.readings import limit
from loadtests.bench.rows import Better, Goal, Row, or_reason, ratio
from loadtests.bench.server import counted
from loadtests.bench.turnout import Bench, Setup
from loadtests.switching.access import admin
from loadtests.switching.admin import Admin
from loadtests.switching.versions import FAILING, HANGING, SATURATED, lay_out_shadows, triggering

GOAL = Goal(1.10, Better.LOWER)
KINDS = {"saturated": SATURATED, "hanging": HANGING, "crashing": FAILING}
ROUNDS_MIN = 7
COUNTED = ("running", "rows_total", "dropped_total", "restarts_total")
"""What the metrics say of shadows, to show that there was one."""
SETTLE_S = 1.0
"""After a change."""

Span = tuple[float, float]


def shadowing(bench: Bench) -> Iterator[Row]:
    """Ask evenly, in turns with and without a shadow of all requests; a quick look is at S alone."""
    for model in ("S",) if bench.repeat == 1 else ("S", "M"):
        for kind in KINDS:
            name = f"{model}: p99 with a {kind} shadow to none"
            if bench.wants(name):
                yield from or_reason(_shadowing(bench, model, kind, name), name, "ratio", GOAL)


def _shadowing(bench: Bench, model: str, kind: str, name: str) -> Iterator[Row]:
    repository = bench.folder / f"shadow-{model}"
    lay_out_shadows(repository, model)
    per_s = S_PER_S if model == "S" else limit(bench.longer(3), model, 1, bench.seconds).per_s / 2
    setup = Setup(repository, state=f"shadow-{model}-state")
    shutil.rmtree(bench.state(setup), ignore_errors=True)
    with bench.turnout(f"shadow-{model}", setup) as server:
        control = admin(server)
        control.change(model, "split", weights={"1": "100%"})
        rounds = 1 if bench.repeat == 1 else max(bench.repeat, ROUNDS_MIN)
        plan = Plan(control, server.metrics, model, KINDS[kind], rounds, bench.seconds * 2.0)
        watched = uvloop.run(plan.watch(server.port, wire(model, 256), per_s))
    yield from rows(watched, model, kind, name, per_s)


def wire(model: str, count: int) -> list[bytes]:
    """Return whole requests that trigger what shadows do."""
    path = f"/v2/models/{model}/infer"
    made = [traffic.body(x, binary=True) for x in triggering(model, count)]
    return [body.head(path) + body.data for body in made]


@dataclass(frozen=True, slots=True)
class Watched:
    """Requests at a steady rate, and the spans with and without a shadow, in pairs.

    `told` is what the metrics said of the shadow at the end of each span with one.
    """

    samples: Sequence[Sample]
    without: Sequence[Span]
    beside: Sequence[Span]
    told: Sequence[Mapping[str, float]]

    def percentiles_s(self, spans: Sequence[Span], percent: float) -> list[float]:
        """Return the percentile in each span."""
        return [
            percentile((s.took_s for s in self.samples if start <= s.due_s < end), percent)
            for start, end in spans
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """So many pairs of spans of `span_s`, in the order without, with, with, without, ..."""

    control: Admin
    metrics: int
    model: str
    version: str
    rounds: int
    span_s: float

    async def watch(self, port: int, requests: Sequence[bytes], per_s: float) -> Watched:
        """Ask throughout, and begin and end the shadow."""
        stop = asyncio.Event()
        spans: dict[bool, list[Span]] = {False: [], True: []}
        told: list[dict[str, float]] = []
        asking = asyncio.create_task(client.steady(port, requests, per_s, stop))
        try:
            await asyncio.sleep(SETTLE_S)
            shadowed = False
            for number in range(self.rounds):
                for wanted in ((False, True), (True, False))[number % 2]:
                    if wanted is not shadowed:
                        await self._shadow(wanted)
                        shadowed = wanted
                    start_s = time.perf_counter()
                    await asyncio.sleep(self.span_s)
                    spans[wanted].append((start_s, time.perf_counter()))
                    if wanted:
                        told.append(await asyncio.to_thread(self._told))
        finally:
            stop.set()
            samples = await asking
        return Watched(samples, spans[False], spans[True], told)

    def _told(self) -> dict[str, float]:
        return {what: counted(self.metrics, f"turnout_shadow_{what}") for what in COUNTED}

    async def _shadow(self, wanted: bool) -> None:
        shadows = {self.version: "100%"} if wanted else {}
        await asyncio.to_thread(self.control.change, self.model, "shadow", shadows=shadows)
        await asyncio.sleep(SETTLE_S)


def rows(watched: Watched, model: str, kind: str, name: str, per_s: float) -> Iterator[Row]:
    """Give the p99 without and with, and the median of the ratios of the pairs."""
    if not all(any(told.values()) for told in watched.told):
        raise BenchError("a shadow never ran")
    quiet = f"{model}: without a {kind} shadow"
    for label, spans in ((quiet, watched.without), (f"{model}: with a {kind} shadow", watched.beside)):
        p50, p99 = (sorted(watched.percentiles_s(spans, percent)) for percent in (50, 99))
        middle = len(spans) // 2
        note = f"{len(spans)} spans at {per_s:.0f}/s"
        yield Row(
            label, p99[middle] * 1e3, "ms p99", p50_us=p50[middle] * 1e6, p99_us=p99[middle] * 1e6, note=note
        )
    over, under = (watched.percentiles_s(spans, 99) for spans in (watched.beside, watched.without))
    seen = ", ".join(f"{what} {count:.0f}" for what, count in watched.told[-1].items())
    yield replace(ratio(name, over, under, quiet, GOAL), note=f"the server has one core; the shadow's {seen}")
