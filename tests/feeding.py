"""A room of labels with replicas that remember for real, on an event loop of their own; no process is started."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from serving.config import Labels
from serving.control.roster import Replica, Roster
from serving.labels.feedback import Feedback
from serving.labels.recall import Recall
from serving.labels.teller import Teller
from tests.labelling import batch, classifier, request, sure

T = TypeVar("T")


class Line:
    """One end of a connection, whose words are heard at the other end in the next turn of the loop."""

    def __init__(self, heard: Callable[[dict[str, Any]], None]) -> None:
        self._heard = heard
        self.cut = False

    def say(self, word: str, **rest: Any) -> None:
        self.send(json.dumps({"say": word, **rest}).encode())

    def send(self, message: bytes) -> None:
        for line in message.splitlines():
            asyncio.get_running_loop().call_soon(self._hear, json.loads(line))

    def _hear(self, said: dict[str, Any]) -> None:
        if not self.cut:
            self._heard(said)

    def hang_up(self) -> None:
        self.cut = True


class Answering:
    """A replica: it answers with the classes that it is told to, and remembers that."""

    def __init__(self, feeding: Feeding, name: str) -> None:
        self._feeding = feeding
        self.name = name
        self.recall = Recall(feeding.settings)
        self.recall.start()
        self.recall.follow(
            {"m": {"7": SimpleNamespace(spec=classifier()), "8": SimpleNamespace(spec=classifier(8))}},
            {"m": 3},
        )  # type: ignore[dict-item]
        self.teller = Teller(self.recall)
        self.deaf = False
        self.to_control = Line(self._told)
        self.replica = Replica(Line(self._hear), name, 1)  # type: ignore[arg-type]
        self.teller.begin()
        self.replica.heard_ns = time.monotonic_ns()
        feeding.roster.replicas[name] = self.replica
        feeding.feedback.greet(self.replica.line)

    def _told(self, said: dict[str, Any]) -> None:
        self.replica.heard_ns = time.monotonic_ns()
        self._feeding.feedback.hear(self.replica, said)
        self._feeding.roster.stir()

    def _hear(self, said: dict[str, Any]) -> None:
        if not self.deaf:
            self._feeding.begin(self.teller.hear(self.to_control, said))  # type: ignore[arg-type]

    def answer(self, number: int, ids: list[str], classes: list[int], slots: int = -1) -> None:
        made = [request(id_.encode(), stamp=b"%d;3;split" % number) for id_ in ids]
        (tap,) = self.recall.taps("m", str(number))
        tap(batch(made, np.array(classes), sure(classes)))

    async def tell(self) -> None:
        await self.teller.tell(self.to_control)  # type: ignore[arg-type]

    def die(self) -> None:
        """Be gone, with all that was remembered."""
        self.to_control.cut = True
        self.replica.line.hang_up()
        del self._feeding.roster.replicas[self.name]
        self._feeding.roster.stir()


class Feeding:
    """The room, until the `with` ends."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.chmod(0o700)
        self._folder = folder
        self.settings = Labels(**settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[Any] = set()
        self.replicas: list[Answering] = []

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self._start())
        return self

    async def _start(self) -> None:
        self.roster = Roster(self._folder, 0.0, 0.0)
        self.feedback = Feedback(self.settings, self._folder)
        self.feedback.start(SimpleNamespace(roster=self.roster))  # type: ignore[arg-type]
        self.begin(self._beat())

    async def _beat(self) -> None:
        """Hear of every replica that is not deaf, as of their leases."""
        while True:
            await asyncio.sleep(0.02)
            for each in self.replicas:
                if not each.deaf:
                    each.replica.heard_ns = time.monotonic_ns()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for each in self.replicas:
            await each.recall.close()
        await self.feedback.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    def call(self, work: Callable[..., T], *args: Any) -> T:
        async def now() -> T:
            return work(*args)

        return self.do(now())

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def replica(self, name: str) -> Answering:
        made = self.call(Answering, self, name)
        self.replicas.append(made)
        return made
