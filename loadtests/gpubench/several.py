"""What do several front ends make of a device that is too fast for one?

Each is a gateway of its own with the version loaded, as replicas are that have parts of a GPU. They know
nothing of each other: what one learns of the other is that runs take longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from loadtests.bench.rows import Row, or_reason
from loadtests.bench.server import Server
from loadtests.gpubench import measured
from loadtests.gpubench.asking import Protocol
from loadtests.gpubench.cases import Case
from loadtests.gpubench.gateway import Stage
from loadtests.gpubench.measured import BUSY_MIN, CLIENTS_MOST, TO_LIMIT, Trial

FRONT_ENDS_MAX = 4
CORES_MIN = 3
"""With fewer, all share what the load leaves of its core."""


def front_ends(stage: Stage) -> int:
    """Return how many there are: one for each core that the load leaves, two in any case."""
    return min(max(len(stage.cores.every) - 1, 2), FRONT_ENDS_MAX)


def together(case: Case, stage: Stage, trial: Callable[[Server], Trial]) -> Iterator[Row]:
    """Ask one of them, and then all; `trial` returns what one is tried with."""
    cores = stage.cores.server if len(stage.cores.every) >= CORES_MIN else stage.cores.every
    for count in (1, front_ends(stage)):
        name = f"{case.name}/http by {count}"
        with stage.gateways([case.name], count, cores) as servers:
            asked = replace(trial(servers[0]), others=servers[1:])
            yield from or_reason(_asked(asked, name, alone=count == 1), name, "", None)


def _asked(trial: Trial, name: str, *, alone: bool) -> Iterator[Row]:
    goal = None if alone else (BUSY_MIN if trial.simulated else TO_LIMIT[Protocol.HTTP])
    with trial.way(Protocol.HTTP) as way:
        trial.press(way, CLIENTS_MOST, times=0.5)  # Until each knows how long runs take beside the others'.
        best = trial.press(way, CLIENTS_MOST)
        yield measured.saturated(name, best, trial.limit, goal, simulated=trial.simulated)
        yield measured.late(f"{name}: p99 at 80 % load", trial, way, best, None)
