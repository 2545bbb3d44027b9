"""How much can `turnout bench` ask from one core, beside wrk, and how late is it itself?

    make bench NAME=openloop
    python -m loadtests.openloop [--quick] [--only PATTERN] [--seconds S] [--repeat N]

Prints each figure as it is measured, then a table, and writes build/bench/openloop.json. Capacity is
measured as wrk does it, with 64 connections that are each asked again when they answered, and over gRPC
with 4 of 64 calls each; the floor gives one canned answer, faster than anybody can ask. What a request
costs the asker's core is told, too: unlike a rate it is about the same when others want the core.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from loadtests.bench import command, readings, wrk
from loadtests.bench.machine import Cores
from loadtests.bench.readings import Reading
from loadtests.bench.rows import Better, Goal, Row, ratio
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup
from serving.bench.arrivals import Arrivals
from serving.bench.load import Load, Plan
from serving.bench.messages import Speech, calling
from serving.bench.questions import Manner, Question, pool, rows_of
from serving.wire import DATATYPES, TensorSpec

S = Traffic("S", Encoding.BINARY, distinct=True)
CONNECTIONS, TRUNKS = 64, 4
CAPACITY, GRPC, TO_WRK, LATE = Goal(60_000), Goal(20_000), Goal(0.6), Goal(100, Better.LOWER)
RATES = (2_000, 10_000)


def measured(bench: Bench) -> Iterator[Row]:
    """Yield every figure that is wanted."""
    specs = [TensorSpec("x", DATATYPES["FP32"], (-1, 16))]
    questions = pool(Manner(S.path, "127.0.0.1"), rows_of(specs, 1, None, 0))
    with bench.floor(S) as floor:
        yield from _capacity(bench, "floor", floor.port, questions, CAPACITY)
        yield from _lateness(bench, floor.port, questions)
    with bench.turnout("openloop", Setup(bench.repository, models=("S",), drift=False, grpc="h2")) as running:
        yield from _capacity(bench, "local", running.port, questions, None)
        yield from _over_grpc(bench, running.grpc, pool(Speech("S"), rows_of(specs, 1, None, 0)))


def _capacity(
    bench: Bench, name: str, port: int, questions: list[Question], goal: Goal | None
) -> Iterator[Row]:
    if not bench.wants(f"{name}/capacity"):
        return
    plan = _plan(port, questions, bench.seconds, distinct=name != "floor")
    targets = {
        f"{name}/capacity: bench": partial(_ask, plan),
        f"{name}/capacity: wrk": readings.load(bench, S, CONNECTIONS, port),
    }
    taken = readings.rounds(targets, bench.repeat)
    mine, theirs = taken.values()
    for label, each in taken.items():
        yield readings.summary(label, "requests/s", each)
        yield _cost(f"{label}, a request", each)
    worth = [[reading.per_s / reading.busy for reading in each] for each in (mine, theirs)]
    of_core = statistics.median(worth[0])
    yield Row(f"{name}/capacity: bench, of a whole core", of_core, "requests/s", goal)
    yield Row(
        f"{name}/capacity: bench, best round", max(reading.per_s for reading in mine), "requests/s", goal
    )
    yield ratio(f"{name}/capacity: bench, of a whole core, to wrk", *worth, "wrk", TO_WRK)


def _over_grpc(bench: Bench, port: int, questions: list[Question]) -> Iterator[Row]:
    """Measure calls on a few connections; there is no wrk to stand beside."""
    name = "grpc/capacity: bench"
    if not bench.wants(name):
        return
    plan = _plan(port, questions, bench.seconds, distinct=True)
    few = {"connections": TRUNKS, "connections_max": TRUNKS}
    plan = replace(plan, calling=calling("127.0.0.1"), **few)
    taken = readings.rounds({name: partial(_ask, plan)}, bench.repeat)[name]
    yield readings.summary(name, "requests/s", taken)
    yield _cost(f"{name}, a request", taken)
    of_core = statistics.median(reading.per_s / reading.busy for reading in taken)
    yield Row(f"{name}, of a whole core", of_core, "requests/s")
    yield Row(f"{name}, best round", max(reading.per_s for reading in taken), "requests/s", GRPC)


def _cost(name: str, taken: list[Reading]) -> Row:
    costs = tuple(1e6 * reading.busy / reading.per_s for reading in taken)
    return Row(name, statistics.median(costs), "us of a core", runs=tuple(round(cost, 2) for cost in costs))


def _lateness(bench: Bench, port: int, questions: list[Question]) -> Iterator[Row]:
    """Measure how long after it was due a request is sent, where connections are idle."""
    for rate in RATES:
        name = f"floor/sent after due at {rate:,}/s"
        if bench.wants(name):
            plan = _plan(port, questions, bench.seconds, distinct=False, rate=rate)
            late = tuple(_late_us(plan) for _ in range(bench.repeat))
            yield Row(name, statistics.median(late), "us", LATE, runs=late, note="between the medians")


def _plan(port: int, questions: list[Question], seconds: float, *, distinct: bool, rate: float = 0.0) -> Plan:
    how = Arrivals.POISSON if rate else Arrivals.CLOSED
    return Plan(
        *(("127.0.0.1", port), "S", questions, rate, how, seconds, wrk.WARM_S),
        connections=CONNECTIONS,
        connections_max=CONNECTIONS,
        distinct=distinct,
    )


def _ask(plan: Plan) -> Reading:
    load, before_s = Load(plan), time.thread_time()
    load.run()
    spent_s, total = time.thread_time() - before_s, load.tally.whole()
    assert not total.errors, load.tally.outcomes
    p50_us, p99_us = (total.latency.quantile_ns(q) / 1e3 for q in (0.5, 0.99))
    return Reading(total.count / plan.seconds, p50_us, p99_us, spent_s / (plan.seconds + plan.warm_s))


def _late_us(plan: Plan) -> float:
    load = Load(plan)
    load.run()
    total = load.tally.whole()
    return round((total.latency.quantile_ns(0.5) - total.service.quantile_ns(0.5)) / 1e3, 1)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = command.read(command.options("openloop", __doc__), given)

    def bench(cores: Cores) -> Bench:
        command.beside(cores)
        return Bench(command.FOLDER, cores, options.seconds, options.repeat, options.only)

    return command.run("openloop", bench, measured)


if __name__ == "__main__":
    sys.exit(main())
