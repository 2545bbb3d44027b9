"""Which versions' requests are counted in this process, and against what? On the engine's event loop."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Literal

from serving.config import Drift as Settings
from serving.drift.flow import Flow
from serving.drift.flows import Flows
from serving.drift.freeze import Captured, Freezer
from serving.drift.intake import Inlet, Intake
from serving.drift.outlet import Outlets
from serving.drift.process import DriftProcess
from serving.drift.profile import Profile
from serving.drift.reading import DriftReading, Key, Role, StreamReading, Verdict
from serving.drift.view import Look, look, row_of
from serving.model import ModelSpec
from serving.track import Tap
from serving.wire import TensorSpec

if TYPE_CHECKING:
    from serving.lane import Lane
    from serving.servable import Servable

log = logging.getLogger("turnout.drift")

READY_S_MAX = 30.0
"""How long a start waits for the process that counts."""
DEATHS_MAX = 3
"""After how many deaths of it a start waits no longer."""
DRAIN_S_MAX = 3.0
"""How long the end waits until all is counted."""
SWEEP_S = 0.2
"""How often it is looked for what is over, and how long a batch is held at most."""
POLL_S = 0.01

Named = tuple[str, str]
"""Model and version."""
Place = tuple[str | int, Look]
"""The name of an input or the place of an output, and how it is looked at."""


@dataclass(slots=True)
class Seat:
    """A version that answers, as far as it is counted."""

    spec: ModelSpec
    intake: Intake
    lanes: list[weakref.ref[Lane]]
    """Not kept, for with them goes the version's memory."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing more to come."""
        return not any(lane is not None and len(lane) for lane in (ref() for ref in self.lanes))


class Watch:
    """What is counted of all versions that answer, and of those that shadow them.

    Parameters
    ----------
    settings : serving.config.Drift
    changed : callable
        Told when a shadow has to be started anew, because its rows are to be looked at in another way.
    """

    def __init__(self, settings: Settings, changed: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._changed = changed
        self._process = DriftProcess()
        self.flows = Flows(settings, self._process)
        self._freezer = Freezer(self._process)
        self._profiles: Mapping[Named, Profile] = {}
        self._seats: dict[Named, Seat] = {}
        self._leaving: list[Seat] = []
        self._outlets: dict[Named, Outlets] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._full = False

    def __repr__(self) -> str:
        return f"<Watch: {len(self._seats)} versions, {len(self.flows)} streams, {self._process!r}>"

    @property
    def enabled(self) -> bool:
        """Whether anything is counted at all."""
        return self._settings.enabled

    def start(self) -> None:
        """Start the process that counts, and do not wait for it."""
        if self.enabled and self._sweeping is None:
            self._process.start()
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def ready(self) -> None:
        """Return when rows are counted; after a while all the same: a server without is better than none."""
        until_s = monotonic() + READY_S_MAX
        while self._sweeping is not None and not self._process.ready:
            if monotonic() > until_s or sum(self._process.restarts.values()) >= DEATHS_MAX:
                log.warning("event=drift_not_ready process=%r: going on without", self._process)
                return
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Count what was written, and end the process. What was counted can still be read."""
        if self._sweeping is None:
            return
        self._sweeping.cancel()
        self._sweeping = None
        for seat in [*self._seats.values(), *self._leaving]:
            self._end(seat)
        self._seats.clear()
        self._leaving.clear()
        for outlets in list(self._outlets.values()):
            self.release(outlets)
        until_s = monotonic() + DRAIN_S_MAX
        while len(self.flows) and monotonic() < until_s:
            self.flows.sweep()
            await asyncio.sleep(POLL_S)
        await asyncio.get_running_loop().run_in_executor(None, self._process.stop)
        self._freezer.sweep(self.flows)

    def follow(self, servables: Mapping[str, Mapping[str, Servable]]) -> None:
        """Count the requests of these versions, and of no others."""
        if self._sweeping is None:
            return
        wanted = {
            (model, version): each for model, many in servables.items() for version, each in many.items()
        }
        for named, seat in list(self._seats.items()):
            servable = wanted.get(named)
            if servable is not None and _alike(seat.spec, servable.spec):
                seat.lanes = _lanes(servable)
            else:
                # What its lane still has to answer is counted, too.
                self._leaving.append(self._seats.pop(named))
        for named, servable in wanted.items():
            if named not in self._seats:
                self._seats[named] = self._seat(named, servable)

    def taps(self, model: str, version: str) -> list[Tap]:
        """Return what the lane of a version is to show its batches to."""
        seat = self._seats.get((model, version))
        return [seat.intake.tap] if seat is not None and seat.intake.inlets else []

    def follow_profiles(self, profiles: Mapping[Named, Profile]) -> None:
        """Count against these references from now on. A version that has another begins new streams."""
        before, self._profiles = self._profiles, profiles
        either = before.keys() | profiles.keys()
        changed = {named for named in either if _hash(before, named) != _hash(profiles, named)}
        for named in changed & self._seats.keys():
            self._seat_anew(named, self._seats[named])
        anew = False
        for named in changed & self._outlets.keys():
            outlets = self._outlets[named]
            if tuple(flow.look for flow in outlets.flows) == self.looks(outlets.spec):
                outlets.flows = [self._another(flow, flow.look) for flow in outlets.flows]
            else:
                anew = True
        if anew:
            self._changed()

    def looks(self, spec: ModelSpec) -> tuple[Look, ...]:
        """Return how the tensors of a version that shadows are looked at."""
        return tuple(each for _, each in self._places(spec)) if self._sweeping is not None else ()

    def outlets(self, spec: ModelSpec) -> Outlets:
        """Return where a shadow's process is to write its rows."""
        named = _named(spec)
        flows = [self._flow(named, Role.SHADOW, each) for each in self.looks(spec)]
        outlets = Outlets(spec, [flow for flow in flows if flow is not None], self._settings.queue_bytes)
        self._outlets[named] = outlets
        return outlets

    def release(self, outlets: Outlets) -> None:
        """Count what was written there to its end: its writer is gone."""
        for flow in outlets.flows:
            self.flows.end(flow)
        if self._outlets.get(_named(outlets.spec)) is outlets:
            del self._outlets[_named(outlets.spec)]

    def capture(
        self, model: str, version: str, rows: int, into: str, captured: Callable[[Captured], None]
    ) -> None:
        """Have the next rows of a version, or of its shadow, kept in files; tell when they are there."""
        seat = self._seats.get((model, version))
        flows = [inlet.flow for inlet in seat.intake.inlets] if seat is not None else []
        outlets = self._outlets.get((model, version))
        flows += outlets.flows if outlets is not None else ()
        self._freezer.capture(flows, rows, into, captured)

    def readings(self) -> dict[int, tuple[Key, StreamReading]]:
        """Return what each stream has counted. Any thread may call it."""
        return self.flows.readings()

    def reading(self, verdicts: Mapping[Key, Verdict]) -> DriftReading:
        """Return what metrics say, with the control's `verdicts`. Any thread may call it."""
        restarts = {str(death): count for death, count in self._process.restarts.items()}
        return DriftReading(self.flows.counts(), verdicts, int(self._process.ready), restarts)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                for seat in self._seats.values():
                    seat.intake.flush()
                for seat in [each for each in self._leaving if each.idle]:
                    self._leaving.remove(seat)
                    self._end(seat)
                self.flows.sweep()
                self._freezer.sweep(self.flows)
            except Exception:  # Else nothing would ever end any more.
                log.exception("event=drift_not_swept")

    def _seat(self, named: Named, servable: Servable) -> Seat:
        spec = servable.spec
        inlets = []
        for at, chosen in self._places(spec):
            flow = self._flow(named, Role.LIVE, chosen)
            if flow is not None:
                inlets.append(_inlet(spec, at, flow))
        return Seat(spec, Intake(str(spec), inlets, spec.rows_max), _lanes(servable))

    def _seat_anew(self, named: Named, seat: Seat) -> None:
        """Begin new streams for a version, in the rings that it has where rows stay what they are."""
        seat.intake.flush()
        before = {inlet.at: inlet.flow for inlet in seat.intake.inlets}
        inlets = []
        for at, chosen in self._places(seat.spec):
            old = before.pop(at, None)
            if old is not None and old.look == chosen:
                flow: Flow | None = self._another(old, chosen)
            else:
                if old is not None:
                    self.flows.replace(old)
                flow = self._flow(named, Role.LIVE, chosen)
            if flow is not None:
                inlets.append(_inlet(seat.spec, at, flow))
        for flow in before.values():
            self.flows.replace(flow)
        seat.intake.inlets = inlets

    def _another(self, flow: Flow, chosen: Look) -> Flow:
        """End a stream, and begin the one that comes after it."""
        self.flows.replace(flow)
        model, version, _, _ = flow.key
        return self.flows.begin(flow.key, chosen, self._profiles.get((model, version)), flow)

    def _flow(self, named: Named, role: Role, chosen: Look) -> Flow | None:
        if self.flows.full:
            if not self._full:
                self._full = True
                log.error("event=drift_streams_full version=%s@%s tensor=%s", *named, chosen.tensor)
            return None
        model, version = named
        key = (model, version, str(role), chosen.tensor)
        try:
            return self.flows.begin(key, chosen, self._profiles.get(named))
        except OSError as error:  # No memory, or no descriptor: requests are answered all the same.
            log.error("event=drift_no_stream version=%s@%s tensor=%s reason=%r", *named, key[3], str(error))
            return None

    def _places(self, spec: ModelSpec) -> list[Place]:
        profile = self._profiles.get(_named(spec))
        places: list[Place] = []
        seen = set()
        sides: tuple[tuple[Literal["input", "output"], Sequence[TensorSpec]], ...]
        sides = (("input", spec.inputs), ("output", spec.outputs))
        for of, tensors in sides:
            for index, tensor in enumerate(tensors):
                if tensor.name in seen:  # An output like an input: they could not be told apart.
                    continue
                seen.add(tensor.name)
                chosen = look(tensor, of, self._settings, spec.rows_max > 0, profile)
                if chosen is not None and chosen.row_bytes <= self._settings.queue_bytes:
                    places.append((tensor.name if of == "input" else index, chosen))
        return places

    def _end(self, seat: Seat) -> None:
        seat.intake.close()
        for inlet in seat.intake.inlets:
            self.flows.end(inlet.flow)


def _lanes(servable: Servable) -> list[weakref.ref[Lane]]:
    return [weakref.ref(lane) for lane in servable.lanes]


def _inlet(spec: ModelSpec, at: str | int, flow: Flow) -> Inlet:
    tensors = {each.name: each for each in (*spec.outputs, *spec.inputs)}
    return Inlet(at, flow, row_of(tensors[flow.look.tensor], rows=spec.rows_max > 0))


def _named(spec: ModelSpec) -> Named:
    return spec.artifact.model, str(spec.artifact.version)


def _alike(one: ModelSpec, other: ModelSpec) -> bool:
    same = one.artifact.digest == other.artifact.digest and one.rows_max == other.rows_max
    return same and (one.inputs, one.outputs) == (other.inputs, other.outputs)


def _hash(profiles: Mapping[Named, Profile], named: Named) -> str:
    profile = profiles.get(named)
    return profile.hash if profile is not None else ""
