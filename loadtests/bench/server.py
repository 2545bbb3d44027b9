"""How is a server started on its core, known to be ready, and ended with all that it started?"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # Its types are another distribution.

from loadtests.bench.errors import BenchError

READY = "/v2/health/ready"
END_S_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `ready_s` is from its command to its first 200 for readiness."""

    name: str
    port: int
    process: psutil.Popen
    ready_s: float
    admin: str = ""
    """Where its admin interface is, if it has one."""
    metrics: int = 0
    """The port of its metrics, if it has any."""
    grpc: int = 0
    """The port of its gRPC, if it speaks any."""

    def resident_mib(self) -> float:
        """Add up the resident memory of the process and of all its children."""
        return sum(_resident(each) for each in family(self.process)) / 2**20

    def cpu_s(self) -> float:
        """Add up the processor time that the process and its living children have used."""
        return sum(_cpu_s(each) for each in family(self.process))


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return the process and all that descend from it."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def status(port: int, path: str, timeout_s: float = 1.0) -> int:
    """Ask for `path` and return the status, 0 if there was none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def counted(port: int, family: str) -> float:
    """Add up what the metrics at `port` say of one family."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10.0) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{family}(\{{| )", line))


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], port: int, cores: frozenset[int], log: Path, ready_s_max: float
) -> Iterator[Server]:
    """Start `command` on `cores`, wait until it is ready, and end it and its children afterwards.

    Raises
    ------
    BenchError
        If it ends or is not ready within `ready_s_max`; the message has the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start_s = time.monotonic()
    with log.open("wb") as output:
        process = psutil.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        _wait(name, process, port, log, start_s + ready_s_max)
        yield Server(name, port, process, time.monotonic() - start_s)
    finally:
        end(process)


def _wait(name: str, process: psutil.Popen, port: int, log: Path, until_s: float) -> None:
    while status(port, READY) != 200:
        code = process.poll()
        if code is not None:
            raise BenchError(f"{name} ended with code {code} before it was ready: {_last_line(log)}")
        if time.monotonic() > until_s:
            raise BenchError(f"{name} was not ready in time: {_last_line(log)}")
        time.sleep(0.02)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].strip()[:200]} (all of it in {log.name})" if lines else "it said nothing"


def end(process: psutil.Popen) -> None:
    """Ask the process to end, and kill what is left of it and its children after a while.

    The children are noted first: what outlives its parent is not found from it any more. psutil
    knows a process by its start as well as by its number, so nobody else's is hit.
    """
    members = family(process)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(END_S_MAX)
    _, left = psutil.wait_procs(members, timeout=2.0)
    for each in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=5.0)
