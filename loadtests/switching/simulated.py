"""How do a thousand replicas behave towards a control, in one process that serves nothing?

    python -m loadtests.switching.simulated FOLDER COUNT MODEL

Each is a member of its own with a connection of its own: it says hello, acknowledges each table and
renews its lease (serving/control/telling.py has the words). It ends with its input.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns

import uvloop

from serving.control import telling
from serving.control.members import Membership
from serving.control.telling import Line, Said
from serving.sockets import _reachable

LEASE_S = 3.0
LEASE_PARTS = 4
"""As often as a replica renews its lease (serving/control/link.py)."""
FILES_EACH = 2
"""The connection and the lock."""


class Simulated:
    """One replica that has versions 1 and 2 of a model."""

    def __init__(self, folder: Path, number: int, model: str) -> None:
        self._name = f"simulated-{number:05}"
        self._membership = Membership(folder, self._name)
        self._state = {
            "revision": 0,
            "term": 0,
            "ready": {model: ["1", "2"]},
            "brakes": {},
            "tallies": {},
            "epochs": {},
        }
        self._line: Line | None = None

    async def connect(self, door: str) -> None:
        """Connect to the control."""
        make = lambda: Line(self._hear, self._end, self._begin)  # noqa: E731
        await asyncio.get_running_loop().create_unix_connection(make, door)

    def renew(self) -> None:
        """Renew the lease."""
        if self._line is not None:
            self._line.say("renew", sent_ns=monotonic_ns())

    def leave(self) -> None:
        """End."""
        self._membership.leave()

    def _begin(self, line: Line) -> None:
        self._line = line
        line.say("hello", name=self._name, pid=os.getpid(), **self._state)
        line.say("state", **self._state)

    def _end(self, _line: Line) -> None:
        self._line = None

    def _hear(self, line: Line, said: Said) -> None:
        match said:
            case {"say": "table", "revision": revision, "term": term}:
                self._state |= {"revision": revision, "term": term}
                line.say("acknowledge", revision=revision)
            case {"say": "prepare", "task": task}:
                line.say("prepared", task=task, faults={})
            case {"say": "hold", "task": task}:
                line.say("holding", task=task)


async def simulate(folder: Path, count: int, model: str) -> None:
    """Be so many replicas until the standard input ends."""
    door = _reachable(folder / telling.DOOR)
    every = [Simulated(folder, number, model) for number in range(count)]
    for each in every:
        await each.connect(door)
    print("connected", flush=True)
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while not over.done():
        for each in every:
            each.renew()
            # Spread over the period, as it would be among processes that started at different times.
            await asyncio.sleep(LEASE_S / LEASE_PARTS / count)
    for each in every:
        each.leave()


def allow_files(count: int) -> None:
    """Let this process have so many files open, as far as it may say so itself."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def main(given: Sequence[str] | None = None) -> int:
    """Simulate."""
    folder, count, model = sys.argv[1:] if given is None else given
    allow_files(int(count) * FILES_EACH + 256)
    uvloop.run(simulate(Path(folder), int(count), model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
