"""How is `turnout serve` started on Ray to be struck?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # Its types are another distribution.

from loadtests.bench import server
from loadtests.bench.errors import BenchError
from loadtests.bench.turnout import toml
from loadtests.chaos.changes import Ask, asker
from loadtests.chaos.shim.sitecustomize import SETTINGS
from loadtests.chaos.target import alive, titled
from loadtests.chaos.trial import Kept
from router.entry import BrokenChain, change_document, check_chain
from serving import access, config
from serving.journal.journal import JournalError, read

REPLICAS = 2
READY_S_MAX = 120.0
REPLICA, CONTROL = "ray::ServeReplica:turnout:Gateway", "ray::ServeReplica:turnout-control:Control"
SHADOW_BYTES = 1 << 30
STATE_BYTES = 64 << 20
"""Of the file system that the journal is on."""


class Served:
    """A gateway on Ray, with a disk of its own for its journal if the machine allows that."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        self.port, metrics, admin = (server.free_port() for _ in range(3))
        self.state = folder / "state"
        self._mounted = _mounted(self.state)
        self.shim = folder / "shim"
        self.settle()
        self._file = folder / "turnout.toml"
        self._file.write_text(toml(_settings(repository, self.state, self.port, metrics, admin)))
        self.config = config.load(self._file)
        self.count = REPLICAS
        self._process: psutil.Popen | None = None
        self._members: dict[int, psutil.Process] = {}
        self._ended = False
        self.ask: Ask = asker(f"127.0.0.1:{admin}", lambda: access.token(access.control_folder(self.config)))

    def disk(self) -> Path | None:
        """Return a folder of the file system that the journal is on, if it may be filled."""
        return self.state if self._mounted else None

    def settle(self, clock_s: float = 0.0, sync_s: float = 0.0) -> None:
        """Put the clock of its processes off by so much, and have each sync take so much longer."""
        with self.shim.open("r+b" if self.shim.exists() else "wb") as opened:
            opened.write(SETTINGS.pack(clock_s, sync_s))

    def start(self) -> None:
        """Start the command and return when it is ready."""
        shim = Path(__file__).parent / "shim"
        environment = {**os.environ, "PYTHONPATH": str(shim), "TURNOUT_CHAOS_SHIM": str(self.shim.absolute())}
        command = [sys.executable, "-m", "serving.cli", "serve", "--config", str(self._file)]
        with (self.folder / "serve.log").open("ab") as log:
            self._process = psutil.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until_s = time.monotonic() + READY_S_MAX
        while not self._ready():
            if not self.lives or time.monotonic() > until_s:
                raise BenchError(f"the gateway did not get ready; see {log.name}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        status, document = self.ask("GET", "/v2/traffic", None, 2.0)
        connected = status == 200 and sum(each["connected"] for each in document["replicas"]) == self.count
        return connected and server.status(self.port, server.READY) == 200

    @property
    def lives(self) -> bool:
        """Whether the command runs."""
        return self._process is not None and self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Return all processes; those that were seen below the command before count where they live on."""
        if self._process is not None:
            for each in server.family(self._process):
                self._members[each.pid] = each
        self._members = {pid: each for pid, each in self._members.items() if alive(each)}
        return list(self._members.values())

    def replicas(self) -> list[psutil.Process]:
        """Return the replicas that live."""
        return titled(self.family(), REPLICA)

    def control(self) -> psutil.Process:
        """Return the process of the control."""
        found = titled(self.family(), CONTROL)
        if not found:
            raise BenchError("there is no control")
        return found[0]

    def journal(self) -> tuple[list[Kept], str]:
        """Read the journal; return its entries, and what is wrong with it."""
        try:
            found = read(access.control_folder(self.config) / access.JOURNAL)
            check_chain(found)
        except (JournalError, BrokenChain) as error:
            return [], str(error)
        return [Kept(each.revision, each.why, change_document(each.change)) for each, _ in found], ""

    def mend(self) -> str:
        """Start nothing: that is the command's business. Say once if it has ended."""
        if self.lives or self._ended:
            return ""
        self._ended = True
        assert self._process is not None
        return f"the command ended with code {self._process.returncode}"

    def end(self) -> list[str]:
        """End everything; return what had to be killed."""
        members = self.family()
        if self._process is not None:
            server.end(self._process)
        left = [each for each in members if alive(each)]
        for each in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        return [str(each.pid) for each in left]


@contextlib.contextmanager
def serving(folder: Path, repository: Path) -> Iterator[Served]:
    """Run a gateway until the block ends."""
    served = Served(folder, repository)
    try:
        served.start()
        yield served
    finally:
        served.end()
        if served.disk() is not None:
            subprocess.run(["umount", "--lazy", str(served.state)], check=False)


def _mounted(state: Path) -> bool:
    """Give the journal a small file system in memory; without the right to, it stays on the disk."""
    state.mkdir(mode=0o700)
    options = f"size={STATE_BYTES},mode=0700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "turnout-chaos", str(state)], capture_output=True, check=False
    )
    return done.returncode == 0


def _settings(
    repository: Path, state: Path, http: int, metrics: int, admin: int
) -> dict[str, dict[str, object]]:
    ports = {"http": http, "metrics": metrics, "admin": admin}
    return {
        "server": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
        "repository": {"path": str(repository.resolve()), "state": str(state.resolve())},
        "grpc": {"engine": "off"},
        "shadow": {"memory_bytes_max": SHADOW_BYTES},
        "ray": {"replicas": REPLICAS, "cpus": 0.2},
    }
