"""How near does the gateway bring a case to what its device can do, by each protocol?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from loadtests.bench.errors import BenchError
from loadtests.bench.rows import Better, Goal, Row, or_reason
from loadtests.bench.server import Server
from loadtests.gpubench import floor
from loadtests.gpubench.answered import answer
from loadtests.gpubench.asking import Asked, Protocol, Way, alike, over_grpc, over_http, through_memory
from loadtests.gpubench.cases import Case
from loadtests.gpubench.page import Page
from loadtests.gpubench.pressure import Patience, Pressure, press

CLIENTS = {8: 0.5, 64: 0.5, 256: 1.0}
"""How many at once, and for which part of the time of a measurement.

Of the last there are four batches under way or waiting, so that there is always a whole one.
"""
CLIENTS_MOST = max(CLIENTS)
BUSY_MIN = Goal(0.95)
TO_LIMIT = {
    Protocol.HTTP: Goal(0.90),
    Protocol.GRPC: Goal(0.90),
    Protocol.SHARED: Goal(0.95),
    Protocol.CUDA: Goal(0.95),
}
LOAD = 0.8
BATCHES_MAX = Goal(2, Better.LOWER)
CLIENTS_MAX = 512
"""Connections of an open load; it is at most so late that these are all used."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What a device can do for a case: rows a second at its best batch, and how long that takes."""

    rows: int
    per_s: float

    @property
    def batch_ms(self) -> float:
        """Return how long a run takes."""
        return self.rows / self.per_s * 1e3


@dataclass(frozen=True, slots=True)
class Together:
    """Gateways as one."""

    servers: Sequence[Server]

    @property
    def metrics(self) -> int:
        """The port where the device's metrics are: any of them tells of all of it."""
        return self.servers[0].metrics

    def cpu_s(self) -> float:
        """Return the processor time of all."""
        return sum(each.cpu_s() for each in self.servers)


@dataclass(frozen=True, slots=True)
class Trial:
    """A case at a gateway, and what is needed to measure it."""

    case: Case
    limit: Limit
    running: Server
    """Who is asked."""
    page: Page | None
    seconds: float
    expected: NDArray[Any]
    """The answer to the first request."""
    cuda_memory: bool = False
    patience: Patience = field(default_factory=Patience)
    others: Sequence[Server] = ()
    """Who is asked as well, over HTTP, and has the same device."""

    @property
    def simulated(self) -> bool:
        """Whether the device is."""
        return self.page is not None

    def press(self, way: Way, clients: int, rate_per_s: float = 0.0, times: float = 1.0) -> Pressure:
        """Measure once."""
        seconds, asked = self.seconds * times, Together([self.running, *self.others])
        return press(way, asked, self.page, clients, seconds, rate_per_s, self.patience)

    @contextlib.contextmanager
    def way(self, protocol: Protocol) -> Iterator[Way]:
        """Get ready to ask by a protocol, and see that it answers rightly."""
        asked = Asked(self.case)
        with contextlib.ExitStack() as stack:
            match protocol:
                case Protocol.HTTP:
                    way = over_http(asked, self.running.port, [each.port for each in self.others])
                case Protocol.GRPC:
                    way = over_grpc(asked, self.running.grpc)
                case Protocol.SHARED | Protocol.CUDA:
                    cuda = protocol is Protocol.CUDA
                    way = stack.enter_context(through_memory(asked, self.running.port, cuda=cuda))
            if not alike(answer(way), self.expected):
                raise BenchError(f"{self.case.name} answers wrongly over {protocol}")
            yield way


def protocols(trial: Trial) -> Iterator[Row]:
    """Measure a case by each protocol."""
    for protocol in Protocol:
        if protocol is not Protocol.CUDA or trial.cuda_memory:
            name = named(f"{trial.case.name}/{protocol}", simulated=trial.simulated)
            yield from or_reason(_protocol(trial, protocol), name, "", _goal(trial, protocol))


def named(name: str, *, simulated: bool) -> str:
    """Name the figure that a goal is about."""
    return f"{name}: {'device busy' if simulated else 'to the in-process limit'}"


def _goal(trial: Trial, protocol: Protocol) -> Goal | None:
    if not trial.case.goal:
        return None
    return BUSY_MIN if trial.simulated else TO_LIMIT[protocol]


def _protocol(trial: Trial, protocol: Protocol) -> Iterator[Row]:
    name = f"{trial.case.name}/{protocol}"
    with trial.way(protocol) as way:
        every = [trial.press(way, clients, times=times) for clients, times in CLIENTS.items()]
        for pressure in every:
            yield told(f"{name}-{pressure.clients}", pressure, trial.limit)
        best = max(every, key=lambda each: each.per_s)
        yield saturated(name, best, trial.limit, _goal(trial, protocol), simulated=trial.simulated)
        if trial.case.goal:
            title = f"{name}: p99 at 80 % load"
            yield from or_reason(_late(trial, way, best, title), title, "batch times", BATCHES_MAX)


def told(name: str, pressure: Pressure, limit: Limit) -> Row:
    """Make a row of one measurement: its part of the limit."""
    return Row(
        name,
        pressure.per_s / limit.per_s,
        "of the limit",
        p50_us=pressure.p50_ms * 1e3,
        p99_us=pressure.p99_ms * 1e3,
        note=str(pressure),
    )


def saturated(name: str, best: Pressure, limit: Limit, goal: Goal | None, *, simulated: bool) -> Row:
    """Make a row of what the goal is about: how busy a simulated device was, or the ratio of a real one."""
    value, unit = (best.busy, "of the time") if simulated else (best.per_s / limit.per_s, "ratio")
    note = f"{best.clients} clients, {best}"
    return Row(named(name, simulated=simulated), value, unit, goal, note=note)


def _late(trial: Trial, way: Way, best: Pressure, name: str) -> Iterator[Row]:
    yield late(name, trial, way, best, BATCHES_MAX)


def late(name: str, trial: Trial, way: Way, best: Pressure, goal: Goal | None) -> Row:
    """Ask at a rate, whatever becomes of the answers, and set p99 against a run of the best batch."""
    rate_per_s = LOAD * min(best.per_s, trial.limit.per_s)
    pressure = trial.press(way, CLIENTS_MAX, rate_per_s, times=1.5)
    batch_ms, note = trial.limit.batch_ms, f"at {rate_per_s:,.0f}/s; {pressure}"
    if trial.simulated:
        least_ms = floor.p99_ns(trial.case.run_ns, trial.case.rows_max, rate_per_s) / 1e6
        note = f"at least {least_ms / batch_ms:.2f}, {note}"
    return Row(
        name,
        pressure.p99_ms / batch_ms,
        "batch times",
        goal,
        p50_us=pressure.p50_ms * 1e3,
        p99_us=pressure.p99_ms * 1e3,
        note=f"of {batch_ms:.2f} ms, {note}",
    )


def front_end(trial: Trial) -> Iterator[Row]:
    """Measure what the front end can do where the device takes no time."""
    for protocol in (Protocol.HTTP, Protocol.GRPC, Protocol.SHARED):
        name = f"{trial.case.name.removesuffix('_none')}/{protocol}: front end alone"
        yield from or_reason(_front_end(trial, protocol, name), name, "rows/s", None)


def _front_end(trial: Trial, protocol: Protocol, name: str) -> Iterator[Row]:
    with trial.way(protocol) as way:
        pressure = trial.press(way, CLIENTS_MOST, times=0.5)
    megabytes = pressure.per_s * trial.case.request_bytes / 1e6
    yield Row(name, pressure.per_s, "rows/s", note=f"{megabytes:,.0f} MB/s of inputs, {pressure}")
