"""What do routing, stickiness and the receipt header cost in throughput?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from loadtests.bench.readings import Reading, Target, load, rounds, summary, verify
from loadtests.bench.rows import Goal, Row, or_reason, ratio
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup
from loadtests.switching.access import admin
from loadtests.switching.versions import lay_out_pair

GOAL = Goal(0.95)
CONNECTIONS = (8, 64)
REPEAT_MIN = 5
ROUTED, PLAIN, BASELINE = "routed", "one version", "baseline"
ASKED = Traffic("S", Encoding.BINARY, distinct=True, callers=True)
"""Each request names its caller, whether anybody looks or not."""


def cost(bench: Bench, baseline: Path | None) -> Iterator[Row]:
    """Measure S split between two versions by caller against S with one version, and against a `baseline`."""
    for connections in CONNECTIONS:
        name = f"S-{connections}: {ROUTED} to {PLAIN}"
        if bench.wants(name):
            yield from or_reason(_cost(bench, connections, baseline), name, "ratio", GOAL)


def _cost(bench: Bench, connections: int, baseline: Path | None) -> Iterator[Row]:
    repository = bench.folder / "models-pair"
    lay_out_pair(repository)
    routed = Setup(repository, state="routed-state")
    plain = Setup(bench.repository, models=("S",), state="plain-state")
    for setup in (routed, plain):
        shutil.rmtree(bench.state(setup), ignore_errors=True)
    with ExitStack() as stack:
        servers = {
            ROUTED: stack.enter_context(bench.turnout("routed", routed)),
            PLAIN: stack.enter_context(bench.turnout("plain", plain)),
        }
        if baseline is not None:
            old = Setup(bench.repository, models=("S",), state="baseline-state", checkout=baseline)
            servers[BASELINE] = stack.enter_context(bench.turnout("baseline", old))
        for server in servers.values():
            verify(server.port, ASKED, bench)
        control = admin(servers[ROUTED])
        control.change("S", "split", weights={"1": "50%", "2": "50%"})
        control.change("S", "stick", keys=["header:x-user-id"], salt="bench")
        targets: dict[str, Target] = {
            name: load(bench, ASKED, connections, server.port) for name, server in servers.items()
        }
        readings = rounds(targets, max(bench.repeat, REPEAT_MIN) if bench.repeat > 1 else 1)
    yield from judged(connections, readings)


def judged(connections: int, readings: Mapping[str, list[Reading]]) -> Iterator[Row]:
    """Turn readings into rows: what each did, then the ratios."""
    for name, taken in readings.items():
        yield summary(f"S-{connections}: {name}", "requests/s", taken)
    mine = [reading.per_s for reading in readings[ROUTED]]
    for name, taken in readings.items():
        if name != ROUTED:
            theirs = [reading.per_s for reading in taken]
            yield ratio(
                f"S-{connections}: {ROUTED} to {name}", mine, theirs, f"S-{connections}: {name}", GOAL
            )
    if BASELINE in readings:
        one, old = ([reading.per_s for reading in readings[name]] for name in (PLAIN, BASELINE))
        name = f"S-{connections}: {PLAIN} to {BASELINE}"
        yield ratio(name, one, old, f"S-{connections}: {BASELINE}", None)
