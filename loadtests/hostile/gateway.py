"""How is a gateway started as a user starts it, on a core of its own, and what does it use?"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil  # type: ignore[import-untyped]  # Its types are another distribution.

from loadtests.bench import server
from loadtests.bench.errors import BenchError
from loadtests.bench.machine import Cores
from loadtests.bench.turnout import command, toml
from loadtests.chaos.memory import held_bytes
from loadtests.hostile import models

READY_S_MAX = 120.0
DESCRIPTORS = 1024
"""What a login shell lets a process open at once, unless it asks for more."""
NICENESS = -19
"""Of the gateway as a whole, where that may be chosen: other work on the machine is to matter less."""
PERIOD_S = 0.05
Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Gateway:
    """A running gateway, and where it is."""

    process: psutil.Popen
    http: int
    grpc: int

    @property
    def lives(self) -> bool:
        """Whether the command runs."""
        return self.process.poll() is None

    def held_bytes(self) -> int:
        """Return the proportional set sizes of all its processes together."""
        return held_bytes([each.pid for each in server.family(self.process)])

    def cpu_s(self) -> float:
        """Return the processor time of all its processes."""
        return server.Server("", 0, self.process, 0.0).cpu_s()


class Growth:
    """A thread that looks at the resident memory again and again, which costs the gateway nothing."""

    def __init__(self, gateway: Gateway) -> None:
        self._pids = [each.pid for each in server.family(gateway.process)]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="hostile-memory", daemon=True)
        self._begin = self._now()
        self.bytes_max = 0
        """By how much it grew at most."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _now(self) -> int:
        return sum(_resident(pid) for pid in self._pids)

    def _look(self) -> None:
        while not self._over.wait(PERIOD_S):
            self.bytes_max = max(self.bytes_max, self._now() - self._begin)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


@contextlib.contextmanager
def serving(
    folder: Path, cores: Cores, settings: Settings | None = None, served: Collection[str] = models.ALL
) -> Iterator[Gateway]:
    """Run a gateway until the block ends; `settings` take the place of those that a user has by default."""
    models.lay_out(folder / "models", served)
    http, grpc, metrics, admin = (server.free_port() for _ in range(4))
    ports = {"http": http, "grpc": grpc, "metrics": metrics, "admin": admin}
    where: dict[str, dict[str, Any]] = {
        "server": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        "repository": {"path": str(folder / "models"), "state": str(folder / "state")},
    }
    for section, table in (settings or {}).items():
        where[section] = {**where.get(section, {}), **table}
    file = folder / "turnout.toml"
    file.write_text(toml(where))
    with (folder / "serve.log").open("ab") as log:
        process = psutil.Popen(
            command(file, local=True), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=lambda: _as_a_user(cores.server),
        )  # fmt: skip
    try:
        favour(process.pid)
        until_s = time.monotonic() + READY_S_MAX
        while server.status(http, server.READY) != 200:
            if process.poll() is not None or time.monotonic() > until_s:
                raise BenchError(f"the gateway did not get ready; see {log.name}")
            time.sleep(0.1)
        yield Gateway(process, http, grpc)
    finally:
        server.end(process)


def _as_a_user(cores: frozenset[int]) -> None:
    os.sched_setaffinity(0, cores)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, most), most))


def favour(pid: int) -> None:
    """Let a session have its core before the machine's other work, where that may be chosen."""
    # Within its session nothing changes: sched(7), autogroups.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS))
