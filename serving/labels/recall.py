"""What does a replica remember of the answers that it gave, and what have labels said of them?

The event loop only keeps batches (`serving.labels.intake`). One thread does the rest, in turn: it takes them
into the tables, joins labels, and adds up; so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from serving.config import Deciding
from serving.config import Labels as Settings
from serving.labels.decision import Undecided, decision
from serving.labels.echo import Echo
from serving.labels.intake import Intake
from serving.labels.joining import LIVE, SHADOW, Joined, Outcome, Sought, join
from serving.labels.label import Label
from serving.labels.pairs import Between, Pairs
from serving.labels.quality import Quality, Seen
from serving.labels.reading import Key, LabelsReading, LossReading
from serving.labels.tables import Tables
from serving.model import ModelSpec
from serving.track import Tap

if TYPE_CHECKING:
    from serving.servable import Servable

POLL_S = 0.05
"""How often batches are taken in."""
PAUSE_S = 0.0002
"""How long the thread steps aside between two portions, so that the event loop gets the interpreter."""
LEAVING_S = 120.0
"""How long a version that answers no more is still listened to: its last requests are under way."""
LEAVING_MAX = 64
"""Such versions at once; the first of more is listened to no longer."""
EPOCHS_MAX = 64
NAME_CHARACTERS_MAX = 80
"""Of the name of a class, as the control is told of it."""
KEYS_MAX = 1024
"""Versions of which counts are kept that are not loaded any more; the oldest go first."""

Named = tuple[str, str]
"""Model and version."""
T = TypeVar("T")

log = logging.getLogger("turnout.labels")


class Recall:
    """The answers of one replica. On the engine's event loop.

    Parameters
    ----------
    settings : serving.config.Labels
    now_us : callable
        The time, in microseconds of Unix time.
    """

    def __init__(
        self, settings: Settings, now_us: Callable[[], int] = lambda: time.time_ns() // 1000
    ) -> None:
        self._settings = settings
        self._now_us = now_us
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="turnout-labels")
        self._intakes: dict[Named, Intake] = {}
        self._leaving: list[tuple[float, Intake]] = []
        self._echoes: list[Echo] = []
        self._why_not: dict[Named, str] = {}
        self._before: dict[Key, Seen] = {}
        """What was counted by what is gone."""
        self._epochs: dict[str, list[int]] = {}
        self._sweeping: asyncio.Task[None] | None = None
        # For the thread alone, but that anybody may read single entries.
        self.tables = Tables(settings)
        self.quality: dict[Key, Quality] = {}
        self.pairs: dict[Between, Pairs] = {}

    def __repr__(self) -> str:
        return f"<Recall: {len(self._intakes)} versions, {self.tables!r}>"

    @property
    def enabled(self) -> bool:
        """Whether anything is remembered at all."""
        return self._settings.enabled

    def start(self) -> None:
        """Begin to remember."""
        if self.enabled and self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def close(self) -> None:
        """Take in what was answered, and remember nothing any more. What was counted can still be read."""
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            self._fold()
            await self._do(self._take_all, self._now_us())
        self._thread.shutdown(wait=False)

    def follow(self, servables: Mapping[str, Mapping[str, Servable]], epochs: Mapping[str, int]) -> None:
        """Remember what these versions answer, and no others.

        Parameters
        ----------
        epochs : mapping
            By model, the revision that gave it its route.
        """
        for model, epoch in epochs.items():
            known = self._epochs.setdefault(model, [])
            if epoch not in known:
                known[:] = sorted([*known, epoch])[-EPOCHS_MAX:]
        if self._sweeping is None:
            return
        wanted = {
            (model, version): each.spec for model, many in servables.items() for version, each in many.items()
        }
        for named, intake in list(self._intakes.items()):
            if wanted.get(named) != intake.spec:
                del self._intakes[named]
                self._leaving.append((time.monotonic() + LEAVING_S, intake))
        self._why_not = {named: why for named, why in self._why_not.items() if named in wanted}
        for named, spec in wanted.items():
            if named not in self._intakes:
                self._begin(named, spec)

    def _begin(self, named: Named, spec: ModelSpec) -> None:
        chosen = self._settings.models.get(named[0], Deciding())
        try:
            self._intakes[named] = Intake(spec, decision(spec, chosen), self._now_us)
            self._why_not.pop(named, None)
        except Undecided as undecided:
            if self._why_not.get(named) != str(undecided):
                log.info("version=%s event=answers_not_remembered reason=%r", spec, str(undecided))
            self._why_not[named] = str(undecided)

    def taps(self, model: str, version: str) -> list[Tap]:
        """Return what the lanes of a version are to show their batches to."""
        intake = self._intakes.get((model, version))
        return [intake.tap] if intake is not None else []

    def echo(self, spec: ModelSpec) -> Echo | None:
        """Return where a shadow's process is to write what it decided; None if that is not remembered."""
        if self._sweeping is None:
            return None
        try:
            echo = Echo(spec, decision(spec, self._settings.models.get(spec.artifact.model, Deciding())))
        except (Undecided, OSError) as error:
            log.warning("version=%s event=shadow_not_remembered reason=%r", spec, str(error))
            return None
        self._echoes.append(echo)
        return echo

    def release(self, echo: Echo) -> None:
        """Take in the last of what a shadow decided: its process is gone."""
        if self._sweeping is not None:
            self._thread.submit(self._end_echo, echo)

    async def join(self, model: str, labels: Sequence[Label]) -> Joined:
        """Join labels to what is remembered, and count them."""
        if self._sweeping is None:
            return Joined([Outcome.UNMATCHED] * len(labels))
        self._fold()
        return await self._do(self._join, model, labels, self._now_us())

    def seen(self) -> dict[Key, Seen]:
        """Return how much each version answered here. Any thread may ask."""
        found = dict(self._before)
        here = [
            ((*_named(each.spec), LIVE), _seen(each)) for each in [*self._intakes.values(), *self._left()]
        ]
        here += [
            ((*_named(echo.spec), SHADOW), Seen(echo.answered, 0, echo.lost)) for echo in list(self._echoes)
        ]
        for key, seen in here:
            found[key] = found.get(key, Seen()) + seen
        for named, reason in list(self._why_not.items()):
            found[*named, LIVE] = found.get((*named, LIVE), Seen()) + Seen(why_not=reason)
        return found

    def reading(self, losses: Mapping[Key, LossReading]) -> LabelsReading:
        """Return what metrics say, with the control's `losses`. Any thread may call it."""
        return LabelsReading(
            self.seen(), dict(self.quality), self.tables.rows, self.tables.bytes_total, losses
        )

    def names(self) -> dict[Named, tuple[str, ...]]:
        """Return what the classes of each version are called, as far as they are told apart."""
        most = self._settings.classes_max
        return {
            named: tuple(name[:NAME_CHARACTERS_MAX] for name in intake.decision.names[:most])
            for named, intake in self._intakes.items()
        }

    async def _do(self, work: Callable[..., T], *args: Any) -> T:
        """Return what `work` returns, called in the thread that has everything."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                now_us = self._now_us()
                self._fold()
                waiting = any([intake.waiting for intake in [*self._intakes.values(), *self._left()]])
                if waiting or self._echoes or self.tables.is_time(now_us):
                    await self._do(self._take_all, now_us)
                self._end_leaving()
            except Exception:  # Else nothing would be remembered any more.
                log.exception("event=answers_not_taken")

    def _fold(self) -> None:
        for intake in (*self._intakes.values(), *self._left()):
            intake.fold()

    def _left(self) -> list[Intake]:
        return [intake for _, intake in list(self._leaving)]

    def _end_leaving(self) -> None:
        now_s, over = time.monotonic(), len(self._leaving) - LEAVING_MAX
        ended = [
            each
            for at, each in enumerate(self._leaving)
            if each[0] < now_s or (at < over and not each[1].waiting)
        ]
        for until_s, intake in ended:
            self._leaving.remove((until_s, intake))
            self._keep_seen((*_named(intake.spec), LIVE), _seen(intake))

    def _keep_seen(self, key: Key, seen: Seen) -> None:
        """Keep what was counted by what is gone."""
        self._before[key] = self._before.get(key, Seen()) + seen
        if len(self._before) > KEYS_MAX:
            del self._before[next(iter(self._before))]

    def _take_all(self, now_us: int) -> None:
        """Take in what was answered. In the thread, as all that follows."""
        for intake in [*list(self._intakes.values()), *self._left()]:
            while intake.waiting:
                for rows in intake.take(now_us):
                    self.tables.remember(intake.spec.artifact.model, rows)
                time.sleep(PAUSE_S)
        for echo in list(self._echoes):
            self._take_echo(echo, now_us)
        if self.tables.is_time(now_us):
            self.tables.forget(now_us)

    def _take_echo(self, echo: Echo, now_us: int) -> None:
        for rows in echo.take(now_us):
            model, version = _named(echo.spec)
            self.tables.remember(model, rows, version)

    def _end_echo(self, echo: Echo) -> None:
        now_us = self._now_us()
        self._take_echo(echo, now_us)
        self._take_echo(echo, now_us)  # What was there at the first look.
        self._echoes.remove(echo)
        self._keep_seen((*_named(echo.spec), SHADOW), Seen(echo.answered, 0, echo.lost))
        echo.close()

    def _join(self, model: str, labels: Sequence[Label], now_us: int) -> Joined:
        self._take_all(now_us)
        sought, most = Sought(labels), self._settings.classes_max
        joined = join(sought, self.tables.live(model), now_us, most)
        self._add(model, joined)
        for table in self.tables.shadows(model):
            shadowed = join(sought, table, now_us, most)
            self._add(model, shadowed)
            self._pair(model, labels, joined, shadowed)
            joined.losses |= shadowed.losses
            joined.distances |= shadowed.distances
        return joined

    def _add(self, model: str, joined: Joined) -> None:
        for (version, role), quality in joined.quality.items():
            key = (model, version, role)
            self.quality[key] = self.quality.get(key, Quality()) + quality
        while len(self.quality) > KEYS_MAX:
            gone = (key for key in self.quality if key[:2] not in self._intakes)
            del self.quality[next(gone, next(iter(self.quality)))]

    def _pair(self, model: str, labels: Sequence[Label], joined: Joined, shadowed: Joined) -> None:
        """Compare what a shadow made of labelled requests with the answers; of several rows by the first."""
        for at in shadowed.right.keys() & joined.right.keys():
            if labels[at].row > 0:
                continue
            (mark, right), (shadow, shadow_right) = joined.right[at], shadowed.right[at]
            between = Between(model, self._epoch(model, mark.revision), mark.version, shadow.version)
            self.pairs[between] = self.pairs.get(between, Pairs()) + Pairs.of(right, shadow_right)
        while len(self.pairs) > KEYS_MAX:
            del self.pairs[next(iter(self.pairs))]

    def _epoch(self, model: str, revision: int) -> int:
        """Return the revision that gave the model the route which it had at `revision`."""
        known = list(self._epochs.get(model, ()))
        at = bisect_right(known, revision)
        return known[at - 1] if at else revision


def _named(spec: ModelSpec) -> Named:
    return spec.artifact.model, str(spec.artifact.version)


def _seen(intake: Intake) -> Seen:
    return Seen(intake.answered, intake.unnamed, intake.misfits + intake.full)
