"""What do routing, stickiness and the receipt header cost in throughput?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
DEALT, CANARY, HALVES = "dealt by caller", "a canary of 5 %", "two halves"
PLAIN, BASELINE = "one version", "baseline"
WEIGHTS = {DEALT: "0.01%", CANARY: "5%", HALVES: "50%"}
"""Of the second version. With the first of them, every request is dealt, and nearly all to one version."""
REST = {DEALT: "99.99%", CANARY: "95%", HALVES: "50%"}
CALLERS = (1_000, 20_000)
"""Each request names its caller, whether anybody looks or not. 20,000 are more than any memo holds."""


@dataclass(frozen=True, slots=True)
class Point:
    """So many connections, and so many callers in turn."""

    connections: int
    callers: int

    def __str__(self) -> str:
        return f"S-{self.connections}, {self.callers:,} callers"

    @property
    def traffic(self) -> Traffic:
        """Return what is asked."""
        return Traffic("S", Encoding.BINARY, distinct=True, callers=self.callers)


def cost(bench: Bench, baseline: Path | None) -> Iterator[Row]:
    """Measure S dealt to two versions by caller against S with one version, and that against a `baseline`."""
    for point in (Point(connections, callers) for callers in CALLERS for connections in CONNECTIONS):
        name = f"{point}: {DEALT} to {PLAIN}"
        if bench.wants(name) and (bench.repeat > 1 or point.callers == CALLERS[0]):
            yield from or_reason(_cost(bench, point, baseline), name, "ratio", GOAL)


def _cost(bench: Bench, point: Point, baseline: Path | None) -> Iterator[Row]:
    repository = bench.folder / "models-pair"
    lay_out_pair(repository)
    one = Setup(bench.repository, models=("S",), state="plain-state")
    setups = {name: Setup(repository, state=f"routed-{number}-state") for number, name in enumerate(WEIGHTS)}
    setups[PLAIN] = one
    if baseline is not None:
        setups[BASELINE] = replace(one, state="baseline-state", checkout=baseline)
    for setup in setups.values():
        shutil.rmtree(bench.state(setup), ignore_errors=True)
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(bench.turnout(name.replace(" ", "-").replace("%", "pc"), setup))
            for name, setup in setups.items()
        }
        for server in servers.values():
            verify(server.port, point.traffic, bench)
        for name, weight in WEIGHTS.items():
            control = admin(servers[name])
            control.change("S", "split", weights={"1": REST[name], "2": weight})
            control.change("S", "stick", keys=["header:x-user-id"], salt="bench")
        targets: dict[str, Target] = {
            name: load(bench, point.traffic, point.connections, server.port)
            for name, server in servers.items()
        }
        readings = rounds(targets, max(bench.repeat, REPEAT_MIN) if bench.repeat > 1 else 1)
    yield from judged(point, readings)


def judged(point: Point, readings: Mapping[str, list[Reading]]) -> Iterator[Row]:
    """Turn readings into rows: what each did, then the ratios.

    The goal is that of routing, stickiness and header themselves. Where a second version gets requests, too,
    a tick's batch becomes two runs, whoever deals them; what that costs is told beside.
    """
    for name, taken in readings.items():
        yield summary(f"{point}: {name}", "requests/s", taken)
    per_s = {name: [reading.per_s for reading in taken] for name, taken in readings.items()}
    pairs = [
        (DEALT, PLAIN, GOAL),
        (PLAIN, BASELINE, GOAL),
        (DEALT, BASELINE, GOAL),
        (CANARY, PLAIN, None),
        (HALVES, PLAIN, None),
    ]
    for mine, theirs, goal in pairs:
        if theirs in per_s:
            name = f"{point}: {mine} to {theirs}"
            yield ratio(name, per_s[mine], per_s[theirs], f"{point}: {theirs}", goal)
