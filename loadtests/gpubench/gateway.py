"""How does this benchmark start a gateway, on a GPU or on a simulated device?"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.bench import server, turnout
from loadtests.bench.machine import Cores
from loadtests.bench.server import Server
from loadtests.bench.turnout import Setup
from loadtests.gpubench.page import Page
from loadtests.gpubench.served import page_file

SERVED = {True: "loadtests.gpubench.served", False: "serving.cli"}
ASIDE = ("drift", "labels", "replay")
READY_S_MAX = 600.0
"""To admit, copy and load true models takes minutes where the disk is slow."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where, on which cores and on what kind of device is measured."""

    folder: Path
    cores: Cores
    simulated: bool
    cuda_memory: bool = False
    """Offer shared memory of the GPU."""
    bare: bool = False
    """Without what else is on by default and has a part of the front end's time."""

    @property
    def repository(self) -> Path:
        """Return where the models are laid out."""
        return self.folder / ("standins" if self.simulated else "models")

    @property
    def run(self) -> Path:
        """Return where the gateways keep what they need."""
        return (self.folder / "run").absolute()

    def page(self) -> Page | None:
        """Return what the simulated device tells, None if there is a real one."""
        return Page(page_file(self.run)) if self.simulated else None

    @contextlib.contextmanager
    def gateway(self, models: Sequence[str]) -> Iterator[Server]:
        """Serve these models until the block ends; who was live at an earlier time is forgotten."""
        with self.gateways(models, 1, self.cores.server) as (running,):
            yield running

    @contextlib.contextmanager
    def gateways(self, models: Sequence[str], count: int, cores: frozenset[int]) -> Iterator[list[Server]]:
        """Serve these models by so many gateways, which have one device, until the block ends."""
        page_file(self.run).unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self._gateway(models, number, cores)) for number in range(count)]

    @contextlib.contextmanager
    def _gateway(self, models: Sequence[str], number: int, cores: frozenset[int]) -> Iterator[Server]:
        state = self.run / f"state-{number}"
        shutil.rmtree(state, ignore_errors=True)
        ports = [server.free_port() for _ in range(4)]
        file = self.run / f"gateway-{number}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(turnout.toml(self.settings(models, ports, state)))
        command = turnout.command(file, local=True, program=SERVED[self.simulated])
        log = file.with_suffix(".log")
        with server.running("turnout serve --local", command, ports[0], cores, log, READY_S_MAX) as running:
            admin = f"http://127.0.0.1:{ports[2]}"
            yield replace(running, admin=admin, metrics=ports[1], grpc=ports[3])

    def settings(
        self, models: Sequence[str], ports: Sequence[int], state: Path
    ) -> dict[str, dict[str, object]]:
        """Return the configuration.

        A simulated run is never put on the event loop, however short it is: there it would be the CPU's.
        """
        setup = Setup(self.repository, models=models, grpc="h2", shared_memory=True)
        http, metrics, admin, grpc = ports
        made = turnout.settings(setup, http, metrics, admin, state, grpc)
        if self.simulated:
            made["engine"] = {"inline_us_max": 0}
        else:
            made["engine"] = {"device": "gpu"}
        if self.bare:
            made |= {section: {"enabled": False} for section in ASIDE}
        if self.cuda_memory:
            made["shared_memory"]["cuda"] = True
        return made


def cores(whole: Cores) -> Cores:
    """Give the load one core, and the server all others where there are more than two."""
    load = frozenset(sorted(whole.every)[-1:])
    return Cores(whole.every - load or load, load, whole.every)
