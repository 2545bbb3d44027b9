"""How many requests a second, beside the floor and the limit of the same minutes?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from loadtests.bench import models, prototype, server
from loadtests.bench.errors import BenchError
from loadtests.bench.points import Point, points
from loadtests.bench.readings import Reading, Target, limit, load, rounds, summary, verify
from loadtests.bench.rows import Goal, Row, or_reason, ratio
from loadtests.bench.server import Server
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import RAY_READY_S_MAX, Bench, Setup, module

FLOOR, LIMIT, PROTOTYPE = "HTTP floor", "in-process limit", "prototype"
PLAIN, PLAIN_GOAL = "plain Ray Serve", Goal(100)


def best_rows(bench: Bench, point: Point) -> int:
    """Return the batch with the most rows a second; which it is, is found out once for each model."""
    if len(point.batches) == 1:
        return point.batches[0]
    for rows in point.batches:
        if (point.model, rows) not in bench.limits:
            bench.limits[point.model, rows] = limit(bench, point.model, rows, bench.seconds / 2).per_s
    return max(point.batches, key=lambda rows: bench.limits[point.model, rows])


def measure(bench: Bench, point: Point, label: str, running: Server) -> Iterator[Row]:
    """Measure one point of one server beside the floor and the limit, and give the ratios."""
    bench, kind = bench.longer(point.times), point.traffic
    verify(running.port, kind, bench)
    rows = best_rows(bench, point)
    with contextlib.ExitStack() as beside:
        floor = beside.enter_context(bench.floor(kind))
        targets: dict[str, Target] = {
            label: load(bench, kind, point.connections, running.port),
            FLOOR: load(bench, kind, point.connections, floor.port),
            LIMIT: partial(limit, bench, point.model, rows, bench.seconds),
        }
        if bench.prototype and point.model in prototype.MODELS:
            other = beside.enter_context(prototype.running(bench))
            path = prototype.path(point.model)
            targets[PROTOTYPE] = load(bench, kind, point.connections, other.port, path)
        readings = rounds(targets, bench.repeat)
    yield from judge(point, label, readings, rows)


def judge(point: Point, label: str, readings: Mapping[str, list[Reading]], rows: int) -> Iterator[Row]:
    """Turn the readings of a point into rows: what each did, then the ratios."""
    to_floor = point.to_floor if label == "local" else point.to_floor_on_ray
    goals = {FLOOR: to_floor, LIMIT: point.to_limit if label == "local" else None, PROTOTYPE: None}
    for name, taken in readings.items():
        row = summary(f"{name}/{point}", "rows/s" if name == LIMIT else "requests/s", taken)
        yield replace(row, note=f"{rows} rows a run") if name == LIMIT else row
    mine = [reading.per_s for reading in readings[label]]
    for name, goal in goals.items():
        if name in readings:
            theirs = [reading.per_s for reading in readings[name]]
            yield ratio(f"{label}/{point}: to {name}", mine, theirs, f"{name}/{point}", goal)


def headline(point: Point, label: str) -> tuple[str, Goal | None]:
    """Name the figure that is missing, with its goal, if `point` cannot be measured."""
    if label == "local" and point.to_limit:
        return f"{label}/{point}: to {LIMIT}", point.to_limit
    return f"{label}/{point}: to {FLOOR}", point.to_floor if label == "local" else point.to_floor_on_ray


def sweep(bench: Bench, label: str, wanted: list[Point]) -> Iterator[Row]:
    """Measure the `wanted` points of one server; one that fails does not take the others along."""
    left = list(wanted)
    setup = Setup(bench.repository, local=label == "local", state=f"{label}-state")
    try:
        with bench.turnout(label, setup) as running:
            if label == "replica":
                yield idle(running)
            while left:
                point = left.pop(0)
                name, goal = headline(point, label)
                yield from or_reason(measure(bench, point, label, running), name, "ratio", goal)
    except BenchError as error:
        for point in left:
            name, goal = headline(point, label)
            yield Row(name, None, "ratio", goal, note=str(error))


def idle(running: Server, seconds: float = 3.0) -> Row:
    """Measure what Ray's processes take of the core while nothing is asked; the floor runs beside that."""
    before_s = running.cpu_s()
    time.sleep(seconds)
    return Row("replica/idle", (running.cpu_s() - before_s) / seconds, "of a core")


def local(bench: Bench) -> Iterator[Row]:
    """Measure `turnout serve --local`."""
    wanted = [point for point in points() if bench.wants(f"local/{point}")]
    if wanted:
        yield from sweep(bench, "local", wanted)


def replica(bench: Bench) -> Iterator[Row]:
    """Measure the replica of `turnout serve`, all of Ray on the server's core."""
    wanted = [point for point in points() if point.replica and bench.wants(f"replica/{point}")]
    if wanted:
        yield from sweep(bench, "replica", wanted)


def plain(bench: Bench, known: Mapping[str, Row]) -> Iterator[Row]:
    """Measure plain Ray Serve, and set the replica's figures that are `known` against it.

    100 x leaves room for a minute's noise, so the two need not run beside each other.
    """
    wanted = [
        point
        for point in points()
        if point.replica and (point.model, point.connections) == ("S", 8) and bench.wants(f"plain/{point}")
    ]
    if wanted:
        yield from or_reason(_plain(bench, known, wanted), f"replica: to {PLAIN}", "ratio", PLAIN_GOAL)


def _plain(bench: Bench, known: Mapping[str, Row], wanted: list[Point]) -> Iterator[Row]:
    port, log = server.free_port(), bench.folder / "run" / "plain.log"
    command = [*module("loadtests.bench.tutorial"), str(port), str(models.path(bench.repository, "S"))]
    with server.running(PLAIN, command, port, bench.cores.server, log, RAY_READY_S_MAX) as running:
        for point in wanted:
            verify(running.port, point.traffic, bench)
            ask = load(bench, point.traffic, point.connections, port)
            base = summary(f"plain/{point}", "requests/s", [ask() for _ in range(bench.repeat)])
            yield base
            if bench.wants(f"replica/{point}"):
                yield beside_plain(point, known.get(f"replica/{point}"), base)


def beside_plain(point: Point, mine: Row | None, base: Row) -> Row:
    """Divide the replica's figure by plain Ray Serve's."""
    name, goal = f"replica/{point}: to {PLAIN}", PLAIN_GOAL
    if mine is None or mine.value is None or not base.value:
        return Row(name, None, "ratio", goal, base.name, note="the replica was not measured")
    return Row(name, mine.value / base.value, "ratio", goal, base.name)


def metrics(bench: Bench) -> Iterator[Row]:
    """Measure S with metrics against the same without, each in its own server, in alternate turns."""
    name, goal = "metrics on: to metrics off", Goal(0.98)
    if bench.wants(name):
        yield from or_reason(_metrics(bench, name, goal), name, "ratio", goal)


def _metrics(bench: Bench, name: str, goal: Goal) -> Iterator[Row]:
    kind, on = Traffic("S", Encoding.BINARY, distinct=True), Setup(bench.repository, models=("S",))
    with (
        bench.turnout("metrics-on", replace(on, state="metrics-on-state")) as with_them,
        bench.turnout("metrics-off", replace(on, metrics=False, state="metrics-off-state")) as without,
    ):
        targets = {
            "metrics on": load(bench, kind, 8, with_them.port),
            "metrics off": load(bench, kind, 8, without.port),
        }
        readings = rounds(targets, max(bench.repeat, 5))
    for label, taken in readings.items():
        yield summary(label, "requests/s", taken)
    mine, theirs = ([reading.per_s for reading in readings[label]] for label in targets)
    yield ratio(name, mine, theirs, "metrics off", goal)
