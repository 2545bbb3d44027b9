"""How does a benchmark start Turnout: with which configuration, on which cores, on Ray or not?"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loadtests.bench import server, traffic
from loadtests.bench.machine import Cores
from loadtests.bench.server import Server

LOCAL_READY_S_MAX = 60.0
RAY_READY_S_MAX = 180.0
CPUS = 0.2
"""What each of several replicas asks of Ray; they share the cores anyway."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What differs between the ways that Turnout is started in a benchmark."""

    repository: Path
    local: bool = True
    models: Sequence[str] = ()
    poll_s: float = 0.0
    metrics: bool = True
    drift: bool = True
    grpc: str = "off"
    """The engine that speaks gRPC."""
    shared_memory: bool = False
    every_core: bool = False
    """As a user starts it, instead of on the server's one core."""
    state: str = "state"
    """The folder of verified copies; one that is not there yet is a first start."""
    replicas: int = 0
    """On Ray: so many, each of which asks for little; 0 is what is configured by default."""
    program: str = "serving.cli"
    """The module that is run as `turnout`."""
    checkout: Path | None = None
    """Another checkout, from before there was an admin interface, to measure beside."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where, how long, how often and what is measured."""

    folder: Path
    cores: Cores
    seconds: int = 2
    repeat: int = 3
    only: str = ""
    prototype: Path | None = None
    limits: dict[tuple[str, int], float] = field(default_factory=dict)
    """What is already known of the in-process limit: model and rows to rows a second."""

    @property
    def repository(self) -> Path:
        """Return where S, L and M are laid out."""
        return self.folder / "models"

    def wants(self, name: str) -> bool:
        """Say whether `--only` lets the figure `name` be measured; a pattern matches anywhere in it."""
        return not self.only or fnmatch(name, f"*{self.only}*")

    def longer(self, times: int) -> Bench:
        """Return the same with `times` as much time for each measurement."""
        return replace(self, seconds=self.seconds * times)

    @contextlib.contextmanager
    def turnout(self, name: str, setup: Setup) -> Iterator[Server]:
        """Run Turnout until the block ends."""
        ports = server.free_port(), server.free_port(), server.free_port()
        grpc = server.free_port()
        file = (self.folder / "run" / f"{name}.toml").absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(toml(settings(setup, *ports, self.state(setup), grpc)))
        cores = self.cores.every if setup.every_core else self.cores.server
        with server.running(
            f"turnout serve{' --local' if setup.local else ''}",
            [*within(setup.checkout), *command(file, local=setup.local, program=setup.program)],
            ports[0],
            cores,
            file.with_suffix(".log"),
            LOCAL_READY_S_MAX if setup.local else RAY_READY_S_MAX,
        ) as running:
            admin = f"http://127.0.0.1:{ports[2]}"
            yield replace(running, admin=admin, metrics=ports[1], grpc=grpc)

    def state(self, setup: Setup) -> Path:
        """Return the folder in which what is started so keeps what outlives it."""
        return (self.folder / "run" / setup.state).absolute()

    @contextlib.contextmanager
    def floor(self, kind: traffic.Traffic) -> Iterator[Server]:
        """Run the HTTP floor with the answer that `kind` gets."""
        port, file = server.free_port(), self.folder / "run" / f"floor-{kind.slug}.answer"
        body = traffic.answer(kind, traffic.expected(kind, self.repository))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body.data)
        whole = [*module("loadtests.bench.floor"), str(port), str(file), str(body.header_length)]
        log = file.with_suffix(".log")
        with server.running("the HTTP floor", whole, port, self.cores.server, log, 20.0) as running:
            yield running


def module(name: str) -> list[str]:
    """Return the command that runs a module with this Python."""
    return [sys.executable, "-m", name]


def within(checkout: Path | None) -> list[str]:
    """Return what comes before a command to run it in another checkout."""
    return [] if checkout is None else ["env", "-C", str(checkout)]


def command(config: Path, *, local: bool, program: str = "serving.cli") -> list[str]:
    """Return the command that a user gives."""
    return [*module(program), "serve", *(["--local"] if local else []), "--config", str(config)]


def settings(
    setup: Setup, http: int, metrics: int, admin: int, state: Path, grpc: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the configuration, by the names of `serving.config`."""
    addresses = {"http": f"127.0.0.1:{http}", "metrics": f"127.0.0.1:{metrics}"}
    later = {"admin": f"127.0.0.1:{admin}", "grpc": f"127.0.0.1:{grpc}"}
    return {
        "server": addresses if setup.checkout else {**addresses, **later},
        "repository": {
            "path": str(setup.repository.resolve()),
            "models": list(setup.models),
            "poll_s": setup.poll_s,
            "state": str(state.resolve()),
        },
        "metrics": {"enabled": setup.metrics},
        **({} if setup.checkout else {"grpc": {"engine": setup.grpc}, "drift": {"enabled": setup.drift}}),
        **({"shared_memory": {"enabled": True}} if setup.shared_memory else {}),
        **({"ray": {"replicas": setup.replicas, "cpus": CPUS}} if setup.replicas else {}),
    }


def toml(document: dict[str, dict[str, Any]]) -> str:
    """Write tables of plain settings. JSON's strings, numbers, booleans and lists are TOML's too."""
    return "\n".join(
        f"[{section}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in table.items())
        for section, table in document.items()
    )
