"""Is everything loaded that a change needs, and who has to load it first?"""

from __future__ import annotations

from router.change import Change, Refused, route_of
from router.intent import Adopt, Intent, Take
from router.table import newest_first
from router.verb import Verb
from serving.control.roster import Roster


class Preparation:
    """What replicas have to load before they can be told of a change."""

    def __init__(self, roster: Roster, lease_s: float) -> None:
        self._roster = roster
        self._lease_s = lease_s

    def lacking(self, intent: Intent, change: Change) -> list[str]:
        """Return the replicas that have yet to load what a change needs.

        Raises
        ------
        Refused
            If nobody is there to load it, or loading is no option because there is no time for it.
        """
        route = route_of(change)
        if route is None or isinstance(intent, Adopt | Take):
            return []
        replicas = self._roster.replicas
        if not replicas:
            raise Refused("no replica is there that could answer; wait until one is ready")
        # One that is still starting loads what its table needs before it answers anything, and one that is
        # silent is not waited for: it acknowledges in time, or is ended.
        counts = {name: each for name, each in replicas.items() if each.answering} or replicas
        model, needed = change.model, route.versions
        lacking = [
            name
            for name, each in counts.items()
            if not needed <= set(each.ready.get(model, ())) and not each.is_silent(self._lease_s)
        ]
        if lacking and change.verb is Verb.ROLLBACK:
            raise Refused(self._not_ready(model, needed))
        return lacking

    async def load(self, lacking: list[str], change: Change) -> None:
        """Have replicas load and warm what a change needs; `Refused` if one cannot."""
        route = route_of(change)
        assert route is not None
        model, needed = change.model, sorted(route.versions)
        task = next(self._roster.tasks)
        for name in lacking:
            if name in self._roster.replicas:
                self._roster.replicas[name].line.say("prepare", task=task, model=model, versions=needed)
        await self._roster.answered(lacking, lambda each: task in each.tasks, self._lease_s)
        for name in lacking:
            replica = self._roster.replicas.get(name)
            faults = replica.tasks.pop(task, {}) if replica is not None else {}
            if faults:
                told = "; ".join(f"{model}@{version}: {fault}" for version, fault in faults.items())
                raise Refused(f"it cannot be loaded: {told}")

    def _not_ready(self, model: str, needed: frozenset[str]) -> str:
        replicas = self._roster.replicas.values()
        there = [each for each in replicas if each.answering] or list(replicas)
        everywhere = [set(each.ready.get(model, ())) for each in there]
        ready = newest_first(set.intersection(*everywhere))
        lacking = newest_first(needed - set(ready))
        return (
            f"{', '.join(f'{model}@{version}' for version in lacking)} is not ready, and a rollback loads "
            f"nothing; ready are {', '.join(ready) or 'none'}. To load it first: "
            f"turnout split {model} {lacking[0]}=0% ..."
        )
