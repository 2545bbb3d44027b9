"""How many calls a second, beside grpcio's own server, and beside HTTP?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from loadtests.bench.readings import Reading, Target, load, rounds, summary
from loadtests.bench.readings import verify as verify_http
from loadtests.bench.rows import Goal, Row, or_reason, ratio
from loadtests.bench.server import Server
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup
from loadtests.grpcbench.asked import prepare, verify
from loadtests.grpcbench.calling import Crowd, calls

OWN, THEIRS = "h2", "grpcio"
ENGINE_GOAL = Goal(8)
CROWDS = Crowd(8, 1), Crowd(1, 64)
HTTP_CONNECTIONS = 8
HTTP_GOALS = {"S": Goal(0.75), "L": Goal(0.50)}


def engines(bench: Bench) -> Iterator[Row]:
    """Measure S with either engine, in alternate turns: the same service behind another HTTP/2."""
    wanted = [crowd for crowd in CROWDS if bench.wants(_to_grpcio(crowd))]
    if wanted:
        yield from or_reason(_engines(bench, wanted), _to_grpcio(wanted[0]), "ratio", ENGINE_GOAL)


def _to_grpcio(crowd: Crowd) -> str:
    return f"grpc/S-{crowd}: {OWN} to {THEIRS}"


def _engines(bench: Bench, wanted: list[Crowd]) -> Iterator[Row]:
    messages = prepare("S", bench.folder / "traffic")
    with contextlib.ExitStack() as beside:
        ports = {engine: beside.enter_context(serving(bench, engine)).grpc for engine in (OWN, THEIRS)}
        for port in ports.values():
            verify(port, "S", bench)
        for crowd in wanted:
            targets = {
                f"grpc {engine}/S-{crowd}": calls(bench, messages, crowd, port)
                for engine, port in ports.items()
            }
            yield from compared(targets, bench.repeat, "calls/s", _to_grpcio(crowd), ENGINE_GOAL)


def serving(bench: Bench, engine: str) -> contextlib.AbstractContextManager[Server]:
    """Start Turnout with S and L and an engine for gRPC."""
    setup = Setup(bench.repository, models=("S", "L"), grpc=engine, state=f"grpc-{engine}-state")
    return bench.turnout(f"grpc-{engine}", setup)


def against_http(bench: Bench) -> Iterator[Row]:
    """Measure S and L over gRPC and over HTTP with binary tensors, both of one server."""
    wanted = [model for model in HTTP_GOALS if bench.wants(_to_http(model))]
    if wanted:
        rows = _against_http(bench, wanted)
        yield from or_reason(rows, _to_http(wanted[0]), "ratio", HTTP_GOALS[wanted[0]])


def _to_http(model: str) -> str:
    return f"grpc/{model}-{Crowd(HTTP_CONNECTIONS, 1)}: to HTTP"


def _against_http(bench: Bench, wanted: list[str]) -> Iterator[Row]:
    crowd = Crowd(HTTP_CONNECTIONS, 1)
    with serving(bench, OWN) as running:
        for model in wanted:
            kind = Traffic(model, Encoding.BINARY, distinct=True)
            verify(running.grpc, model, bench)
            verify_http(running.port, kind, bench)
            messages = prepare(model, bench.folder / "traffic")
            targets = {
                f"grpc beside HTTP/{model}-{crowd}": calls(bench, messages, crowd, running.grpc),
                f"HTTP/{model}-binary-{HTTP_CONNECTIONS}": load(bench, kind, HTTP_CONNECTIONS, running.port),
            }
            name, goal = _to_http(model), HTTP_GOALS[model]
            yield from compared(targets, bench.repeat, "requests/s", name, goal)


def compared(
    targets: dict[str, Target], repeat: int, unit: str, name: str, goal: Goal | None
) -> Iterator[Row]:
    """Measure two targets in alternate turns, and set the first against the second."""
    yield from judged(rounds(targets, repeat), unit, name, goal)


def judged(readings: dict[str, list[Reading]], unit: str, name: str, goal: Goal | None) -> Iterator[Row]:
    """Turn the readings of two targets into their rows, and that of the first against the second."""
    for each, taken in readings.items():
        yield summary(each, unit, taken)
    (_, mine), (other, theirs) = readings.items()
    per_s = ([reading.per_s for reading in taken] for taken in (mine, theirs))
    yield ratio(name, *per_s, other, goal)
