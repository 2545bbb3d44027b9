"""Which versions are loaded, and how that changes without disturbing what is being served."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from router.table import Route, RoutingTable, newest_first, pick
from serving import admit, loader, pbtxt, repository
from serving.config import Config
from serving.device import NoDevice
from serving.errors import TurnoutError
from serving.lane import Lane
from serving.layout import Layout, bind
from serving.ledger import Ledger
from serving.loader import Prepared
from serving.model import Artifact, ModelConfig, ModelSpec
from serving.repository import Candidate
from serving.signature import read_labels
from serving.store import Store
from serving.waiting import Waiting
from serving.wire import Call

log = logging.getLogger("turnout.shelf")
T = TypeVar("T")

LAYOUTS_MAX = 4096
LOADER_NICE = 10
"""How much less the loader's thread counts to the scheduler than the event loop."""


class State(StrEnum):
    """A version's state in the repository index, in Triton's words."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Standing:
    """A line of the repository index."""

    state: State
    reason: str = ""


class Servable:
    """A version that answers: its signature, its lane, its ledger, and the calls that it has seen."""

    __slots__ = ("lane", "layouts", "ledger", "load_s", "memory_bytes", "spec")

    def __init__(self, prepared: Prepared, lane: Lane, ledger: Ledger) -> None:
        self.spec: ModelSpec = prepared.spec
        self.lane = lane
        self.ledger = ledger
        self.load_s = prepared.load_s
        self.memory_bytes = prepared.memory_bytes
        self.layouts: dict[Call, Layout] = {}

    def layout(self, call: Call) -> Layout:
        """Return how `call` fits this version; `Invalid` if it does not."""
        found = self.layouts.get(call)
        if found is None:
            found = bind(self.spec, call)
            if len(self.layouts) >= LAYOUTS_MAX:
                self.layouts.clear()
            self.layouts[call] = found
        return found


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that can answer, and who does: one reference, swapped whole.

    `chosen` is `pick` for every model and whatever version a request may name, "" if none.
    """

    table: RoutingTable = RoutingTable()
    servables: Mapping[str, Mapping[str, Servable]] = field(default_factory=lambda: MappingProxyType({}))
    chosen: dict[str, dict[str, Servable]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        chosen = {
            model: {asked: versions[pick(self.table, model, asked)] for asked in ("", *versions)}
            for model, versions in self.servables.items()
        }
        object.__setattr__(self, "chosen", chosen)  # Computed once, for every request.

    def all(self) -> list[Servable]:
        """Return every version that answers."""
        return [servable for versions in self.servables.values() for servable in versions.values()]


class Shelf:
    """The loaded versions of all models.

    Changes happen one at a time, in a thread of their own that counts little to the scheduler; what
    is served meanwhile stays as it is until the new version is warm, and if that fails, for good.
    """

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self._loop = loop
        self.loaded = Loaded()
        self.index: dict[str, dict[str, Standing]] = {}
        self._store = Store(config.repository.state, config.admission.file_bytes_max)
        self._changing = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, "turnout-loader", initializer=_count_little)

    def __repr__(self) -> str:
        models = ", ".join(
            f"{name}: {' '.join(newest_first(frozenset(versions)))}"
            for name, versions in self.loaded.servables.items()
        )
        return f"<Shelf {models or 'empty'}>"

    async def refresh(self, only: Sequence[str] = ()) -> None:
        """Bring what is loaded in line with the repository: all models, or `only` these.

        A model or version that cannot be loaded says why in `index`; nothing is raised for it.
        """
        async with self._changing:
            candidates = await self._in_loader(repository.scan, self.config.repository.path)
            names = sorted(set(only) or set(candidates) | set(self.loaded.servables))
            plans = await self._plans(names, candidates)
            for plan in plans:
                await self._follow(plan)

    async def _plans(self, names: Sequence[str], candidates: Mapping[str, Candidate]) -> list[Plan]:
        """Decide what to load, all of it admitted; where the latest versions are refused, older ones."""
        done: list[Plan] = []
        refused: dict[str, set[int]] = {name: set() for name in names}
        while names:
            found = [await self._plan(name, candidates.get(name), refused[name]) for name in names]
            plans = [plan for plan in found if plan is not None]
            struck = await self._admit(plans)
            for artifact in struck:
                refused[artifact.model].add(artifact.version)
            again = {a.model for a in struck}
            done += [plan for plan in plans if plan.model not in again or not plan.config.versions.by_age]
            names = [plan.model for plan in plans if plan.model in again and plan.config.versions.by_age]
        return done

    async def unload(self, model: str) -> None:
        """Stop serving `model` and give its memory back."""
        async with self._changing:
            for version in newest_first(frozenset(self.loaded.servables.get(model, {}))):
                await self._take_down(model, version)

    async def close(self) -> None:
        """Finish what is under way and end the threads."""
        async with self._changing:
            for servable in self.loaded.all():
                await servable.lane.close()
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _plan(self, name: str, candidate: Candidate | None, refused: set[int]) -> Plan | None:
        """Decide what to load of a model; None if it cannot be used, which its standing then says."""
        if candidate is None:
            return Plan(name, ModelConfig(name), {})
        try:
            if candidate.reason is not None:
                raise ValueError(candidate.reason)
            config = ModelConfig(name)
            if candidate.config is not None:
                config = await self._in_loader(pbtxt.read, candidate.config, name)
            labels = await self._in_loader(read_labels, candidate.folder, config)
        except (ValueError, OSError) as error:
            self._note(name, "", State.UNAVAILABLE, str(error))
            return None
        self.index.get(name, {}).pop("", None)
        for version, fault in candidate.faults.items():
            self._note(name, str(version), State.UNAVAILABLE, fault)
        plan = Plan(name, config, {}, labels)
        for version in config.versions.choose([each for each in candidate.versions if each not in refused]):
            try:
                folder = candidate.versions[version]
                plan.artifacts[str(version)] = await self._in_loader(self._store.put, name, version, folder)
            except (ValueError, OSError) as error:
                plan.failed = True
                self._note(name, str(version), State.UNAVAILABLE, str(error))
        return plan

    async def _admit(self, plans: Sequence[Plan]) -> list[Artifact]:
        """Try what was never tried, in a process of its own; strike out and return what it refuses."""
        rules = admit.rules(self.config.admission)
        untried = [
            artifact
            for plan in plans
            for version, artifact in plan.artifacts.items()
            if not self._serves(plan, version) and not self._store.verdict(artifact.digest, rules)
        ]
        if not untried:
            return []
        for artifact in untried:
            self._note(artifact.model, str(artifact.version), State.LOADING)
        by_model = {plan.model: plan for plan in plans}
        struck = []
        for verdict in await self._in_loader(admit.admit, untried, self.config.admission):
            artifact = verdict.artifact
            if verdict.reason is None:
                self._store.record_verdict(artifact.digest, rules)
                continue
            self._note(artifact.model, str(artifact.version), State.UNAVAILABLE, verdict.reason)
            plan = by_model[artifact.model]
            plan.failed = True
            del plan.artifacts[str(artifact.version)]
            struck.append(artifact)
        return struck

    def _serves(self, plan: Plan, version: str) -> bool:
        """Say whether exactly this version, configured so but for its batching, answers already."""
        servable = self.loaded.servables.get(plan.model, {}).get(version)
        if servable is None:
            return False
        same_config = replace(servable.spec.config, batching=None) == replace(plan.config, batching=None)
        return same_config and servable.spec.artifact.digest == plan.artifacts[version].digest

    async def _follow(self, plan: Plan) -> None:
        """Load what the plan says and is not there, then drop what it no longer says."""
        for version, artifact in plan.artifacts.items():
            if self._serves(plan, version):
                self._rebatch(plan, version)
            else:
                await self._put_up(plan, artifact)
        if plan.failed:
            return  # What is served stays until all that should replace it is there.
        for version in set(self.loaded.servables.get(plan.model, {})) - set(plan.artifacts):
            await self._take_down(plan.model, version)

    def _rebatch(self, plan: Plan, version: str) -> None:
        """Change the batching of a version while it serves."""
        servable = self.loaded.servables[plan.model][version]
        if servable.spec.config.batching != plan.config.batching:
            servable.spec = replace(servable.spec, config=plan.config)
            requests_max = self.config.queue.requests_max
            servable.lane.waiting.configure(plan.config.batching, servable.spec.rows_max, requests_max)
            servable.lane.pump()
            log.info("version=%s event=batching_changed", servable.spec)

    async def _put_up(self, plan: Plan, artifact: Artifact) -> None:
        """Load, warm and publish a version; if it replaces one of the same number, drain that one."""
        version = str(artifact.version)
        self._note(plan.model, version, State.LOADING)
        try:
            prepared = await self._in_loader(loader.prepare, artifact, plan.config, plan.labels, self.config)
        except (TurnoutError, NoDevice, OSError, ValueError, RuntimeError) as error:
            plan.failed = True
            self._note(plan.model, version, State.UNAVAILABLE, str(error))
            return
        before = self.loaded.servables.get(plan.model, {}).get(version)
        servable = self._servable(prepared)
        self._publish(plan.model, version, servable)
        self._note(plan.model, version, State.READY)
        log.info("version=%s event=ready %s inline=%s", prepared.spec, prepared, servable.lane.inline)
        if before is not None:
            await self._release(before)

    def _servable(self, prepared: Prepared) -> Servable:
        settings = self.config
        spec = prepared.spec
        ledger = Ledger(spec.rows_max)
        inline = prepared.inline(settings.engine.inline_us_max)
        lane = Lane(
            self._loop,
            spec,
            prepared.session,
            ledger if settings.metrics.enabled else None,
            Waiting(spec.config.batching, spec.rows_max, settings.queue.requests_max),
            settings.engine.inline_us_max * 1000 if inline else 0,
            spec.config.instances,
        )
        return Servable(prepared, lane, ledger)

    async def _take_down(self, model: str, version: str) -> None:
        servable = self.loaded.servables[model][version]
        self._note(model, version, State.UNLOADING)
        self._publish(model, version, None)
        await self._release(servable)
        self._note(model, version, State.UNAVAILABLE, "unloaded")

    async def _release(self, servable: Servable) -> None:
        """Finish a version's requests, then free its session."""
        await servable.lane.close()
        servable.layouts.clear()
        await self._in_loader(_give_back)

    def _publish(self, model: str, version: str, servable: Servable | None) -> None:
        """Swap in a table and servables with this version added, or taken away."""
        servables = {name: dict(versions) for name, versions in self.loaded.servables.items()}
        versions = servables.setdefault(model, {})
        if servable is None:
            versions.pop(version, None)
        else:
            versions[version] = servable
        if not versions:
            del servables[model]
        routes = {
            name: Route(newest_first(frozenset(versions))[0], frozenset(versions))
            for name, versions in servables.items()
        }
        self.loaded = Loaded(self.loaded.table.with_routes(routes), MappingProxyType(servables))

    def _note(self, model: str, version: str, state: State, reason: str = "") -> None:
        serving = version in self.loaded.servables.get(model, {})
        if serving and state in (State.LOADING, State.UNAVAILABLE) and reason != "unloaded":
            # The one that serves goes on serving; say beside it what became of its replacement.
            state = State.READY
        self.index.setdefault(model, {})[version] = Standing(state, reason)
        if reason and reason != "unloaded":
            log.error("model=%s version=%s event=unavailable reason=%r", model, version or "-", reason)

    async def _in_loader(self, work: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._loader, work, *args)


@dataclass(slots=True)
class Plan:
    """What is to be loaded of one model. `failed` says that something it should hold is missing."""

    model: str
    config: ModelConfig
    artifacts: dict[str, Artifact]
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failed: bool = False


def _count_little() -> None:
    """Let the loader's thread yield to the event loop where there are too few cores for both."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADER_NICE)


def _give_back() -> None:
    """Return freed memory to the system: ONNX Runtime's arenas are free by now, glibc still holds them."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
