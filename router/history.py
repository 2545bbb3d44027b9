"""What was decided so far, and which version of a model served well last?"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping

from router.change import Refused, apply, route_of
from router.entry import GENESIS, Entry
from router.rollout import Rollout
from router.table import Route, RoutingTable
from router.verb import Verb


class History:
    """The entries of a journal and the tables that they make. Only ever added to.

    A version *served well* if it once had all of a model's traffic and was not rolled back from since. A
    version that is an artifact and nothing more, however new, is no target of a rollback. A rollback that
    is itself taken back, to exactly the route before it, speaks for nothing and against nothing.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: list[Entry] = []
        self._tables: list[RoutingTable] = [RoutingTable()]
        self._served: dict[str, list[str]] = {}
        """By model: the versions that served well, the latest last."""
        self._undone: dict[str, tuple[Route | None, list[str]]] = {}
        """By model whose last change was a rollback: the route before it, and who served well then."""
        self._seen: dict[str, set[str]] = {}
        self._epochs: dict[str, int] = {}
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    @property
    def table(self) -> RoutingTable:
        """The table as it is now."""
        return self._tables[-1]

    @property
    def revision(self) -> int:
        """The revision of the table."""
        return len(self._entries)

    @property
    def last_hash(self) -> str:
        """The hash that the next entry has to follow."""
        return self._entries[-1].hash if self._entries else GENESIS

    @property
    def epochs(self) -> Mapping[str, int]:
        """By model: the revision that gave it the route that it has."""
        return self._epochs

    @property
    def rollouts(self) -> Mapping[str, Rollout]:
        """By model: the rollout that is under way, or was last."""
        return self.table.rollouts

    def seen(self, model: str) -> frozenset[str]:
        """Return every version that ever had a share of the model's traffic, weight 0 and pins included."""
        return frozenset(self._seen.get(model, ()))

    def add(self, entry: Entry) -> None:
        """Add what was journalled."""
        before = self.table
        self._tables.append(apply(before, entry.change))
        self._entries.append(entry)
        model = entry.change.model
        route = self.table.routes.get(model)
        if route != before.routes.get(model):
            self._epochs[model] = entry.revision
        if route is not None:
            seen = self._seen.setdefault(model, set())
            seen.update(share.version for share in route.shares)
            seen.update(_answering(route))
        self._judge(before, entry)

    def _judge(self, before: RoutingTable, entry: Entry) -> None:
        model, route = entry.change.model, route_of(entry.change)
        if route is None:
            return
        served = self._served.setdefault(model, [])
        undone = self._undone.pop(model, None)
        if entry.change.verb is Verb.ROLLBACK:
            old = before.routes.get(model)
            if undone is not None and undone[0] == route:
                served[:] = undone[1]  # The rollback was the mistake.
            else:
                self._undone[model] = (old, served.copy())
                left = _answering(old) - _answering(route) if old is not None else frozenset()
                served[:] = [version for version in served if version not in left]
        whole = route.whole
        if whole and not route.pinned:
            served[:] = [version for version in served if version != whole]
            served.append(whole)

    def at(self, revision: int) -> RoutingTable:
        """Return the table as of `revision`; `Refused` if there was none."""
        if not 0 <= revision < len(self._tables):
            raise Refused(f"there is no revision {revision}; the journal ends with {self.revision}")
        return self._tables[revision]

    def at_time(self, at_us: int) -> RoutingTable:
        """Return the table that was in force at a time, in microseconds of Unix time."""
        # A clock that was set back makes times run backwards; what counts is the order of the entries.
        latest, times = 0, []
        for entry in self._entries:
            latest = max(latest, entry.at_us)
            times.append(latest)
        return self._tables[bisect_right(times, at_us)]

    def of(self, model: str) -> list[Entry]:
        """Return the entries that concern a model."""
        return [entry for entry in self._entries if entry.change.model == model]

    def last_good(self, model: str) -> str:
        """Return the version that a rollback goes back to, or nothing if none is known.

        While several versions share the traffic that is the one that had all of it last; while one has
        all of it, the one before.
        """
        route = self.table.routes.get(model)
        served = [each for each in self._served.get(model, ()) if route is None or each != route.whole]
        return served[-1] if served else ""

    def kept(self, model: str) -> list[str]:
        """Return the versions that served well, those first that did so latest."""
        return self._served.get(model, [])[::-1]


def _answering(route: Route) -> frozenset[str]:
    """Return the versions that answer requests which name none."""
    if route.pinned:
        return frozenset({route.pinned})
    return frozenset(share.version for share in route.shares if share.weight_bp)
