"""What does counting evidence cost in requests a second?

S with nearly all of its traffic drawn for one of two versions, at random or by the caller's key, through a
gateway that counts and through one that does not, in alternate turns.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

from loadtests.bench.readings import Reading, Target, load, rounds, summary, verify
from loadtests.bench.rows import Goal, Row, or_reason, ratio
from loadtests.bench.server import Server, counted
from loadtests.bench.traffic import Encoding, Traffic
from loadtests.bench.turnout import Bench, Setup
from loadtests.switching.access import admin
from loadtests.switching.versions import lay_out_pair

GOAL = Goal(0.98)
REPEAT_MIN = 7
WEIGHTS = {"1": "99.99%", "2": "0.01%"}
ON, OFF = "on", "off"
PROGRAM = "loadtests.evidencebench.served"
TOLD_S = 1.5


@dataclass(frozen=True, slots=True)
class Point:
    """So many connections; `sticky` where callers are dealt by their key."""

    connections: int
    sticky: bool = False

    def __str__(self) -> str:
        return f"S-binary-{self.connections}{', by caller' if self.sticky else ''}"

    @property
    def traffic(self) -> Traffic:
        """Return what is asked."""
        return Traffic("S", Encoding.BINARY, distinct=True, callers=1000 if self.sticky else 0)


POINTS = (Point(8), Point(64), Point(8, sticky=True), Point(64, sticky=True))


def throughput(bench: Bench) -> Iterator[Row]:
    """Measure all points."""
    for sticky in (False, True):
        wanted = [each for each in POINTS if each.sticky is sticky and bench.wants(_kept(each))]
        if wanted:
            yield from or_reason(_measured(bench, wanted), _kept(wanted[0]), "ratio", GOAL)


def _kept(point: Point) -> str:
    return f"evidence/{point}: on to off"


def _measured(bench: Bench, points: list[Point]) -> Iterator[Row]:
    repository = bench.folder / "models-pair"
    lay_out_pair(repository)
    off = Setup(repository, models=("S",), state="evidence-off-state")
    setups = {ON: replace(off, program=PROGRAM, state="evidence-on-state"), OFF: off}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, setup in setups.items():
            shutil.rmtree(bench.state(setup), ignore_errors=True)
            servers[name] = stack.enter_context(bench.turnout(f"evidence-{name}", setup))
            control = admin(servers[name])
            control.change("S", "split", weights=WEIGHTS)
            if points[0].sticky:
                control.change("S", "stick", keys=["header:x-user-id"], salt="bench")
            verify(servers[name].port, points[0].traffic, bench)
        before = _answered(servers[ON])
        for point in points:
            yield from _point(bench, point, servers)
        yield _all_counted(servers[ON], before)


def _point(bench: Bench, point: Point, servers: dict[str, Server]) -> Iterator[Row]:
    spent_us: dict[str, list[float]] = {ON: [], OFF: []}

    def target(name: str) -> Target:
        asked = load(bench, point.traffic, point.connections, servers[name].port)

        def run() -> Reading:
            before_s = servers[name].cpu_s()
            reading = asked()
            requests = reading.per_s * bench.seconds
            spent_us[name].append((servers[name].cpu_s() - before_s) / max(requests, 1) * 1e6)
            return reading

        return run

    repeat = max(bench.repeat, REPEAT_MIN) if bench.repeat > 1 else 1
    readings = rounds({name: target(name) for name in (ON, OFF)}, repeat)
    for name, taken in readings.items():
        yield summary(f"evidence {name}/{point}", "requests/s", taken)
    mine, theirs = ([reading.per_s for reading in readings[name]] for name in (ON, OFF))
    yield ratio(_kept(point), mine, theirs, f"evidence off/{point}", GOAL)
    # Of this, other work on the machine takes less away.
    name = f"evidence/{point}: processor time, on to off"
    yield ratio(name, spent_us[ON], spent_us[OFF], f"evidence off/{point}", None)
    for each, spent in spent_us.items():
        value = statistics.median(spent)
        yield Row(f"evidence {each}/{point}: processor time", value, "us/request", runs=tuple(spent))


def _answered(server: Server) -> tuple[float, float]:
    """Return how many requests were counted as evidence, and how many were answered."""
    time.sleep(TOLD_S)
    names = "turnout_evidence_requests_total", "nv_inference_request_success"
    evidence, answered = (counted(server.metrics, name) for name in names)
    return evidence, answered


def _all_counted(server: Server, before: tuple[float, float]) -> Row:
    evidence, answered = (now - then for now, then in zip(_answered(server), before, strict=True))
    note = f"{evidence:.0f} of {answered:.0f} requests"
    return Row("evidence/requests counted", evidence / answered, "ratio", Goal(1.0), note=note)
