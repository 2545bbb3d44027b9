"""On which machine, with which cores for whom, is this measured?"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from loadtests.bench.errors import BenchError

PACKAGES = ("ray", "onnxruntime-gpu", "onnxruntime", "uvloop", "httptools", "numpy")


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the server has one core, and the load another if there is one."""

    server: frozenset[int]
    load: frozenset[int]
    every: frozenset[int]

    @property
    def shared(self) -> bool:
        """Server and load are on the same core: figures are of both together."""
        return self.server == self.load

    def __str__(self) -> str:
        if self.shared:
            return "one core, which server and load share: figures are of both together"
        return f"server on core {_list(self.server)}, load on core {_list(self.load)}"


def _list(some: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(some)))


def divide(usable: frozenset[int]) -> Cores:
    """Give the first of the `usable` cores to the server and the last to the load."""
    ordered = sorted(usable)
    return Cores(frozenset(ordered[:1]), frozenset(ordered[-1:]), usable)


def cores() -> Cores:
    """Divide the cores that this process may use."""
    return divide(frozenset(os.sched_getaffinity(0)))


def describe() -> str:
    """Name the processor, the cores and the versions that matter."""
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    count = len(os.sched_getaffinity(0))
    return ", ".join([_processor(), f"{count} cores", f"Python {platform.python_version()}", *versions])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def require_wrk() -> None:
    """See to it that wrk is there: installed already, or now, where that is allowed."""
    if shutil.which("wrk"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=False, stdout=subprocess.DEVNULL)
    if not shutil.which("wrk"):
        raise BenchError("wrk makes the load and is not installed; try: apt-get install wrk (or: dnf, brew)")
