"""How many requests a second does a server answer, and how long does each take?"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.bench.errors import BenchError

WARM_S = 0.5
TIMEOUT_S = 10
BUSY = 0.97
"""From here on the load's core is the bottleneck, not the server."""


@dataclass(frozen=True, slots=True)
class Load:
    """One run of wrk. `busy` is the share of a core that wrk itself used."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    max_us: float
    errors: int
    busy: float = 0.0

    @property
    def per_s(self) -> float:
        """Return the answered requests a second."""
        return self.requests / self.seconds


def parse(output: str) -> Load:
    """Read the line that the script's `done` prints."""
    found = re.search(r"^RESULT (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+) (\d+)$", output, re.MULTILINE)
    if found is None:
        raise BenchError(f"wrk printed no result; the end of what it said: {output[-300:]!r}")
    requests, duration_us, p50, p99, most, errors = found.groups()
    if not int(requests):
        raise BenchError(f"no request was answered within {int(duration_us) / 1e6:.1f} s ({errors} errors)")
    return Load(int(requests), int(duration_us) / 1e6, float(p50), float(p99), float(most), int(errors))


def command(port: int, path: str, script: Path, connections: int, seconds: int) -> list[str]:
    """Return the command that asks `path` of the server at `port`."""
    return [
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds}", f"--timeout={TIMEOUT_S}", "-s", str(script)),
        *(f"http://127.0.0.1:{port}/", "--", path),
    ]


def warm(port: int, path: str, script: Path, connections: int) -> None:
    """Let requests flow for a moment that does not count."""
    with subprocess.Popen(
        command(port, path, script, connections, TIMEOUT_S),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as load:
        time.sleep(WARM_S)
        load.send_signal(signal.SIGINT)


def measure(port: int, path: str, script: Path, connections: int, seconds: int) -> Load:
    """Warm up, then ask for `seconds` over `connections`.

    Raises
    ------
    BenchError
        If nothing was answered, or anything was answered with an error: that is no throughput.
    """
    warm(port, path, script, connections)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command(port, path, script, connections, seconds),
        capture_output=True,
        text=True,
        timeout=seconds + 2 * TIMEOUT_S,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    load = parse(done.stdout + done.stderr)
    if load.errors:
        raise BenchError(f"{load.errors} of {load.requests} requests to {path} failed")
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return replace(load, busy=spent_s / load.seconds)
