"""Which versions are loaded, and how that changes without disturbing what is being served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from router.table import newest_first
from serving import admit, loader, repository
from serving.aside import aside
from serving.config import Config
from serving.device import NoDevice
from serving.errors import TurnoutError
from serving.gpu.kept import Kept
from serving.gpu.placing import Placing
from serving.index import UNLOADED, Index, Standing, State, forget, note
from serving.keeping import Keeping
from serving.loader import Prepared
from serving.model import Artifact, ModelConfig
from serving.orders import Order, Orders
from serving.plan import ROUNDS_MAX, Failures, Plan, configured, runs_alike
from serving.regular import Refusal
from serving.repository import Candidate
from serving.servable import Servable, put_up
from serving.signature import read_labels
from serving.store import Store, VersionChanged
from serving.tick import Tick

log = logging.getLogger("turnout.shelf")
T = TypeVar("T")


class VersionGone(Refusal):
    """A version that is needed, and whose folder was removed."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that can answer: one reference, swapped whole."""

    servables: Mapping[str, Mapping[str, Servable]] = field(default_factory=lambda: MappingProxyType({}))

    def all(self) -> list[Servable]:
        """Return every version that answers."""
        return [servable for versions in self.servables.values() for servable in versions.values()]


class Shelf:
    """The loaded versions of all models.

    Changes happen one at a time, in a thread of their own that counts little to the scheduler; what
    is served meanwhile stays as it is until the new version is warm, and if that fails, for good.

    Parameters
    ----------
    carry : callable
        Told whenever other versions can answer than before, on the event loop.
    placing : Placing, optional
        Puts versions on their devices.
    """

    def __init__(
        self,
        config: Config,
        loop: asyncio.AbstractEventLoop,
        carry: Callable[[Mapping[str, Mapping[str, Servable]]], None] = lambda _servables: None,
        placing: Placing | None = None,
    ) -> None:
        self.config = config
        self._loop = loop
        self._carry, self._placing = carry, placing
        self.keeping = Keeping()
        """What must be here whatever the models' own policies say."""
        self._tick = Tick(loop)
        self.loaded = Loaded()
        self.index: Index = {}
        self.orders: Orders = {}
        """What the operator had loaded or unloaded."""
        limits, where = config.admission, config.repository
        self._store = Store(where.state, limits.file_bytes_max, repository=where.path)
        self._changing = asyncio.Lock()
        self._failures = Failures()
        self._leaving: list[Servable] = []
        self.kept = Kept(config.gpu.leak_bytes_max)

    def __repr__(self) -> str:
        models = ", ".join(
            f"{name}: {' '.join(newest_first(frozenset(versions)))}"
            for name, versions in self.loaded.servables.items()
        )
        return f"<Shelf {models or 'empty'}>"

    @property
    def busy(self) -> list[Servable]:
        """Every version that has or may get something to do, those that are taken down included."""
        return [*self.loaded.all(), *self._leaving]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The models to be loaded, whether or not anybody asks for them; empty is all that there are."""
        models = self.config.repository.models
        ordered = (name for name, each in self.orders.items() if each.loaded and name not in models)
        return (*models, *ordered) if models else ()

    async def refresh(self, only: Sequence[str] = ()) -> None:
        """Bring what is loaded in line with the repository: all models, or `only` these.

        A model or version that cannot be loaded says why in `index`; nothing is raised for it. Where
        the latest versions are asked for and cannot be loaded, older ones take their place.

        Raises
        ------
        OSError, Refusal
            If the repository itself cannot be read.
        """
        async with self._changing:
            candidates = await self._in_loader(repository.scan, self.config.repository.path)
            names = sorted(set(only) or set(candidates) | set(self.loaded.servables))
            refused: dict[str, frozenset[int]] = dict.fromkeys(names, frozenset())
            for _ in range(ROUNDS_MAX):
                found = [await self._plan(name, candidates.get(name), refused[name]) for name in names]
                plans = [plan for plan in found if plan is not None]
                await self._admit(plans)
                for plan in plans:
                    await self._follow(plan)
                    refused[plan.model] |= plan.lost
                names = [plan.model for plan in plans if plan.lost and plan.config.versions.by_age]
            self._forget(candidates)

    def keep(self, must: Mapping[str, frozenset[str]], good: Mapping[str, Sequence[str]]) -> None:
        """Keep these versions from now on; `tidy` drops what that leaves over."""
        self.keeping = replace(self.keeping, must=must, good=good)

    async def ensure(self, model: str, versions: frozenset[str]) -> dict[str, str]:
        """Load what is not loaded of these versions; return those that cannot be, and why."""
        before = self.keeping.must.get(model, frozenset())
        if not versions <= set(self._served(model)):
            self.keeping = self.keeping.with_must(model, versions)
            await self.refresh([model])
        standing = self.index.get(model, {})
        missing = versions - set(self._served(model))
        if missing - before:  # Else each look at the repository would try them again.
            self.keeping = self.keeping.without_must(model, missing - before)
        if missing and not self.orders.get(model, Order()).loaded:
            return dict.fromkeys(missing, f"the model is unloaded; load it first: turnout load {model}")
        reasons = {version: standing.get(version, standing.get("")) for version in missing}
        return {
            version: reason.reason if reason is not None and reason.reason else "it is not in the repository"
            for version, reason in reasons.items()
        }

    async def tidy(self) -> None:
        """Drop what neither policy nor route needs, and of the rest what is beyond its budget."""
        async with self._changing:
            loaded = {
                (model, version): sum(servable.memory.values())
                for model, versions in self.loaded.servables.items()
                for version, servable in versions.items()
            }
            for model, version in self.keeping.dispensable(loaded, self.config.traffic.kept_bytes_max):
                await self._take_down(model, version)

    async def unload(self, model: str) -> None:
        """Stop serving `model` and give its memory back."""
        async with self._changing:
            for version in newest_first(frozenset(self.loaded.servables.get(model, {}))):
                await self._take_down(model, version)

    async def close(self) -> None:
        """Finish what is under way and end the threads."""
        async with self._changing:
            for servable in self.loaded.all():
                await servable.close()

    async def _plan(self, name: str, candidate: Candidate | None, refused: frozenset[int]) -> Plan | None:
        """Decide what to load of a model; None if it cannot be used, which its standing then says."""
        if candidate is None:
            if name in self.config.repository.models:
                self._note(name, "", State.UNAVAILABLE, "the repository has no folder of this name")
            return Plan(name, ModelConfig(name), gone=True)
        if not (order := self.orders.get(name, Order())).loaded:
            return self._unloaded(name, candidate)
        try:
            if candidate.reason is not None:
                raise Refusal(candidate.reason)
            config = await self._in_loader(configured, candidate, order)
            labels = await self._in_loader(read_labels, candidate.folder, config)
        except (ValueError, OSError) as error:
            self._note(name, "", State.UNAVAILABLE, _words(error))
            return None if candidate.has_any(self._served(name)) else Plan(name, ModelConfig(name))
        self.index.get(name, {}).pop("", None)
        for version, fault in candidate.faults.items():
            self._note(name, str(version), State.UNAVAILABLE, fault)
        plan = Plan(name, config, labels=labels, refused=refused)
        faulty_but_served = {each for each in candidate.faults if str(each) in self._served(name)}
        chosen = config.versions.choose(sorted({*candidate.versions, *faulty_but_served} - refused))
        self.keeping = self.keeping.with_policy(name, frozenset(map(str, chosen)))
        needed = {int(version) for version in self.keeping.must.get(name, ())} - refused
        for version in sorted({*chosen, *needed}):
            await self._fetch(plan, version, candidate)
        return plan

    def _unloaded(self, name: str, candidate: Candidate) -> Plan:
        """Return the plan of a model that the operator had unloaded, and say so in its lines."""
        self.index.pop(name, None)
        for version in {*map(str, candidate.versions), *map(str, candidate.faults)} or {""}:
            if version not in self._served(name):  # Those are told of when they end.
                self._note(name, version, State.UNAVAILABLE, UNLOADED)
        return Plan(name, ModelConfig(name), gone=True)

    async def _fetch(self, plan: Plan, version: int, candidate: Candidate) -> None:
        """Put a version's copy into the plan: of what its folder holds, or else of what was admitted."""
        number = str(version)
        try:
            if version in candidate.faults:
                raise Refusal(candidate.faults[version])
            if version not in candidate.versions:
                raise VersionGone("its folder is gone from the repository")
            artifact = await self._in_loader(
                self._store.put, plan.model, version, candidate.versions[version]
            )
        except (ValueError, OSError) as error:
            self._note(plan.model, number, State.UNAVAILABLE, _words(error))
            plan.faults[number] = _words(error)
            before = self._served(plan.model).get(number)
            if before is None and isinstance(error, VersionChanged | VersionGone):
                before = await self._in_loader(self._store.admitted, plan.model, version)
            if before is None:
                plan.lost.add(version)
                return
            artifact = plan.artifacts[number] = before
            plan.kept[number] = _words(error)
        if not self._failures.recent(artifact, plan.config, self._loop.time()):
            plan.artifacts[number] = artifact
        elif number in self._served(plan.model):
            plan.artifacts[number] = artifact
            plan.left.add(number)
        else:
            plan.lost.add(version)

    def _served(self, model: str) -> dict[str, Artifact]:
        return {number: each.spec.artifact for number, each in self.loaded.servables.get(model, {}).items()}

    async def _admit(self, plans: Sequence[Plan]) -> None:
        """Try what was never tried, in a process of its own, and strike out what it refuses."""
        rules = admit.rules(self.config.admission)
        untried = {
            artifact: plan
            for plan in plans
            for number, artifact in plan.artifacts.items()
            if number not in plan.left and not self._serves(plan, number)
            if not self._store.verdict(artifact.digest, rules)
        }
        for artifact in untried:
            self._note(artifact.model, str(artifact.version), State.LOADING)
        if not untried:
            return
        for verdict in await self._in_loader(admit.admit, list(untried), self.config.admission):
            if verdict.reason is None:
                self._store.record_verdict(verdict.artifact.digest, rules)
            else:
                self._lose(untried[verdict.artifact], verdict.artifact, verdict.reason)

    def _lose(self, plan: Plan, artifact: Artifact, reason: str) -> None:
        """Go on without a version, or with it as it is served already."""
        number = str(artifact.version)
        self._note(plan.model, number, State.UNAVAILABLE, reason)
        plan.faults[number] = reason
        self._failures.note(artifact, plan.config, self._loop.time())
        if number in self._served(plan.model):
            plan.left.add(number)
        else:
            del plan.artifacts[number]
            plan.lost.add(artifact.version)

    def _serves(self, plan: Plan, version: str) -> bool:
        """Say whether exactly this version answers already, loaded as it would be now."""
        servable = self.loaded.servables.get(plan.model, {}).get(version)
        if servable is None or servable.spec.artifact.digest != plan.artifacts[version].digest:
            return False
        return runs_alike(servable.spec.config, plan.config)

    async def _follow(self, plan: Plan) -> None:
        """Load what the plan says and is not there, then drop what it no longer says."""
        for version in newest_first(plan.artifacts):  # Who asks halfway gives a new model's traffic to that.
            if version in plan.left:
                continue
            if self._serves(plan, version):
                self._retune(plan, version)
            else:
                await self._put_up(plan, plan.artifacts[version])
        if plan.whole:
            await self._drop_rest(plan)

    async def _drop_rest(self, plan: Plan) -> None:
        """Take down what a plan does not name and nobody needs."""
        spared = set() if plan.gone else self.keeping.spared(plan.model)
        for version in set(self._served(plan.model)) - set(plan.artifacts) - spared:
            await self._take_down(plan.model, version)

    def _retune(self, plan: Plan, version: str) -> None:
        """Change what can be changed of a version while it serves: its batching, and what is told of it."""
        servable = self.loaded.servables[plan.model][version]
        before = servable.spec.config
        if servable.spec.labels != plan.labels:
            servable.layouts.clear()  # They have the labels of classes.
        servable.spec = replace(servable.spec, config=plan.config, labels=dict(plan.labels))
        if before.batching != plan.config.batching:
            requests_max = self.config.queue.requests_max
            servable.batch(plan.config.batching, requests_max)
            log.info("version=%s event=batching_changed", servable.spec)
        self._note(plan.model, version, State.READY, plan.kept.get(version, ""))

    async def _put_up(self, plan: Plan, artifact: Artifact) -> None:
        """Load, warm and publish a version; if it replaces one of the same number, drain that one."""
        version = str(artifact.version)
        self._note(plan.model, version, State.LOADING)
        prepared = await self._prepared(plan, artifact)
        if prepared is None:
            await self._in_loader(loader.give_back)
            return
        await self._show(plan, prepared)

    async def _show(self, plan: Plan, prepared: Prepared) -> None:
        version = str(prepared.spec.artifact.version)
        before = self.loaded.servables.get(plan.model, {}).get(version)
        servable = put_up(self._loop, self._tick, self.config, prepared, before)
        self._publish(plan.model, version, servable)
        self._note(plan.model, version, State.READY, plan.kept.get(version, ""))
        log.info("version=%s event=ready %s inline=%s", prepared.spec, prepared, servable.lane.inline)
        if before is not None:
            await self._release(before)

    async def _prepared(self, plan: Plan, artifact: Artifact) -> Prepared | None:
        try:
            what = artifact, plan.config, plan.labels, self.config, self._placing
            return await self._in_loader(loader.prepare, *what)
        except (TurnoutError, NoDevice, OSError, ValueError, RuntimeError, MemoryError) as error:
            self._lose(plan, artifact, _words(error) or "it needs more memory than there is")
            return None

    async def _take_down(self, model: str, version: str) -> None:
        servable = self.loaded.servables[model][version]
        self._note(model, version, State.UNLOADING)
        self._publish(model, version, None)
        await self._release(servable)
        self._note(model, version, State.UNAVAILABLE, UNLOADED)

    async def _release(self, servable: Servable) -> None:
        """Finish a version's requests, then free its session."""
        self._leaving.append(servable)
        try:
            await servable.close()
        finally:
            self._leaving.remove(servable)
        servable.layouts.clear()
        await self._in_loader(loader.settle, self.kept, [each.memory for each in self.loaded.all()])

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
        self.loaded = Loaded(MappingProxyType(servables))
        self._carry(self.loaded.servables)

    def _note(self, model: str, version: str, state: State, reason: str = "") -> None:
        serving = version in self.loaded.servables.get(model, {})
        note(self.index, model, version, Standing(state, reason), serving=serving)

    def _forget(self, candidates: Mapping[str, Candidate]) -> None:
        """Drop from the index what neither answers nor lies in the repository any more."""
        there = {name: {*each.versions, *each.faults} for name, each in candidates.items()}
        self._failures.keep(there)
        named = {*candidates, *self.config.repository.models}
        forget(
            self.index,
            {
                name: {*map(str, there.get(name, ())), *self._served(name), *([""] if name in named else [])}
                for name in self.index
            },
        )

    async def _in_loader(self, work: Callable[..., T], *args: object) -> T:
        # The threads of a run that ONNX Runtime makes inherit the niceness of the one that opens it.
        return await aside(work, *args, nice=self.config.engine.threads == 1)


def _words(error: Exception) -> str:
    """Return an error without the paths that the system adds to its own."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
