"""How does a change of traffic come about, and when is it certain everywhere?

compare, decide, prepare, hold (if it is to be atomic), journal, publish, receipt. The journal is the commit
point: what is in it is in force, what is not never was. The control is its only writer, and there is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Any

from router.change import Refused, is_idle
from router.entry import Entry
from router.history import History
from router.intent import Adopt, Intent, Take, decide, undo
from router.table import newest_first
from serving import sockets
from serving.config import Traffic as Settings
from serving.control import telling
from serving.control.ordering import Carried, Ordering
from serving.control.preparation import Preparation
from serving.control.receipt import Receipt, Steps, receipt
from serving.control.refusals import Lost, Stale
from serving.control.room import Room
from serving.control.roster import Outcome, Replica, Roster
from serving.control.standing import Bank, standing
from serving.control.telling import Line, Said, table_message
from serving.journal.journal import Journal, JournalError
from serving.orders import Order
from serving.shadow.report import Gatherer

log = logging.getLogger("turnout.control")

OURSELVES = "turnout"
"""Who did what nobody asked for."""
PREPARED_MAX = 5
"""How many times a change is prepared while others, or replicas that come, undo what that was for."""


class Control:
    """The one writer of a gateway's traffic. A plain asyncio object; it has its own event loop.

    Parameters
    ----------
    folder : Path
        The deployment's private folder, in which replicas find it.
    now_us : callable
        The time, in microseconds of Unix time.
    step : callable
        Told before each step of a change: compare, prepare, hold, journal, publish, receipt.
    ordering : Ordering, optional
        What has models loaded and unloaded.
    rooms : sequence of Room
        What else is spoken of with replicas.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        journal: Journal,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        step: Callable[[str], None] = lambda _step: None,
        ordering: Ordering | None = None,
        rooms: Sequence[Room] = (),
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._journal = journal
        self._now_us = now_us
        self._step = step
        self.history = History(journal.entries)
        self.term = 0
        fence_s = settings.lease_s if settings.lost_control == "fence" else 0.0
        self.roster = Roster(folder, fence_s, settings.lease_s)
        self._preparation = Preparation(self.roster, settings.lease_s)
        self._bank = Bank()
        self.shadowed = Gatherer()
        self._ordering = ordering
        self._rooms = rooms
        self._changing = asyncio.Lock()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._table_line = b""
        self._held: dict[str, Any] = {}
        """What replicas are told that join while requests are held back."""
        self._lost = ""

    def __repr__(self) -> str:
        there = f"{len(self.roster.replicas)} replicas"
        return f"<Control term {self.term}, revision {self.history.revision}, {there}>"

    async def start(self) -> None:
        """Become the only writer, and let replicas in."""
        self.term = self._journal.take_term(f"{os.uname().nodename}:{os.getpid()}", self._now_us())
        for entry in self._journal.entries[self.history.revision :]:
            self.history.add(entry)  # What the control before this one wrote while it ended.
        self._write_table()
        if self._ordering is not None:
            self._ordering.start(self.roster, self._settings.lease_s)
        for room in self._rooms:
            room.start(self)
        loop = asyncio.get_running_loop()
        door = self._folder / telling.DOOR
        # It gets its name when it already listens: a door that refuses is taken for a dead one.
        unfinished = door.with_name(f"{door.name}.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        self._server = await loop.create_unix_server(
            lambda: Line(self._hear, self._end, lambda _line: None),
            sockets._reachable(unfinished),
            backlog=4096,
        )
        unfinished.chmod(0o600)
        unfinished.rename(door)
        log.info("event=control_started term=%d revision=%d", self.term, self.history.revision)

    async def close(self) -> None:
        """Hang up and write no more."""
        if self._server is not None:
            self._server.close()
        for replica in list(self.roster.replicas.values()):
            replica.line.hang_up()
        for task in self._tasks:
            task.cancel()
        if self._ordering is not None:
            self._ordering.close()
        try:
            await asyncio.gather(*[room.close() for room in self._rooms])
        finally:
            self._journal.close()

    def status(self, model: str = "") -> dict[str, Any]:
        """Return how traffic stands, of one model or of all, as plain values.

        Raises
        ------
        LookupError
            If the model has no route.
        """
        replicas = self.roster.replicas
        if model:
            return standing(model, self.history, replicas, self._bank) | {"replicas": self.replicas()}
        return {
            "revision": self.history.revision,
            "term": self.term,
            "lost_control": self._settings.lost_control,
            "models": {
                each: standing(each, self.history, replicas, self._bank)
                for each in sorted(self.history.table.routes)
            },
            "replicas": self.replicas(),
        }

    async def shadows(self, model: str) -> dict[str, Any]:
        """Return how a model's shadows compare, as plain values."""
        return self.shadowed.report(model, self.roster.replicas)

    def replicas(self) -> list[dict[str, Any]]:
        """Return what is known of every replica that lives, as plain values."""
        return self.roster.documents()

    async def order(self, model: str, order: Order, by: str) -> Carried:
        """Have a model loaded or unloaded everywhere; raises as `Ordering.order`."""
        if self._ordering is None or self._lost:
            raise Lost(self._lost or "this control loads and unloads nothing")
        await self.roster.gather()
        return await self._ordering.order(model, order, by)

    async def submit(
        self,
        intent: Intent,
        by: str,
        why: str,
        *,
        if_revision: int | None = None,
        dry_run: bool = False,
        atomic: bool = False,
    ) -> Receipt:
        """Make a change, and return when it is known for whom it holds.

        Whoever asked may go away meanwhile: the change is finished all the same.

        Parameters
        ----------
        if_revision : int, optional
            The revision that the decision was based on; if another is in force nothing is changed.
        dry_run : bool
            Decide, and do nothing.
        atomic : bool
            Hold requests back everywhere for the moment of the change, so that none that begins after
            some request saw the new route is answered by the old one.

        Raises
        ------
        Refused, InvalidName, InvalidTable
            If it makes no sense as things stand, or a replica cannot have what it needs; nothing is changed.
        Stale
            If `if_revision` is not in force.
        Lost
            If the journal cannot be written; nothing is changed.
        """
        work = self._submit(intent, by, why, if_revision, dry_run=dry_run, atomic=atomic)
        return await asyncio.shield(asyncio.get_running_loop().create_task(work))

    async def _submit(
        self, intent: Intent, by: str, why: str, if_revision: int | None, *, dry_run: bool, atomic: bool
    ) -> Receipt:
        steps = Steps(self._step)
        for _ in range(PREPARED_MAX):
            async with self._changing:
                steps.begin("compare")
                entry = await self._compare(intent, by, why, if_revision)
                idle = is_idle(self.history.table, entry.change)
                back = "" if idle else undo(self.history.table, entry.change)
                if dry_run or idle:
                    outcome = Outcome() if dry_run else await self._publish()
                    revision = self.history.revision if idle else entry.revision
                    return receipt(entry, revision, outcome, steps, back, unchanged=idle, dry_run=dry_run)
                steps.begin("prepare")
                lacking = self._preparation.lacking(intent, entry.change)
                if not lacking:
                    outcome = await self._commit(entry, steps, atomic=atomic)
                    return receipt(entry, entry.revision, outcome, steps, back)
            # Not while nobody else can make a change: loading may take minutes, and a rollback has none.
            await self._preparation.load(lacking, entry.change)
        raise Refused(
            "traffic or replicas changed again and again while it was prepared; look, and ask again"
        )

    async def _compare(self, intent: Intent, by: str, why: str, if_revision: int | None) -> Entry:
        """Decide what is to be journalled, as things stand."""
        if self._lost:
            raise Lost(self._lost)
        now = self.history.revision
        if if_revision is not None and if_revision != now:
            raise Stale(f"revision {now} is in force, not {if_revision}; look again and decide anew")
        await self.roster.gather()
        change = decide(self.history, intent)
        return Entry(now + 1, self.term, self._now_us(), by, why, change, self.history.last_hash)

    async def _commit(self, entry: Entry, steps: Steps, *, atomic: bool) -> Outcome:
        """Journal an entry for which all is prepared, and tell it to all."""
        model = entry.change.model
        held = Outcome()
        if atomic:
            steps.begin("hold")
            held = await self._hold(model)
        steps.begin("journal")
        await self._append(entry, held=model if atomic else "")
        steps.begin("publish")
        outcome = await self._publish()
        steps.begin("receipt")
        return outcome.after(held)

    async def _hold(self, model: str) -> Outcome:
        task = next(self.roster.tasks)
        self._held = {"task": task, "model": model, "s_max": self._settings.hold_s_max}
        for replica in self.roster.replicas.values():
            replica.line.say("hold", **self._held)
        outcome = await self.roster.settled(lambda each: task in each.tasks, self._settings.acknowledge_s_max)
        for replica in self.roster.replicas.values():
            replica.tasks.pop(task, None)
        if outcome.missing:
            self._release(model)
            raise Refused(
                f"{', '.join(outcome.missing)} cannot be made to hold requests back; nothing changed"
            )
        return outcome

    def _release(self, model: str) -> None:
        self._held = {}
        for replica in self.roster.replicas.values():
            replica.line.say("release", model=model)

    async def _append(self, entry: Entry, held: str) -> None:
        try:
            await asyncio.to_thread(self._journal.append, entry)
        except BaseException as error:
            if held:
                self._release(held)
            if not isinstance(error, JournalError):
                raise
            if error.final:
                self._lost = str(error)
            raise Lost(str(error)) from None
        self._held = {}
        self.history.add(entry)
        self._write_table()
        for room in self._rooms:
            try:
                room.note(entry)
            except Exception:  # What is journalled is in force, whoever fails to take notice.
                log.exception("event=not_noted revision=%d room=%r", entry.revision, room)

    async def _publish(self) -> Outcome:
        """Tell the table to all, and wait for each to say that it answers by it."""
        revision = self.history.revision
        self.roster.send(self._table_line)
        return await self.roster.settled(
            lambda each: each.revision >= revision, self._settings.acknowledge_s_max
        )

    def _write_table(self) -> None:
        table = self.history.table
        good = {model: self.history.kept(model) for model in table.routes}
        must = {
            model: sorted(route.versions | {self.history.last_good(model)} - {""})
            for model, route in table.routes.items()
        }
        self._table_line = table_message(table, self.term, self.history.epochs, must, good)

    def _end(self, line: Line) -> None:
        replica = self.roster.leave(line)
        if replica is not None:
            self._bank.deposit(replica, self.history.epochs)

    def _hear(self, line: Line, said: Said) -> None:
        if said["say"] == "hello":
            replica = Replica(line, said["name"], said["pid"])
            replica.learn(said)
            replica.revision = 0  # It acknowledges what this control tells it, and nothing else counts.
            self.roster.join(replica)
            if self._ordering is not None:
                self._ordering.greet(line)  # Before the table, with which a replica begins to load.
            line.send(self._table_line)
            if self._held:
                line.say("hold", **self._held)
            for room in self._rooms:
                room.greet(line)
        found = self.roster.at(line)
        if found is None:
            return
        found.heard_ns = monotonic_ns()
        match said:
            case {"say": "acknowledge", "revision": revision}:
                found.revision = max(found.revision, revision)
            case {"say": "prepared", "task": task, "faults": faults}:
                found.tasks[task] = faults
            case {"say": "holding", "task": task}:
                found.tasks[task] = {}
            case {"say": "renew", "sent_ns": sent_ns}:
                self._renew(found, sent_ns)
            case {"say": "shadows", "told": told}:
                self.shadowed.note(found.name, told)
            case {"say": "state"}:
                found.learn(said)
                self._look_for_news(found.ready)
            case {"say": "order" | "carried_out"} if self._ordering is not None:
                self._ordering.hear(found, said)
            case _:
                for room in self._rooms:
                    room.hear(found, said)
        self.roster.stir()

    def _renew(self, replica: Replica, sent_ns: int) -> None:
        """Extend a lease, unless the replica has yet to acknowledge what is in force."""
        if replica.revision < self.history.revision:
            return
        replica.lease_ns = monotonic_ns() + int(self._settings.lease_s * 1e9)
        replica.line.say("lease", sent_ns=sent_ns, s=self._settings.lease_s)

    def _look_for_news(self, ready: Mapping[str, list[str]]) -> None:
        """Give models that have no route one, and newer versions the traffic, where configuration says so."""
        for model, versions in ready.items():
            if not versions:
                continue
            newest = newest_first(versions)[0]
            route = self.history.table.routes.get(model)
            if route is None:
                self._do(Adopt(model, newest), "the first version that was found")
            elif self._settings.new_versions == "take" and route.whole and not route.pinned:
                everywhere = all(
                    newest in each.ready.get(model, ()) for each in self.roster.replicas.values()
                )
                if everywhere and int(newest) > max(map(int, self.history.seen(model))):
                    self._do(Take(model, newest), 'a newer version was found (traffic.new_versions = "take")')

    def _do(self, intent: Adopt | Take, why: str) -> None:
        task = asyncio.get_running_loop().create_task(self._do_once(intent, why))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do_once(self, intent: Adopt | Take, why: str) -> None:
        try:
            await self._submit(intent, OURSELVES, why, None, dry_run=False, atomic=False)
        except (Refused, Lost) as error:
            log.info("event=not_adopted model=%s reason=%r", intent.model, str(error))
