"""What is one measurement of a server or of the limit, and how are several taken fairly?"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from loadtests.bench import models, traffic, wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Row
from loadtests.bench.traffic import Traffic
from loadtests.bench.turnout import Bench, module


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement."""

    per_s: float
    p50_us: float | None = None
    p99_us: float | None = None
    busy: float = 0.0


Target = Callable[[], Reading]


def rounds(targets: Mapping[str, Target], repeat: int) -> dict[str, list[Reading]]:
    """Measure each target once a round, so that all see the same minutes; every other round backwards."""
    readings: dict[str, list[Reading]] = {name: [] for name in targets}
    for number in range(repeat):
        order = list(targets) if number % 2 == 0 else list(targets)[::-1]
        for name in order:
            readings[name].append(targets[name]())
    return readings


def summary(name: str, unit: str, readings: list[Reading]) -> Row:
    """Make a row of the medians; it says so where the load could not have asked for more."""
    note = "the load's core is full" if statistics.median(r.busy for r in readings) >= wrk.BUSY else None
    return Row(
        name,
        statistics.median(reading.per_s for reading in readings),
        unit,
        runs=tuple(round(reading.per_s, 1) for reading in readings),
        p50_us=_median([r.p50_us for r in readings if r.p50_us is not None]),
        p99_us=_median([r.p99_us for r in readings if r.p99_us is not None]),
        note=note,
    )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def load(bench: Bench, kind: Traffic, connections: int, port: int, path: str | None = None) -> Target:
    """Return the measurement of one server under one kind of load."""
    script = traffic.prepare(kind, bench.folder / "traffic")

    def run() -> Reading:
        got = wrk.measure(port, path or kind.path, script, connections, bench.seconds)
        return Reading(got.per_s, got.p50_us, got.p99_us, got.busy)

    return run


def limit(bench: Bench, model: str, rows: int, seconds: float, source: str = "") -> Reading:
    """Measure ONNX Runtime alone, on the server's core, in a process of its own.

    With a file as its `source` each batch is copied from there first.
    """
    file = models.path(bench.repository, model)
    shape = ",".join(map(str, models.SHAPES[model]))
    command = [*module("loadtests.bench.limit"), str(file), "--shape", shape, "--rows", str(rows)]
    pinned = ["taskset", "-c", ",".join(map(str, sorted(bench.cores.server)))]
    done = subprocess.run(
        [*pinned, *command, "--seconds", str(seconds), "--copy", source],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + seconds * 2,
    )
    if done.returncode:
        raise BenchError(f"the limit of {model} ended with {done.returncode}: {done.stderr[-300:]}")
    return Reading(json.loads(done.stdout)[str(rows)])


def verify(port: int, kind: Traffic, bench: Bench) -> None:
    """Ask once and compare with what ONNX Runtime says: a fast wrong answer is no throughput."""
    (body,) = traffic.bodies(kind, 1)
    headers = {"Inference-Header-Content-Length": str(body.header_length)} if body.header_length else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", kind.path, body.data, headers)
        answer = connection.getresponse()
        data = answer.read()
        length = int(answer.getheader("inference-header-content-length") or 0)
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{kind.path} did not answer: {error!r}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchError(f"{kind.path} answered {answer.status}: {data[:200]!r}")
    want = traffic.expected(kind, bench.repository)
    if not np.allclose(traffic.read(data, length), want, rtol=1e-3, atol=1e-5):
        raise BenchError(f"{kind.path} answered other numbers than ONNX Runtime")
