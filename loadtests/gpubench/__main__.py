"""Is the GPU what limits a version on it, or everything around it? With a simulated one where there is none.

    make bench-gpu
    python -m loadtests.gpubench [--quick] [--only PATTERN] [--seconds S] [--simulated] [--bare]

Prints each figure as it is measured, then a table, and writes build/gpubench/gpubench.json. docs/gpu.md says
what is measured and how.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import numpy as np

from loadtests.bench import command, machine, models
from loadtests.bench.rows import Row, or_reason, table, tell, write
from loadtests.bench.server import Server
from loadtests.gpubench import cases, cycles, layout, limit, measured, several, standin, switching, times
from loadtests.gpubench.cases import Case
from loadtests.gpubench.gateway import Stage
from loadtests.gpubench.gateway import cores as divided
from loadtests.gpubench.measured import Limit, Trial
from loadtests.gpubench.pressure import Patience
from serving.device import gpus

FOLDER = Path("build/gpubench")
CYCLED_SIMULATED = "resnet50_fp16_uint8_none"
"""A device that takes no time leaves loads short, and its buffers are the largest of those with a goal."""


class Run:
    """Everything that is measured at one gateway."""

    def __init__(self, stage: Stage, seconds: float, only: str, *, quick: bool) -> None:
        self._stage, self._seconds, self._only, self._quick = stage, seconds, only, quick
        self._patience = Patience()
        chosen = cases.SIMULATED if stage.simulated else cases.TRUE
        self._cases = [case for case in chosen if self._wants(case.name)]

    def _wants(self, name: str) -> bool:
        return not self._only or fnmatch(name, f"*{self._only}*")

    def rows(self) -> Iterator[Row]:
        """Lay out the models, find their limits, start the gateway, and measure."""
        stage = self._stage
        idle = [cases.IDLE[case.name] for case in self._cases if case.name in cases.IDLE]
        served = [*self._cases, *(idle if stage.simulated else []), cases.REGISTER]
        layout.lay_out(stage.repository, served, simulated=stage.simulated)
        limits: dict[str, Limit] = {}
        for case in self._cases:
            yield from or_reason(self._limit(case, limits), f"{case.name}/in-process limit", "rows/s", None)
        with stage.gateway([case.name for case in served]) as running:
            for case in self._cases:
                if case.name in limits:
                    yield from self._case(case, limits[case.name], running)
            if stage.simulated:
                for case in idle:
                    yield from measured.front_end(self._trial(case, Limit(1, 1.0), running))
            name = "register/switched: violations"
            yield from or_reason(
                switching.checked(running, stage.folder / "run"), name, "violations", switching.NONE
            )
            yield from self._cycled(running)
        yield from self._several(limits)

    def _several(self, limits: dict[str, Limit]) -> Iterator[Row]:
        """Ask several gateways that have the same device, when the one is gone."""
        stage, case = self._stage, cases.SEVERAL if self._stage.simulated else cases.RESNET_UINT8
        if not self._wants(case.name):
            return
        layout.lay_out(stage.repository, [case], simulated=stage.simulated)
        if case.name not in limits:
            yield from or_reason(self._limit(case, limits), f"{case.name}/in-process limit", "rows/s", None)
        if case.name in limits:
            yield from several.together(case, stage, partial(self._trial, case, limits[case.name]))

    def _limit(self, case: Case, limits: dict[str, Limit]) -> Iterator[Row]:
        if self._stage.simulated:
            rates = {rows: case.run_ns.per_s(rows) for rows in limit.ROWS}
        else:
            rates = limit.measure(models.path(self._stage.repository, case.name), case, self._seconds / 2)
        found = limits[case.name] = Limit(*limit.best(rates))
        note = f"{found.rows} rows a run, {found.batch_ms:.2f} ms"
        if self._stage.simulated:
            note += f"; simulated, as {case.device} would do"
        yield Row(f"{case.name}/in-process limit", found.per_s, "rows/s", note=note)

    def _trial(self, case: Case, found: Limit, running: Server) -> Trial:
        stage = self._stage
        version = 1 + (case.switched or case.build is None)
        if stage.simulated:
            expected = standin.expected(case, version, case.sample(0))
        else:
            session = limit.opened(str(models.path(stage.repository, case.name)), cpu=True)
            expected = np.asarray(session.run(["y"], case.sample(0))[0])
        fixed = running, stage.page(), self._seconds, expected, stage.cuda_memory, self._patience
        return Trial(case, found, *fixed)

    def _case(self, case: Case, found: Limit, running: Server) -> Iterator[Row]:
        trial = self._trial(case, found, running)
        yield from measured.protocols(trial)
        if case.switched:
            name = f"{case.name}/switched: stale or failed"
            made = switching.switched(case, running, self._seconds * 1.5)
            yield from or_reason(made, name, "requests", switching.NONE)

    def _cycled(self, running: Server) -> Iterator[Row]:
        simulated = self._stage.simulated
        wanted = [cases.BY_NAME[CYCLED_SIMULATED]] if simulated else self._cases
        count = cycles.SETTLING + 10 if self._quick else cycles.CYCLES
        for case in wanted:
            if self._wants(case.name):
                made = cycles.cycled(case, running, gpu=not simulated, cycles=count)
                name = f"{case.name}/cycles: host memory"
                yield from or_reason(made, name, "MiB more", cycles.GROWTH_MIB)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command.options("gpubench", __doc__, repeat=1)
    parser.add_argument("--simulated", action="store_true", help="simulate the device though there is one")
    parser.add_argument("--bare", action="store_true", help="without drift, labels and replays")
    return command.read(parser, given)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line. Goals that are missed are told, and do not fail: it is no test."""
    options = arguments(given)
    simulated = options.simulated or not gpus()
    where, cores = machine.describe(), divided(machine.cores())
    command.beside(cores)
    stage = Stage(FOLDER, cores, simulated, cuda_memory=not simulated, bare=options.bare)
    kind = f"a simulated device ({times.__name__}): no GPU was used" if simulated else "a GPU"
    when = f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC"
    kind += ", without drift, labels and replays" if stage.bare else ""
    told = f"{where}, {when}\n{cores}\n{kind}, load average {os.getloadavg()[0]:.1f}"
    print(told, flush=True)
    rows = [Row("machine", len(cores.every), "cores", note=told.replace("\n", "; "))]
    for row in tell(Run(stage, options.seconds, options.only, quick=options.quick).rows()):
        rows.append(row)
        write(rows, FOLDER / f"gpubench{'-bare' if stage.bare else ''}.json")
    print(f"\n{table(rows[1:])}\n\n{told}\n{command.closing(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
