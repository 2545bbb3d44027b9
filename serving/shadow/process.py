"""What is a shadow's process given, and what does it leave behind? `serving.keeper` keeps it alive."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from serving import confine
from serving.config import Shadow as Settings
from serving.drift.outlet import Outlets
from serving.keeper import Death, Keeper, Turn
from serving.labels.echo import Echo
from serving.model import ModelSpec
from serving.shadow import board as b
from serving.shadow.board import ARMS_MAX, Board
from serving.shadow.comparison import Drop
from serving.shadow.ring import TAIL, Ring, Torn

START_S_MAX = 60.0
"""Processor time until the version is loaded, the comparison compiled if need be."""

log = logging.getLogger("turnout.shadow")


class ShadowProcess:
    """The process of one shadow.

    Parameters
    ----------
    spec : ModelSpec
        The shadow's version.
    sides : sequence of int
        See `serving.shadow.board.Form`.
    settings, ring, board, outlets, echo
        What it may use, where it takes from, and where it writes to: what it counted, and rows for others.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sides: Sequence[int],
        settings: Settings,
        ring: Ring,
        board: Board,
        outlets: Outlets | None = None,
        echo: Echo | None = None,
    ) -> None:
        self._spec, self._sides, self._settings = spec, sides, settings
        self._outlets, self._echo = outlets, echo
        self._ring, self._board = ring, board
        name = f"version={spec} event=shadow"
        self._keeper = Keeper(self, name, log, START_S_MAX, settings.restarts_max)
        self.lost: list[dict[Drop, int]] = [{} for _ in range(ARMS_MAX)]
        """Of each arm the rows that were with a process when it died."""

    def __repr__(self) -> str:
        return f"<ShadowProcess {self._spec}: {self._keeper!r}>"

    @property
    def pid(self) -> int:
        """The process's id; 0 while there is none."""
        return self._keeper.pid

    @property
    def given_up(self) -> str:
        """Why there will be no process any more."""
        return self._keeper.given_up

    @property
    def restarts(self) -> dict[Death, int]:
        """How often it was started anew, by the death before."""
        return self._keeper.restarts

    @property
    def ready(self) -> bool:
        """Whether there is a process that has the version loaded."""
        return self._keeper.pid != 0 and bool(self._board.desk[b.READY])

    def start(self) -> None:
        """Begin. Nothing waits for the process."""
        self._keeper.start()

    def stop(self) -> None:
        """End the process, and wait until it is gone."""
        self._keeper.stop()

    def tell(self, tail: int) -> None:
        """Say how far the ring is written; never waits."""
        line = self._keeper.line
        if line is not None:
            with suppress(OSError):  # It is dead, or has enough to read: the next word holds for all before.
                line.send(TAIL.pack(tail))

    def spawn(self, line: socket.socket) -> subprocess.Popen[bytes]:
        """Start a process. For the keeper, as all that follows."""
        self._ring.prepare()
        self._board.desk[: b.LOST + 1] = 0
        fds = (self._ring.fd, self._board.fd, line.fileno())
        return subprocess.Popen(
            [sys.executable, "-P", "-s", "-m", "serving.shadow.child", json.dumps(self._task(*fds))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Where the kernels' machine code is kept.
            env=confine.environment("HOME", "XDG_CACHE_HOME"),
            cwd="/",
            pass_fds=(
                *fds,
                *[fd for each in (self._outlets, self._echo) if each is not None for fd in each.fds],
            ),
            # As for admission: in a session of its own its rank would count for nothing.
            process_group=0,
        )

    def greet(self, _line: socket.socket) -> None:
        """Tell what was written before, and while, there was nobody to tell."""
        self.tell(self._ring.tail)

    def look(self, line: socket.socket) -> None:
        """Do nothing: whoever writes says so."""

    def turn(self) -> Turn | None:
        """Return the run that is under way."""
        desk = self._board.desk
        if not desk[b.READY]:
            return None
        return Turn("a run", int(desk[b.SINCE_NS]), int(desk[b.USED_NS]), self._settings.run_s_max)

    def bury(self, death: Death, *, killed: bool) -> None:  # noqa: ARG002
        """Leave out what the dead one was at, which the next one would die of, too."""
        arm, lost = int(self._board.desk[b.ARM]), int(self._board.desk[b.LOST])
        try:
            held = self._ring.skip()
        except Torn:
            log.warning("version=%s event=shadow_ring_emptied", self._spec)
            held = True
        if held and 0 <= arm < ARMS_MAX:
            drop = Drop(death.value)
            self.lost[arm][drop] = self.lost[arm].get(drop, 0) + max(lost, 1)

    def _task(self, ring: int, board: int, line: int) -> dict[str, object]:
        spec = self._spec
        return {
            "parent": os.getpid(),
            "ring": ring,
            "board": board,
            "line": line,
            "path": str(spec.artifact.path),
            "graph_level": spec.config.graph_level,
            "inputs": [(each.name, each.datatype.name, each.optional) for each in spec.inputs],
            "outputs": [(each.name, each.datatype.name, each.shape) for each in spec.outputs],
            "sides": self._sides,
            "rows_max": spec.rows_max,
            "age_ns_max": int(self._settings.age_s_max * 1e9),
            "memory_bytes_max": self._settings.memory_bytes_max,
            "outlets": self._outlets.task() if self._outlets is not None else [],
            "echo": self._echo.task() if self._echo is not None else None,
        }
