"""How is the process that asks started beside a measurement, and what it wrote fetched?"""

from __future__ import annotations

import contextlib
import selectors
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.errors import BenchError
from loadtests.bench.turnout import module
from loadtests.register import Request
from loadtests.switching import records
from loadtests.switching.asking import ANSWER_S_MAX, CLIENTS

END_S_MAX = ANSWER_S_MAX + 30


@dataclass(slots=True)
class Crowd:
    """Clients that ask. Afterwards, what became of it."""

    file: Path

    def requests(self) -> list[Request]:
        """Return what was asked; only once the crowd has gone home."""
        return list(records.load(self.file))


@contextlib.contextmanager
def crowd(port: int, folder: Path, think_ms: float = 0.0, clients: int = CLIENTS) -> Iterator[Crowd]:
    """Let clients ask the gateway at `port` until the block ends.

    Raises
    ------
    BenchError
        If not every client is answered, or the process ends by itself.
    """
    file = folder / "requests.bin"
    folder.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    command = [*module("loadtests.switching.asking"), str(port), str(file)]
    process = subprocess.Popen(
        [*command, "--clients", str(clients), "--think-ms", str(think_ms)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _wait(process)
        yield Crowd(file)
        process.communicate(timeout=END_S_MAX)  # Its input ends, and it writes.
        if process.returncode or not file.exists():
            raise BenchError(f"the process that asks ended with {process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _wait(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(END_S_MAX) or process.stdout.readline() != "asking\n":
            raise BenchError(f"not all clients were answered within {ANSWER_S_MAX:g} s")
