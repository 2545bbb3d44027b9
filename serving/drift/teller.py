"""What does a replica tell the control of what it counted, and what does it do that the control asks for?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson

from serving.aside import aside
from serving.drift.freeze import Captured
from serving.drift.profile import Profile
from serving.drift.profile_json import from_json
from serving.drift.reading import Key, Verdict
from serving.drift.watch import Named, Watch

if TYPE_CHECKING:
    from serving.control.telling import Line, Said

TOLD_TOGETHER = 16
"""Streams in one message, which must not get too long."""

log = logging.getLogger("turnout.drift")


class Teller:
    """A link's part that is about drift. On the engine's event loop; what takes long is done beside it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._told: dict[int, tuple[int, int]] = {}
        self._telling = asyncio.Lock()
        self._hearing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turnout-teller")
        self.profiles: dict[Named, Profile] = {}
        """Those that count here."""
        self.verdicts: Mapping[Key, Verdict] = {}
        """What the control said last of the streams of all replicas."""

    def begin(self) -> None:
        """Note that whoever listens now was told nothing."""
        self._told = {}

    async def tell(self, line: Line) -> None:
        """Say what was counted since it was told the last time."""
        if not self._watch.enabled:
            return
        async with self._telling:
            loop = asyncio.get_running_loop()
            # Not `aside`: that thread waits for a busy loop's core, with the interpreter in hand.
            for message in await loop.run_in_executor(self._thread, self._messages, self._told):
                line.send(message)

    def close(self) -> None:
        """Tell nothing any more."""
        self._thread.shutdown(wait=False)

    def _messages(self, told: dict[int, tuple[int, int]]) -> list[bytes]:
        news = self._watch.flows.news(told)
        parts = [news[at : at + TOLD_TOGETHER] for at in range(0, len(news), TOLD_TOGETHER)]
        return [orjson.dumps({"say": "drift", "told": part}) + b"\n" for part in parts]

    async def hear(self, line: Line, said: Said) -> None:
        """Do what the control says, if it is about drift."""
        match said:
            case {"say": "profiles", "profiles": profiles, **rest}:
                async with self._hearing:  # In the order in which they came.
                    self._follow(await aside(_read, profiles), rest.get("only"))
                    if "task" in rest:
                        line.say("profiled", task=rest["task"])
            case {"say": "drift", "verdicts": verdicts}:
                self.verdicts = {_key(each): Verdict.from_json(each) for each in verdicts}
            case {"say": "capture", "model": model, "version": version, "rows": rows, "into": into}:

                def captured(what: Captured) -> None:
                    line.say("captured", into=into, error=what.error, files=what.files)

                self._watch.capture(model, version, rows, into, captured)

    def _follow(self, read: Mapping[Named, Profile | None], only: list[list[str]] | None) -> None:
        merged = {**self.profiles, **read}
        counting = {(model, version) for model, version in only} if only is not None else merged.keys()
        self.profiles = {
            named: profile for named, profile in merged.items() if profile is not None and named in counting
        }
        self._watch.follow_profiles(self.profiles)


def _key(verdict: Mapping[str, Any]) -> Key:
    return verdict["model"], verdict["version"], verdict["role"], verdict["tensor"]


def _read(told: Mapping[str, Mapping[str, Any]]) -> dict[Named, Profile | None]:
    """Read profiles; one that is not understood is as none."""
    profiles: dict[Named, Profile | None] = {}
    for model, versions in told.items():
        for version, document in versions.items():
            profiles[model, version] = None
            try:
                if document is not None:
                    profiles[model, version] = from_json(document)
            except (ValueError, TypeError, KeyError) as error:
                log.error("version=%s@%s event=profile_not_understood reason=%r", model, version, str(error))
    return profiles
