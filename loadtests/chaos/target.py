"""What has a fault to know of the gateway that it strikes, whichever way that was started?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import psutil  # type: ignore[import-untyped]  # Its types are another distribution.

from loadtests.bench.errors import BenchError
from loadtests.chaos.changes import Ask
from loadtests.chaos.models import REGISTER
from loadtests.chaos.trial import Kept, Victim

GONE_S_MAX = 90.0


class Target(Protocol):
    """A gateway of several processes. Only processes that it started are ever struck."""

    port: int
    """Where requests go."""
    count: int
    """How many replicas it has when it is whole."""
    ask: Ask
    """Of the admin application."""

    def replicas(self) -> list[psutil.Process]:
        """Return the replicas that live."""

    def control(self) -> psutil.Process:
        """Return the process of the control."""

    def family(self) -> list[psutil.Process]:
        """Return all processes."""

    def journal(self) -> tuple[list[Kept], str]:
        """Read the journal; return its entries, and what is wrong with it."""

    def disk(self) -> Path | None:
        """Return a folder of the file system that the journal is on, if it may be filled."""

    def settle(self, clock_s: float = 0.0, sync_s: float = 0.0) -> None:
        """Put the clock of all processes off by so much, and have each sync take so much longer."""

    def mend(self) -> str:
        """Start anew what nobody else would, as whoever runs the gateway does; say what was started."""


def beside(target: Target, module: str) -> list[psutil.Process]:
    """Return the processes beside replicas that run a module, such as ``serving.drift.child``."""
    found = []
    for each in target.family():
        with contextlib.suppress(psutil.Error):
            if module in each.cmdline():
                found.append(each)
    return found


def titled(processes: Iterable[psutil.Process], title: str) -> list[psutil.Process]:
    """Return the processes whose command line, or name, begins so."""
    found = []
    for each in processes:
        with contextlib.suppress(psutil.Error):
            if " ".join(each.cmdline()).startswith(title) or each.name() == title:
                found.append(each)
    return found


def ports_with(process: psutil.Process, port: int) -> frozenset[int]:
    """Return the ports of the clients that are connected with a process."""
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return frozenset()
    mine = [each for each in connections if each.laddr.port == port and each.raddr]
    return frozenset(each.raddr.port for each in mine)


def busiest(target: Target) -> psutil.Process:
    """Return the replica with the most connections: the worst to lose."""
    replicas = target.replicas()
    if not replicas:
        raise BenchError("there is no replica to strike")
    return max(replicas, key=lambda each: len(ports_with(each, target.port)))


def kill(process: psutil.Process, port: int) -> Victim:
    """End a process with SIGKILL, having noted its connections.

    It is stopped meanwhile, so that it neither takes nor answers any in the milliseconds that this takes.
    """
    process.send_signal(signal.SIGSTOP)
    from_ns = time.monotonic_ns()
    ports = ports_with(process, port)
    process.send_signal(signal.SIGKILL)
    return Victim(from_ns, gone(process), ports)


def gone(process: psutil.Process, s_max: float = GONE_S_MAX) -> int:
    """Wait until a process is dead; return when it was, or the end of the waiting."""
    until_s = time.monotonic() + s_max
    while time.monotonic() < until_s:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                break
        except psutil.NoSuchProcess:
            break
        time.sleep(0.002)
    return time.monotonic_ns()


def standing(target: Target) -> dict[str, Any] | None:
    """Return the state of traffic, if somebody answers with it."""
    status, document = target.ask("GET", "/v2/traffic", None, 2.0)
    return document if status == 200 else None


def is_whole(target: Target, dead: frozenset[int]) -> bool:
    """Say whether all replicas are there, know the last revision and answer, none of them among `dead`."""
    document = standing(target)
    if document is None:
        return False
    connected = [each for each in document["replicas"] if each["connected"]]
    pids = {each["pid"] for each in connected}
    current = all(each["revision"] == document["revision"] for each in connected)
    return len(connected) == target.count and current and not pids & dead and _answers(target.port)


def _answers(port: int) -> bool:
    try:
        return infer(port, REGISTER, 1.0, 2.0).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def infer(port: int, model: str, value: float, s_max: float) -> bytes:
    """Ask for an inference over a new connection; return the beginning of the answer."""
    with socket.create_connection(("127.0.0.1", port), s_max) as line:
        line.sendall(post(model, value))
        return line.recv(65536)


def post(model: str, value: float) -> bytes:
    """Return the bytes of a request for an inference."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def alive(process: psutil.Process) -> bool:
    """Say whether a process runs."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def resume(pid: int) -> None:
    """Let a process go on, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
