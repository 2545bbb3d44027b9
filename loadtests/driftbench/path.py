"""What does counting for drift cost those who are answered? On the event loop, and in requests a second.

The tap is what the loop itself pays: a lane shows it batches of S, one float32 input of 16 and one output of
2, while the process that counts takes them out of the ring. What a lane pays without a tap is subtracted.
Throughput is that of S through a real gateway, whose process that counts shares its core.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from loadtests.bench.errors import BenchError
from loadtests.bench.readings import load, rounds, summary, verify
from loadtests.bench.rows import Better, Goal, Row, or_reason, ratio
from loadtests.bench.server import Server, counted
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup
from serving.config import Drift
from serving.drift.watch import Watch
from serving.lane import Lane
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.servable import Servable
from serving.tick import Tick
from serving.track import Batch
from serving.waiting import Waiting
from serving.wire import DATATYPES, TensorSpec

BATCHES = (1, 8, 64)
TAP_GOAL = Goal(0.3, Better.LOWER)
KEPT_GOAL = Goal(0.95)
ROWS_SHOWN = 32768
"""At most, before the process that counts has its turn: a quarter of what has room in the ring."""
BATCHES_SHOWN = 2048
ALIVE = 64
"""Batches that take turns, as many as are in a core's cache in a busy server."""
TURN_S_MAX = 5.0
CONNECTIONS = (8, 64)


def tap(bench: Bench) -> Iterator[Row]:
    """Measure what the event loop pays in the tap, per request."""
    for rows in BATCHES:
        name = f"drift/tap, batches of {rows}"
        if bench.wants(name):
            yield from or_reason(_tap(name, rows, bench.repeat), name, "us", TAP_GOAL)


def _tap(name: str, rows: int, repeat: int) -> Iterator[Row]:
    costs_us, counted_rows, shown = asyncio.run(_shown(rows, max(3 * repeat, 5)))
    if counted_rows != shown:
        raise BenchError(f"{counted_rows} of {shown} rows were counted")
    note = f"{shown} requests of a row, all of them counted"
    yield Row(name, min(costs_us), "us", TAP_GOAL, runs=tuple(costs_us), note=note)


async def _shown(rows: int, repeat: int) -> tuple[list[float], int, int]:
    """Show batches to a lane's taps; return microseconds a request, and rows counted and shown."""
    watch, lane, spec = Watch(Drift()), *_lane()
    watch.start()
    await watch.ready()
    servable = Servable.__new__(Servable)
    servable.spec, servable.lane, servable.apart, servable._leaving = spec, lane, None, []
    watch.follow({"S": {"1": servable}})
    taps, batches = watch.taps("S", "1"), [_batch(rows, seed) for seed in range(ALIVE)]
    count = min(BATCHES_SHOWN, ROWS_SHOWN // rows)
    took_s: tuple[list[float], list[float]] = [], []
    try:
        for each in range(repeat):
            for lane.taps, took in zip(([], taps), took_s, strict=True):
                gc.collect()
                began_s = time.perf_counter()
                for at in range(count):
                    _show(lane, batches[at % ALIVE])
                took.append(time.perf_counter() - began_s)
            await _turn(watch, (each + 1) * count * rows)
    finally:
        await watch.close()
    # What is added to the least is other work of this machine; without a tap there is little to be added to.
    costs_us = [(each - min(took_s[0])) / (count * rows) * 1e6 for each in took_s[1]]
    return costs_us, _counted(watch), repeat * count * rows


async def _turn(watch: Watch, rows: int) -> None:
    """Wait until the process has counted so many rows."""
    until_s = time.monotonic() + TURN_S_MAX
    while _counted(watch) < rows and time.monotonic() < until_s:
        await asyncio.sleep(0.01)


def _counted(watch: Watch) -> int:
    return min(counts.rows for counts in watch.flows.counts().values())


def _show(lane: Lane, batch: Batch) -> None:
    """Do what a lane does when it has answered a batch."""
    for each in lane.taps:
        try:
            each(batch)
        except Exception as error:
            raise BenchError("the tap broke") from error


def _lane() -> tuple[Lane, ModelSpec]:
    tensors = (TensorSpec("x", DATATYPES["FP32"], (-1, 16)),), (TensorSpec("y", DATATYPES["FP32"], (-1, 2)),)
    spec = ModelSpec(Artifact("S", 1, "", Path("S"), 0), ModelConfig("S"), *tensors, 64)
    loop = asyncio.get_running_loop()
    lane = Lane(loop, Tick(loop), spec, None, None, Waiting(None, 64, 2048), 0)  # type: ignore[arg-type]
    return lane, spec


def _batch(rows: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((rows, size), dtype=np.float32) for size in (16, 2))
    return Batch([], rows, 0, feeds={"x": x}, outputs=[y])


def throughput(bench: Bench) -> Iterator[Row]:
    """Measure S with drift on inputs and outputs against the same without, in alternate turns."""
    wanted = [each for each in CONNECTIONS if bench.wants(_kept(each))]
    if wanted:
        yield from or_reason(_throughput(bench, wanted), _kept(wanted[0]), "ratio", KEPT_GOAL)


def _kept(connections: int) -> str:
    return f"drift/S-binary-{connections}: on to off"


def _throughput(bench: Bench, wanted: Sequence[int]) -> Iterator[Row]:
    kind, on = Traffic("S", Encoding.BINARY, distinct=True), Setup(bench.repository, models=("S",))
    with (
        bench.turnout("drift-on", replace(on, state="drift-on-state")) as with_it,
        bench.turnout("drift-off", replace(on, drift=False, state="drift-off-state")) as without,
    ):
        verify(with_it.port, kind, bench)
        yield Row("drift/idle", _idle(with_it) - _idle(without), "of a core", note="more than without")
        for connections in wanted:
            names = f"drift on/S-binary-{connections}", f"drift off/S-binary-{connections}"
            ports = with_it.port, without.port
            targets = {
                name: load(bench, kind, connections, port) for name, port in zip(names, ports, strict=True)
            }
            readings = rounds(targets, max(bench.repeat, 5))
            for name, taken in readings.items():
                yield summary(name, "requests/s", taken)
            mine, theirs = ([reading.per_s for reading in readings[name]] for name in names)
            yield ratio(_kept(connections), mine, theirs, names[1], KEPT_GOAL)
        time.sleep(1.0)
        rows, dropped = (
            counted(with_it.metrics, f"turnout_drift_{each}_total") for each in ("rows", "dropped")
        )
        asked = counted(with_it.metrics, "nv_inference_request_success")
        note = f"{rows:.0f} rows of 2 tensors of {asked:.0f} requests, {dropped:.0f} dropped"
        yield Row("drift/rows counted", rows / (2 * asked), "ratio", Goal(1.0), note=note)


def _idle(running: Server, seconds: float = 3.0) -> float:
    """Measure what a server and its processes take of a core while nothing is asked."""
    before_s = running.cpu_s()
    time.sleep(seconds)
    return (running.cpu_s() - before_s) / seconds


def path(bench: Bench) -> Iterator[Row]:
    """Measure all of it."""
    yield from tap(bench)
    yield from throughput(bench)
