"""How does the control judge drift without holding anybody up? In a thread of its own, second by second.

What replicas tell is only put aside on the control's event loop, which renews leases; counts supersede each
other, so what waits is bounded by the streams that there are. The thread takes all of it at once. People ask
it, too, from whichever loop: there is one thread, so nobody sees half a judgement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from router.change import Refused
from serving.alerts.posted import drift_signs, of_drift
from serving.alerts.retraining import Cause
from serving.aside import aside
from serving.config import Drift as Settings
from serving.control.roster import Replica, Roster
from serving.control.telling import Line, Said
from serving.drift.profile import InvalidProfile, Profile
from serving.drift.profile_json import from_json, to_json
from serving.drift.reading import Key
from serving.drift.store import Store

if TYPE_CHECKING:
    from router.entry import Entry
    from serving.alerts.alerts import Alerts
    from serving.control.control import Control
    from serving.drift.drift import Drift, Named, Ripe
    from serving.drift.harvest import Message
    from serving.drift.report import ProfileStanding, Report

log = logging.getLogger("turnout.inspection")
T = TypeVar("T")

EVALUATE_S = 1.0
"""How often streams are judged."""
SILENT_S = 1.0
"""How long a replica that is silent is waited for, to count by a new profile."""
ASK_AGAIN_S = 1.0
"""When a replica is asked again for rows that it could not write."""


@dataclass(slots=True)
class Look:
    """What the thread is to take in, and what it has to say in return."""

    told: Mapping[tuple[str, int], tuple[Key, Mapping[str, Any]]]
    connected: frozenset[str]
    digests: Mapping[Named, str]
    captures: list[Message] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    ripe: list[Ripe] = field(default_factory=list)


class Inspection:
    """The control's side of drift.

    Parameters
    ----------
    folder : Path
        The control's private folder; `NotPrivate` if what is in it is not.
    now_us : callable
        The time, in microseconds of Unix time.
    alerts : Alerts, optional
        Who is told when drift is detected and when it clears.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        alerts: Alerts | None = None,
    ) -> None:
        self._settings = settings
        self._now_us = now_us
        self._alerts = alerts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turnout-drift")
        self._store = Store(folder)
        self._drift: Drift
        """Once it is open; for the thread alone."""
        self._lines: dict[Named, bytes] = {}
        """What replicas are told of each profile. For the control's loop alone, as all of the following."""
        self._captures: dict[Named, Message] = {}
        self._told: dict[tuple[str, int], tuple[Key, Mapping[str, Any]]] = {}
        self._verdicts = b""
        self._judged: list[dict[str, Any]] = []
        self._roster: Roster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._judging: asyncio.Task[None] | None = None
        self._is_open = False
        self._building: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Inspection: {len(self._lines)} profiles, {len(self._told)} readings wait>"

    def start(self, control: Control) -> None:
        """Go on where the last control was, and judge. On the control's loop; it returns at once."""
        self._roster = control.roster
        self._loop = asyncio.get_running_loop()
        self._judging = self._loop.create_task(self._judge_for_ever())

    async def close(self) -> None:
        """Judge what was told, write everything down, and end."""
        judging, self._judging = self._judging, None
        for task in (judging, *self._building):
            if task is not None:
                task.cancel()
        if judging is not None and self._is_open:
            await self._do(self._judge, self._look())
            await self._do(lambda: self._drift.save(self._now_us(), at_once=True))
        self._thread.shutdown(wait=False)

    def greet(self, line: Line) -> None:
        """Tell a replica that has just connected what it has to know."""
        if not self._is_open:
            return  # All are told once it is.
        for message in self._lines.values():
            line.send(message)
        line.say("profiles", profiles={}, only=[list(named) for named in self._lines])
        for capture in self._captures.values():
            line.say("capture", **capture)
        if self._verdicts:
            line.send(self._verdicts)

    def note(self, entry: Entry) -> None:
        """Take no notice of changes of traffic: drift is each version's own."""

    def hear(self, replica: Replica, said: Said) -> None:
        """Put aside what a replica tells."""
        match said:
            case {"say": "drift", "told": told} if self._settings.enabled:
                for model, version, role, tensor, reading in told:
                    self._told[replica.name, reading["stream"]] = ((model, version, role, tensor), reading)
            case {"say": "profiled", "task": task}:
                replica.tasks[task] = {}
            case {"say": "captured", "into": into, "error": error} if error and self._loop is not None:
                log.info("event=not_captured replica=%s reason=%r", replica.name, error)
                self._loop.call_later(ASK_AGAIN_S, self._ask_again, replica.line, into)

    def _ask_again(self, line: Line, into: str) -> None:
        """Ask a replica again whose streams ended meanwhile: it has others."""
        for capture in self._captures.values():
            if capture["into"] == into:
                line.say("capture", **capture)

    async def report(self, model: str, version: str = "") -> Report:
        """Return all about the drift of a model, or of one of its versions. From any event loop."""
        return await self._do(self._statement, model, version)

    async def profile(self, model: str, version: str, *, whole: bool = False) -> ProfileStanding:
        """Return which profile counts for a version. From any event loop."""
        return await self._do(lambda: self._standing(model, version, whole=whole))

    async def put(self, model: str, version: str, content: bytes) -> ProfileStanding:
        """Let a profile count that is written in JSON, and return which does. From any loop.

        What a replica answers from then on is counted by it, unless the replica was silent meanwhile.

        Raises
        ------
        InvalidProfile
            If it is none.
        Refused
            If it is of another version, or of other files than those that are served.
        """
        await self._caught_up()
        standing = await self._do(self._put, model, version, content, self._digests())
        await self._arrival()
        return standing

    async def drop(self, model: str, version: str) -> ProfileStanding:
        """Let no profile count, make none of live requests any more, and return which does: none."""
        await self._caught_up()
        standing = await self._do(self._drop, model, version)
        await self._arrival()
        return standing

    async def freeze(self, model: str, version: str, rows: int) -> ProfileStanding:
        """Begin to make a profile of live requests, and return how far it is. From any event loop.

        Raises
        ------
        Refused
            If there is nothing to make it of, or no room for so much.
        """
        return await self._do(self._freeze, model, version, rows, self._digests())

    def says(self, model: str) -> dict[str, dict[str, Any]]:
        """Return what was judged last of the versions that have a profile. On the control's loop."""
        said: dict[str, dict[str, Any]] = {}
        for each in self._judged:
            if each["model"] == model:
                of = said.setdefault(each["version"], {"word": "no drift", "tensors": [], "psi_max": 0.0})
                of["psi_max"] = max(of["psi_max"], each["psi_max"])
                if each["detected"]:
                    of["word"] = "drift"
                    of["tensors"].append(each["tensor"])
        return said

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns, called in the thread that has everything."""
        return await asyncio.wrap_future(self._thread.submit(work, *args))

    async def _judge_for_ever(self) -> None:
        try:
            self._lines, self._captures = await self._do(self._open)
        except Exception:  # Traffic is not to suffer from it.
            log.exception("event=drift_not_begun")
            return
        self._is_open = True
        for replica in list(self._roster.replicas.values()) if self._roster is not None else ():
            self.greet(replica.line)
        while self._settings.enabled:
            await asyncio.sleep(EVALUATE_S)
            try:
                self._tell(await self._do(self._judge, self._look()))
            except Exception:  # Else nothing would be judged any more.
                log.exception("event=drift_not_judged")

    def _open(self) -> tuple[dict[Named, bytes], dict[Named, Message]]:
        """Read what the last control left, and return what replicas are to be told. In the thread."""
        from serving.drift.drift import Drift  # 35 ms, which no start waits for here.

        drift = self._drift = Drift(self._store, self._settings, EVALUATE_S, self._now_us())
        lines = {named: profile_message(named, each) for named, each in drift.profiles.items()}
        return lines, {named: each.ask() for named, each in drift.harvests.items()}

    def _look(self) -> Look:
        """Return what there is to take in since the last time."""
        told, self._told = self._told, {}
        connected = frozenset(self._roster.replicas) if self._roster is not None else frozenset()
        return Look(told, connected, self._digests())

    def _digests(self) -> dict[Named, str]:
        """Return the digests of all versions that are loaded now. Any thread may call it."""
        replicas = list(self._roster.replicas.values()) if self._roster is not None else []
        return {
            (model, version): digest
            for each in replicas
            for model, versions in each.digests.items()
            for version, digest in versions.items()
        }

    def _judge(self, look: Look) -> Look:
        """Do a second's work. In the thread."""
        now_us = self._now_us()
        self._drift.know(look.digests)
        self._drift.note(look.told, now_us)
        found = self._drift.evaluate(look.connected, now_us)
        look.verdicts = self._drift.verdicts()
        if self._alerts is not None:
            for event in found:
                self._alerts.post(of_drift(event))
            self._alerts.see(Cause.DRIFT, drift_signs(look.verdicts))
        self._drift.save(now_us)
        look.captures = self._drift.look_after_harvests(now_us)
        look.ripe = self._drift.ripe()
        return look

    def _tell(self, look: Look) -> None:
        """Tell replicas what came of it."""
        self._judged = look.verdicts
        verdicts = orjson.dumps({"say": "drift", "verdicts": look.verdicts}) + b"\n"
        if verdicts != self._verdicts:
            self._verdicts = verdicts
            self._send(verdicts)
        self._say_captures(look.captures)
        for ripe in look.ripe:
            task = asyncio.get_running_loop().create_task(self._build(ripe))
            self._building.add(task)
            task.add_done_callback(self._building.discard)

    async def _build(self, ripe: Ripe) -> None:
        """Make a profile of live requests, and let it count."""
        terms = ripe.harvest.terms
        try:
            profile = await aside(ripe.build, self._now_us())
            await self._do(self._keep, profile)
        except (ValueError, OSError, Refused) as error:
            log.error("event=not_frozen version=%s@%s reason=%r", terms.model, terms.version, str(error))
            await self._do(self._end_harvest, (terms.model, terms.version))

    def _statement(self, model: str, version: str) -> Report:
        from serving.drift.statement import statement

        return statement(self._drift, model, self._now_us(), version)

    def _standing(self, model: str, version: str, *, whole: bool = False) -> ProfileStanding:
        from serving.drift.statement import standing

        return standing(self._drift, model, version, whole=whole)

    def _put(self, model: str, version: str, content: bytes, digests: Mapping[Named, str]) -> ProfileStanding:
        try:
            document = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise InvalidProfile(f"the body is no JSON: {error}") from None
        profile = from_json(document)
        if (profile.model, profile.version) != (model, version):
            raise Refused(f"the profile is of {profile.model}@{profile.version}, not of {model}@{version}")
        self._drift.know(digests)
        self._keep(profile)
        return self._standing(model, version)

    def _keep(self, profile: Profile) -> None:
        named = (profile.model, profile.version)
        digest = self._drift.digests.get(named, "")
        if not self._drift.is_of(profile, digest):
            raise Refused(
                f"the profile is of other files: digest {profile.digest[:12]}, and {'@'.join(named)} that is "
                f"served has {digest[:12]}; make one anew: turnout profile {'@'.join(named)} --from FILE"
            )
        self._drift.put(profile, self._now_us())
        self._end_harvest(named)
        self._from_thread(self._say_profile, named, profile_message(named, profile))

    def _drop(self, model: str, version: str) -> ProfileStanding:
        named = (model, version)
        self._drift.drop(model, version, self._now_us())
        self._end_harvest(named)
        self._from_thread(self._say_profile, named, None)
        return self._standing(model, version)

    def _freeze(self, model: str, version: str, rows: int, digests: Mapping[Named, str]) -> ProfileStanding:
        from serving.drift.harvest import Terms

        self._drift.know(digests)
        self._from_thread(self._say_captures, self._drift.freeze(Terms(model, version, rows)))
        return self._standing(model, version)

    async def _caught_up(self) -> None:
        """Note what was told until now: it was counted by the profile that counts yet. From any loop.

        A moment later the same profile may have been dropped and put again, and these rows are not for it.
        """
        if self._loop is not None and self._is_open:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._catch_up(), self._loop))

    async def _catch_up(self) -> None:
        look = self._look()
        await self._do(lambda: self._drift.note(look.told, self._now_us()))

    async def _arrival(self) -> None:
        """Wait until replicas count by what they were told, but for one that is silent. From any loop."""
        if self._loop is not None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._arrive(), self._loop))

    async def _arrive(self) -> None:
        if self._roster is None or not self._roster.replicas:
            return
        task, names = next(self._roster.tasks), list(self._roster.replicas)
        self._send(orjson.dumps({"say": "profiles", "profiles": {}, "task": task}) + b"\n")
        await self._roster.answered(names, lambda each: task in each.tasks, SILENT_S)
        for replica in self._roster.replicas.values():
            replica.tasks.pop(task, None)

    def _end_harvest(self, named: Named) -> None:
        self._from_thread(self._say_captures, self._drift.end_harvest(named))

    def _from_thread(self, work: Callable[..., None], *args: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *args)

    def _say_profile(self, named: Named, message: bytes | None) -> None:
        self._lines.pop(named, None)
        if message is not None:
            self._lines[named] = message
        self._send(message if message is not None else profile_message(named, None))

    def _say_captures(self, messages: list[Message]) -> None:
        for message in messages:
            named = (message["model"], message["version"])
            self._captures.pop(named, None)
            if message["rows"]:
                self._captures[named] = message
            self._send(orjson.dumps({"say": "capture", **message}) + b"\n")

    def _send(self, message: bytes) -> None:
        if self._roster is not None:
            self._roster.send(message)


def profile_message(named: Named, profile: Profile | None) -> bytes:
    """Write what replicas are told of a version's profile."""
    model, version = named
    document = to_json(profile) if profile is not None else None
    return orjson.dumps({"say": "profiles", "profiles": {model: {version: document}}}) + b"\n"
