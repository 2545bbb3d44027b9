"""What does a replica do when it is asked to replay? It takes what it was asked lately, and has it run.

On the engine's event loop; what takes long is done beside it, one replay at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serving.aside import aside
from serving.config import Config
from serving.drift.profile import Profile
from serving.model import ModelSpec
from serving.replay import report
from serving.replay.captures import Captures
from serving.replay.process import Stopped, Unreplayable
from serving.replay.truths import Truths
from serving.replay.work import Named, Work

if TYPE_CHECKING:
    from serving.control.telling import Line, Said

log = logging.getLogger("turnout.replay")

VERSIONS_MAX = 8
WAITING_MAX = 8
"""Replays that wait for the one under way."""


class Replays:
    """The replays of one replica.

    Parameters
    ----------
    captures : Captures
    config : Config
    name : str
        The replica's, for reports.
    profiles : callable
        Returns the profile of each version that has one.
    """

    def __init__(
        self,
        captures: Captures,
        config: Config,
        name: str,
        profiles: Callable[[], Mapping[Named, Profile]] = dict,
    ) -> None:
        self._captures, self._config, self._name = captures, config, name
        self._profiles, self._truths = profiles, Truths()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._stops: set[int] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Replays of {self._name}: {len(self._stops)} under way, {self._waiting} waiting>"

    async def hear(self, line: Line, said: Said) -> None:
        """Do what the control asks for, and tell it what came of it; with 0 rows only what there is."""
        match said:
            case {"say": "labels", "model": model, "labels": labels}:
                self._truths.note(model, labels)
            case {"say": "replay", "task": task, "model": model, "versions": versions, "rows": rows, **rest}:
                try:
                    if rows:
                        s_max = float(rest.get("s_max", self._config.replay.deadline_s))
                        document: Mapping[str, Any] = await self.replay(model, versions, rows, s_max)
                    else:
                        document = self.standing(model)
                    line.say("replayed", task=task, report=document)
                except Unreplayable as error:
                    line.say("replayed", task=task, error=str(error))
                except Exception as error:
                    log.exception("event=replay_broke model=%s", model)
                    line.say("replayed", task=task, error=f"it broke off: {type(error).__name__}")

    def standing(self, model: str) -> report.Standing:
        """Return what is kept of a model here."""
        kept = self._captures.standing(model)
        return {
            "replica": self._name,
            "rows": kept.units,
            "nbytes": kept.nbytes,
            "taken": kept.taken,
            "pushed_out": kept.pushed_out,
            "passed": kept.passed,
            "versions": sorted(self._captures.specs(model), key=int),
        }

    async def replay(self, model: str, versions: Sequence[str], rows: int, s_max: float) -> report.Report:
        """Run the newest inputs of a model through versions that are loaded.

        Raises
        ------
        Unreplayable
            If there is no report, and why.
        """
        until_s = time.monotonic() + s_max
        if self._waiting >= WAITING_MAX:
            raise Unreplayable(f"{self._waiting} replays wait here already; try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + s_max):
                await self._turn.acquire()
        except TimeoutError:
            raise Unreplayable("others were replayed all the time; try again later") from None
        finally:
            self._waiting -= 1
        try:
            return await self._replay(model, versions, rows, until_s)
        finally:
            self._turn.release()

    async def _replay(self, model: str, versions: Sequence[str], rows: int, until_s: float) -> report.Report:
        if self._closed:
            raise Unreplayable("this replica is ending")
        specs = self._specs(model, versions)
        blocks = self._captures.newest(model, rows)
        if not blocks:
            raise Unreplayable(self._nothing(model))
        profiles = self._profiles()
        work = Work(self._config, self._name, model, specs, blocks, profiles, self._truths.of(model), until_s)
        stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._stops.add(stop)
        # Its thread must last as long as the process, and ends it at once when it is told to.
        doing = asyncio.ensure_future(aside(work.do, stop))
        try:
            return await asyncio.shield(doing)
        except Stopped:
            raise Unreplayable("this replica is ending") from None
        finally:
            os.eventfd_write(stop, 1)
            await asyncio.wait({doing})
            doing.exception()  # Else it is complained of, where nobody waits for it any more.
            self._stops.discard(stop)
            os.close(stop)

    def _specs(self, model: str, versions: Sequence[str]) -> list[ModelSpec]:
        there = self._captures.specs(model)
        if not there:
            raise Unreplayable(f"no version of {model!r} is loaded")
        if not versions or len(set(versions)) < len(versions) or len(versions) > VERSIONS_MAX:
            raise Unreplayable(
                f"1 to {VERSIONS_MAX} different versions can be replayed, not {list(versions)}"
            )
        missing = [each for each in versions if each not in there]
        if missing:
            loaded = ", ".join(sorted(there, key=int))
            raise Unreplayable(f"version {', '.join(missing)} of {model} is not loaded; loaded: {loaded}")
        return [there[each] for each in versions]

    def _nothing(self, model: str) -> str:
        if not self._config.replay.enabled:
            return "nothing is kept of what was asked: replay.enabled is false"
        return f"{model} was asked nothing yet that could be replayed"

    def begin(self) -> None:
        """Do nothing: whoever listens asks for what it wants to know."""

    async def tell(self, line: Line) -> None:
        """Say nothing that nobody asked for."""

    def close(self) -> None:
        """End what is under way, and begin nothing any more. Its process is gone a moment later."""
        self._closed = True
        for stop in self._stops:
            os.eventfd_write(stop, 1)
