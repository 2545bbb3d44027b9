"""What is one measurement of a server over gRPC?"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import wrk
from loadtests.bench.errors import BenchError
from loadtests.bench.readings import Reading, Target
from loadtests.bench.turnout import Bench, module


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many connections, with so many calls under way on each."""

    connections: int
    streams: int

    def __str__(self) -> str:
        return f"{self.connections}x{self.streams}"


def command(port: int, messages: Path, crowd: Crowd, seconds: float) -> list[str]:
    """Return the command that calls the server at `port`."""
    return [
        *module("loadtests.grpcbench.wire_client"), str(port), str(messages),
        *("--connections", str(crowd.connections), "--streams", str(crowd.streams)),
        *("--seconds", str(seconds), "--warm", str(wrk.WARM_S)),
    ]  # fmt: skip


def calls(bench: Bench, messages: Path, crowd: Crowd, port: int) -> Target:
    """Return the measurement of one server under one kind of load."""

    def run() -> Reading:
        done = subprocess.run(
            command(port, messages, crowd, bench.seconds),
            capture_output=True,
            text=True,
            timeout=bench.seconds + 60,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"a call failed: {_last_line(done.stderr)}")
        got = json.loads(done.stdout)
        return Reading(got["per_s"], got["p50_us"], got["p99_us"], got["client_cpu"])

    return run


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]
