"""What do a gateway and its GPU hold after a version was loaded and unloaded many times?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from loadtests.bench import server
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row
from loadtests.bench.server import Server
from loadtests.gpubench.cases import Case
from loadtests.switching.access import admin
from loadtests.switching.admin import Admin

CYCLES = 350
SETTLING = 150
"""Cycles before the first look, with two streams of drift each: until then fills what is bounded, such as the
counts of the 256 streams that ended last."""
S_MAX = 150.0
"""Of one case. Where loads take seconds, there are fewer cycles then, and the row says how many."""
GROWTH_MIB = Goal(32, Better.LOWER)
USED = "nv_gpu_memory_used_bytes"


def cycled(case: Case, running: Server, *, gpu: bool, cycles: int = CYCLES) -> Iterator[Row]:
    """Load and unload a case again and again, and compare what is held then with what was after a few."""
    control, end_s = admin(running), time.monotonic() + S_MAX
    held: list[tuple[float, float]] = []
    done = 0
    for number in range(cycles):
        _ask(control, case, "unload")
        if number in (SETTLING, cycles - 1) or time.monotonic() > end_s:
            held.append((_resident_mib(running), _used_mib(running, gpu=gpu)))
        _ask(control, case, "load")
        done = number + 1
        if time.monotonic() > end_s:
            break
    if len(held) < 2:
        raise BenchError(f"{done} cycles took {S_MAX:.0f} s, which is too few to compare")
    (host, device), (host_after, device_after) = held[0], held[-1]
    note = f"{done} cycles, compared with the one after {SETTLING}: {host:.0f} and {host_after:.0f} MiB"
    yield Row(f"{case.name}/cycles: host memory", host_after - host, "MiB more", GROWTH_MIB, note=note)
    if gpu:
        note = f"{done} cycles: {device:.0f} and {device_after:.0f} MiB"
        name = f"{case.name}/cycles: memory of the GPU"
        yield Row(name, device_after - device, "MiB more", GROWTH_MIB, note=note)


def _resident_mib(running: Server) -> float:
    return float(running.process.memory_info().rss) / 2**20


def _used_mib(running: Server, *, gpu: bool) -> float:
    return server.counted(running.metrics, USED) / 2**20 if gpu else 0.0


def _ask(control: Admin, case: Case, verb: str) -> None:
    status, said = control.ask("POST", f"/v2/repository/models/{case.name}/{verb}", {"by": "benchmark"})
    if status != 200 or said["missing"]:
        raise BenchError(f"{verb} of {case.name} was answered with {status}: {said}")
