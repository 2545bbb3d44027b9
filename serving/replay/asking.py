"""How does the control have a model's requests replayed? By the replica that keeps most of them.

Its connections are dealt at random, so what one replica was asked is a fair sample of all; and quantiles and
the worst features of several reports could not be put together to one. It is asked from any event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from router.change import Refused
from serving.clock import utc
from serving.config import Replay as Settings
from serving.control.roster import Replica, Roster
from serving.control.telling import Line, Said
from serving.replay.advice import advise, unknown

if TYPE_CHECKING:
    from router.entry import Entry
    from serving.control.control import Control

log = logging.getLogger("turnout.replay")
T = TypeVar("T")

LOOK_S_MAX = 2.0
"""How long replicas may take to say what they keep."""
SPARE_S = 2.0
"""How much later than promised a report may come."""
POLL_S = 0.1
"""How often it is looked whether the replica is still there."""

Document = Mapping[str, Any]


class Replaying:
    """The control's side of replays.

    Parameters
    ----------
    settings : serving.config.Replay
    now_us : callable
        The time, in microseconds of Unix time.
    """

    def __init__(
        self, settings: Settings, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self._settings = settings
        self._now_us = now_us
        self._roster: Roster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awaited: dict[tuple[str, int], asyncio.Future[Said]] = {}

    def __repr__(self) -> str:
        return f"<Replaying: {len(self._awaited)} answers awaited>"

    def start(self, control: Control) -> None:
        """Ask the replicas of this control, from now on. On its loop."""
        self._roster, self._loop = control.roster, asyncio.get_running_loop()

    async def close(self) -> None:
        """Wait for no answer any more."""
        for each in self._awaited.values():
            if not each.done():
                each.set_result({"error": "the control ends; ask again"})

    def greet(self, line: Line) -> None:
        """Tell a replica that has just connected nothing: it is asked when somebody wants to know."""

    def note(self, entry: Entry) -> None:
        """Take notice of a change: none concerns replays."""

    def hear(self, replica: Replica, said: Said) -> None:
        """Take what a replica says."""
        match said:
            case {"say": "replayed", "task": task}:
                awaited = self._awaited.pop((replica.name, task), None)
                if awaited is not None and not awaited.done():
                    awaited.set_result(said)

    async def replay(self, model: str, versions: list[str], rows: int = 0) -> dict[str, Any]:
        """Return a report of the newest inputs of a model, run through versions; 0 rows are all there are.

        Raises
        ------
        Refused
            If there is none, and why.
        """
        return await self._here(self._replay(model, versions, rows, self._settings.deadline_s))

    async def advice(
        self, model: str, current: str, target: str, rows: int = 0, s_max: float | None = None
    ) -> dict[str, Any]:
        """Say whether `target` is healthy on today's requests, compared with `current`. Never raises.

        Returns
        -------
        dict
            `model`, `current`, `target`, `at`, `healthy` (true, false, or null: not known), `reasons` (in
            words), and `report`, or null.
        """
        report: dict[str, Any] | None = None
        s_max = self._settings.deadline_s if s_max is None else s_max
        try:
            report = await self._here(self._replay(model, [current, target], rows, s_max))
            made = advise(report, current, target)
        except Refused as error:
            made = unknown(str(error))
        except Exception as error:  # A rollback must not fail for it.
            log.exception("event=no_advice model=%s", model)
            made = unknown(f"the replay broke off: {type(error).__name__}")
        said = {"model": model, "current": current, "target": target, "at": utc(self._now_us())}
        return {**said, **made.document(), "report": report}

    async def _here(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, done on the control's loop."""
        if self._loop is None:
            work.close()
            raise Refused("this control is not ready yet")
        if asyncio.get_running_loop() is self._loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def _replay(self, model: str, versions: list[str], rows: int, s_max: float) -> dict[str, Any]:
        chosen = self._choose(await self._look(model, versions), model, versions)
        most = self._settings.rows_max
        asked = {"model": model, "versions": versions, "rows": min(rows, most) if rows else most}
        said = await self._ask(chosen, s_max + SPARE_S, s_max=s_max, **asked)
        if said is None:
            raise Refused(f"{chosen.name}, which was to replay, is gone or does not answer; ask again")
        if said.get("error"):
            raise Refused(said["error"])
        return dict(said["report"])

    async def _look(self, model: str, versions: list[str]) -> dict[str, Document]:
        """Return what each replica keeps of a model."""
        assert self._roster is not None
        replicas = list(self._roster.replicas.values())
        if not replicas:
            raise Refused("no replica is there that could replay anything; wait until one is ready")
        asked = [self._ask(each, LOOK_S_MAX, model=model, versions=versions, rows=0) for each in replicas]
        heard = zip(replicas, await asyncio.gather(*asked), strict=True)
        return {each.name: said["report"] for each, said in heard if said is not None and said.get("report")}

    def _choose(self, there: Mapping[str, Document], model: str, versions: list[str]) -> Replica:
        """Return the replica that keeps most, of those that have all versions loaded."""
        assert self._roster is not None
        replicas = self._roster.replicas
        if not there:
            raise Refused(f"no replica says in time what {model} was asked; look at its log, and ask again")
        able = {
            name: each
            for name, each in there.items()
            if set(versions) <= {*each["versions"]} and name in replicas
        }
        if not able:
            loaded = {version for each in there.values() for version in each["versions"]}
            missing = ", ".join(each for each in versions if each not in loaded) or "all of them at once"
            raise Refused(
                f"version {missing} of {model} is loaded nowhere, and only what is loaded can be replayed; "
                f"loaded: {', '.join(sorted(loaded, key=int)) or 'none'}"
            )
        return replicas[max(able, key=lambda name: able[name]["rows"])]

    async def _ask(self, replica: Replica, wait_s: float, **asked: Any) -> Said | None:
        """Return what a replica answers; None if it does not in time, or is gone."""
        assert self._roster is not None
        key = (replica.name, next(self._roster.tasks))
        answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._awaited[key] = answer
        until_s = time.monotonic() + wait_s
        try:
            replica.line.say("replay", task=key[1], **asked)
            while not answer.done():
                left_s = until_s - time.monotonic()
                if left_s <= 0 or self._roster.replicas.get(replica.name) is not replica:
                    return None
                await asyncio.wait({answer}, timeout=min(left_s, POLL_S))
            return answer.result()
        finally:
            self._awaited.pop(key, None)
