"""What can happen to a routing table, as the journal has it: each change holds its whole result.

What a user asks for ("back to the last good one") is decided once, in `router.intent`, and journalled
as what came of it. So a fold over the journal gives the same table whatever later releases decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

from router.names import check_alias, check_version
from router.rollout import Rollout, superseded
from router.table import Route, RoutingTable, known
from router.verb import Verb


class Refused(ValueError):
    """The change makes no sense as things stand; nothing was changed. The message is for the caller."""


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Answer `model` with exactly this route. `verb` says how it came about."""

    verb: Verb
    model: str
    route: Route


@dataclass(frozen=True, slots=True)
class SetAlias:
    """Let `alias` mean `version` of `model`, or nothing if that is None."""

    model: str
    alias: str
    version: str | None
    verb: Verb = Verb.ALIAS

    def __post_init__(self) -> None:
        check_alias(self.alias)
        if self.version is not None:
            check_version(self.version)


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget the route of `model`."""

    model: str
    verb: Verb = Verb.REMOVE


@dataclass(frozen=True, slots=True)
class SetRollout:
    """Let the rollout of `model` stand so, and its route with it if there is another one."""

    verb: Verb
    model: str
    rollout: Rollout
    route: Route | None = None


Change = SetRoute | SetAlias | SetRollout | Remove


def apply(table: RoutingTable, change: Change) -> RoutingTable:
    """Return the table after `change`, one revision later.

    Raises
    ------
    Refused
        If it changes what is not there.
    """
    match change:
        case SetRoute(model=model, route=route):
            return _supersede(table, model, route).with_route(model, route)
        case SetRollout(model=model, rollout=rollout, route=route):
            after = table.with_rollout(model, rollout)
            if route is not None:
                return after.with_route(model, route)
            return replace(after, revision=table.revision + 1)
        case SetAlias(model=model, alias=alias, version=version):
            return table.with_alias(model, alias, version)
        case Remove(model=model):
            if model not in table.routes:
                raise Refused(f"no route for {model!r}; {known('models', sorted(table.routes))}")
            return _supersede(table, model, None).with_route(model, None)


def _supersede(table: RoutingTable, model: str, route: Route | None) -> RoutingTable:
    """End the rollout that is under way, or frozen, if somebody else changes the route."""
    rollout = table.rollouts.get(model)
    if rollout is None or route == table.routes.get(model) or not (rollout.under_way or rollout.frozen):
        return table
    return table.with_rollout(model, superseded(rollout))


def fold(changes: Iterable[Change]) -> RoutingTable:
    """Replay `changes` in order."""
    return reduce(apply, changes, RoutingTable())


def is_idle(table: RoutingTable, change: Change) -> bool:
    """Say whether `change` would leave everything as it is, so that there is nothing to journal."""
    after = apply(table, change)
    return _content(after) == _content(table)


def _content(table: RoutingTable) -> tuple[object, ...]:
    return dict(table.routes), dict(table.aliases), dict(table.rollouts)


def route_of(change: Change) -> Route | None:
    """Return the route that a change sets; None if it sets none."""
    match change:
        case SetRoute(route=route) | SetRollout(route=route):
            return route
        case _:
            return None
