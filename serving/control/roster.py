"""What does the control know of each replica, and who still has to say what?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from time import monotonic_ns
from typing import Any

from serving.control.members import Member, kill, living
from serving.control.telling import Line, Said

log = logging.getLogger("turnout.roster")

DEATH_S_MAX = 2.0
"""How long a killed process may take to be gone."""
LOOK_S = 0.02


@dataclass(slots=True, eq=False)
class Replica:
    """A replica that is connected.

    Attributes
    ----------
    lease_ns : int
        Until when, by this process's monotonic clock, it may answer at the latest; as far as it is fenced.
    """

    line: Line
    name: str
    pid: int
    revision: int = 0
    heard_ns: int = 0
    lease_ns: int = 0
    answering: bool = False
    """Whether it is through with its start: before, it loads what its table needs."""
    ready: Mapping[str, list[str]] = field(default_factory=dict)
    digests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of the versions that are ready, as far as it told."""
    brakes: Mapping[str, str] = field(default_factory=dict)
    tallies: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    tasks: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """What came of the tasks that are under way."""

    def learn(self, said: Said) -> None:
        """Take over what it told of its state."""
        self.revision = max(self.revision, said["revision"])
        self.answering = said.get("answering", True)
        self.ready, self.brakes = said["ready"], said["brakes"]
        self.digests = said.get("digests", {})
        self.tallies, self.epochs = said["tallies"], said["epochs"]

    def is_silent(self, s_max: float) -> bool:
        """Say whether nothing was heard of it for longer than that."""
        return monotonic_ns() - self.heard_ns > s_max * 1e9

    def document(self) -> dict[str, Any]:
        """Return what a person wants to know of it, as plain values."""
        return {
            "name": self.name,
            "pid": self.pid,
            "revision": self.revision,
            "connected": True,
            "ready": {model: list(versions) for model, versions in self.ready.items()},
            "brakes": dict(self.brakes),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """Who did what was asked of all."""

    done: tuple[str, ...] = ()
    killed: tuple[str, ...] = ()
    fenced: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def after(self, earlier: Outcome) -> Outcome:
        """Return this one with those that an earlier step of the same change ended."""
        return replace(self, killed=tuple(sorted({*earlier.killed, *self.killed})))


class Roster:
    """The replicas that are connected, beside the members that live.

    Parameters
    ----------
    folder : Path
        The deployment's private folder.
    fence_s : float
        How long a replica's lease lasts, where its end counts; 0 where it does not.
    grace_s : float
        How long members may take to connect at first, when this control has just started.
    """

    def __init__(self, folder: Path, fence_s: float, grace_s: float) -> None:
        self._folder = folder
        self._fence_ns = int(fence_s * 1e9)
        self._began_ns = monotonic_ns()
        self._grace_ns = self._began_ns + int(grace_s * 1e9)
        self.replicas: dict[str, Replica] = {}
        self.tasks = count(1)
        """The numbers of what replicas are asked to do."""
        self._by_line: dict[Line, Replica] = {}
        self._moved = asyncio.Event()

    def join(self, replica: Replica) -> None:
        """Add a replica, in the place of an earlier connection of the same."""
        before = self.replicas.get(replica.name)
        if before is not None and before.line is not replica.line:
            before.line.hang_up()
        self.replicas[replica.name] = self._by_line[replica.line] = replica
        self.stir()

    def at(self, line: Line) -> Replica | None:
        """Return the replica at the other end of a connection."""
        return self._by_line.get(line)

    def leave(self, line: Line) -> Replica | None:
        """Remove the replica of a connection that ended, and return it."""
        replica = self._by_line.pop(line, None)
        if replica is None or self.replicas.get(replica.name) is not replica:
            return None
        del self.replicas[replica.name]
        self.stir()
        return replica

    def documents(self) -> list[dict[str, Any]]:
        """Return what is known of every member that lives, connected or not, as plain values."""
        alone = [each for name, each in living(self._folder).items() if name not in self.replicas]
        unknown: dict[str, Any] = {"revision": None, "connected": False, "ready": {}, "brakes": {}}
        return [each.document() for _, each in sorted(self.replicas.items())] + [
            {"name": each.name, "pid": each.pid, **unknown} for each in alone
        ]

    def stir(self) -> None:
        """Wake whoever waits for a replica to have done something."""
        self._moved.set()

    def send(self, message: bytes) -> None:
        """Say the same to all."""
        for replica in list(self.replicas.values()):
            replica.line.send(message)

    async def gather(self) -> None:
        """Wait, within the grace of a new control, until every member that lives is connected."""
        while monotonic_ns() < self._grace_ns:
            if living(self._folder).keys() <= self.replicas.keys():
                return
            await self._wait(LOOK_S)

    async def answered(self, of: Collection[str], done: Callable[[Replica], bool], silent_s: float) -> None:
        """Wait until those replicas have done something, but for ones that are gone or silent for so long."""
        while True:
            waited = [self.replicas[name] for name in of if name in self.replicas]
            if all(done(each) or each.is_silent(silent_s) for each in waited):
                return
            await self._wait(LOOK_S)

    async def settled(self, done: Callable[[Replica], bool], s_max: float) -> Outcome:
        """Wait until each member that lives has done something; end those that do not in time.

        A member that cannot be ended counts as fenced once its lease has run out, where that counts.
        """
        until_ns = max(monotonic_ns() + int(s_max * 1e9), self._grace_ns)
        overdue: dict[str, Member] = {}
        while True:
            if all(done(each) for each in self.replicas.values()):
                members = living(self._folder)
                overdue = {name: each for name, each in members.items() if not self._did(name, done)}
                if not overdue:
                    return Outcome(tuple(sorted(members)))
            left_s = (until_ns - monotonic_ns()) / 1e9
            if left_s <= 0:
                break
            await self._wait(min(left_s, LOOK_S))
        members = living(self._folder)
        overdue = {name: each for name, each in members.items() if not self._did(name, done)}
        finished = tuple(sorted(members.keys() - overdue.keys()))
        return await self._end(overdue, finished, done)

    def _did(self, name: str, done: Callable[[Replica], bool]) -> bool:
        return name in self.replicas and done(self.replicas[name])

    async def _end(
        self, overdue: Mapping[str, Member], finished: tuple[str, ...], done: Callable[[Replica], bool]
    ) -> Outcome:
        late, killed, fenced, missing = [], [], [], []
        for name, member in overdue.items():
            log.error("event=replica_overdue replica=%s pid=%d: it is ended", name, member.pid)
            if await asyncio.to_thread(kill, self._folder, member, DEATH_S_MAX):
                killed.append(name)
            elif self._did(name, done):
                late.append(name)
            elif self._fence_ns and await self._lease_over(name):
                fenced.append(name)
            else:
                missing.append(name)
        return Outcome(
            tuple(sorted([*finished, *late])),
            tuple(sorted(killed)),
            tuple(sorted(fenced)),
            tuple(sorted(missing)),
        )

    async def _lease_over(self, name: str) -> bool:
        """Wait until a member may no longer answer; say whether that is so: it may have renewed."""
        replica = self.replicas.get(name)
        # What an earlier control granted ended at the latest so long after this one began.
        until_ns = max(replica.lease_ns if replica is not None else 0, self._began_ns + self._fence_ns)
        await asyncio.sleep(max(until_ns - monotonic_ns(), 0) / 1e9)
        replica = self.replicas.get(name)
        return replica is None or replica.lease_ns <= until_ns

    async def _wait(self, s_max: float) -> None:
        self._moved.clear()
        try:
            await asyncio.wait_for(self._moved.wait(), s_max)
        except TimeoutError:
            return
