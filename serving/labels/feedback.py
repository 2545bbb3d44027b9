"""How do labels get to the answers that they are of, and who knows what they say of all replicas together?

Every replica is told of every label, and says of which it had the answer; what it counted is here before.
A thread has all that is known, so that neither people nor long reports hold up the control's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from router.change import Refused
from serving.config import Labels as Settings
from serving.control.roster import Replica, Roster
from serving.control.telling import Line, Said
from serving.drift.events import Event
from serving.labels.joining import LIVE
from serving.labels.label import Label, told
from serving.labels.losses import CLASSES, SCORES, lost
from serving.labels.reading import Key
from serving.labels.reckoning import Compared, Look, Reckoning, Standing
from serving.labels.sums import Told
from serving.labels.verdict import Given, given

if TYPE_CHECKING:
    from router.entry import Entry
    from serving.control.control import Control

LOOK_S = 1.0
"""How often what replicas told is taken in, and written down."""
SILENT_S = 3.0
"""How long a replica that is silent is waited for."""
ANSWERED_S_MAX = 30.0
"""How long replicas may take to join labels."""
PENDING_MAX = 16
"""Requests with labels that are under way at once."""

log = logging.getLogger("turnout.labels")
T = TypeVar("T")


class Feedback:
    """The room of labels; see `serving.control.room.Room`.

    Parameters
    ----------
    folder : Path
        The control's private folder; `NotPrivate` if what is in it is not.
    now_us : callable
        The time, in microseconds of Unix time.

    Attributes
    ----------
    happened : callable
        Told, on the control's loop, when a version degraded or recovered.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._settings = settings
        self._now_us = now_us
        self.happened: Callable[[Event], None] = lambda _event: None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turnout-feedback")
        self._reckoning = Reckoning(settings, folder)
        """For the thread alone; what follows is for the control's loop."""
        self._told: dict[str, tuple[str, dict[Key, Told], Compared]] = {}
        self._names: list[tuple[str, str, list[str]]] = []
        self._sources: dict[str, str] = {}
        self._asked: dict[int, dict[str, Said]] = {}
        self._roster: Roster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._documents: Mapping[Key, Mapping[str, Any]] = {}
        self._standings: Mapping[str, Standing] = {}
        self._shown = b""

    def __repr__(self) -> str:
        return f"<Feedback: {self._reckoning!r}, {len(self._asked)} under way>"

    def start(self, control: Control) -> None:
        """Go on where the last control was."""
        self._roster = control.roster
        self._loop = asyncio.get_running_loop()
        self._looking = self._loop.create_task(self._look_for_ever())

    async def close(self) -> None:
        """Take in what was told, write it down, and end."""
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await self._take_in()
            await self._do(lambda: self._reckoning.save(self._now_us(), at_once=True))
        self._thread.shutdown(wait=False)

    def greet(self, line: Line) -> None:
        """Tell a replica that has just connected how versions stand."""
        if self._shown:
            line.send(self._shown)

    def note(self, entry: Entry) -> None:
        """Take no notice of changes of traffic: whoever answered, answered."""

    def hear(self, replica: Replica, said: Said) -> None:
        """Put aside what a replica tells."""
        match said:
            case {"say": "quality", "source": source, "told": told, "pairs": pairs, "names": names}:
                self._sources[replica.name] = source
                _, versions, compared = self._told.setdefault(source, (replica.name, {}, {}))
                for model, version, role, seen, quality in told:
                    key = (model, version, role)
                    before = versions.get(key)
                    versions[key] = (key, seen, quality or (before[2] if before else None))
                compared.update({tuple(pair[:4]): pair for pair in pairs})
                self._names += [(model, version, each) for model, version, each in names]
            case {"say": "labelled", "task": task, "model": model}:
                asked = self._asked.get(task)
                if asked is not None:
                    asked[replica.name] = said
                elif not said.get("fault"):  # Nobody waits for it any more, but it counted.
                    log.warning("event=labelled_late replica=%s model=%s", replica.name, model)
                    self._begin(self._note_losses(model, {replica.name: said}))

    async def give(self, model: str, labels: Sequence[Label]) -> Given:
        """Have labels joined to the answers that they are of, and return what came of them. From any loop.

        Raises
        ------
        Refused
            If labels do not count here, no replica is there, or too many are under way.
        """
        return await self._there(self._give(model, labels))

    async def report(self, model: str, version: str = "") -> dict[str, Any]:
        """Return all about the quality of a model, or of one of its versions. From any loop."""
        return await self._there(self._read(lambda: self._reckoning.report(model, version, self._now_us())))

    def standing(self, model: str) -> Standing:
        """Return what labels counted of a model's versions, as of the last second. Any thread may call it."""
        return self._standings.get(model, Standing())

    def loss(self, model: str, version: str) -> Mapping[str, Any] | None:
        """Return how often a version is wrong, and whether that is more than before; None without labels.

        It is `serving.labels.losses.Losses.document`, as of a moment ago. Any thread may call it.
        """
        return self._documents.get((model, version, LIVE))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns on the control's loop."""
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns, called in the thread that has everything."""
        return await asyncio.wrap_future(self._thread.submit(work, *args))

    async def _read(self, work: Callable[[], T]) -> T:
        """The same, once all that was told is taken in."""
        await self._take_in()
        return await self._do(work)

    async def _take_in(self) -> None:
        await self._do(self._reckoning.take_in, self._look())
        self._standings = await self._do(self._reckoning.standings)

    async def _give(self, model: str, labels: Sequence[Label]) -> Given:
        if not self._settings.enabled:
            raise Refused("labels.enabled is false, so no answers are remembered that they could be of")
        roster = self._roster
        names = list(roster.replicas) if roster is not None else []
        if roster is None or not names:
            raise Refused("no replica is there whose answers they could be of; wait until one is ready")
        if len(self._asked) >= PENDING_MAX:
            raise Refused(f"{PENDING_MAX} requests with labels are under way already; try again later")
        task = next(roster.tasks)
        asked = self._asked[task] = {}
        message = {"say": "labels", "task": task, "model": model, "labels": told(labels)}
        try:
            roster.send(orjson.dumps(message) + b"\n")
            async with asyncio.timeout(ANSWERED_S_MAX):
                await roster.answered(names, lambda each: each.name in asked, SILENT_S)
        except TimeoutError:
            log.error("event=labels_not_joined model=%s replicas=%r", model, set(names) - asked.keys())
        finally:
            del self._asked[task]
        said = {name: each for name, each in asked.items() if not each.get("fault")}
        await self._note_losses(model, said)
        there = set(names) & roster.replicas.keys()
        return given(model, labels, [each["outcomes"] for each in said.values()], there - said.keys())

    async def _note_losses(self, model: str, said: Mapping[str, Said]) -> None:
        losses = lost(
            {
                CLASSES: [each for one in said.values() for each in one["losses"]],
                SCORES: [each for one in said.values() for each in one["distances"]],
            }
        )
        if not losses:
            return
        happened, self._documents = await self._do(self._reckoning.lose, model, losses, self._now_us())
        for event in happened:
            try:
                self.happened(event)
            except Exception:  # The labels count all the same.
                log.exception("event=loss_not_passed_on")

    async def _look_for_ever(self) -> None:
        try:
            self._documents = await self._do(self._reckoning.open)
        except Exception:  # Traffic is not to suffer from it.
            log.exception("event=quality_not_read")
        while self._settings.enabled:
            await asyncio.sleep(LOOK_S)
            try:
                await self._take_in()
                self._show(await self._do(self._reckoning.save, self._now_us()))
            except Exception:  # Else nothing would be written down any more.
                log.exception("event=quality_not_kept")

    def _show(self, message: bytes) -> None:
        """Tell replicas how versions stand, for whoever looks at their metrics."""
        if message != self._shown and self._roster is not None:
            self._shown = message
            self._roster.send(message)

    def _look(self) -> Look:
        """Return what there is to take in since the last time."""
        there = self._roster.replicas if self._roster is not None else {}
        self._sources = {name: source for name, source in self._sources.items() if name in there}
        connected = {name: self._sources.get(name, "") for name in there}
        told, self._told = self._told, {}
        names, self._names = self._names, []
        return Look(connected, told, names)
