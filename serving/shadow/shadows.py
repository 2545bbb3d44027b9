"""Which shadows run in this process, and which versions' batches does each of them see?"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from router.table import RoutingTable
from serving.config import Shadow as Settings
from serving.drift.outlet import Outlets
from serving.drift.view import Look
from serving.model import ModelSpec
from serving.shadow.comparison import ShadowReading
from serving.track import Tap

if TYPE_CHECKING:
    from serving.labels.echo import Echo
    from serving.servable import Servable
    from serving.shadow.shadow import Shadow

Key = tuple[str, str]
"""Model, and the version that shadows."""
ENDED_MAX = 256
"""Shadows that ended whose counts are kept; the oldest goes first."""


class Counted(Protocol):
    """Whoever counts what shadows take and give, and therefore wants their rows."""

    def looks(self, spec: ModelSpec) -> tuple[Look, ...]:
        """Return which tensors it wants, and how."""

    def outlets(self, spec: ModelSpec) -> Outlets:
        """Return where a shadow's process is to write them."""

    def release(self, outlets: Outlets) -> None:
        """Note that the process is gone."""


class Labelled(Protocol):
    """Whoever has labels, and therefore wants to know what shadows decided."""

    def echo(self, spec: ModelSpec) -> Echo | None:
        """Return where a shadow's process is to write that, if anywhere."""

    def release(self, echo: Echo) -> None:
        """Note that the process is gone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A shadow as the routing table has it. `noise` is a version that shadows itself."""

    spec: ModelSpec
    share_bp: int
    noise: bool
    looks: tuple[Look, ...] = ()


class Shadows:
    """The shadows of all models. On the engine's event loop.

    Parameters
    ----------
    settings : serving.config.Shadow
    counted : Counted, optional
    labelled : Labelled, optional
    """

    def __init__(
        self, settings: Settings, counted: Counted | None = None, labelled: Labelled | None = None
    ) -> None:
        self._settings = settings
        self._counted = counted
        self._labelled = labelled
        self._running: dict[Key, tuple[Wanted, Shadow]] = {}
        self._ended: dict[Key, ShadowReading] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Shadows {' '.join(f'{model}@{version}' for model, version in self._running) or 'none'}>"

    def follow(self, table: RoutingTable, servables: Mapping[str, Mapping[str, Servable]]) -> None:
        """Run the shadows that the table has, of what is loaded, and no others."""
        wanted = {key: self._looked_at(each) for key, each in _wanted(table, servables)}
        for key, (as_it_is, shadow) in list(self._running.items()):
            if wanted.get(key) != as_it_is:
                del self._running[key]
                self._do(self._end(key, shadow))
        for key, each in wanted.items():
            if key not in self._running:
                self._begin(key, each)
        for model, versions in servables.items():
            shadows = [shadow for (of, _), (_, shadow) in self._running.items() if of == model]
            for servable in versions.values():
                for shadow in shadows:
                    shadow.introduce(servable.spec)

    def taps(self, model: str, version: str) -> list[Tap]:
        """Return what the lane of a version is to show its batches to."""
        shadows = [shadow for (of, _), (_, shadow) in self._running.items() if of == model]
        return [partial(shadow.tap, primary_version=version) for shadow in shadows]

    async def close(self) -> None:
        """End them all; returns when their processes are gone."""
        for key, (_, shadow) in self._running.items():
            self._do(self._end(key, shadow))
        self._running.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def readings(self) -> dict[Key, ShadowReading]:
        """Return what was compared until now, by shadows that ended as well. Any thread may call it."""
        readings = dict(self._ended)
        for key, (_, shadow) in list(self._running.items()):
            now = shadow.reading()
            readings[key] = readings[key] + now if key in readings else now
        return readings

    def _begin(self, key: Key, wanted: Wanted) -> None:
        from serving.shadow.shadow import Shadow

        outlets = self._counted.outlets(wanted.spec) if self._counted is not None else None
        echo = self._labelled.echo(wanted.spec) if self._labelled is not None else None
        shadow = Shadow(
            wanted.spec, wanted.share_bp, self._settings, noise=wanted.noise, outlets=outlets, echo=echo
        )
        self._running[key] = (wanted, shadow)
        self._do(shadow.start())

    async def _end(self, key: Key, shadow: Shadow) -> None:
        await shadow.close()
        if self._counted is not None and shadow.outlets is not None:
            self._counted.release(shadow.outlets)
        if self._labelled is not None and shadow.echo is not None:
            self._labelled.release(shadow.echo)
        last = shadow.reading()
        self._ended[key] = self._ended.pop(key) + last if key in self._ended else last
        if len(self._ended) > ENDED_MAX:
            del self._ended[next(iter(self._ended))]

    def _looked_at(self, wanted: Wanted) -> Wanted:
        looks = self._counted.looks(wanted.spec) if self._counted is not None else ()
        return replace(wanted, looks=looks)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _wanted(table: RoutingTable, servables: Mapping[str, Mapping[str, Servable]]) -> list[tuple[Key, Wanted]]:
    found = []
    for model, route in table.routes.items():
        live = {share.version for share in route.shares if share.weight_bp}
        for shadow in route.shadows:
            servable = servables.get(model, {}).get(shadow.version)
            if servable is not None:
                wanted = Wanted(servable.spec, shadow.share_bp, shadow.version in live)
                found.append(((model, shadow.version), wanted))
    return found
