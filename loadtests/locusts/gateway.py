"""How is a gateway started of which a replica can be killed, and how does a load test reach one?"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loadtests.bench.errors import BenchError
from loadtests.locusts.asking import MODEL
from loadtests.switching.admin import Admin
from serving import access
from serving.config import Config, parse
from serving.sockets import Holder, bound_at, listen, private_folder

ROOT = Path(__file__).resolve().parents[2]
READY_S_MAX = 60.0
END_S_MAX = 5.0
REPLICAS = ("r0", "r1")
SERVED = ("http", "grpc", "admin")


class Replicas(Protocol):
    """Replicas that may be killed, because whoever asks for it started them."""

    def kill(self, name: str) -> int:
        """Kill one by its process id, which is returned."""

    def start(self, name: str) -> int:
        """Start it anew, and return its process id when it answers requests."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that runs: ADDRESS:PORT of what it serves, and its replicas, if they may be killed."""

    http: str
    grpc: str
    admin: Admin
    replicas: Replicas | None = None


class Started:
    """A control and replicas that were started here, each a process of its own."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self._log = folder, log
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __repr__(self) -> str:
        told = (f"{name} {each.pid}" for name, each in self._processes.items())
        return f"<Started: {', '.join(told)}>"

    def begin(self, name: str, *words: str) -> int:
        """Start a process."""
        (self._folder / f"{name}.ready").unlink(missing_ok=True)
        command = [sys.executable, "-m", "loadtests.locusts.member", *words]
        with self._log.open("ab") as log:
            started = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes[name] = started
        return started.pid

    def start(self, name: str) -> int:
        """Start a replica, and return its process id when it answers requests."""
        pid = self.begin(name, "replica", str(self._folder), name)
        self.wait(name, (self._folder / f"{name}.ready").exists)
        return pid

    def kill(self, name: str) -> int:
        """Kill a process, and return the id that it had."""
        process = self._processes[name]
        process.kill()
        process.wait(END_S_MAX)
        return process.pid

    def wait(self, name: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds that a process is to bring about."""
        until_s = time.monotonic() + READY_S_MAX
        while not holds():
            if (code := self._processes[name].poll()) is not None:
                raise BenchError(f"{name} ended with code {code} before it was ready; see {self._log}")
            if time.monotonic() > until_s:
                raise BenchError(f"{name} was not ready in {READY_S_MAX:.0f} s; see {self._log}")
            time.sleep(0.02)

    def end(self) -> None:
        """End all of them."""
        for each in self._processes.values():
            if each.poll() is None:
                each.terminate()
        for each in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.wait(END_S_MAX)
            if each.poll() is None:
                each.kill()
                each.wait(END_S_MAX)


@contextlib.contextmanager
def started(models: Path, into: Path) -> Iterator[Gateway]:
    """Serve `models` by a control and two replicas until the block ends; state and log lie in `into`."""
    shutil.rmtree(into / "state", ignore_errors=True)
    into.mkdir(parents=True, exist_ok=True)
    config = configuration(models, into / "state")
    with contextlib.ExitStack() as stack:
        folder = private_folder()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / "config.json").write_text(config.model_dump_json())
        sockets = {name: listen("127.0.0.1:0") for name in SERVED}
        at = {name: bound_at(each) for name, each in sockets.items()}
        stack.enter_context(contextlib.closing(Holder(folder, sockets, "launcher")))
        members = Started(folder, into / "gateway.log")
        stack.callback(members.end)
        yield Gateway(at["http"], at["grpc"], _members(members, config, folder, at["admin"]), members)


def _members(members: Started, config: Config, folder: Path, at: str) -> Admin:
    """Start the control, then the replicas beside each other; return the way to the control."""
    members.begin("control", "control", str(folder))
    token = access.control_folder(config) / access.TOKEN
    members.wait("control", token.exists)
    admin = Admin(f"http://{at}", token.read_text().strip())
    members.wait("control", lambda: admin.ask("GET", "/v2/traffic")[0] == 200)
    for name in REPLICAS:
        members.begin(name, "replica", str(folder), name)
    for name in REPLICAS:
        members.wait(name, (folder / f"{name}.ready").exists)
    _begin(admin)
    return admin


def _begin(admin: Admin) -> None:
    """Have the highest version answer: on a busy machine another one may have been there first."""
    traffic = admin.traffic(MODEL)
    highest = max(traffic["versions_ready"], key=int, default="")
    if highest and [each["version"] for each in traffic["shares"]] != [highest]:
        admin.change(MODEL, "split", weights={highest: "100%"}, why="where the load test begins")


def configuration(models: Path, state: Path) -> Config:
    """Return how a load test serves `models`: as is usual, on loopback."""
    addresses = dict.fromkeys(("http", "grpc", "metrics", "admin"), "127.0.0.1:0")
    document: dict[str, Any] = {
        "server": {**addresses, "drain_s_max": 2},
        "repository": {"path": str(models.absolute()), "state": str(state.absolute())},
        "drift": {"enabled": False},
    }
    return parse(document)
