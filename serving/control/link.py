"""How does a replica keep to the table that the control gives, and tell what became of it?

The link never lets a request be answered by an older table once a newer one was acknowledged. Without a
control it keeps to the last table it had; with ``lost_control = "fence"`` only until its lease ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any, Protocol

from serving import sockets
from serving.config import Traffic as Settings
from serving.control import telling
from serving.control.members import Membership
from serving.control.orderly import Orderly
from serving.control.telling import Line, Said
from serving.drift.teller import Teller as DriftTeller
from serving.evidence.teller import Teller as EvidenceTeller
from serving.gateway import Gateway
from serving.labels.teller import Teller as LabelsTeller
from serving.orders import Order
from serving.replay.replays import Replays

log = logging.getLogger("turnout.link")

RETRY_S = 0.05
"""Between attempts to reach a control: it may take no longer to notice a new one than to be ended for it."""
STATE_S = 1.0
"""How often the state is told where nothing calls for it."""
LEASE_PARTS = 4
"""How often a lease is renewed while it lasts."""
LAST_S_MAX = 2.0
"""How long the end waits until the last counts are told."""
ADOPTED_S_MAX = 30.0
"""How long a start waits for the control to give every model that is loaded a route."""


class Room(Protocol):
    """A replica's side of what a control has beside traffic."""

    def begin(self) -> None:
        """Note that whoever listens now was told nothing."""

    async def tell(self, line: Line) -> None:
        """Say what is new since it was told the last time: once a second, and at the end."""

    async def hear(self, line: Line, said: Said) -> None:
        """Do what the control says, if it is for this room."""

    def close(self) -> None:
        """Tell nothing any more."""


class Link:
    """A gateway's side of the conversation with the control. On the gateway's own event loop.

    Parameters
    ----------
    folder : Path
        The deployment's private folder, where the control listens.
    name : str
        What no other replica was ever called in this folder.
    """

    def __init__(self, gateway: Gateway, folder: Path, name: str, settings: Settings) -> None:
        self._gateway = gateway
        self._traffic = gateway.traffic
        self._folder = folder
        self.name = name
        self._settings = settings
        self.drift = DriftTeller(gateway.watch)
        replays = Replays(gateway.captures, gateway.config, name, lambda: self.drift.profiles)
        self.labels = LabelsTeller(gateway.labels)
        self.rooms: list[Room] = [self.drift, EvidenceTeller(gateway.evidence), self.labels, replays]
        self._orderly = Orderly(gateway.shelf, self._do, self._tell_state)
        self._membership: Membership | None = None
        self._line: Line | None = None
        self._lost = asyncio.Event()
        self._changed = asyncio.Event()
        self._heard_ns = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._doing: set[asyncio.Task[None]] = set()
        self._hold_ends: dict[str, asyncio.TimerHandle] = {}
        self._told: dict[str, Any] = {}
        self._answering = False

    def __repr__(self) -> str:
        return f"<Link {self.name}: {'connected' if self._line else 'alone'}, {self._traffic!r}>"

    async def start(self) -> None:
        """Become a member and get the table. Returns when there is one."""
        self._membership = Membership(self._folder, self.name)
        if self._settings.lost_control == "fence":
            self._traffic.lease_ns = 0
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_connected()), loop.create_task(self._keep_telling())]
        while not self._traffic.term:
            await self._changed_once()

    async def settle(self) -> None:
        """Tell what is loaded, and wait until the control has given all of it a route.

        What the table needs by then, and did not when loading began, is loaded as well.
        """
        self._tell_state()
        until_ns = monotonic_ns() + int(ADOPTED_S_MAX * 1e9)
        while set(self._traffic.ways) - set(self._traffic.table.routes) and monotonic_ns() < until_ns:
            await self._changed_once()
        for model in self._traffic.ways:
            await self._gateway.shelf.ensure(model, self._traffic.table.needs(model))
        while self._traffic.lease_ns < monotonic_ns():
            await self._changed_once()
        self._answering = True
        self._tell_state()

    async def order(self, model: str, order: Order) -> None:
        """Have a model loaded or unloaded on all replicas; raises as `Orderly.pass_on`."""
        await self._orderly.pass_on(self._line, model, order)

    async def close(self) -> None:
        """Say the last, and be a member no more."""
        await self._tell_last()
        for task in [*self._tasks, *self._doing]:
            task.cancel()
        for room in self.rooms:
            room.close()
        for timer in self._hold_ends.values():
            timer.cancel()
        line, self._line = self._line, None
        if line is not None:
            line.hang_up()
        if self._membership is not None:
            self._membership.leave()

    async def _changed_once(self) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), RETRY_S)

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        door = sockets._reachable(self._folder / telling.DOOR)
        while True:
            self._lost.clear()
            try:
                await loop.create_unix_connection(lambda: Line(self._hear, self._end, self._begin), door)
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            await self._lost.wait()

    def _begin(self, line: Line) -> None:
        self._line = line
        self._heard_ns = monotonic_ns()
        self._told = self._state()
        for room in self.rooms:
            room.begin()
        line.say("hello", name=self.name, pid=os.getpid(), **self._told)

    def _end(self, line: Line) -> None:
        if self._line is line:
            log.warning("event=control_lost revision=%d", self._traffic.table.revision)
            self._line = None
        self._orderly.lose()
        self._lost.set()

    async def _keep_telling(self) -> None:
        """Renew the lease, say what changed, and hang up on a control that no longer answers."""
        pause_s = self._settings.lease_s / LEASE_PARTS
        told_ns = 0
        while True:
            await asyncio.sleep(min(pause_s, STATE_S))
            line, now_ns = self._line, monotonic_ns()
            if line is None:
                continue
            if now_ns - self._heard_ns > self._settings.lease_s * 1e9:
                log.warning("event=control_silent s=%.1f", (now_ns - self._heard_ns) / 1e9)
                line.hang_up()
                continue
            line.say("renew", sent_ns=now_ns)
            if now_ns - told_ns >= STATE_S * 1e9 or self._told != self._state():
                told_ns = now_ns
                self._tell_state()
                try:
                    self._tell_shadows(line)
                except Exception:  # Else the lease would not be renewed any more.
                    log.exception("event=shadows_not_told")
                for room in self.rooms:
                    self._do(room.tell(line))

    def _state(self) -> dict[str, Any]:
        return {
            "revision": self._traffic.table.revision,
            "term": self._traffic.term,
            "answering": self._answering,
            "ready": {model: sorted(each) for model, each in self._gateway.shelf.loaded.servables.items()},
            "digests": self._digests(),
            "brakes": self._braked(),
            "tallies": self._traffic.tallies(),
            "epochs": dict(self._traffic.epochs),
        }

    def _digests(self) -> dict[str, dict[str, str]]:
        servables = self._gateway.shelf.loaded.servables
        return {
            model: {version: each.spec.artifact.digest for version, each in sorted(versions.items())}
            for model, versions in servables.items()
        }

    def _braked(self) -> dict[str, str]:
        """Return what a pulled brake stands at, by model; nothing where it has no effect."""
        ways = self._traffic.ways
        return {model: ways[model].usual.version for model in self._traffic.brakes if model in ways}

    def _tell_state(self) -> None:
        if self._line is not None:
            self._told = self._state()
            self._line.say("state", **self._told)

    def _tell_shadows(self, line: Line) -> None:
        readings = self._gateway.shadows.readings()
        if readings:
            line.say("shadows", told=[[*key, reading.to_json()] for key, reading in readings.items()])

    async def _tell_last(self) -> None:
        """Tell what was counted to the end, and wait until it is told."""
        line = self._line
        if line is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_S_MAX):
                await asyncio.gather(*[room.tell(line) for room in self.rooms])
                while line.transport.get_write_buffer_size() and not line.transport.is_closing():
                    await asyncio.sleep(RETRY_S)

    def _hear(self, line: Line, said: Said) -> None:
        self._heard_ns = monotonic_ns()
        match said:
            case {"say": "table"}:
                self._follow(line, said)
            case {"say": "lease", "sent_ns": sent_ns, "s": lease_s}:
                if self._settings.lost_control == "fence":
                    # From when it was asked for: however long the answer took, the control counts longer.
                    self._traffic.lease_ns = sent_ns + int(lease_s * 1e9)
            case {"say": "prepare", "task": task, "model": model, "versions": versions}:
                self._do(self._prepare(line, task, model, frozenset(versions)))
            case {"say": "hold", "task": task, "model": model, "s_max": s_max}:
                self._hold(model, s_max)
                line.say("holding", task=task)
            case {"say": "release", "model": model}:
                self._release(model)
            case {"say": "orders" | "carry_out" | "ordered"}:
                self._orderly.hear(line, said, beginning=not self._traffic.term)
            case _:
                for room in self.rooms:
                    self._do(room.hear(line, said))

    def _follow(self, line: Line, said: Said) -> None:
        """Take a table over, and say so. Whatever arrives from here on is answered by it."""
        traffic = self._traffic
        if (said["term"], said["revision"]) < (traffic.term, traffic.table.revision):
            log.error("event=older_table_refused term=%d revision=%d", said["term"], said["revision"])
            line.hang_up()  # A control that was superseded; the one that did it is to be found.
            return
        if said["revision"] < traffic.table.revision:
            log.error("event=history_lost had=%d got=%d", traffic.table.revision, said["revision"])
        traffic.follow(telling.parse_table(said), said["term"], said["epochs"])
        line.say("acknowledge", revision=said["revision"])
        line.say("renew", sent_ns=monotonic_ns())  # Which is granted to those alone who acknowledged.
        for timer in self._hold_ends.values():
            timer.cancel()
        self._hold_ends.clear()
        keeping = self._gateway.shelf.keeping
        must = {model: frozenset(versions) for model, versions in said["must"].items()}
        if (must, said["good"]) != (keeping.must, keeping.good):
            self._gateway.shelf.keep(must, said["good"])
            self._do(self._gateway.shelf.tidy())
        self._changed.set()

    def _hold(self, model: str, s_max: float) -> None:
        self._traffic.hold(model)
        loop = asyncio.get_running_loop()
        if model in self._hold_ends:
            self._hold_ends[model].cancel()
        self._hold_ends[model] = loop.call_later(s_max, self._hold_over, model)

    def _hold_over(self, model: str) -> None:
        log.error("event=hold_over model=%s: the control did not come back; going on as before", model)
        self._release(model)

    def _release(self, model: str) -> None:
        timer = self._hold_ends.pop(model, None)
        if timer is not None:
            timer.cancel()
        self._traffic.release(model)

    async def _prepare(self, line: Line, task: int, model: str, versions: frozenset[str]) -> None:
        try:
            faults = await self._gateway.shelf.ensure(model, versions)
        except Exception as error:  # The control waits for an answer, whatever it is.
            log.exception("event=not_prepared model=%s", model)
            faults = dict.fromkeys(versions, str(error) or type(error).__name__)
        self._tell_state()
        line.say("prepared", task=task, faults=faults)

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)
