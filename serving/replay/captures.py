"""What were all models of this process asked lately? On the engine's event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from serving.config import Replay as Settings
from serving.model import ModelSpec
from serving.replay.block import Block
from serving.replay.capture import Capture, Scoop
from serving.track import Tap

if TYPE_CHECKING:
    from serving.servable import Servable

log = logging.getLogger("turnout.replay")

SWEEP_S = 0.2
"""How long a batch is held at most, and how long a model's pace counts."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is kept of a model, in numbers."""

    units: int
    nbytes: int
    taken: int
    pushed_out: int
    passed: int


class Captures:
    """The newest inputs of each model, whichever of its versions answered.

    Of each model a hundred batches are taken in each fifth of a second, and the rest passes by: so of a quiet
    model everything is kept, and of a busy one a part that does not depend on what was asked.

    Parameters
    ----------
    settings : serving.config.Replay
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._captures: dict[str, Capture] = {}
        self._scoops: dict[str, dict[str, Scoop]] = {}
        self._specs: dict[str, dict[str, ModelSpec]] = {}
        self._stirred: list[str] = []
        """Models of which something was taken in this period."""
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        kept = sum(each.nbytes for each in self._captures.values())
        return f"<Captures: {len(self._captures)} models, {kept} bytes>"

    def follow(self, servables: Mapping[str, Mapping[str, Servable]]) -> None:
        """Take what these versions answer, and forget what models were asked of which none is left."""
        self._specs = {
            model: {version: each.spec for version, each in versions.items()}
            for model, versions in servables.items()
        }
        if not self._settings.enabled or self._closed:
            return
        for model in self._captures.keys() - servables.keys():
            for scoop in self._scoops.pop(model).values():
                scoop.close()
            del self._captures[model]
        bytes_max = self._bytes_max(len(servables))
        for model, versions in self._specs.items():
            if model not in self._captures:
                self._captures[model] = Capture(bytes_max, self._settings.rows_max)
            elif self._captures[model].bytes_max != bytes_max:
                self._captures[model].limit(bytes_max)
            self._follow_versions(model, versions)

    def _bytes_max(self, models: int) -> int:
        return min(self._settings.bytes_max, self._settings.total_bytes_max // max(models, 1))

    def _follow_versions(self, model: str, versions: Mapping[str, ModelSpec]) -> None:
        before = self._scoops.get(model, {})
        capture, wake = self._captures[model], partial(self._stir, model)
        scoops = self._scoops[model] = {}
        for version, spec in versions.items():
            known = before.pop(version, None)
            if known is not None and _taken_alike(known.spec, spec):
                scoops[version] = known
            else:
                scoops[version] = Scoop(spec, capture, wake)
                if known is not None:
                    known.close()
        for gone in before.values():
            gone.close()

    def taps(self, model: str, version: str) -> list[Tap]:
        """Return what the lane of a version is to show its batches to."""
        scoop = self._scoops.get(model, {}).get(version)
        return [scoop.tap] if scoop is not None else []

    def specs(self, model: str) -> Mapping[str, ModelSpec]:
        """Return the versions of a model that answer; none if there is no such model."""
        return self._specs.get(model, {})

    def newest(self, model: str, units: int) -> list[Block]:
        """Return the newest inputs of a model, at most so many, oldest first."""
        capture = self._capture(model)
        return capture.newest(units) if capture is not None else []

    def standing(self, model: str) -> Standing:
        """Return what is kept of a model, in numbers."""
        each = self._capture(model)
        if each is None:
            return Standing(0, 0, 0, 0, 0)
        return Standing(each.units, each.nbytes, each.taken, each.pushed_out, each.passed)

    def _capture(self, model: str) -> Capture | None:
        """Return what is kept of a model, with what was held until now."""
        for scoop in self._scoops.get(model, {}).values():
            scoop.write()
        return self._captures.get(model)

    def close(self) -> None:
        """Keep nothing any more."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for scoops in self._scoops.values():
            for scoop in scoops.values():
                scoop.close()
        self._scoops.clear()
        self._captures.clear()

    def _stir(self, model: str) -> None:
        self._stirred.append(model)
        if self._sweeping is None and not self._closed:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Keep what is held, and begin a period; nothing is to be done of models that nobody asks."""
        stirred, self._stirred, self._sweeping = self._stirred, [], None
        for model in dict.fromkeys(stirred):
            capture = self._captures.get(model)
            if capture is None:
                continue
            for scoop in self._scoops.get(model, {}).values():
                try:
                    scoop.write()
                except Exception:  # The others are none the worse for it.
                    log.exception("model=%s event=not_captured", model)
            capture.passed += capture.pace.renew()
            if not capture.pace.fresh:
                self._stir(model)


def _taken_alike(one: ModelSpec, other: ModelSpec) -> bool:
    return (one.inputs, one.rows_max, one.artifact) == (other.inputs, other.rows_max, other.artifact)
